"""memory_device="cpu" beside a CUDA device: bytes there, what is transferred, the same steps."""

from __future__ import annotations

import copy

import pytest
import torch

import gradmem
from gradmem.memory import offload
from optimizers import assert_same, each_optimizer, gradients, parameters, step_with, train
from test_storage_formats import FORMATS

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: there is none"
)
MEMORY = {"decay": 0.9, "memory_device": "cpu"}


def held():
    """Bytes in use on the device, once nothing is left to wait for."""
    torch.cuda.synchronize()
    torch.zeros(1, device="cuda")  # lets the allocator see what has become free
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("name", [None, *FORMATS])
@pytest.mark.parametrize("capacity", [2, 20])
def test_the_device_holds_one_copy_more_whatever_the_capacity(capacity, name):
    params = parameters(shapes=[(1024, 1024)] * 4, device="cuda")
    size = sum(p.nbytes for p in params)
    base = torch.optim.SGD(params, lr=0.1)
    train(base, params, 2)
    before = held()
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=capacity, memory_dtype=name, **MEMORY)
    train(optimizer, params, capacity + 2)
    portion = size  # the working buffer, here of all parameters
    assert held() - before < size + portion + size // 16
    slots = optimizer.state[params[0]]["memory_slots"]
    assert slots.device.type == "cpu"
    assert slots.is_pinned()


@each_optimizer
@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize("name", [None, *FORMATS])
def test_every_step_is_that_of_slots_on_the_device(name, aggregate, info):
    """The running sum alone may differ in rounding: it is made anew at other steps."""
    ours, theirs = (parameters(device="cuda") for _ in range(2))
    options = {"capacity": 3, "memory_dtype": name, "aggregate": aggregate, "decay": 0.9}
    one, other = info.make(ours, memory_device="cpu", **options), info.make(theirs, **options)
    for t, grads in zip(range(60), gradients(ours), strict=False):
        if t % 7 == 3:
            grads[0] = None
        step_with(one, ours, [None if g is None else g.clone() for g in grads])
        step_with(other, theirs, grads)
        for p in ours:
            if p.grad is not None:
                p.grad.fill_(float("nan"))  # while it may be on its way to the host
        offload.settle()
        state, expected = (copy.deepcopy(o.state_dict()["state"]) for o in (one, other))
        for i in state:
            exact = {"memory_slots", "memory_scales", "memory_birth"} & set(state[i])
            for key in exact:
                assert_same(state[i][key].cpu(), expected[i][key].cpu(), f"{key} at step {t}")
        close = {"rtol": 1e-4, "atol": 1e-6}
        assert_same([p.detach() for p in ours], [p.detach() for p in theirs], **close)


@pytest.mark.parametrize(("name", "parts"), [(None, 1), ("int8", 2)])
def test_nothing_is_transferred_but_on_a_replacement(name, parts):
    params = parameters(shapes=[(64, 32), (32,)], device="cuda")
    options = {"capacity": 2, "memory_dtype": name, "memory_device": "cpu", "decay": 1.0}
    optimizer = gradmem.Adam_C(params, **options)
    for scale, moved in ((3.0, 1), (2.0, 1), (1.0, 0), (float("nan"), 0), (4.0, 1)):
        for p in params:
            p.grad = torch.ones_like(p) * scale
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            optimizer.step()
            torch.cuda.synchronize()
        copies = [event.name for event in profile.events() if "Pinned" in event.name]
        for direction in ("HtoD", "DtoH"):
            found = sum(direction in name for name in copies)
            assert found == moved * parts * len(params), (scale, copies)


def test_a_resumed_optimizer_has_pinned_slots_again():
    params = parameters(device="cuda")
    optimizer = gradmem.Adam_C(params, capacity=3, **MEMORY)
    train(optimizer, params, 4)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = gradmem.Adam_C(others, capacity=3, **MEMORY)
    other.load_state_dict(optimizer.state_dict())
    for one, its in ((optimizer, params), (other, others)):
        train(one, its, 4, seed=2)
    offload.settle()
    assert_same(other.state_dict()["state"], optimizer.state_dict()["state"])
    slots = [state["memory_slots"] for state in other.state.values()]
    assert all(s.is_pinned() for s in slots if s.numel())


def test_the_only_wait_is_for_the_norm():
    params = parameters(shapes=[(64, 32), (32,)], device="cuda")
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=2, policy="fifo", **MEMORY)
    train(optimizer, params, 4)
    for p in params:
        p.grad = torch.randn_like(p)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as waits:
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1


def test_slots_that_a_trainer_moved_to_the_device_come_back():
    ours, theirs = (parameters(device="cuda") for _ in range(2))
    one, other = (gradmem.Adam_C(params, lr=0.1, capacity=2, **MEMORY) for params in (ours, theirs))
    for optimizer, params in ((one, ours), (other, theirs)):
        train(optimizer, params, 3)
    for entry in one.state.values():
        entry.update({key: value.cuda() for key, value in entry.items()})
    for optimizer, params in ((one, ours), (other, theirs)):
        train(optimizer, params, 3)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        assert one.state[p]["memory_slots"].is_pinned()
