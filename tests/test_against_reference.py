"""Every named optimizer equals the slow literal twin at every step, parameters and memory."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from gradmem.memory import options
from races import CLASSES, FEWER_FORMS, FORMS, Race, form_ids

POLICIES = get_args(options.PolicyName)
AGGREGATES = get_args(options.AggregateName)
SHAPES = [(2, 3), (), (0,), (4,), (3, 1, 2)]

BASE = {
    "sgd": [
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "maximize": True},
        {"lr": 0.02, "weight_decay": 0.2, "maximize": True},
    ],
    "rmsprop": [
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "centered": True, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.7, "maximize": True},
    ],
    "adam": [
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "amsgrad": True, "weight_decay": 0.1},
        {"lr": 0.05, "maximize": True},
        {"lr": 0.05, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "adamw": [
        {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.3},
        {"lr": 0.05, "amsgrad": True, "maximize": True},
    ],
    "nadam": [
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "momentum_decay": 0.1, "weight_decay": 0.1},
        {"lr": 0.05, "maximize": True},
        {"lr": 0.05, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "radam": [
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.05, "maximize": True},
        {"lr": 0.05, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "adagrad": [
        {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.05, "initial_accumulator_value": 0.3, "maximize": True},
    ],
    "aggmo": [
        {"lr": 0.1, "weight_decay": 0.1},
        {"lr": 0.05, "betas": (0.5,), "maximize": True},
        {"lr": 0.02, "betas": [0.8, 0.0], "weight_decay": 0.2, "maximize": True},
    ],
}

MEMORY = {
    "defaults": {},
    "off-capacity": {"capacity": 0},
    "off-kappa": {"kappa": 0.0},
    "capacity-1": {"capacity": 1, "decay": 0.9},
    "capacity-beyond": {"capacity": 60},
    "decay-0": {"capacity": 3, "decay": 0.0},
    "decay-1": {"capacity": 3, "decay": 1.0},
    "mean": {"capacity": 4, "decay": 0.95, "aggregate": "mean"},
    "sum": {"capacity": 4, "decay": 0.95, "aggregate": "sum"},
    "mid": {"capacity": 4, "decay": 0.95, "aggregate": "mid"},
    "kappa-fraction": {"capacity": 4, "kappa": 0.3, "aggregate": "sum"},
    "kappa-negative": {"capacity": 4, "kappa": -0.4, "aggregate": "sum"},
    "kappa-negative-mean": {"capacity": 4, "kappa": -1.0, "aggregate": "mean"},
    "kappa-large": {"capacity": 4, "kappa": 2.5, "aggregate": "mid"},
    "bottom": {"capacity": 3, "decay": 0.95, "policy": "bottom_norm"},
    "fifo": {"capacity": 3, "policy": "fifo"},
    "group": {"capacity": 3, "decay": 0.95, "scope": "group"},
    "tensor": {"capacity": 3, "decay": 0.95, "scope": "tensor"},
    "tensor-sum": {"capacity": 3, "decay": 0.9, "scope": "tensor", "norm": "sum"},
    "norm-sum": {"capacity": 3, "decay": 0.95, "norm": "sum"},
    "age-small": {"capacity": 5, "decay": 0.99, "max_age": 2},
    "age-large": {"capacity": 3, "decay": 1.0, "max_age": 9},
    "age-1": {"capacity": 3, "max_age": 1, "scope": "tensor"},
    "age-bottom": {"capacity": 4, "decay": 0.99, "max_age": 4, "policy": "bottom_norm"},
    "age-fifo": {"capacity": 4, "max_age": 3, "policy": "fifo", "scope": "group"},
    "random": {"capacity": 3, "policy": "random", "seed": 5},
    "random-tensor": {"capacity": 2, "policy": "random", "scope": "tensor"},
    "reservoir": {"capacity": 4, "policy": "reservoir", "seed": 2**70 + 3},
    "proportional": {"capacity": 4, "policy": "proportional", "scope": "group"},
    "proportional-1": {"capacity": 1, "policy": "proportional", "max_age": 3},
    "mean-diverse": {"capacity": 4, "policy": "mean_diverse", "decay": 0.9},
    "mean-diverse-sum": {"capacity": 2, "policy": "mean_diverse", "scope": "group", "norm": "sum"},
    "cosine-diverse": {"capacity": 3, "policy": "cosine_diverse", "scope": "tensor", "seed": 3},
    "cosine-similar": {"capacity": 3, "policy": "cosine_similar", "norm": "sum", "max_age": 9},
    "min": {"capacity": 4, "decay": 0.95, "aggregate": "min"},
    "median": {"capacity": 4, "decay": 0.95, "aggregate": "median", "kappa": 0.4},
    "max": {"capacity": 5, "decay": 0.95, "aggregate": "max", "kappa": -0.3, "scope": "group"},
    "min-mean": {"capacity": 3, "decay": 0.0, "aggregate": "min_mean"},
    "median-mean": {"capacity": 5, "decay": 0.9, "aggregate": "median_mean", "max_age": 6},
    "max-mean": {"capacity": 2, "decay": 1.0, "aggregate": "max_mean", "scope": "tensor"},
}

forms = pytest.mark.parametrize(("rule", "form"), FEWER_FORMS, ids=form_ids(FEWER_FORMS))
every_form = pytest.mark.parametrize(("rule", "form"), FORMS, ids=form_ids(FORMS))


def run(race, steps=45, missing=0.15, unseen=0.1):
    """Random steps: some tensors without a gradient, some steps with none, some all zero."""
    for t in range(steps):
        grads = race.gradients()
        if t == 0 and race.begin_together:
            race.step(grads)
            continue
        for i in range(len(grads)):
            if race.rng.random() < missing:
                grads[i] = None
        draw = race.rng.random()
        if draw < unseen / 2:
            grads = [None] * len(grads)
        elif draw < unseen:
            grads = [None if g is None else np.zeros_like(g) for g in grads]
        elif draw < 2 * unseen and grads[0] is not None:
            grads[0] = np.zeros_like(grads[0])
        race.step(grads)


@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)
@forms
def test_every_memory_option(rule, form, memory):
    seed = sorted(map(str, MEMORY.values())).index(str(memory))
    base = BASE[rule][seed % len(BASE[rule])]
    groups = [(SHAPES[:3], {}), (SHAPES[3:], {"lr": 0.01, "weight_decay": 0.05})]
    run(Race(rule, groups, form, seed, **base, **memory))


@pytest.mark.parametrize("which", range(3))
@every_form
def test_every_base_option(rule, form, which):
    base = BASE[rule][which % len(BASE[rule])]
    run(Race(rule, [(SHAPES, {})], form, which, **base, capacity=4, decay=0.95))


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@forms
def test_groups_with_memories_of_their_own(rule, form, scope):
    groups = [
        ([(2, 3), ()], {"capacity": 2, "decay": 0.9}),
        ([(4,)], {"capacity": 5, "aggregate": "mid", "kappa": 0.5, "max_age": 3}),
        ([(3,), (0,)], {"capacity": 2, "decay": 0.9, "lr": 0.3}),
        ([(2,)], {"capacity": 0}),
        ([(2,)], {"kappa": 0.0}),
        ([(2,), (2,)], {"policy": "fifo", "scope": "tensor"}),
    ]
    run(Race(rule, groups, form, 7, **BASE[rule][0], scope=scope))


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize(
    ("rule", "form"), [(rule, {"foreach": foreach}) for rule in CLASSES for foreach in (0, 1)]
)
def test_complex_parameters(rule, form, scope):
    form = {"foreach": bool(form["foreach"])}
    base = BASE[rule][0]
    race = Race(rule, [([(2, 2), (), (3,)], {})], form, 3, complex, **base, capacity=3, scope=scope)
    run(race)


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("policy", POLICIES)
@forms
def test_non_finite_gradients_never_enter_the_memory(rule, form, policy, scope):
    memory = {"capacity": 3, "decay": 0.9, "policy": policy, "scope": scope, "max_age": 7}
    race = Race(rule, [([(2, 3), (3,)], {}), ([(2,)], {})], form, 5, **BASE[rule][0], **memory)
    run(race, 12)
    for bad in (np.nan, np.inf, -np.inf):
        grads = race.gradients()
        grads[0][1, 1] = bad
        race.step(grads)
        run(race, 8)
    grads = [np.full_like(g, np.nan) for g in race.gradients()]
    race.step(grads)
    run(race, 8)


@pytest.mark.parametrize("foreach", [False, True])
def test_after_a_non_finite_step_a_restored_parameter_goes_on_as_the_twin(foreach):
    race = Race("sgd", [([(2, 3), (3,)], {})], {"foreach": foreach}, 6, lr=0.1, capacity=3)
    for t in range(40):
        grads, before = race.gradients(), [p.copy() for p in race.twin.params]
        if t % 7 == 3:
            grads[t % 2][0] = [np.nan, np.inf][t % 3 == 0]
        race.step(grads)
        if t % 7 == 3:
            race.twin.params = before
            race.comparable = [True, True]
            with torch.no_grad():
                for p, q in zip(race.params, before, strict=True):
                    p.copy_(torch.tensor(q))


EDITS = [
    {"decay": 1.0},
    {"kappa": -0.5},
    {"aggregate": "mid"},
    {"max_age": 2},
    {"max_age": 6},
    {"max_age": None},
    {"aggregate": "sum", "kappa": 0.7, "lr": 0.02},
    {"decay": 0.5, "max_age": 1},
    {"weight_decay": 0.3},
    {"policy": "bottom_norm", "decay": 0.95},
    {"policy": "fifo"},
    {"policy": "cosine_diverse", "aggregate": "median_mean"},
    {"policy": "reservoir", "seed": 4},
    {"policy": "random", "seed": 5, "aggregate": "mean"},
    {"policy": "top_norm"},
]


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@forms
def test_options_edited_between_steps(rule, form, scope):
    memory = {"capacity": 4, "decay": 0.9, "scope": scope}
    race = Race(rule, [(SHAPES[:2], {}), (SHAPES[3:], {})], form, 8, **BASE[rule][0], **memory)
    for edit in EDITS:
        run(race, 6, missing=0.1, unseen=0.05)
        for group in (0, 1):
            race.edit(group, **edit)
    run(race, 6)


@forms
def test_groups_edited_apart(rule, form):
    memory = {"capacity": 3, "decay": 0.9}
    race = Race(rule, [([(2, 3)], {}), ([(3,)], {}), ([(2,)], {})], form, 9, **memory)
    for group, edit in [(1, {"kappa": 0.3}), (0, {"decay": 0.99}), (1, {"aggregate": "mid"})]:
        run(race, 10)
        race.edit(group, **edit)
    race.edit(0, decay=0.9)  # equal options again, but no longer one memory
    run(race, 20)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@forms
def test_kappa_edited_to_zero_keeps_nothing_meanwhile(rule, form, scope):
    race = Race(rule, [(SHAPES, {})], form, 11, **BASE[rule][0], capacity=3, scope=scope)
    run(race, 6)
    for kappa in (0.0, 0.5, 0.0, 1.0):
        race.edit(0, kappa=kappa)
        run(race, 6)


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@forms
def test_groups_added_later(rule, form, scope):
    memory = {"capacity": 4, "decay": 0.95, "scope": scope}
    race = Race(rule, [([(2, 3), ()], {})], form, 12, **BASE[rule][0], **memory)
    for own in ({}, {"lr": 0.3}, {"decay": 0.5}):
        run(race, 8)
        race.add_group([(3,), (0,)], **own)
    run(race, 15)


@pytest.mark.parametrize("norm", ["l2", "sum"])
@every_form
def test_large_tensors(rule, form, norm):
    groups = [([(600, 500), (3,)], {}), ([(2**18 + 1,), (2, 2)], {})]
    race = Race(rule, groups, form, 13, **BASE[rule][0], capacity=2, norm=norm)
    run(race, 5, missing=0.2)


@pytest.mark.parametrize("policy", ["top_norm", "bottom_norm", "fifo"])
@forms
def test_ties(rule, form, policy):
    """Gradients of exactly equal norm, without decay and with one that makes priorities equal."""
    for decay in (1.0, 0.5):
        memory = {"capacity": 3, "decay": decay, "policy": policy}
        race = Race(rule, [([(2,)], {})], form, 10, **BASE[rule][0], **memory)
        for _ in range(45):
            power = int(race.rng.integers(-2, 3))
            sign = race.rng.choice([-1.0, 1.0], size=2)
            race.step([np.array([3.0, 4.0]) * sign * 2.0**power])


def random_options(rng):
    def choose(*values):
        return values[rng.integers(len(values))]

    return {
        "capacity": choose(1, 2, 3, 6, 50),
        "decay": choose(0.0, 0.3, 0.7, 0.95, 0.99, 1.0),
        "aggregate": choose("mean", "sum", "mid", *AGGREGATES),
        "kappa": choose(1.0, 1.0, 0.4, -0.3, -1.0, 2),
        "policy": choose("top_norm", "top_norm", "top_norm", *POLICIES),
        "scope": choose("model", "group", "tensor"),
        "norm": choose("l2", "sum"),
        "max_age": choose(None, None, 1, 2, 4, 30),
        "seed": choose(0, 1, 12345678901234567890),
    }


@pytest.mark.parametrize("seed", range(4))
@forms
def test_options_drawn_at_random(rule, form, seed):
    for draw in range(5):
        rng = np.random.default_rng([seed, draw, len(rule)])
        memory = random_options(rng)
        groups = []
        for _ in range(rng.integers(1, 4)):
            shapes = [SHAPES[k] for k in rng.integers(len(SHAPES), size=rng.integers(1, 4))]
            own = random_options(rng) if rng.random() < 0.3 else {}
            groups.append((shapes, {"lr": float(rng.choice([0.01, 0.1])), **own}))
        base = BASE[rule][rng.integers(len(BASE[rule]))]
        race = Race(rule, groups, form, seed, **base, **memory)
        run(race, 40, missing=rng.choice([0.0, 0.2, 0.5]))
