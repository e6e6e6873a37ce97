"""Slots in other number formats: what is stored, how far off it is, and that the sum is its sum."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import get_args

import numpy as np
import pytest
import torch

import gradmem
from critical_twin import CriticalRace
from gradmem import CheckpointError, OptionError
from gradmem.memory import on_host
from gradmem.memory.formats import BLOCK
from gradmem.memory.options import AggregateName
from gradmem.optim.plan import Memory
from gradmem.optim.state import store_of
from optimizers import (
    assert_same,
    each_optimizer,
    parameters,
    snapshot,
    train,
)
from races import CLASSES, Race
from reference import rounded
from test_storage_formats import DTYPES, FORMATS, each_format, through


@pytest.fixture(params=["host", "device"])
def decisions(request, monkeypatch):
    """Every test that asks for it runs once for each way of deciding."""
    if request.param == "device":
        monkeypatch.setattr(Memory, "on_host", False)


def stored(optimizer, p):
    """What each slot of a parameter stands for, (C, *shape)."""
    store = store_of(optimizer.state[p])
    return torch.stack([store.read(k) for k in range(len(store.slots))])


# The optimizers, against the twin ----------------------------------------------------------------

SHAPES = [(2, 3), (), (0,), (20, 15)]  # the last is a block and a part of one


def race_steps(race, steps):
    """Steps of which some tensors have no gradient, and one is all zero."""
    for t in range(steps):
        grads = race.gradients()
        if t == 4:
            grads = [np.zeros_like(g) for g in grads]
        elif t % 3 == 1:
            grads[t % len(grads)] = None
        race.step(grads)


@pytest.mark.parametrize("aggregate", get_args(AggregateName))
@each_format
def test_every_aggregate(name, aggregate, decisions):
    options = {"capacity": 3, "decay": 0.95, "aggregate": aggregate, "kappa": 0.7, "lr": 0.05}
    race = Race("sgd", [(SHAPES, {})], {}, 1, memory_dtype=name, **options)
    race_steps(race, 7)


@pytest.mark.parametrize("rule", CLASSES)
@each_format
def test_every_class(name, rule, decisions):
    number = FORMATS.index(name)
    options = {
        "capacity": 2 + number % 2,
        "decay": 0.9,
        "weight_decay": 0.1,
        "maximize": bool(number),
    }
    groups = [(SHAPES[:2], {}), (SHAPES[2:], {"lr": 0.03})]
    race_steps(Race(rule, groups, {}, 2, memory_dtype=name, **options), 6)


@pytest.mark.parametrize("rule", CriticalRace.names)
@each_format
def test_critical_momenta(name, rule, decisions):
    race = CriticalRace(rule, [(SHAPES, {})], {}, 3, memory_dtype=name, capacity=3, decay=0.95)
    race_steps(race, 7)


OPTIONS = {
    "capacity 1": {"capacity": 1, "decay": 0.9},
    "scope tensor, max_age": {"capacity": 3, "scope": "tensor", "max_age": 2, "decay": 0.99},
    "scope group, max_age 1": {"capacity": 2, "scope": "group", "max_age": 1, "norm": "sum"},
    "fifo": {"capacity": 3, "policy": "fifo", "aggregate": "sum"},
    "bottom_norm, max_age": {"capacity": 4, "policy": "bottom_norm", "max_age": 4},
    "reservoir, seed": {"capacity": 2, "policy": "reservoir", "seed": 3},
    "cosine_diverse": {"capacity": 3, "policy": "cosine_diverse", "kappa": -0.4},
    "mean_diverse": {"capacity": 2, "policy": "mean_diverse", "scope": "tensor"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["float16", "int8"])
def test_every_kind_of_option(name, options, decisions):
    groups = [(SHAPES[:2], {}), (SHAPES[2:], {"lr": 0.03})]
    race_steps(Race("adam", groups, {}, 4, memory_dtype=name, **options), 12)


def test_groups_of_different_formats_have_memories_of_their_own():
    groups = [([(3,), (2, 2)], {"memory_dtype": name}) for name in (*FORMATS, None, "int8")]
    race = Race("sgd", groups, {}, 5, capacity=2, decay=0.9, lr=0.05)
    race_steps(race, 9)
    scopes = race.optimizer.memory_report().scopes
    assert [s.name for s in scopes][-2:] == ["groups 3, 5", "groups 4"]


@each_optimizer
@each_format
def test_the_wrapper_keeps_the_same(name, info):
    ours, theirs = parameters(), parameters()
    options = {"capacity": 3, "decay": 0.9, "memory_dtype": name, "aggregate": "mid"}
    named = info.make(ours, **options)
    wrapper = gradmem.MemoryAugmented(info.base_cls(theirs), **options)
    train(named, ours)
    train(wrapper, theirs)
    kept = [{k: v for k, v in named.state[p].items() if k.startswith("memory_")} for p in ours]
    assert_same([wrapper.memory_state[p] for p in theirs], kept)
    assert_same([p.detach() for p in theirs], [p.detach() for p in ours])


# Layouts and types -------------------------------------------------------------------------------


def in_layout(tensor, layout):
    """The same numbers, lying otherwise."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "with gaps":
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    return tensor.contiguous()


LAYOUTS = ("contiguous", "channels_last", "transposed", "with gaps")


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_parameter", LAYOUTS)
@each_format
def test_how_numbers_lie_changes_nothing(name, of_parameter, of_gradient, decisions):
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(5, 4, 3, 7, generator=generator)
    params = [torch.nn.Parameter(in_layout(start, of)) for of in (of_parameter, "contiguous")]
    options = {"lr": 0.1, "capacity": 2, "decay": 0.9, "aggregate": "max", "memory_dtype": name}
    optimizers = [gradmem.SGD_C([p], **options) for p in params]
    for _ in range(4):
        grad = torch.randn(start.shape, generator=generator)
        for p, layout, optimizer in zip(
            params, (of_gradient, "contiguous"), optimizers, strict=True
        ):
            p.grad = in_layout(grad, layout)
            optimizer.step()
    one, other = (stored(optimizer, p) for optimizer, p in zip(optimizers, params, strict=True))
    assert_same(one, other)
    assert_same(one[(4 - 1) % 2].contiguous(), through(grad, name))
    sums = [store_of(o.state[p]).total for o, p in zip(optimizers, params, strict=True)]
    assert_same(sums[0], sums[1], rtol=1e-6, atol=1e-6)
    assert_same(params[0].detach(), params[1].detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@each_format
def test_of_every_type_of_parameter_the_sum_is_that_of_what_is_stored(name, dtype, decisions):
    params = parameters(dtype)
    optimizer = gradmem.SGD_C(params, capacity=3, policy="fifo", memory_dtype=name, aggregate="min")
    for t in range(8):
        for p in params:
            p.grad = torch.full(p.shape, [1e-3, 3.0, 2e4][t % 3] * (1 + t / 7)).to(p)
        optimizer.step()
        for p in params:
            last = rounded(p.grad.double().numpy(), name)
            assert stored(optimizer, p)[t % 3].double().numpy().tolist() == last.tolist()
            exact = stored(optimizer, p).double().sum(dim=0)
            total = store_of(optimizer.state[p]).total
            assert total.dtype == torch.promote_types(dtype, torch.float32)
            assert_same(total.double(), exact, rtol=1e-6, atol=1e-6)


# Bad numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@each_format
def test_nothing_but_finite_numbers_ever_enters(name, dtype, decisions):
    p = torch.nn.Parameter(torch.zeros(BLOCK + 3, dtype=dtype))
    optimizer = gradmem.SGD_C([p], lr=0.0, capacity=2, policy="fifo", memory_dtype=name)
    largest = (
        1e150 if dtype is torch.float64 else 1e18
    )  # norms count as infinite from 1e154, 1.8e19
    bad, most = (math.nan, math.inf, -math.inf), 0.0
    for value in (1.0, *bad, 1e-20, -largest, *bad, largest, 1e-5, *bad, 2.0):
        p.grad = torch.ones_like(p)
        p.grad[7] = value
        before = copy.deepcopy(dict(optimizer.state[p]))
        optimizer.step()
        store = store_of(optimizer.state[p])
        assert all(part.isfinite().all() for part in store if part is not None)
        if not math.isfinite(value):
            keys = ("memory_slots", "memory_sum", "memory_scales")
            for key in set(keys) & set(before):
                assert_same(optimizer.state[p][key], before[key])
        most = max(most, float(stored(optimizer, p).abs().max()))
        exact = stored(optimizer, p).double().sum(dim=0)
        assert_same(store.total.double(), exact, rtol=1e-6, atol=1e-6 * most)
    assert optimizer.memory_report().scopes[0].steps == 6


# The running sum ---------------------------------------------------------------------------------


def drive(name, replacements, size=16):
    """Worst error of the sum over the norm of the exact one, around spikes of 1e4."""
    generator = torch.Generator().manual_seed(1)
    p = torch.nn.Parameter(torch.zeros(size))
    optimizer = gradmem.SGD_C([p], lr=0.0, capacity=5, policy="fifo", memory_dtype=name)
    worst = 0.0
    for t in range(replacements):
        p.grad = torch.randn(size, generator=generator) * (1e4 if t % 97 == 0 else 1.0)
        optimizer.step()
        if t % 97 in (0, 5, 6) or t % 41 == 0:
            exact = stored(optimizer, p).double().sum(dim=0)
            off = store_of(optimizer.state[p]).total.double() - exact
            worst = max(worst, float(off.norm() / exact.norm()))
    return worst


@pytest.mark.parametrize("replacements", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
@each_format
def test_the_sum_stays_that_of_what_is_stored(name, replacements):
    assert drive(name, replacements) < 1e-5


@each_format
def test_without_renewals_it_would_not(name, monkeypatch):
    monkeypatch.setattr(on_host, "TOLERANCE", math.inf)
    assert drive(name, 1_000) > 1e-4


# Checkpoints and copies --------------------------------------------------------------------------


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("how", ["a file", "deepcopy", "pickle"])
@each_optimizer
@each_format
def test_a_copy_goes_on_bit_for_bit(name, info, how):
    params = [*parameters(), *parameters(shapes=[(BLOCK + 1,)])]
    options = {"capacity": 3, "decay": 0.9, "memory_dtype": name}
    optimizer = info.make(params, **options)
    train(optimizer, params, 5)
    if how == "a file":
        others = [torch.nn.Parameter(p.detach().clone()) for p in params]
        other = info.make(others, **options)
        other.load_state_dict(through_a_file(optimizer.state_dict()))
    else:
        copier = copy.deepcopy if how == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        other, others = copier((optimizer, params))
    assert_same(snapshot(other, others), snapshot(optimizer, params))
    for one, its in ((optimizer, params), (other, others)):
        train(one, its, 5, seed=2)
    assert_same(snapshot(other, others), snapshot(optimizer, params))
    assert optimizer.state[params[0]]["memory_slots"].dtype is DTYPES[name]


@pytest.mark.parametrize("wrapped", [False, True])
@each_format
def test_a_checkpoint_of_another_format_is_refused(name, wrapped):
    def make(memory_dtype):
        params = parameters()
        options = {"capacity": 3, "memory_dtype": memory_dtype}
        if wrapped:
            return gradmem.MemoryAugmented(torch.optim.Adam(params), **options), params
        return gradmem.Adam_C(params, **options), params

    ours, params = make(name)
    train(ours, params, 4)
    for other_name in {None, *FORMATS} - {name}:
        other, others = make(other_name)
        train(other, others, 2)
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(CheckpointError, match=r"memory_dtype=.*forget_memory"):
            other.load_state_dict(ours.state_dict())
        assert_same(other.state_dict(), before)
        other.load_state_dict(gradmem.forget_memory(ours.state_dict()))
        assert [scope.occupied for scope in other.memory_report().scopes] == [0]
        train(other, others, 1)


def test_a_checkpoint_without_its_scales_is_refused():
    params = parameters()
    optimizer = gradmem.SGD_C(params, capacity=3, memory_dtype="int8")
    train(optimizer, params, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0]["memory_scales"]
    before = snapshot(optimizer, params)
    with pytest.raises(CheckpointError, match="memory_scales of parameter 0"):
        optimizer.load_state_dict(saved)
    assert_same(snapshot(optimizer, params), before)


# Options, bytes, sharding ------------------------------------------------------------------------


@each_format
def test_a_type_of_torch_is_a_name_too(name):
    optimizer = gradmem.SGD_C(parameters(), memory_dtype=DTYPES[name])
    assert optimizer.param_groups[0]["memory_dtype"] == name


@each_format
def test_complex_parameters_are_refused(name):
    with pytest.raises(
        OptionError, match=r"group 0: .*rounds real.*parameter 0.*memory_dtype=None"
    ):
        gradmem.SGD_C(parameters(torch.complex64), memory_dtype=name)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", [None, *FORMATS])
def test_bytes_are_as_foretold(name, dtype, scope):
    sizes = [0, 1, 255, 256, 257, 511, 1000]
    params = parameters(dtype, shapes=[(), *((size,) for size in sizes)])
    foretold = gradmem.memory_bytes(params, capacity=3, scope=scope, memory_dtype=name)
    optimizer = gradmem.SGD_C(params, capacity=3, scope=scope, memory_dtype=name)
    train(optimizer, params, 1)
    entries = [optimizer.state[p] for p in params]
    tables = [e[k] for e in entries for k in ("memory_slots", "memory_scales") if k in e]
    assert foretold.slots == sum(table.nbytes for table in tables)
    assert foretold.sums == sum(entry["memory_sum"].nbytes for entry in entries)
    assert foretold.total == optimizer.memory_report().bytes
    itemsize = dtype.itemsize if name is None else DTYPES[name].itemsize
    scales = 4 * sum(-(-size // 256) for size in (1, *sizes)) if name == "int8" else 0
    assert foretold.slots == 3 * ((1 + sum(sizes)) * itemsize + scales)


def test_int8_is_refused_for_a_sharded_parameter_and_bfloat16_is_not(sharded):
    from torch.distributed.tensor import Shard

    p = torch.nn.Parameter(sharded(torch.ones(4, 2)))
    for options in ({"memory_dtype": "int8"}, {"memory_device": "cpu"}):
        with pytest.raises(OptionError, match=r"parameter.*0 is.*sharded|sharded.*parameter 0"):
            gradmem.SGD_C([p], **options)
    optimizer = gradmem.SGD_C([p], capacity=2, memory_dtype="bfloat16")
    p.grad = sharded(torch.full((4, 2), 1.2345))
    optimizer.step()
    assert optimizer.state[p]["memory_slots"].placements == (Shard(1),)
    kept = optimizer.state[p]["memory_slots"].full_tensor()
    assert_same(kept[0], torch.full((4, 2), 1.2345).bfloat16())
    assert_same(optimizer.state[p]["memory_sum"].full_tensor(), kept[0].float())
