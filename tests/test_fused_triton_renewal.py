"""Running sums that an accelerator makes anew from the slots, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

import gradmem
from gradmem.memory import on_device
from gradmem.memory.ledger import CALLS
from gradmem.optim.fused import tables
from gradmem.optim.state import store_of
from optimizers import gradients, step_with, train
from triton_cases import needs_interpreter, use_interpreter

pytestmark = needs_interpreter

SHAPES = ((tables.BLOCK + 7,), (), (0,))


@pytest.mark.parametrize(
    ("memory_dtype", "captured"), [(None, True), ("bfloat16", False), ("int8", True)]
)
def test_at_every_sixteenth_step(memory_dtype, captured, monkeypatch):
    """A graph, which is told nothing at a replay, counts by itself."""
    launches = use_interpreter(monkeypatch)
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    options = {"capacity": 3, "decay": 0.95, "memory_dtype": memory_dtype, "fused": True}
    optimizer = gradmem.AdamW_C(params, **options)
    train(optimizer, params, 13)
    monkeypatch.setattr(on_device, "is_capturing", lambda: captured)
    stores = [store_of(optimizer.state[p]) for p in params]
    for expected in (1.0, 2.0, 0.0, 1.0):
        for store in stores:
            store.total.add_(1.0)  # an error of rounding, but for its size
        step_with(optimizer, params, next(gradients(params, seed=1)))
        for store in stores:
            off = store.total - sum(store.read(k).float() for k in range(3))
            torch.testing.assert_close(off, torch.full_like(off, expected), rtol=0, atol=1e-5)
    assert launches.steps == 12 + 4


def test_of_those_ledgers_alone_that_are_due(monkeypatch):
    use_interpreter(monkeypatch)
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = gradmem.SGD_C(params, capacity=2, scope="tensor", fused=True)
    train(optimizer, params, 15)
    monkeypatch.setattr(on_device, "is_capturing", lambda: True)
    state = [optimizer.state[p] for p in params]
    state[1]["memory_counters"][CALLS] += 1  # as if it had come later
    for each in state:
        each["memory_sum"].add_(1.0)
    step_with(optimizer, params, next(gradients(params, seed=1)))
    off = [each["memory_sum"] - each["memory_slots"].sum(dim=0) for each in state]
    torch.testing.assert_close(off[0], torch.zeros_like(off[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(off[1], torch.ones_like(off[1]), rtol=0, atol=1e-5)
