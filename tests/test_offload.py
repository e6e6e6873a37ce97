"""memory_device="cpu": slots in the host's memory, which go to the accelerator and back.

The same code runs here on the CPU: without streams, where a transfer is done at once, and with
streams played by `SlowLane`, whose transfers are done only when somebody waits for them.
"""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch

import gradmem
from gradmem import OptionError
from gradmem.memory import offload, on_host
from gradmem.memory.options import MemoryOptions
from gradmem.optim import plan
from gradmem.optim.state import store_of
from optimizers import assert_differ, assert_same, each_optimizer, gradients, parameters, train
from test_storage import through_a_file
from test_storage_formats import FORMATS

CPU = torch.device("cpu")
each_format = pytest.mark.parametrize("name", [None, *FORMATS])


class Side:
    """A stream that is always late: it has done only what somebody waited for."""

    def __init__(self):
        self.jobs, self.done, self.follows = [], 0, False

    def run(self, end):
        for target, source in self.jobs[self.done : end]:
            target.data.copy_(source)  # .data: the version was counted when it was begun
        self.done = max(self.done, end)

    def record_event(self):
        return len(self.jobs)

    def wait_stream(self, other):
        assert other == "the computation"
        self.follows = True

    def synchronize(self):
        self.run(len(self.jobs))


class Streams:
    """Of the parts of torch.cuda that a lane uses; the computation's stream is never late."""

    def __init__(self, side):
        self.side = side

    def stream(self, side):
        assert side is self.side
        return contextlib.nullcontext()

    def current_stream(self, device):
        return self

    def wait_event(self, end):
        self.side.run(end)

    def __eq__(self, other):
        return other == "the computation"


class SlowLane(offload.Lane):
    """A lane whose transfers leave rubbish where they go until they are waited for."""

    def __init__(self):
        super().__init__(CPU)
        self._side = Side()
        self._streams = Streams(self._side)
        self.uploads = self.downloads = self.most_underway = 0
        self.kept = []

    def start(self, slots, scales, slot):
        super().start(slots, scales, slot)
        self.most_underway = max(self.most_underway, self.underway)

    def _copied(self, host):
        self.uploads += 1
        return super()._copied(host)

    def _download(self, new, host):
        self.downloads += 1
        self._side.follows = False
        super()._download(new, host)
        assert self._side.follows, "it sends what may not be computed yet"
        assert self.kept[-1] is self._side.jobs[-1][1], "its memory may be used by others"

    def _copy(self, target, source):
        target.fill_(float("nan") if target.is_floating_point() else -99)
        self._side.jobs.append((target, source))

    def _keep(self, tensor, stream):
        self.kept.append(tensor)


class Place:
    """Whether slots count as elsewhere than their sums; without the option they are not."""

    apart = True


def put_apart(monkeypatch, lane):
    monkeypatch.setattr(Place, "apart", True)
    monkeypatch.setattr(offload, "is_apart", lambda slots, total: Place.apart)
    monkeypatch.setattr(offload, "_LANES", {CPU: lane})
    return lane


@pytest.fixture(params=[lambda: offload.Lane(CPU), SlowLane], ids=["at once", "late"])
def lane(request, monkeypatch):
    return put_apart(monkeypatch, request.param())


@pytest.fixture
def slow_lane(monkeypatch):
    return put_apart(monkeypatch, SlowLane())


def kept(optimizer, params):
    """Copies of the parameters and all that is remembered, transfers being over."""
    offload.settle()
    state = optimizer._memory_state()
    return [p.detach().clone() for p in params], [copy.deepcopy(dict(state[p])) for p in params]


def step_and_spoil(optimizer, params, grads):
    """A step; then gradients are written over in place, as the next backward pass would."""
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else grad.clone()
    optimizer.step()
    for p in params:
        if p.grad is not None:
            p.grad.fill_(float("nan"))


def race(make, edit=lambda t, group: None):
    """Both kinds of memory over the same gradients, compared at every step, bit for bit."""
    ours, theirs = parameters(), parameters()
    one, other = make(ours, "cpu"), make(theirs, None)
    for t, grads in zip(range(14), gradients(ours), strict=False):
        if t % 3 == 2:
            grads[t % len(grads)] = None
        if t == 6:
            grads[0] = grads[0] * float("inf")
        states = []
        for optimizer, params, apart in ((one, ours, True), (other, theirs, False)):
            edit(t, optimizer._memory_groups()[0])
            Place.apart = apart
            step_and_spoil(optimizer, params, grads)
            states.append(kept(optimizer, params))
        assert_same(*states, f"step {t}")
    assert one.memory_report().scopes[0].occupied > 0


@each_optimizer
@each_format
def test_every_step_is_the_same(name, info, lane):
    def make(params, where):
        options = {"capacity": 3, "decay": 0.9, "memory_dtype": name}
        return info.make(params, memory_device=where, **options)

    race(make)


OPTIONS = {
    "max": {"aggregate": "max", "capacity": 3},
    "median_mean, scope tensor": {"aggregate": "median_mean", "scope": "tensor", "decay": 0.95},
    "min, capacity 1": {"aggregate": "min", "capacity": 1},
    "fifo, scope tensor": {"policy": "fifo", "scope": "tensor", "capacity": 2},
    "max_age": {"max_age": 3, "capacity": 4, "decay": 1.0},
    "cosine_diverse": {"policy": "cosine_diverse", "capacity": 2, "aggregate": "sum"},
}


@pytest.mark.parametrize("cls", ["SGD_C", "Adam_CM", "MemoryAugmented"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", [None, "int8"])
def test_every_kind_of_option(name, options, cls, lane):
    def make(params, where):
        given = {"memory_dtype": name, "memory_device": where, **options}
        if cls == "MemoryAugmented":
            return gradmem.MemoryAugmented(torch.optim.NAdam(params), **given)
        return getattr(gradmem, cls)(params, **given)

    race(make)


@pytest.mark.parametrize("name", [None, "int8"])
def test_slots_that_grow_too_old_are_emptied(name, lane):
    def make(params, where):
        options = {"capacity": 4, "memory_dtype": name, "memory_device": where}
        return gradmem.SGD_C(params, **options)

    def edit(t, group):
        group["max_age"] = 1 if t == 8 else None

    race(make, edit)


@pytest.mark.parametrize("name", [None, "bfloat16", "int8"])
def test_the_sum_is_made_anew_from_the_slots(name, lane, monkeypatch):
    monkeypatch.setattr(on_host, "TOLERANCE", 0.0)  # at every step
    params = parameters()
    options = {"capacity": 3, "memory_dtype": name, "memory_device": "cpu"}
    optimizer = gradmem.SGD_C(params, **options)
    for _, grads in zip(range(7), gradients(params), strict=False):
        step_and_spoil(optimizer, params, grads)
        offload.settle()
        for p in params:
            store = store_of(optimizer.state[p])
            exact = sum(store.read(k).double() for k in range(3))
            assert_same(store.total.double(), exact, rtol=1e-6, atol=1e-6)


# What is transferred ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parts"), [(None, 1), ("int8", 2)])
def test_nothing_is_transferred_but_on_a_replacement(name, parts, slow_lane):
    params = parameters(shapes=[(3, 4), (5,)])
    options = {"capacity": 2, "decay": 1.0, "memory_dtype": name, "memory_device": "cpu"}
    optimizer = gradmem.Adam_C(params, **options)
    counts = []
    for scale in (3.0, 2.0, 1.0, float("nan"), 0.0, 4.0):
        for p in params:
            p.grad = torch.ones_like(p) * scale
        before = slow_lane.uploads, slow_lane.downloads
        optimizer.step()
        counts.append((slow_lane.uploads - before[0], slow_lane.downloads - before[1]))
    moved = (parts * len(params),) * 2
    assert counts == [moved, moved, (0, 0), (0, 0), (0, 0), moved]


def test_uploads_are_on_their_way_before_the_update_and_downloads_after_the_step(slow_lane):
    params = parameters(shapes=[(3, 4)])
    optimizer = gradmem.SGD_C(params, capacity=2, memory_device="cpu")
    seen = []
    update = optimizer._update

    def watched(group, updates):
        seen.append((slow_lane.uploads, slow_lane.downloads, slow_lane._side.done))
        update(group, updates)

    optimizer._update = watched
    train(optimizer, params, 1)
    assert seen == [(1, 0, 0)]  # begun, and not waited for
    slots = optimizer.state[params[0]]["memory_slots"]
    assert slots[0].isnan().all()  # sent, and not there yet
    offload.settle()
    assert_same(slots[0], params[0].grad)


def test_no_more_is_on_its_way_than_a_portion(slow_lane, monkeypatch):
    monkeypatch.setattr(offload, "UNDERWAY", 100)
    params = parameters(shapes=[(5, 4)] * 6)
    base = torch.optim.SGD(params, lr=0.1)
    optimizer = gradmem.MemoryAugmented(base, capacity=2, policy="fifo", memory_device="cpu")
    train(optimizer, params, 4)
    assert slow_lane.most_underway == 2 * 80
    assert slow_lane.underway == 0
    offload.settle()
    slots = [optimizer.memory_state[p]["memory_slots"][(4 - 1) % 2] for p in params]
    assert_same(slots, [p.grad for p in params])


# What goes wrong ----------------------------------------------------------------------------------


def test_a_slot_that_was_sent_for_in_vain_is_not_mistaken_for_another(lane):
    slots = torch.arange(6.0).reshape(3, 2)
    lane.start(slots, None, 1)
    assert lane.fetch(slots, None, 2)[0].tolist() == [4.0, 5.0]
    lane.start(slots, None, 1)
    lane.settle()
    slots[1] = 9.0
    assert lane.fetch(slots, None, 1)[0].tolist() == [9.0, 9.0]
    lane.start(slots, None, 1)
    assert lane.fetch(slots.clone(), None, 0)[0].tolist() == [0.0, 1.0]
    del slots
    assert lane.underway == 0


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", [None, "int8"])
def test_after_a_step_that_failed_it_goes_on(name, wrapped, lane):
    def make(params, where):
        options = {"capacity": 2, "memory_dtype": name, "memory_device": where}
        if wrapped:
            optimizer = gradmem.MemoryAugmented(torch.optim.SGD(params, lr=0.1), **options)
            name_of_update, owner = "_step_optimizer", optimizer
        else:
            groups = [{"params": params[:2]}, {"params": params[2:]}]
            optimizer = gradmem.SGD_C(groups, lr=0.1, **options)
            name_of_update, owner = "_update", optimizer
        update, calls = getattr(owner, name_of_update), []

        def failing(*args):
            calls.append(args)
            if len(calls) in (4, 9, 14):  # of two in a step, once the first has stored its part
                raise RuntimeError("on purpose")
            return update(*args)

        setattr(owner, name_of_update, failing)
        step = optimizer.step

        def attempted():
            with contextlib.suppress(RuntimeError):
                step()

        optimizer.step = attempted
        return optimizer

    race(make)


# Copies and checkpoints ---------------------------------------------------------------------------


COPIES = {
    "state_dict": lambda optimizer, params: copy.deepcopy(optimizer.state_dict()["state"]),
    "deepcopy": lambda optimizer, params: copy.deepcopy((optimizer, params))[0].state_dict()[
        "state"
    ],
    "pickle": lambda optimizer, params: pickle.loads(pickle.dumps(optimizer)).state_dict()["state"],
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_a_copy_waits_for_what_is_on_its_way(make_copy, wrapped, slow_lane):
    params = parameters()
    options = {"capacity": 3, "memory_device": "cpu"}
    if wrapped:
        optimizer = gradmem.MemoryAugmented(torch.optim.Adam(params), **options)
    else:
        optimizer = gradmem.Adam_C(params, **options)
    train(optimizer, params, 4)
    early = make_copy(optimizer, params)
    offload.settle()
    assert_same(early, copy.deepcopy(optimizer.state_dict()["state"]))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("places", [("cpu", None), (None, "cpu"), ("cpu", "cpu")])
@each_format
def test_a_checkpoint_fits_wherever_slots_are(name, places, wrapped):
    def make(params, where):
        options = {"capacity": 3, "memory_dtype": name, "memory_device": where, "decay": 0.9}
        if wrapped:
            return gradmem.MemoryAugmented(torch.optim.Adam(params), **options)
        return gradmem.Adam_C(params, **options)

    params = parameters()
    one = make(params, places[0])
    train(one, params, 4)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = make(others, places[1])
    other.load_state_dict(through_a_file(one.state_dict()))
    assert other._memory_groups()[0]["memory_device"] == places[1]
    for optimizer, its in ((one, params), (other, others)):
        train(optimizer, its, 4, seed=2)
    assert_same(kept(other, others), kept(one, params))


# Where decisions are made, and what is refused ---------------------------------------------------


def test_decisions_are_made_on_the_host():
    cuda = torch.device("cuda", 0)
    assert plan._ledger_device([cuda], MemoryOptions()) == cuda
    assert plan._ledger_device([cuda], MemoryOptions(memory_device="cpu")) == CPU


def test_capturable_is_refused():
    with pytest.raises(OptionError, match=r"memory_device='cpu' waits.*use memory_device=None"):
        gradmem.Adam_C(parameters(), memory_device="cpu", capturable=True)


def test_on_the_cpu_it_changes_nothing():
    states = []
    for where in (None, "cpu"):
        params = parameters()
        optimizer = gradmem.Adam_C(params, capacity=3, memory_device=where)
        train(optimizer, params)
        states.append(kept(optimizer, params))
        assert not offload._LANES
    assert_same(*states)
    assert_differ(states[0][0], [p.detach() for p in parameters()])
