"""The fused pass of every class that has one equals the slow literal twin at every step."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from fused_cases import CLASSES, each_class, fused_race, needs_kernels, watch
from gradmem.memory import options
from gradmem.memory.formats import BLOCK
from gradmem.optim.state import store_of
from test_against_reference import EDITS, MEMORY, SHAPES, random_options, run
from test_storage_formats import FORMATS
from user_functions import AGGREGATES as TWIN_AGGREGATES
from user_functions import FUNCTIONS, upright
from user_functions import POLICIES as TWIN_POLICIES

pytestmark = needs_kernels

POLICIES = get_args(options.PolicyName)
AGGREGATES = get_args(options.AggregateName)
BLOCKS = [(2, 3), (), (0,), (2 * BLOCK + 1,)]  # the last is two blocks of a kernel and an element
NUMBERS = {name: i for i, name in enumerate(CLASSES)}


@pytest.fixture(autouse=True)
def _fused(monkeypatch):
    watch(monkeypatch)


# test_against_reference has SGD_C, Adam_C and AdamW_C fused, among its other forms.
@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("name", ["RMSprop_C", "Adam_CM", "AdamW_CM"])
def test_every_memory_option(name, memory):
    number = list(MEMORY.values()).index(memory)
    groups = [(SHAPES[:3], {}), (SHAPES[3:], {"lr": 0.01, "weight_decay": 0.05})]
    run(fused_race(name, groups, number, number, **memory), 8)


@pytest.mark.parametrize("which", range(3))
@each_class
def test_every_base_option(name, which):
    race = fused_race(name, [(BLOCKS, {})], which, which, capacity=4, decay=0.95)
    run(race, 12, missing=0.2)


@each_class
def test_the_defaults(name):
    run(fused_race(name, [(SHAPES, {})]), 12)


@pytest.mark.parametrize("memory_dtype", FORMATS)
@each_class
def test_every_format(name, memory_dtype):
    number = FORMATS.index(memory_dtype)
    race = fused_race(name, [(BLOCKS, {})], 1, number, capacity=3, memory_dtype=memory_dtype)
    run(race, 8)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("memory_dtype", FORMATS)
def test_every_format_under_every_aggregate(memory_dtype, aggregate):
    name = list(CLASSES)[AGGREGATES.index(aggregate) % len(CLASSES)]
    memory = {"capacity": 3, "decay": 0.9, "kappa": -0.4, "scope": "tensor", "max_age": 4}
    groups = [(BLOCKS, {})]
    run(fused_race(name, groups, 2, memory_dtype=memory_dtype, aggregate=aggregate, **memory), 7)


@pytest.mark.parametrize("largest", [1e-40, 1e-30, 1e30, 1e150])
@pytest.mark.parametrize("memory_dtype", FORMATS)
def test_numbers_beyond_a_format(memory_dtype, largest):
    """What cannot be stored becomes the largest or the least that can."""
    shapes, memory = [(BLOCK + 3,)], {"policy": "fifo", "capacity": 2}
    race = fused_race("SGD_C", [(shapes, {})], 3, memory_dtype=memory_dtype, **memory)
    (p,) = race.params
    for _ in range(6):
        grad = race.normal(p.shape)
        grad[:5] = [largest, -largest, 0.0, largest / 3, 65504.0]
        p.grad = torch.tensor(grad)
        race.optimizer.step()
        race.twin.step([grad])
        store = store_of(race.optimizer.state[p])
        for k, slot in enumerate(race.twin.memory_of(0)):
            if slot is not None:
                np.testing.assert_array_equal(store.read(k).double().numpy(), slot[3])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
def test_every_policy(policy, scope):
    name = list(CLASSES)[POLICIES.index(policy) % len(CLASSES)]
    groups = [(SHAPES[:3], {}), (SHAPES[3:], {"lr": 0.02, "maximize": True})]
    memory = {"capacity": 3, "decay": 0.9, "policy": policy, "scope": scope, "norm": "sum"}
    run(fused_race(name, groups, 4, 1, max_age=9, **memory), 14)


@each_class
def test_functions_of_the_user(name):
    number = NUMBERS[name]
    for option, function in FUNCTIONS:
        if function is upright:
            continue  # it needs a twin of its own, in test_user_functions
        memory = {"capacity": 3, "decay": 0.9, "kappa": 0.7, "seed": 5, option: function}
        race = fused_race(name, [(SHAPES, {})], number, **memory)
        for group in race.twin.groups:
            group[option] = {**TWIN_AGGREGATES, **TWIN_POLICIES}[function]
        run(race, 14)


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@each_class
def test_groups_with_memories_of_their_own(name, scope):
    groups = [
        ([(2, 3), ()], {"capacity": 2, "decay": 0.9}),
        ([(4,)], {"capacity": 5, "aggregate": "mid", "kappa": 0.5, "max_age": 3}),
        ([(3,), (0,)], {"capacity": 2, "decay": 0.9, "lr": 0.3, "maximize": True}),
        ([(2,)], {"capacity": 0}),
        ([(2,)], {"kappa": 0.0}),
        ([(2,), (2,)], {"policy": "fifo", "scope": "tensor", "memory_dtype": "bfloat16"}),
    ]
    # torch's own fused SGD, of the groups without memory, needs its momenta made at once.
    run(fused_race(name, groups, 7, scope=scope, begin_together=name == "SGD_C"), 12)


@each_class
def test_options_edited_between_steps(name):
    memory = {"capacity": 4, "decay": 0.9, "scope": ["model", "group", "tensor"][NUMBERS[name] % 3]}
    race = fused_race(name, [(SHAPES[:2], {}), (SHAPES[3:], {})], 8, **memory)
    for edit in EDITS:
        run(race, 3, missing=0.1)
        for group in (0, 1):
            race.edit(group, **edit)
    run(race, 4)


@pytest.mark.parametrize("edit", [{"momentum": 0.0}, {"momentum": 0.5}, {"nesterov": True}])
def test_options_of_sgd_edited(edit):
    race = fused_race("SGD_C", [(SHAPES, {})], 9, 1, momentum=0.9)
    for other in (edit, {"momentum": 0.9, "nesterov": False}, edit):
        run(race, 5)
        race.edit(0, **other)
    run(race, 5)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@each_class
def test_groups_added_later_and_switched_off_meanwhile(name, scope):
    race = fused_race(name, [([(2, 3), ()], {})], 12, capacity=3, decay=0.95, scope=scope)
    for own in ({}, {"lr": 0.3}, {"decay": 0.5}):
        run(race, 5)
        race.add_group([(3,), (0,)], **own)
    run(race, 8)
    if name != "SGD_C":
        race.edit(0, kappa=0.0)
        run(race, 4)
        race.edit(0, kappa=1.0)
        run(race, 4)


@each_class
def test_a_first_gradient_that_comes_late(name):
    race = fused_race(name, [([(4,), (2, 3)], {}), ([(3,)], {"lr": 0.02})], 13, decay=0.95)
    for t in range(16):
        grads = race.gradients()
        for i, first in enumerate((0, 5, 9)):
            if t < first or t % 4 == i:
                grads[i] = None
        race.step(grads)


@each_class
def test_a_rate_that_is_a_tensor_and_one_that_is_scheduled(name):
    race = fused_race(name, [(SHAPES, {})], 14)
    schedule = torch.optim.lr_scheduler.ExponentialLR(race.optimizer, 0.8)
    for _ in range(6):
        race.step(race.gradients())
        schedule.step()
        race.twin.groups[0]["lr"] = race.optimizer.param_groups[0]["lr"]
    rate = torch.tensor(0.03, dtype=torch.float64)
    race = fused_race(name, [(SHAPES, {})], 15)
    race.optimizer.param_groups[0]["lr"] = rate
    for _ in range(6):
        race.twin.groups[0]["lr"] = float(rate)
        race.step(race.gradients())
        rate *= 0.8


@pytest.mark.parametrize("policy", ["top_norm", "cosine_diverse"])
@each_class
def test_what_is_not_finite_never_enters_the_memory(name, policy):
    memory = {"capacity": 3, "decay": 0.9, "policy": policy, "scope": "group"}
    race = fused_race(name, [([(2, 3), (3,)], {}), ([(2,)], {})], 5, **memory)
    run(race, 5)
    for bad in (np.nan, np.inf, -np.inf):
        grads = race.gradients()
        grads[0][1, 1] = bad
        race.step(grads)
        run(race, 2)


@pytest.mark.parametrize("norm", ["l2", "sum"])
@each_class
def test_large_tensors(name, norm):
    sizes = [16383, 16384, 16385, 2**16 + 1]  # around the chunks that threads take
    groups = [([(size,) for size in sizes[:2]], {}), ([(size,) for size in sizes[2:]], {})]
    race = fused_race(name, groups, 13, capacity=2, norm=norm)
    run(race, 3, missing=0.2)


@pytest.mark.parametrize("seed", range(2))
@each_class
def test_options_drawn_at_random(name, seed):
    for draw in range(4):
        rng = np.random.default_rng([seed, draw, NUMBERS[name]])
        groups = []
        for _ in range(rng.integers(1, 4)):
            shapes = [SHAPES[k] for k in rng.integers(len(SHAPES), size=rng.integers(1, 4))]
            own = random_options(rng) if rng.random() < 0.3 else {}
            groups.append((shapes, {"lr": float(rng.choice([0.01, 0.1])), **own}))
        memory = random_options(rng)
        if rng.random() < 0.4:
            memory["memory_dtype"] = FORMATS[rng.integers(len(FORMATS))]
        race = fused_race(name, groups, seed, int(rng.integers(3)), **memory)
        run(race, 10, missing=rng.choice([0.0, 0.2, 0.5]))
