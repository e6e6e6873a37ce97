"""SGD_CM, Adam_CM and AdamW_CM: equal to their twin at every step, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import test_against_reference as generic
from critical_twin import CriticalRace
from gradmem.optim import critical_momenta
from gradmem.optim.plan import Memory
from test_against_reference import EDITS, POLICIES, SHAPES, random_options

BASE = {
    "sgd": [
        {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.5, "maximize": True, "weight_decay": 0.2},
        {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.2, "maximize": True},
    ],
    "adam": [
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "amsgrad": True, "weight_decay": 0.1},
        {"lr": 0.05, "maximize": True, "weight_decay": 0.2},
        {"lr": 0.05, "weight_decay": 0.3, "decoupled_weight_decay": True, "betas": (0.0, 0.5)},
    ],
    "adamw": [
        {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.3},
        {"lr": 0.05, "amsgrad": True, "maximize": True},
    ],
}
rules = pytest.mark.parametrize("rule", BASE)
scopes = pytest.mark.parametrize("scope", ["model", "group", "tensor"])


def run(race, steps=25, **options):
    """Steps of the generic kind: some gradients are missing, some zero."""
    generic.run(race, steps, **options)


@pytest.mark.parametrize("memory", generic.MEMORY.values(), ids=generic.MEMORY)
@rules
def test_every_memory_option(rule, memory):
    number = list(generic.MEMORY.values()).index(memory)
    base = BASE[rule][number % len(BASE[rule])]
    groups = [(SHAPES[:3], {}), (SHAPES[3:], {"lr": 0.01, "weight_decay": 0.05})]
    run(CriticalRace(rule, groups, {"foreach": number % 2 == 0}, number, **base, **memory))


@pytest.mark.parametrize("which", range(3))
@rules
def test_every_base_option(rule, which):
    base = BASE[rule][which % len(BASE[rule])]
    run(CriticalRace(rule, [(SHAPES, {})], {}, which, **base, decay=0.95))


@rules
def test_the_defaults(rule):
    run(CriticalRace(rule, [(SHAPES, {})], {}))


@pytest.fixture
def on_device(monkeypatch):
    """Decisions and step counts as on an accelerator, where reading a number would wait."""
    monkeypatch.setattr(Memory, "on_host", False)
    monkeypatch.setattr(critical_momenta, "_on_host", lambda tensor: False)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # step counts are of this type
    yield
    torch.set_default_dtype(default)


@pytest.mark.parametrize("which", range(3))
@rules
def test_every_base_option_with_step_counts_and_rates_as_tensors(rule, which, on_device):
    base = dict(BASE[rule][which % len(BASE[rule])])
    form = {} if rule == "sgd" else {"capturable": True}
    race = CriticalRace(rule, [(SHAPES, {})], form, which, **base, decay=0.95)
    race.optimizer.param_groups[0]["lr"] = torch.full([1] * which, base["lr"])
    run(race)


class RefuseReads(TorchDispatchMode):
    """Raises where a tensor's value becomes a number: on an accelerator the host would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("aggregate", ["sum", "max"])
@rules
def test_on_an_accelerator_nothing_is_read(rule, aggregate, on_device):
    race = CriticalRace(rule, [(SHAPES, {})], {}, **BASE[rule][0], aggregate=aggregate)
    for _ in range(3):
        race.step(race.gradients())
    for _ in range(20):
        for p in race.params:
            p.grad = torch.randn_like(p)
        with RefuseReads():
            race.optimizer.step()
    with pytest.raises(AssertionError, match="a value was read"), RefuseReads():
        torch.ones(()).item()


@scopes
@rules
def test_groups_with_memories_of_their_own(rule, scope):
    groups = [
        ([(2, 3), ()], {"capacity": 2, "decay": 0.9}),
        ([(4,)], {"capacity": 4, "aggregate": "mid", "kappa": 0.5, "max_age": 3}),
        ([(3,), (0,)], {"capacity": 2, "decay": 0.9, "lr": 0.3}),
        ([(2,)], {"capacity": 0}),
        ([(2,)], {"kappa": 0.0, "maximize": True}),
        ([(2,), (2,)], {"policy": "fifo", "scope": "tensor", "maximize": True}),
    ]
    run(CriticalRace(rule, groups, {}, 7, **BASE[rule][0], scope=scope))


@pytest.mark.parametrize("which", [0, 1])
@scopes
@rules
def test_complex_parameters(rule, scope, which):
    memory = {"capacity": 3, "scope": scope, "policy": "cosine_similar"}
    groups = [([(2, 2), (), (3,)], {})]
    run(CriticalRace(rule, groups, {}, 3, complex, **BASE[rule][which], **memory))


@pytest.mark.parametrize("policy", POLICIES)
@rules
def test_what_is_not_finite_never_enters_the_memory(rule, policy):
    """Neither at its step nor, in the momentum, afterwards."""
    scope = ["model", "group", "tensor"][POLICIES.index(policy) // 3]
    memory = {"capacity": 3, "decay": 0.9, "policy": policy, "scope": scope, "max_age": 7}
    race = CriticalRace(
        rule, [([(2, 3), (3,)], {}), ([(2,)], {})], {}, 5, **BASE[rule][0], **memory
    )
    run(race, 8)
    grads = race.gradients()
    grads[0][1, 1] = [np.nan, np.inf, -np.inf][POLICIES.index(policy) % 3]
    race.step(grads)
    run(race, 8)
    race.step([np.full_like(g, np.nan) for g in race.gradients()])
    run(race, 4)


@rules
def test_after_a_restored_momentum_the_memory_goes_on(rule):
    race = CriticalRace(rule, [([(2, 3), (3,)], {})], {}, 6, lr=0.1, capacity=3)
    key, name = ("buffer", "momentum_buffer") if rule == "sgd" else ("m", "exp_avg")
    for t in range(30):
        before = [p.copy() for p in race.twin.params]
        grads = race.gradients()
        if t % 7 == 3:
            grads[1][0] = np.nan
        race.step(grads)
        if t % 7 == 5:
            set_finite(race, before, key, name)
    assert race.twin.ledgers[0].step > 15


def set_finite(race, params, key, name):
    """Parameters and state as a user would repair them, in both optimizers."""
    for i, p in enumerate(race.params):
        state, twin = race.optimizer.state[p], race.twin.state[i]
        race.comparable[i] = True
        for ours, theirs in ((name, key), ("exp_avg_sq", "v")):
            if ours in state:
                state[ours].zero_()
                twin[theirs] = np.zeros_like(race.twin.params[i])
        race.twin.params[i] = np.nan_to_num(race.twin.params[i])
        p.data = torch.tensor(race.twin.params[i])


@scopes
@rules
def test_options_edited_between_steps(rule, scope):
    memory = {"capacity": 4, "decay": 0.9, "scope": scope}
    race = CriticalRace(
        rule, [(SHAPES[:2], {}), (SHAPES[3:], {})], {}, 8, **BASE[rule][0], **memory
    )
    for t, edit in enumerate([*EDITS, *BASE_EDITS[rule]]):
        run(race, 4, missing=0.1, unseen=0.05)
        for group in (0, 1) if t % 3 else (1,):
            race.edit(group, **edit)
    run(race, 6)


MOMENTS = [{"maximize": True}, {"betas": (0.5, 0.7)}, {"maximize": False, "eps": 0.01}]
BASE_EDITS = {
    "sgd": [{"maximize": True}, {"momentum": 0.3}, {"momentum": 0.0}, {"momentum": 0.7}],
    "adam": [*MOMENTS, {"decoupled_weight_decay": True}],
    "adamw": MOMENTS,
}


@scopes
@rules
def test_kappa_edited_to_zero_and_back(rule, scope):
    race = CriticalRace(rule, [(SHAPES, {})], {}, 11, **BASE[rule][0], capacity=3, scope=scope)
    run(race, 6)
    for kappa in (0.0, 0.5, 0.0, 1.0):
        race.edit(0, kappa=kappa)
        run(race, 6)


@scopes
@rules
def test_groups_added_later(rule, scope):
    memory = {"capacity": 4, "decay": 0.95, "scope": scope}
    race = CriticalRace(rule, [([(2, 3), ()], {})], {}, 12, **BASE[rule][0], **memory)
    for own in ({}, {"lr": 0.3}, {"decay": 0.5}):
        run(race, 8)
        race.add_group([(3,), (0,)], **own)
    run(race, 12)


@pytest.mark.parametrize("seed", range(3))
@rules
def test_options_drawn_at_random(rule, seed):
    for draw in range(3):
        rng = np.random.default_rng([seed, draw, len(rule)])
        memory = random_options(rng)
        groups = []
        for _ in range(rng.integers(1, 4)):
            shapes = [SHAPES[k] for k in rng.integers(len(SHAPES), size=rng.integers(1, 4))]
            own = random_options(rng) if rng.random() < 0.3 else {}
            groups.append((shapes, {"lr": float(rng.choice([0.01, 0.1])), **own}))
        base = BASE[rule][rng.integers(len(BASE[rule]))]
        run(CriticalRace(rule, groups, {}, seed, **base, **memory), missing=rng.choice([0, 0.4]))
