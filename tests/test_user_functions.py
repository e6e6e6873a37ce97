"""Policies and aggregates of the user's own: what they do, and what is reported."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch

import gradmem
from gradmem import Weights
from gradmem.optim.plan import Memory
from optimizers import (
    assert_same,
    continues,
    gradients,
    parameters,
    snapshot,
    step_with,
    train,
)
from races import Race
from test_against_reference import run
from user_functions import (
    AGGREGATES,
    FUNCTIONS,
    POLICIES,
    alternating,
    by_norm,
    every_tenth,
    fading,
    memory_in,
    twin_by_norm,
    twin_every_tenth,
    twin_fading,
    twin_two_draws,
    two_draws,
    upright,
    upright_priority,
    weights,
)

each_function = pytest.mark.parametrize(
    ("option", "function"), FUNCTIONS, ids=[f.__name__ for _, f in FUNCTIONS]
)


def race(rule, form, scope, **options):
    """A race in which the twin has its own functions."""
    groups = [([(2, 3), (3,)], {}), ([(4,), (0,)], {"weight_decay": 0.1})]
    made = Race(rule, groups, form, 3, lr=0.05, scope=scope, **options)
    for group in made.twin.groups:
        group["aggregate"] = AGGREGATES.get(group["aggregate"], group["aggregate"])
        group["policy"] = POLICIES.get(group["policy"], group["policy"])
    if options.get("policy") is upright:
        make_slot = made.twin.make_slot

        def slot_of(ledger, norm, incoming, chosen):
            slot = make_slot(ledger, norm, incoming, chosen)
            slot.priority = upright_priority(ledger, slot.gradients)
            return slot

        made.twin.make_slot = slot_of
    return made


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
@each_function
def test_a_function_equals_the_twin(option, function, rule, scope):
    options = {"capacity": 3, "decay": 0.9, "kappa": 0.7, "seed": 5, option: function}
    run(race(rule, {"foreach": True}, scope, **options), 60)


def test_both_together_and_an_age_limit():
    options = {"policy": two_draws, "aggregate": alternating, "max_age": 4, "norm": "sum"}
    run(race("adamw", {"foreach": False}, "group", capacity=4, **options), 60)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@each_function
def test_decisions_in_tensors_equal_those_in_python_numbers(option, function, scope, monkeypatch):
    def trained():
        params = parameters(torch.float64)
        options = {"capacity": 3, "decay": 0.9, "scope": scope, option: function}
        optimizer = gradmem.SGD_C(params, lr=0.01, **options)
        train(optimizer, params, 50)
        return snapshot(optimizer, params)

    host = trained()
    monkeypatch.setattr(Memory, "on_host", False)
    device = trained()
    assert_same(device["parameters"], host["parameters"], rtol=1e-11, atol=1e-11)
    for one, other in zip(host["state"], device["state"], strict=True):
        for key in ("memory_birth", "memory_counters", "memory_slots"):
            assert_same(other.get(key), one.get(key))


@each_function
def test_around_any_optimizer_as_in_the_class(option, function):
    ours, theirs = parameters(), parameters()
    options = {"capacity": 3, "decay": 0.9, option: function}
    named = gradmem.Adam_C(ours, lr=0.01, foreach=False, **options)
    wrapped = gradmem.MemoryAugmented(torch.optim.Adam(theirs, lr=0.01), **options)
    train(named, ours, 30)
    train(wrapped, theirs, 30)
    assert_same([p.detach() for p in theirs], [p.detach() for p in ours])
    assert_same(memory_in(wrapped, theirs), memory_in(named, ours))


@each_function
def test_create_and_groups_and_edits_take_functions(option, function):
    plain = parameters()
    expected = gradmem.SGD_C(plain, lr=0.01, capacity=3, **{option: function})
    train(expected, plain, 20)
    made = [
        lambda p: gradmem.create("sgd_c", p, lr=0.01, capacity=3, **{option: function}),
        lambda p: gradmem.SGD_C([{"params": p, option: function}], lr=0.01, capacity=3),
    ]
    for make in made:
        params = parameters()
        train(make(params), params, 20)
        assert_same([p.detach() for p in params], [p.detach() for p in plain])
    params = parameters()
    optimizer = gradmem.SGD_C(params, lr=0.01, capacity=3)
    optimizer.param_groups[0][option] = function
    train(optimizer, params, 20)
    assert_same([p.detach() for p in params], [p.detach() for p in plain])


def test_groups_with_functions_of_their_own_have_memories_of_their_own():
    first, second = parameters(), parameters(seed=1)
    groups = [{"params": first, "aggregate": fading}, {"params": second, "policy": two_draws}]
    optimizer = gradmem.SGD_C(groups, lr=0.01, capacity=3, decay=0.9)
    train(optimizer, first + second, 20)
    reports = optimizer.memory_report().scopes
    assert [report.name for report in reports] == ["groups 0", "groups 1"]
    assert reports[0].norms != reports[1].norms


def test_an_edit_between_steps_takes_effect_at_the_next():
    made = race("sgd", {"foreach": True}, "model", capacity=3, decay=0.9)
    for option, ours, theirs in [
        ("aggregate", fading, twin_fading),
        ("policy", every_tenth, twin_every_tenth),
        ("aggregate", "mean", "mean"),
        ("policy", two_draws, twin_two_draws),
        ("aggregate", by_norm, twin_by_norm),
        ("policy", "fifo", "fifo"),
    ]:
        run(made, 15)
        for group in (0, 1):
            made.optimizer.param_groups[group][option] = ours
            made.twin.groups[group][option] = theirs
    run(made, 15)


def never(*_):
    raise AssertionError("it was asked")


@pytest.mark.parametrize("option", ["policy", "aggregate"])
@pytest.mark.parametrize("off", [{"capacity": 0}, {"kappa": 0.0}], ids=str)
def test_a_memory_that_is_off_asks_nothing(option, off):
    ours, theirs = parameters(), parameters()
    train(gradmem.Adam_C(ours, **off, **{option: never}), ours, 5)
    wrapped = torch.optim.Adam(theirs)
    train(gradmem.MemoryAugmented(wrapped, **off, **{option: never}), theirs, 5)
    plain = parameters()
    train(torch.optim.Adam(plain), plain, 5)
    for params in (ours, theirs):
        assert_same([p.detach() for p in params], [p.detach() for p in plain])


# The report --------------------------------------------------------------------------------------


def test_the_report_has_the_weights_of_the_coming_update():
    params = parameters(torch.float64, shapes=[(3, 4), (5,)])
    optimizer = gradmem.SGD_C(params, lr=1.0, capacity=3, aggregate=alternating, kappa=0.5)
    stream = gradients(params)
    for _ in range(4):
        step_with(optimizer, params, next(stream))
    (report,) = optimizer.memory_report().scopes
    assert report.weights == tuple(0.5 * (-0.7) ** age for age in report.ages)
    assert report.total_weight == pytest.approx(1.3 + sum(report.weights), abs=1e-15)
    slots = [optimizer.state[p]["memory_slots"].clone() for p in params]
    before, grads = [p.detach().clone() for p in params], next(stream)
    step_with(optimizer, params, grads)
    for p, old, grad, stored in zip(params, before, grads, slots, strict=True):
        update = 1.3 * grad + sum(w * one for w, one in zip(report.weights, stored, strict=True))
        torch.testing.assert_close(old - p.detach(), update, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("aggregate", "remark"),
    [
        (weights(0.0), ""),
        (weights(slots=lambda x: -0.25 * torch.ones_like(x)), r"the weight -0\.25 is negative"),
        (weights(-1.0), r"the weight -1 is negative"),
        (
            weights(0, torch.zeros_like),
            r"the total weight 0 is not positive: the convergence theorem",
        ),
    ],
)
def test_the_report_says_where_the_theorem_ends(aggregate, remark):
    params = parameters(shapes=[(3, 4), (5,)])
    optimizer = gradmem.SGD_C(params, lr=0.0, capacity=2, aggregate=aggregate)
    assert optimizer.memory_report().scopes[0].remark == "", "an empty memory has no weights"
    train(optimizer, params, 3)
    report = optimizer.memory_report()
    (scope,) = report.scopes
    last_line = str(report).splitlines()[-1]
    if not remark:
        assert scope.remark == ""
        assert last_line.startswith("model")
    else:
        assert re.match(remark, scope.remark)
        assert "convergence theorem" in scope.remark
        assert last_line == scope.remark


@dataclass
class Unhashable:
    rate: float

    def __call__(self, ledger, kappa):
        return Weights(0.0, kappa * self.rate**ledger.age)


def test_a_callable_that_cannot_be_hashed():
    params = parameters()
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=3, aggregate=Unhashable(0.5))
    train(optimizer, params, 4)
    optimizer.param_groups[0]["kappa"] = 0.5
    continues(optimizer, params)
