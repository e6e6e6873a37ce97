"""The twin itself: against torch where the memory is off, and against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reference import Twin

BASES = {
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
BASE_OPTIONS = [
    ("sgd", {"lr": 0.1}),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("sgd", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "maximize": True}),
    ("rmsprop", {"lr": 0.1}),
    ("rmsprop", {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "centered": True, "weight_decay": 0.1}),
    ("rmsprop", {"lr": 0.1, "momentum": 0.7, "maximize": True, "weight_decay": 0.2}),
    ("adam", {}),
    ("adam", {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1}),
    ("adam", {"lr": 0.1, "amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("adam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("adamw", {}),
    ("adamw", {"lr": 0.1, "amsgrad": True, "maximize": True, "weight_decay": 0.5}),
]


@pytest.mark.parametrize("off", [{"capacity": 0}, {"kappa": 0.0}])
@pytest.mark.parametrize(("rule", "options"), BASE_OPTIONS)
def test_switched_off_it_is_torch(rule, options, off):
    rng = np.random.default_rng(1)
    start = [rng.normal(size=(2, 3)), rng.normal(size=()), rng.normal(size=0)]
    start.append(rng.normal(size=3) + 1j * rng.normal(size=3))
    params = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    optimizer = BASES[rule](params, foreach=False, **options)
    twin = Twin(rule, start, **options, **off)
    for t in range(40):
        grads = [rng.normal(size=(*p.shape, 2)) for p in start]
        grads = [
            g[..., 0] + 1j * g[..., 1] if np.iscomplexobj(p) else g[..., 0]
            for g, p in zip(grads, start, strict=True)
        ]
        if t % 3 == 1:
            grads[t % 4] = None
        for p, g in zip(params, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        twin.step(grads)
        for p, q in zip(params, twin.params, strict=True):
            np.testing.assert_allclose(q, p.detach().numpy(), rtol=1e-13, atol=1e-13)
    assert all(slot is None for i in range(4) for slot in twin.memory_of(i))


# ------------------------------------------------------------------ worked by hand, one number


def scalar(**options):
    return Twin("sgd", [np.zeros(())], **{"lr": 1.0, "capacity": 2, "decay": 1.0, **options})


def updates(twin, *gradients):
    """What the base rule is handed at each step: with SGD and lr 1 the way the parameter went."""
    found = []
    for gradient in gradients:
        twin.params[0] = np.zeros(())
        twin.step([np.array(float(gradient))])
        found.append(float(-twin.params[0]))
    return found


def births(twin, i=0):
    return [None if slot is None else slot[2] for slot in twin.memory_of(i)]


def priorities(twin, i=0):
    return [None if slot is None else slot[0] for slot in twin.memory_of(i)]


def stored(twin, i=0):
    return [None if slot is None else slot[3].tolist() for slot in twin.memory_of(i)]


@pytest.mark.parametrize(
    ("aggregate", "kappa", "expected"),
    [
        # before step 2 the memory holds 1; before step 3 it holds 1 and 3: S = 4, n = 2
        ("sum", 1.0, [1.0, 3 + 1.0, 5 + 4 / 2]),
        ("mean", 1.0, [1.0, (3 + 1) / 2, (5 + 4) / 3]),
        ("mid", 1.0, [1.0, (3 + 1) / 2, (5 + 2) / 2]),
        ("sum", -0.5, [1.0, 2.5, 4.0]),
        ("mean", -0.5, [1.0, 1.25, 1.0]),
        ("mid", 0.5, [1.0, 1.75, 3.0]),
        ("mean", 0.0, [1.0, 3.0, 5.0]),
    ],
)
def test_aggregates(aggregate, kappa, expected):
    twin = scalar(aggregate=aggregate, kappa=kappa)
    assert updates(twin, 1, 3, 5) == pytest.approx(expected, abs=1e-15)
    assert stored(twin) == ([5.0, 3.0] if kappa else [None, None])


def test_the_sum_is_the_default_of_sgd_and_the_mean_of_the_others():
    assert Twin("sgd", [np.zeros(())]).groups[0]["aggregate"] == "sum"
    assert Twin("adam", [np.zeros(())]).groups[0]["aggregate"] == "mean"


def test_priorities_decay_after_insertion_and_only_a_greater_norm_gets_in():
    twin = scalar(capacity=1, decay=0.5)
    # 4 is stored, priority 4 * .5 = 2. Then 2 > 2 is false, priority 1. Then 1 > 1 is false,
    # priority .5. Then .75 > .5: stored with .375.
    assert updates(twin, 4, 2, 1, 0.75) == [4.0, 2 + 4.0, 1 + 4.0, 0.75 + 4.0]
    assert twin.ledgers[0].accepted == [True, False, False, True]
    assert priorities(twin) == [0.375]
    assert updates(twin, 0.1) == [0.1 + 0.75]


def test_of_equal_smallest_priorities_the_first_slot_goes():
    twin = scalar(capacity=3)
    updates(twin, 1, -1, 1, 1)  # the fourth equals the smallest: refused
    assert births(twin) == [1, 2, 3]
    updates(twin, 2)
    assert stored(twin) == [2.0, -1.0, 1.0]


def test_bottom_norm_keeps_the_small_ones():
    twin = scalar(capacity=1, decay=0.5, policy="bottom_norm")
    updates(twin, 4)  # 1/4, decayed 1/8
    assert priorities(twin) == [0.125]
    updates(twin, 8)  # 1/8 > 1/8 is false; decayed 1/16
    assert stored(twin) == [4.0]
    updates(twin, 8)  # 1/8 > 1/16
    assert stored(twin) == [8.0]
    assert priorities(twin) == [1 / 16]


def test_fifo_keeps_the_last_ones():
    twin = scalar(policy="fifo", decay=0.1)
    assert updates(twin, 9, 1, 2, 3) == [9.0, 1 + 9.0, 2 + 10 / 2, 3 + 3 / 2]
    assert stored(twin) == [2.0, 3.0]
    assert twin.ledgers[0].accepted == [True] * 4


def test_max_age_smaller_than_the_capacity():
    twin = scalar(capacity=3, max_age=2)
    updates(twin, 9, 1)
    assert births(twin) == [1, 2, None]
    # at the end of step 3 the first would be 4 - 1 > 2 steps old at the next: it goes first, and
    # the empty slot is never needed
    updates(twin, 1)
    assert births(twin) == [3, 2, None]
    updates(twin, 1)
    assert births(twin) == [3, 4, None]


def test_max_age_lets_a_small_gradient_in():
    twin = scalar(capacity=1, max_age=3)
    assert updates(twin, 9, 1, 1, 1, 1) == [9.0, 10.0, 10.0, 10.0, 2.0]
    assert twin.ledgers[0].accepted == [True, False, False, True, False]


def test_a_max_age_made_smaller_drops_at_the_next_step():
    twin = scalar(capacity=3)
    updates(twin, 1, 2, 3)
    twin.groups[0]["max_age"] = 1
    # at step 4 the births 1 and 2 are more than 1 step ago: only 3 is aggregated; at its end
    # birth 3 would be 2 steps old, so its slot is taken although two others are empty
    assert updates(twin, 4) == [4 + 3.0]
    assert births(twin) == [None, None, 4]


@pytest.mark.parametrize("unseen", [0.0, math.nan, math.inf, -math.inf])
def test_zero_and_non_finite_gradients_are_not_seen(unseen):
    twin = scalar(capacity=2, decay=0.5, max_age=2)
    updates(twin, 4)
    (update,) = updates(twin, unseen, unseen)[:1]
    assert update == unseen + 4.0 or math.isnan(unseen)
    assert (priorities(twin), births(twin), twin.ledgers[0].step) == ([2.0, None], [1, None], 1)
    assert twin.ledgers[0].accepted == [True, False, False]
    assert updates(twin, 1) == [1 + 4.0]
    assert births(twin) == [1, 2]


def test_kappa_zero_keeps_nothing_and_forgets_nothing():
    twin = scalar(decay=0.5)
    updates(twin, 4)
    twin.groups[0]["kappa"] = 0.0
    assert updates(twin, 8, 9) == [8.0, 9.0]
    assert (stored(twin), priorities(twin)) == ([4.0, None], [2.0, None])


# ------------------------------------------------------------------ several tensors


def pair(second=None, **options):
    groups = [{"params": [np.zeros(())]}, {"params": [np.zeros(())], **(second or {})}]
    return Twin("sgd", groups=groups, **{"lr": 1.0, "capacity": 2, "decay": 1.0, **options})


def feed(twin, *steps):
    found = []
    for grads in steps:
        twin.params = [np.zeros(()) for _ in grads]
        twin.step([None if g is None else np.array(float(g)) for g in grads])
        found.append(tuple(float(-p) for p in twin.params))
    return found


def test_a_missing_gradient_is_stored_as_zero():
    steps = [(1, 2), (3, None), (5, 4)]
    # scope model: the second tensor's memory before step 3 is 2 and 0
    assert feed(pair(), *steps) == [(1, 2), (4, 0), (5 + 4 / 2, 4 + 2 / 2)]
    # scope tensor: its memory is 2 alone, and it has seen one step only
    twin = pair(scope="tensor")
    assert feed(twin, *steps) == [(1, 2), (4, 0), (7, 4 + 2)]
    assert births(twin, 1) == [1, 2]


def test_the_norm_is_that_of_the_whole_scope():
    for options, expected in [
        ({}, ([5.0], [5.0])),
        ({"norm": "sum"}, ([7.0], [7.0])),
        ({"scope": "group"}, ([3.0], [4.0])),
        ({"scope": "tensor", "norm": "sum"}, ([3.0], [4.0])),
        ({"policy": "bottom_norm"}, ([1 / 5], [1 / 5])),
    ]:
        twin = pair(capacity=1, **options)
        feed(twin, (3, 4))
        assert (priorities(twin, 0), priorities(twin, 1)) == expected


def test_groups_share_a_ledger_if_their_memory_options_are_equal():
    assert len(pair({"lr": 0.5, "weight_decay": 0.1}).ledgers) == 1
    assert len(pair({"decay": 0.9}).ledgers) == 2
    assert len(pair({}, scope="group").ledgers) == 2


def test_an_edit_of_one_group_takes_it_apart_with_a_copy():
    twin = pair(decay=0.5)
    feed(twin, (3, 4))
    twin.groups[1]["kappa"] = 2.0
    assert feed(twin, (1, 1)) == [(1 + 3, 1 + 2 * 4)]
    assert (priorities(twin, 0), priorities(twin, 1)) == ([1.25, 0.5], [1.25, 0.5])
    twin.groups[1]["decay"] = 1.0
    feed(twin, (2, 0))
    assert (births(twin, 0), births(twin, 1)) == ([1, 3], [1, 2])


def test_weight_decay_and_maximize_are_never_stored():
    twin = scalar(weight_decay=0.5, maximize=True, capacity=1)
    twin.params[0] = np.array(2.0)
    twin.step([np.array(1.0)])  # 2 - (-1 + .5 * 2)
    assert twin.params[0] == 2.0
    assert stored(twin) == [1.0]
    twin.step([np.array(3.0)])  # the aggregate 3 + 1 is negated: 2 - (-4 + 1)
    assert twin.params[0] == 5.0
    assert stored(twin) == [3.0]


def test_complex_gradients_count_with_their_modulus():
    twin = Twin("sgd", [np.zeros(1, dtype=complex)], lr=1.0, capacity=1)
    twin.step([np.array([3 + 4j])])
    assert twin.memory_of(0)[0][1] == 5.0
    twin.step([np.array([1j])])
    np.testing.assert_array_equal(twin.params[0], -np.array([3 + 4j]) - np.array([3 + 5j]))
