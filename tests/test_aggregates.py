"""Aggregates: the weights each gives, that they reach the update, and where they are decided."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest
import torch

import gradmem
from gradmem import convergence
from gradmem.memory import aggregates, on_device
from gradmem.memory.aggregates import AGGREGATES, UNIFORM, WEIGHING, weigh
from gradmem.memory.ledger import empty_ledger
from gradmem.memory.options import AggregateName, MemoryOptions
from gradmem.memory.policies import Offer
from gradmem.optim.plan import Memory
from optimizers import (
    assert_differ,
    assert_same,
    gradients,
    parameters,
    snapshot,
    step_with,
    train,
)

CPU = torch.device("cpu")
CAPACITY = 5
KAPPAS = [1.0, 0.3, -0.4, -2.0, 3]

each_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES)
each_weighing = pytest.mark.parametrize("aggregate", WEIGHING)
each_kappa = pytest.mark.parametrize("kappa", KAPPAS)


# Names -------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_tables():
    assert get_args(AggregateName) == (*UNIFORM, *WEIGHING) == AGGREGATES
    functions = {**UNIFORM, **WEIGHING}
    assert all(name == functions[name].__name__.rstrip("_") for name in AGGREGATES)


def test_every_function_says_what_it_does():
    for name, value in inspect.getmembers(aggregates, callable):
        if getattr(value, "__module__", "") == aggregates.__name__ and not name.startswith("_"):
            assert len(inspect.getdoc(value) or "") > 25, name


def test_every_aggregate_is_documented():
    page = Path(__file__).parents[1] / "docs" / "choosing.md"
    for text in (gradmem.SGD_C.__doc__, page.read_text(encoding="utf-8")):
        assert [name for name in AGGREGATES if f'"{name}"' not in text] == []


# Weights -----------------------------------------------------------------------------------------


def expected(aggregate, priorities, kappa):
    """In plain Python: the weight of g, and of each slot; a priority None is an empty slot."""
    held = [k for k, priority in enumerate(priorities) if priority is not None]
    n, weights = len(held), [0.0] * len(priorities)
    if n == 0:
        return 1.0, weights
    if aggregate in UNIFORM:
        current = {"mean": 1 / (n + 1), "sum": 1.0, "mid": 0.5}[aggregate]
        share = {"mean": 1 / (n + 1), "sum": 1 / n, "mid": 0.5 / n}[aggregate]
        return current, [kappa * share if k in held else 0.0 for k in range(len(priorities))]
    ranked = sorted(held, key=lambda k: priorities[k])
    which, _, halved = aggregate.partition("_")
    chosen = {"min": ranked[0], "median": ranked[n // 2], "max": ranked[-1]}[which]
    factor = 0.5 if halved else 1.0
    weights[chosen] = factor * kappa
    return factor, weights


def random_ledger(rows=300):
    """Every number of gradients held, in any slots, with priorities that are often equal."""
    generator = torch.Generator().manual_seed(0)
    ledger = empty_ledger(rows, CAPACITY, CPU)
    held = torch.rand(rows, CAPACITY, generator=generator) < torch.rand(
        rows, 1, generator=generator
    )
    held[0], held[1] = False, True
    steps = torch.rand(rows, CAPACITY, generator=generator).argsort(dim=1) + 1
    ledger.birth.copy_(steps * held)
    ledger.priority.copy_(torch.randint(0, 4, held.shape, generator=generator) * 0.5 * held)
    ledger.counters[:, 0] = CAPACITY
    return ledger


@each_kappa
@each_aggregate
def test_the_weights_are_those_of_the_definition(aggregate, kappa):
    ledger = random_ledger()
    current, slots = weigh(aggregate, ledger, kappa)
    assert current.dtype == slots.dtype == torch.float64
    for row in range(len(current)):
        births, priorities = ledger.birth[row].tolist(), ledger.priority[row].tolist()
        held = [p if birth else None for birth, p in zip(births, priorities, strict=True)]
        one, each = expected(aggregate, held, kappa)
        assert current[row].item() == pytest.approx(one, rel=1e-15)
        assert slots[row].tolist() == pytest.approx(each, rel=1e-15)


@each_kappa
@pytest.mark.parametrize("aggregate", UNIFORM)
def test_uniform_weights_are_the_same_for_one_ledger_and_for_all(aggregate, kappa):
    ledger = random_ledger()
    current, stored = aggregates.uniform_of_all(aggregate, ledger, kappa)
    for row, n in enumerate(ledger.count.tolist()):
        one = aggregates.uniform_of_one(aggregate, n, kappa)
        assert one == (current[row].item(), stored[row].item())


@each_kappa
@each_aggregate
def test_total_weights(aggregate, kappa):
    for n in range(1, CAPACITY + 1):
        whole = {"mean": (1 + kappa * n) / (n + 1), "mid": (1 + kappa) / 2}
        total = whole.get(aggregate, (1 + kappa) / (2 if aggregate.endswith("_mean") else 1))
        assert aggregates.total_weight(aggregate, n, kappa) == pytest.approx(total, abs=1e-15)
        assert convergence.total_weight(aggregate, float(kappa), n) == pytest.approx(
            total, abs=1e-15
        )
    assert aggregates.total_weight(aggregate, 0, kappa) == 1.0


# Updates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("scope", ["model", "tensor"])
@each_aggregate
def test_the_update_is_what_the_report_says(aggregate, scope, dtype):
    """The weights it tells before a step, times what the slots hold, are what SGD is given."""
    params = parameters(dtype)
    options = {"aggregate": aggregate, "kappa": 0.6, "scope": scope, "decay": 0.9}
    optimizer = gradmem.SGD_C(params, lr=1.0, capacity=CAPACITY, **options)
    stream = gradients(params)
    for step in range(3 * CAPACITY):
        scopes = optimizer.memory_report().scopes
        grads, before = next(stream), [p.detach().clone() for p in params]
        slots = [optimizer.state[p]["memory_slots"].clone() for p in params] if step else []
        step_with(optimizer, params, grads)
        for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
            report = scopes[i if scope == "tensor" and p.numel() else 0] if step else None
            update = grad
            if report is not None and report.occupied:
                update = grad * (report.total_weight - sum(report.weights))
                for weight, stored in zip(report.weights, slots[i], strict=False):
                    update = update + weight * stored
            torch.testing.assert_close(before[i] - p.detach(), update, rtol=3e-5, atol=3e-6)


@each_aggregate
def test_an_empty_memory_gives_the_gradient_itself(aggregate):
    ours, theirs = parameters(), parameters()
    for kappa in KAPPAS:
        optimizer = gradmem.Adam_C(ours, aggregate=aggregate, kappa=kappa)
        train(optimizer, ours, 1)
        train(torch.optim.Adam(theirs), theirs, 1)
        assert_same([p.detach() for p in ours], [p.detach() for p in theirs])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_weighing
def test_narrow_updates_are_rounded_once(aggregate, dtype):
    generator = torch.Generator().manual_seed(1)
    p = torch.nn.Parameter(torch.zeros(500, dtype=dtype))
    optimizer = gradmem.SGD_C([p], lr=1.0, capacity=1, aggregate=aggregate, kappa=0.37)
    first, second = (torch.randn(500, generator=generator).to(dtype) for _ in range(2))
    step_with(optimizer, [p], [first])
    with torch.no_grad():
        p.zero_()
    step_with(optimizer, [p], [second])
    factor = 0.5 if aggregate.endswith("_mean") else 1.0
    exact = factor * (second.double() + 0.37 * first.double())
    half_a_digit = torch.finfo(dtype).eps / 2 * exact.abs().clamp(min=torch.finfo(dtype).tiny)
    in_float32 = 2.0**-23 * (first.double().abs() + second.double().abs())
    assert ((-p.detach().double() - exact).abs() <= half_a_digit + in_float32).all()


@each_weighing
def test_slots_of_no_weight_are_not_read(aggregate):
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = gradmem.SGD_C([p], lr=1.0, capacity=4, aggregate=aggregate, decay=1.0)
    train(optimizer, [p], 4)
    _, weights = expected(aggregate, optimizer.state[p]["memory_priority"].tolist(), 1.0)
    for k, weight in enumerate(weights):
        if weight == 0.0:
            optimizer.state[p]["memory_slots"][k] = torch.nan
    train(optimizer, [p], 1, seed=4)
    assert p.isfinite().all()


def test_aggregates_differ():
    """Each of them moves elsewhere, so that the tests above do not compare equal things."""
    moved = []
    for aggregate in AGGREGATES:
        params = parameters()
        train(gradmem.SGD_C(params, lr=0.1, capacity=4, decay=0.9, aggregate=aggregate), params, 9)
        moved.append([p.detach() for p in params])
    for i, one in enumerate(moved):
        for other in moved[:i]:
            assert_differ(one, other)


@each_aggregate
def test_the_report_remarks_on_weights_the_theorem_does_not_cover(aggregate):
    params = parameters()
    optimizer = gradmem.SGD_C(params, lr=0.0, capacity=3, aggregate=aggregate, kappa=0.5)
    train(optimizer, params, 3)
    (scope,) = optimizer.memory_report().scopes
    assert scope.remark == ""
    assert min(scope.weights) >= 0
    optimizer.param_groups[0]["kappa"] = -0.5
    report = optimizer.memory_report()
    (scope,) = report.scopes
    total = convergence.total_weight(aggregate, -0.5, 3)
    assert scope.total_weight == pytest.approx(total, abs=1e-15)
    assert "the convergence theorem does not cover that" in scope.remark
    assert str(report).endswith(scope.remark)


# Where it is decided -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd_c", "adam_cm"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@each_aggregate
def test_weights_in_tensors_equal_those_in_python_numbers(name, scope, aggregate, monkeypatch):
    def trained():
        params = parameters(torch.float64)
        options = {"aggregate": aggregate} if name == "sgd_c" else {"kappa": 0.3}
        optimizer = gradmem.create(
            name, params, lr=0.01, capacity=4, decay=0.95, scope=scope, **options
        )
        stream = gradients(params, seed=8)
        for t in range(40):
            grads = next(stream)
            if t % 7 == 3:
                grads[1] = None
            if t % 11 == 5:
                grads = [None if g is None else torch.zeros_like(g) for g in grads]
            step_with(optimizer, params, grads)
        return snapshot(optimizer, params)

    host = trained()
    monkeypatch.setattr(Memory, "on_host", False)
    device = trained()
    assert_same(device["parameters"], host["parameters"], rtol=1e-12, atol=1e-12)
    for one, other in zip(host["state"], device["state"], strict=True):
        for key in ("memory_birth", "memory_counters"):
            assert_same(other.get(key), one.get(key))


@each_aggregate
def test_no_number_is_read_on_a_device(aggregate):
    """A meta tensor has no numbers to read, and does not mix with tensors elsewhere."""
    device = torch.device("meta")
    ledger = empty_ledger(3, 4, device)
    norm = torch.ones(3, dtype=torch.float64, device=device)
    offer = Offer(norm, ledger.step, seed=0, stream=ledger.birth[:, 0], directions=None)
    options = MemoryOptions(capacity=4, aggregate=aggregate)
    moves = on_device.decide(ledger, offer, options, renew=False).moves
    assert len(moves) == 3
    assert all(isinstance(move.current, torch.Tensor) for move in moves)
