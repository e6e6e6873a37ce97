"""Retention policies: what the random ones draw, where they are decided, and their names.

How likely a statistical test would fail a right implementation at other seeds: see plausible.py.
"""

from __future__ import annotations

import inspect
import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats

import gradmem
import resume_worker
from gradmem.memory import chance, on_device, policies
from gradmem.memory.ledger import empty_ledger
from gradmem.memory.options import MemoryOptions, PolicyName
from gradmem.memory.policies import POLICIES, Directions, Offer
from gradmem.optim.plan import Memory
from optimizers import assert_differ, assert_same, gradients, snapshot, step_with
from plausible import check_counts, check_hits, check_p, check_pairs

RANDOM = ["random", "reservoir", "proportional", "mean_diverse", "cosine_diverse", "cosine_similar"]
CPU = torch.device("cpu")

each_policy = pytest.mark.parametrize("policy", POLICIES)
each_random = pytest.mark.parametrize("policy", RANDOM)


# Names -------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_table():
    assert get_args(PolicyName) == tuple(POLICIES)
    assert all(name == function.__name__ for name, function in POLICIES.items())


def test_every_function_says_what_it_does():
    for module in (policies, chance):
        for name, value in inspect.getmembers(module, callable):
            if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_"):
                assert len(inspect.getdoc(value) or "") > 30, name


def test_every_policy_is_documented():
    page = Path(__file__).parents[1] / "docs" / "choosing.md"
    for text in (gradmem.SGD_C.__doc__, page.read_text(encoding="utf-8")):
        assert [name for name in POLICIES if f'"{name}"' not in text] == []


def test_the_example_in_contributing_is_what_the_files_say():
    root = Path(__file__).parents[1]
    lines = (root / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    path, found = "", 0
    for line in lines:
        if line.startswith("--- "):
            path = line[4:]
        elif line.startswith("+") or (path and line.startswith(" ")):
            assert line[1:] in (root / path).read_text(encoding="utf-8"), line
            found += 1
        elif line == "```":
            path = ""
    assert found > 10


# What is drawn -----------------------------------------------------------------------------------


def offer_to(ledger, seed=0, directions=None):
    rows = len(ledger.drift)
    return Offer(
        torch.ones(rows, dtype=torch.float64),
        ledger.step,
        seed=seed,
        stream=torch.arange(rows),
        directions=directions,
    )


def decisions(policy, rows, steps, capacity):
    """Many ledgers at once, offered norms of 1: the decision of each step, the ledger after it."""
    options = MemoryOptions(capacity=capacity, policy=policy)
    ledger = empty_ledger(rows, capacity, CPU)
    for _ in range(steps):
        decision = on_device.decide(ledger, offer_to(ledger), options, renew=False)
        on_device.commit(ledger, decision, options.decay)
        yield decision, ledger


def test_random_replaces_all_slots_alike_and_independently():
    capacity, rows = 5, 2000
    steps = [decision for decision, _ in decisions("random", rows, capacity + 30, capacity)]
    assert all(decision.write.all() for decision in steps)
    slots = np.stack([decision.slot.numpy() for decision in steps[capacity:]])
    check_counts(np.bincount(slots.ravel(), minlength=capacity))
    check_pairs(slots[::2], slots[1::2], capacity)
    check_pairs(slots[:, ::2], slots[:, 1::2], capacity)


def test_reservoir_holds_every_gradient_with_probability_capacity_over_steps():
    capacity, rows, steps = 4, 4000, 24
    *_, (_, ledger) = decisions("reservoir", rows, steps, capacity)
    for step in range(1, steps + 1):
        hits = int((ledger.birth == step).sum())
        check_p(stats.binomtest(hits, rows, capacity / steps).pvalue / 2)


def test_reservoir_takes_the_step_t_with_probability_capacity_over_t():
    capacity, rows, steps = 4, 4000, 24
    for t, (decision, _) in enumerate(decisions("reservoir", rows, steps, capacity), start=1):
        if t <= capacity:
            assert decision.write.all()
        else:
            hits = int(decision.write.sum())
            check_p(stats.binomtest(hits, rows, capacity / t).pvalue / 2)


def test_reservoir_holds_every_set_of_gradients_alike():
    for t, (_, ledger) in enumerate(decisions("reservoir", 6000, 8, 3), start=1):
        held = [frozenset(row) for row in ledger.birth.tolist()]
        if t > 3:
            every = itertools.combinations(range(1, t + 1), 3)
            check_counts([held.count(frozenset(some)) for some in every])


@pytest.mark.parametrize("norms", [(1.0, 2.0, 3.0, 10.0), (5.0, 5.0), (1e-9, 1e9, 3e8)])
def test_proportional_spares_a_slot_by_its_share_of_the_norms(norms):
    ledger = empty_ledger(20_000, len(norms), CPU)
    ledger.norm += torch.tensor(norms, dtype=torch.float64)
    ledger.priority += torch.arange(len(norms))  # what has decayed does not count
    choice = policies.proportional(offer_to(ledger), ledger)
    assert choice.accept.all()
    counts = np.bincount(choice.slot.numpy(), minlength=len(norms))
    check_counts(counts, [1 - norm / sum(norms) for norm in norms])


def test_proportional_never_drops_a_gradient_that_is_all_of_the_norm():
    ledger = empty_ledger(5000, 3, CPU)
    for place in range(3):
        ledger.norm.fill_(1e-30)[:, place] = 1.0
        slots = policies.proportional(offer_to(ledger, seed=place), ledger).slot
        assert slots.unique().tolist() == [k for k in range(3) if k != place]
    alone = empty_ledger(50, 1, CPU)
    alone.norm.fill_(7.0)
    assert not policies.proportional(offer_to(alone), alone).slot.any()


PROBABILITY = {
    "mean_diverse": lambda g: np.minimum(1, np.hypot(g[..., 0] - 1, g[..., 1])),
    "cosine_diverse": lambda g: (1 - g[..., 0] / np.hypot(*g.T).T) / 2,
    "cosine_similar": lambda g: (1 + g[..., 0] / np.hypot(*g.T).T) / 2,
}


def entered(policy, grads, seed=0):
    """Whether these gradients, one a ledger, enter a memory whose mean is (1, 0)."""
    params = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in grads]
    optimizer = gradmem.SGD_C(
        params, lr=0.0, capacity=2, policy=policy, scope="tensor", seed=seed, decay=0.9
    )
    for first in ([3.0, 0.0], [-1.0, 0.0]):
        step_with(optimizer, params, [torch.tensor(first).double() for _ in params])
    step_with(optimizer, params, list(torch.tensor(grads, dtype=torch.float64)))
    births = torch.stack([optimizer.state[p]["memory_birth"] for p in params]).numpy()
    changed = (births == 3).any(axis=1)
    assert (births[changed] == (1, 3)).all(), "the second had the smallest priority"
    return changed


@pytest.mark.parametrize("policy", PROBABILITY)
def test_directions_are_accepted_with_their_probability(policy):
    rng = np.random.default_rng(0)
    angle, length = rng.uniform(-np.pi, np.pi, (4, 400)), rng.uniform(0.2, 1.2, (4, 400))
    grads = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=-1)
    probability = PROBABILITY[policy](grads)
    hits = np.stack([entered(policy, some, seed) for seed, some in enumerate(grads)])
    assert hits[probability == 1].all()
    check_hits(hits[probability < 1], probability[probability < 1])


@pytest.mark.parametrize(
    ("policy", "to_same", "to_opposite"),
    [("mean_diverse", 0, 1), ("cosine_diverse", 0, 1), ("cosine_similar", 1, 0)],
)
def test_directions_at_the_ends(policy, to_same, to_opposite):
    for sign, share in ((1.0, to_same), (-1.0, to_opposite)):
        assert entered(policy, [[sign, 0.0]] * 200).mean() == share


@pytest.mark.parametrize("policy", PROBABILITY)
def test_a_mean_of_zero_has_no_direction_and_no_distance(policy):
    ledger = empty_ledger(3000, 2, CPU)
    nothing = torch.zeros(3000, dtype=torch.float64)
    offer = offer_to(ledger, directions=lambda: Directions(nothing + 1, nothing, nothing))
    accept = POLICIES[policy](offer, ledger).accept.numpy()
    if policy == "mean_diverse":
        assert accept.all()
    else:
        check_hits(accept, np.full(3000, 0.5))


def test_nothing_compared_with_nothing_is_no_nan():
    nothing = torch.zeros(1, dtype=torch.float64)
    offer = offer_to(
        empty_ledger(1, 2, CPU), directions=lambda: Directions(nothing, nothing, nothing)
    )
    assert offer.cosine.item() == 0.0
    assert offer.distance.item() == np.inf


# What a choice depends on ------------------------------------------------------------------------


def births(policy, steps=60, seed=0, scale=1.0, dtype=torch.float32, scope="tensor", capacity=3):
    """After every step, what each of two equal tensors holds."""
    params = [torch.nn.Parameter(torch.zeros(4, dtype=dtype)) for _ in range(2)]
    optimizer = gradmem.SGD_C(
        params, lr=0.0, policy=policy, seed=seed, scope=scope, capacity=capacity, decay=0.97
    )
    stream, seen = gradients(params[:1], seed=2), []
    for _ in range(steps):
        grad = next(stream)[0] * scale
        step_with(optimizer, params, [grad, grad.clone()])
        seen.append([optimizer.state[p]["memory_birth"].tolist() for p in params])
    return seen


@each_random
def test_choices_differ_by_seed_and_by_ledger_alone(policy):
    one = births(policy)
    assert one == births(policy)
    assert one != births(policy, seed=1)
    first, second = zip(*one, strict=True)
    assert first != second
    assert births(policy, seed=2**64) == one


@each_policy
def test_choices_leave_the_global_generators_alone(policy):
    torch.manual_seed(3)
    one = births(policy, steps=8)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert one == births(policy, steps=8)
    assert torch.get_rng_state().equal(before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@each_policy
@pytest.mark.parametrize(
    ("dtype", "power"), [(torch.float32, 55), (torch.float64, 500)], ids=["float32", "float64"]
)
def test_choices_do_not_depend_on_the_unit_of_the_loss(policy, dtype, power):
    """A power of two changes no digit; these come near the ends of what can be squared."""
    one = births(policy, dtype=dtype)
    for exponent in (-power, power):
        assert births(policy, dtype=dtype, scale=2.0**exponent) == one


def test_a_resumed_run_makes_the_choices_of_one_that_was_not_interrupted(tmp_path):
    """The states go through a file into another process."""
    cases, straight = [], []
    for policy in RANDOM:
        case = {"name": "sgd_c", "dtype": torch.float64, "until": 24}
        case["options"] = {"policy": policy, "capacity": 3, "seed": 6, "scope": "group"}
        params, optimizer = resume_worker.make(*(case[key] for key in ("name", "dtype", "options")))
        for step in range(24):
            if step in (0, 2, 5, 11, 17):
                now = {"params": [p.detach() for p in params], "state": optimizer.state_dict()}
                torch.save({**case, **now, "at": step}, tmp_path / "one.pt")
                cases.append(torch.load(tmp_path / "one.pt"))
                straight.append((params, optimizer))
            resume_worker.gradient_step(params, optimizer, step)
        assert optimizer.state[params[0]]["memory_counters"][1] > 3, "it never replaced one"
    torch.save(cases, tmp_path / "in.pt")
    command = [sys.executable, resume_worker.__file__, tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run(command, check=True)
    for (params, optimizer), other in zip(straight, torch.load(tmp_path / "out.pt"), strict=True):
        assert_same(other["params"], [p.detach() for p in params])
        assert_same(other["state"], optimizer.state_dict()["state"])


# Where it is decided -----------------------------------------------------------------------------


def trained(name, steps=60, **options):
    params = [torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((4, 3), (5,), ())]
    optimizer = gradmem.create(name, params, lr=0.01, capacity=4, decay=0.97, **options)
    stream = gradients(params, seed=5)
    for t in range(steps):
        grads = next(stream)
        if t % 7 == 3:
            grads[1] = None
        if t % 11 == 5:
            grads[0] = grads[0] * float("nan")
        step_with(optimizer, params, grads)
        with torch.no_grad():
            for p in params:
                p.nan_to_num_(0.5)
    return snapshot(optimizer, params)


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@each_policy
def test_decisions_in_tensors_equal_those_in_python_numbers(policy, scope, monkeypatch):
    host = trained("sgd_c", policy=policy, scope=scope, seed=1, max_age=25)
    monkeypatch.setattr(Memory, "on_host", False)
    device = trained("sgd_c", policy=policy, scope=scope, seed=1, max_age=25)
    for one, other in zip(host["state"], device["state"], strict=True):
        for key in ("slots", "birth", "priority", "norm", "counters"):
            assert_same(one[f"memory_{key}"], other[f"memory_{key}"], key)
    assert_same(device["parameters"], host["parameters"], rtol=1e-11, atol=1e-11)


@each_policy
@pytest.mark.parametrize("max_age", [None, 3])
def test_no_number_is_read_on_a_device(policy, max_age):
    """A meta tensor has no numbers to read, and does not mix with tensors elsewhere."""
    device = torch.device("meta")
    ledger = empty_ledger(3, 4, device)
    some = torch.ones(3, dtype=torch.float64, device=device)
    stream = torch.arange(3, device=device)
    offer = Offer(
        some, ledger.step, seed=9, stream=stream, directions=lambda: Directions(some, some, some)
    )
    options = MemoryOptions(capacity=4, policy=policy, max_age=max_age)
    decision = on_device.decide(ledger, offer, options, renew=True)
    on_device.commit(ledger, decision, options.decay)
    with pytest.raises(RuntimeError):
        ledger.priority.max().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: there is none")
@each_policy
def test_no_host_sync_on_cuda(policy):
    params = [torch.nn.Parameter(torch.ones(s, device="cuda")) for s in ((64, 32), (32,))]
    optimizer = gradmem.SGD_C(params, lr=0.01, capacity=3, policy=policy, aggregate="median_mean")
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(40):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_tests_above_would_notice_another_policy():
    one = trained("sgd_c", policy="random", scope="model", seed=1)
    assert_differ(one, trained("sgd_c", policy="random", scope="model", seed=2))
