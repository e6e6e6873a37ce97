"""Decisions that stay on the device (no host sync) are the same as those read on the host."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gradmem
from gradmem.optim.plan import Memory

NAMES = gradmem.names()


def gradients(steps: int) -> list[list[Tensor | None]]:
    generator = torch.Generator().manual_seed(3)
    out: list[list[Tensor | None]] = []
    for t in range(steps):
        scale = torch.rand((), generator=generator) * 3 + 0.1
        some: list[Tensor | None] = [
            torch.randn(shape, generator=generator, dtype=torch.float64) * scale
            for shape in ((4, 3), (5,), ())
        ]
        if t % 7 == 3:
            some[1] = None
        if t % 11 == 5:
            some = [None if g is None else torch.zeros_like(g) for g in some]
        out.append(some)
    return out


def run(name: str, steps: int, **options: object) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    params = [torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((4, 3), (5,), ())]
    optimizer = gradmem.create(name, params, lr=0.01, **options)
    for grads in gradients(steps):
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params], [dict(optimizer.state[p]) for p in params]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"decay": 0.95, "capacity": 4},
        {"policy": "fifo", "capacity": 3, "aggregate": "sum"},
        {"policy": "bottom_norm", "capacity": 3, "aggregate": "mid", "scope": "tensor"},
        {"max_age": 4, "capacity": 8, "kappa": -0.5, "decay": 0.99},
        {"norm": "sum", "scope": "group", "decay": 1.0, "capacity": 5},
    ],
)
def test_device_decisions_equal_host_decisions(
    name: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, states = run(name, 60, **options)
    monkeypatch.setattr(Memory, "on_host", False)
    other_params, other_states = run(name, 60, **options)
    for p, q in zip(params, other_params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    for state, other in zip(states, other_states, strict=True):
        for key in ("memory_slots", "memory_birth", "memory_priority", "memory_counters"):
            assert torch.equal(state[key], other[key]), key
        torch.testing.assert_close(state["memory_sum"], other["memory_sum"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_c")])
def test_nan_leaves_no_trace_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "on_host", False)
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = gradmem.create(name, [p], lr=0.01, capacity=2)
    for value in (1.0, 2.0, float("nan"), float("inf")):
        p.grad = torch.full((4,), value)
        optimizer.step()
    state = optimizer.state[p]
    assert torch.equal(state["memory_slots"], torch.tensor([[1.0] * 4, [2.0] * 4]))
    assert torch.equal(state["memory_sum"], torch.full((4,), 3.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: there is none")
@pytest.mark.parametrize("name", NAMES)
def test_no_host_sync_on_cuda(name: str) -> None:
    params = [torch.nn.Parameter(torch.ones(s, device="cuda")) for s in ((64, 32), (32,))]
    optimizer = gradmem.create(name, params, lr=0.01, capacity=3)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(40):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert optimizer.memory_report().scopes[0].occupied == 3
