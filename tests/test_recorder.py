"""The recorder: every number against the twin, and the same bits with it and without."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import gradmem
from critical_twin import CriticalRace, CriticalTwin
from gradmem import MemoryAugmented, Recorder, StepRecord
from optimizers import (
    assert_same,
    each_optimizer,
    gradients,
    parameters,
    snapshot,
    step_with,
    train,
)
from races import Race
from reference import Twin, inner

SHAPES = [(2, 3), (), (0,), (4,)]


# The twin's records ------------------------------------------------------------------------------


class Watched:
    """Mixed into a twin: writes down what the recorder should, from the twin's own lists."""

    def step(self, grads):
        self.calls = getattr(self, "calls", 0) + 1
        self.records = []
        super().step(grads)

    def step_ledger(self, ledger, grads):
        options = self.options(ledger.members[0])
        self.drop_expired(ledger, options)
        before, last, self.updates = list(ledger.slots), ledger.step, {}
        super().step_ledger(ledger, grads)
        if options["capacity"] == 0 or options["kappa"] == 0:
            return
        new = [k for k, slot in enumerate(ledger.slots) if slot is not before[k]]
        assert len(new) == ledger.accepted[-1]
        slot = new[0] if new else None
        left = before[slot].birth if new and before[slot] else None
        norms = [slot.norm for slot in before if slot]
        record = StepRecord(
            call=self.calls,
            scope=self.name_of(ledger),
            step=ledger.step,
            seen=ledger.step > last,
            norm=self.norm_of(ledger, grads, options),
            stored_norm=sum(norms) / len(norms) if norms else math.nan,
            cosine=cosine({i: grads[i] for i in self.updates}, self.updates),
            entered=bool(new),
            slot=slot,
            left=left,
            left_age=None if left is None else ledger.step - left,
            held=tuple(slot.birth if slot else 0 for slot in ledger.slots),
        )
        self.records.append(record)

    def aggregate(self, ledger, i, grad, options):
        self.updates[i] = super().aggregate(ledger, i, grad, options)
        return self.updates[i]

    def name_of(self, ledger):
        scope = self.options(ledger.members[0])["scope"]
        groups = sorted({self.group_of[i] for i in ledger.members})
        if scope == "tensor":
            (i,), (group,) = ledger.members, groups
            return f"group {group}, tensor {i - self.group_of.index(group)}"
        if scope == "group":
            return f"group {groups[0]}"
        remember = [o["capacity"] > 0 and o["kappa"] != 0 for o in self.groups]
        alone = groups == [g for g, on in enumerate(remember) if on]
        return "model" if alone else "groups " + ", ".join(map(str, groups))


def cosine(one, other):
    products = [inner(a, b) for a, b in ((one, one), (one, other), (other, other))]
    if not all(map(math.isfinite, products)) or products[0] * products[2] == 0:
        return math.nan
    return products[1] / math.sqrt(products[0] * products[2])


class WatchedTwin(Watched, Twin):
    pass


class WatchedCriticalTwin(Watched, CriticalTwin):
    pass


class RecordedRace(Race):
    """Records compared after every step."""

    twin_class = WatchedTwin

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.recorder = Recorder(self.optimizer)

    def step(self, grads):
        super().step(grads)
        ours, self.recorder.records[:] = list(self.recorder.records), []
        expected = self.twin.records
        assert sorted(r.scope for r in ours) == sorted(r.scope for r in expected)
        for record in expected:
            (mine,) = (r for r in ours if r.scope == record.scope)
            assert_equal(mine, record)


class RecordedCriticalRace(RecordedRace, CriticalRace):
    twin_class = WatchedCriticalTwin


class RecordedWrapperRace(RecordedRace):
    """The wrapper around torch's class."""

    def __init__(self, rule, groups, form, **options):
        super().__init__(rule, groups, form, **options)
        self.recorder.close()
        plain = [{"params": group["params"]} for group in self.optimizer.param_groups]
        lr = options.pop("lr")
        options = {"aggregate": "sum", **options} if rule == "sgd" else options
        base = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[rule](plain, lr=lr)
        own = [dict(group) for _, group in groups]
        self.optimizer = MemoryAugmented(base, **options, groups=own)
        self.recorder = Recorder(self.optimizer)

    def compare_memory(self, i):
        """It is kept elsewhere; the records speak of it."""


NUMBERS = ("norm", "stored_norm", "cosine")


def assert_equal(ours, expected, tolerance=1e-12):
    """NaN is equal to NaN, numbers are nearly equal, the rest exactly."""
    for name in NUMBERS:
        near = pytest.approx(getattr(expected, name), rel=tolerance, abs=tolerance, nan_ok=True)
        assert getattr(ours, name) == near, (name, expected)
    same = dict.fromkeys(NUMBERS, 0.0)
    assert replace(ours, **same) == replace(expected, **same)


def run(race, steps=30):
    """Random steps, some of them zero, NaN or infinite, some tensors without a gradient."""
    for _ in range(steps):
        grads = race.gradients()
        draw = race.rng.random()
        if draw < 0.05:
            grads = [0 * grad for grad in grads]
        elif draw < 0.1:
            grads = [None] * len(grads)
        elif draw < 0.15:
            grads[0].flat[0] = math.nan if draw < 0.125 else math.inf
        elif draw < 0.45:
            grads[race.rng.integers(len(grads))] = None
        with np.errstate(invalid="ignore"):
            race.step(grads)


MEMORY = {
    "mean": {"capacity": 4, "decay": 0.95},
    "sum-negative": {"capacity": 4, "decay": 0.9, "aggregate": "sum", "kappa": -0.4},
    "mid": {"capacity": 3, "decay": 0.9, "aggregate": "mid"},
    "median": {"capacity": 4, "decay": 0.95, "aggregate": "median"},
    "max-mean-group": {"capacity": 3, "decay": 1.0, "aggregate": "max_mean", "scope": "group"},
    "tensor": {"capacity": 3, "decay": 0.95, "scope": "tensor"},
    "norm-sum": {"capacity": 3, "decay": 0.95, "norm": "sum"},
    "norm-sum-group": {"capacity": 3, "decay": 0.9, "norm": "sum", "scope": "group"},
    "max-age": {"capacity": 4, "decay": 1.0, "max_age": 6},
    "max-age-tensor": {"capacity": 3, "max_age": 2, "scope": "tensor"},
    "fifo": {"capacity": 3, "policy": "fifo"},
    "reservoir": {"capacity": 3, "policy": "reservoir", "scope": "group"},
    "diverse": {"capacity": 3, "policy": "cosine_diverse", "decay": 0.9},
    "capacity-1": {"capacity": 1, "decay": 0.9},
}
memories = pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)
GROUPS = [(SHAPES[:2], {}), (SHAPES[2:], {})]
LOOP = {"foreach": False}


@memories
def test_every_record_is_the_twins(memory):
    run(RecordedRace("adam", GROUPS, LOOP, **memory))


@pytest.mark.parametrize("memory", [MEMORY["mean"], MEMORY["max-age-tensor"], MEMORY["norm-sum"]])
def test_around_another_optimizer(memory):
    run(RecordedWrapperRace("sgd", GROUPS, LOOP, lr=0.01, **memory), 20)


@pytest.mark.parametrize("memory", [MEMORY["mean"], MEMORY["tensor"], MEMORY["max-age"]])
def test_with_critical_momenta_the_gradient_is_compared_with_the_combined_momenta(memory):
    race = RecordedCriticalRace("adam", GROUPS, LOOP, lr=0.01, **memory)
    for _ in range(15):
        race.step(race.gradients())
    grads = race.gradients()
    grads[0].flat[0] = math.nan  # poisons a momentum: from now on nothing is seen
    race.comparable = [False] * len(race.params)
    with np.errstate(invalid="ignore"):
        race.step(grads)


def test_complex_gradients():
    run(RecordedRace("adam", GROUPS, LOOP, dtype=complex, **MEMORY["mean"]))


def test_a_conjugated_view_for_a_gradient():
    ends = []
    for resolved in (False, True):
        weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex128))
        optimizer = gradmem.SGD_C([weight], lr=0.1, capacity=2)
        recorder, generator = Recorder(optimizer), torch.Generator().manual_seed(0)
        for _ in range(4):
            grad = torch.randn(3, dtype=weight.dtype, generator=generator).conj()
            weight.grad = grad.resolve_conj() if resolved else grad
            optimizer.step()
        ends.append((list(map(repr, recorder.records)), weight.detach()))
    assert_same(*ends)


def test_large_tensors_go_in_several_portions():
    groups = [([(2**17, 2), (2**18,), (5,)], {"weight_decay": 0.1})]
    race = RecordedRace("sgd", groups, LOOP, capacity=2, decay=0.9)
    for _ in range(4):
        race.step(race.gradients())
    (memory,) = race.optimizer._plan.memories
    assert len(memory.portions) == 3


def test_options_edited_groups_added_and_switched_off_while_recording():
    groups = [(SHAPES[:2], {}), (SHAPES[2:], {}), ([(3,)], {"capacity": 0})]
    race = RecordedRace("adam", groups, LOOP, capacity=4, decay=0.97)
    run(race, 8)
    race.edit(0, decay=0.5)  # the groups part
    run(race, 8)
    for group in (0, 1):
        race.edit(group, max_age=2)  # several slots are too old at once
    run(race, 5)
    race.add_group([(2, 2)], scope="group", capacity=2)
    race.add_group([(2,)], capacity=0)
    run(race, 8)
    names = {record.scope for record in race.twin.records}
    assert names == {"groups 0", "groups 1", "group 3"}


def test_by_hand():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = gradmem.SGD_C([weight], lr=1.0, capacity=1, decay=0.5, aggregate="sum")
    recorder = Recorder(optimizer)
    for grad in ([3.0, 4.0], [0.0, 2.0], [0.0, 1.5], [0.0, 0.0]):
        weight.grad = torch.tensor(grad)
        optimizer.step()
    nan, cos = math.nan, 6 / math.sqrt(45)  # of (0, 2) with (3, 6)
    expected = [  # priorities before: none; 2.5; 1.25; 0.75
        StepRecord(1, "model", 1, True, 5.0, nan, 1.0, True, 0, None, None, (1,)),
        StepRecord(2, "model", 2, True, 2.0, 5.0, cos, False, None, None, None, (1,)),
        StepRecord(3, "model", 3, True, 1.5, 5.0, 5.5 / math.sqrt(39.25), True, 0, 1, 2, (3,)),
        StepRecord(4, "model", 3, False, 0.0, 1.5, nan, False, None, None, None, (3,)),
    ]
    for ours, one in zip(recorder.records, expected, strict=True):
        assert_equal(ours, one, 1e-6)


def test_bfloat16():
    params = parameters(torch.bfloat16)
    optimizer = gradmem.Adam_C(params, capacity=3, decay=0.95)
    recorder, stream, whole = Recorder(optimizer), gradients(params), []
    for _ in range(2):
        grads = next(stream)
        step_with(optimizer, params, grads)
        whole.append(torch.cat([grad.double().flatten() for grad in grads]))
    mean = (whole[0] + whole[1]) / 2  # which the update is in bfloat16
    expected = torch.dot(whole[1], mean) / whole[1].norm() / mean.norm()
    assert [r.norm for r in recorder.records] == pytest.approx([w.norm().item() for w in whole])
    assert [r.cosine for r in recorder.records] == pytest.approx([1.0, expected.item()], abs=5e-3)
    assert expected < 0.99


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_cosine_of_tiny_and_huge_gradients(scale):
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = gradmem.SGD_C([weight], lr=0.0)
    recorder = Recorder(optimizer)
    for _ in range(2):
        weight.grad = torch.full((3,), scale, dtype=torch.float64)
        optimizer.step()
    assert recorder.records[-1].cosine == pytest.approx(1.0)


# The same bits -----------------------------------------------------------------------------------


@each_optimizer
def test_updates_are_the_same_bits_with_a_recorder(info):
    ends = []
    for recorded in (False, True):
        params = parameters()
        optimizer = info.make(params, capacity=3, decay=0.95)
        if recorded:
            recorder = Recorder(optimizer)
        train(optimizer, params, 8)
        ends.append(snapshot(optimizer, params))
    assert len(recorder.records) == 8
    assert_same(*ends)


@pytest.mark.parametrize("name", ["adam_cm", "adamw_cm", "sgd_cm"])
def test_so_are_those_of_critical_momenta(name):
    ends = []
    for recorded in (False, True):
        params = parameters()
        optimizer = gradmem.create(name, params, lr=0.01, capacity=3, decay=0.95)
        if recorded:
            recorder = Recorder(optimizer)
        train(optimizer, params, 8)
        ends.append(snapshot(optimizer, params))
    assert len(recorder.records) == 8
    assert_same(*ends)


def test_so_are_those_of_a_wrapped_optimizer():
    ends = []
    for recorded in (False, True):
        params = parameters()
        optimizer = MemoryAugmented(torch.optim.Adadelta(params), capacity=3, decay=0.95)
        if recorded:
            recorder = Recorder(optimizer)
        train(optimizer, params, 8)
        ends.append([snapshot(optimizer, params), optimizer.state_dict()["state"]])
    assert len(recorder.records) == 8
    assert_same(*ends)
