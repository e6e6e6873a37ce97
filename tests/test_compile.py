"""Under torch.compile the step is left out of the graph, and right: tracing must not change it."""

from __future__ import annotations

import copy

import pytest
import torch

import gradmem


@pytest.mark.parametrize("name", gradmem.names())
def test_a_compiled_training_step_equals_an_eager_one(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    twin = copy.deepcopy(model)
    optimizers = [gradmem.create(name, m.parameters(), lr=0.1, capacity=3) for m in (model, twin)]

    def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    # What could go wrong goes wrong in tracing, so a backend that runs the traced graph will do.
    compiled = torch.compile(train, backend="eager")
    for _ in range(8):
        x = torch.randn(5, 4)
        train(model, optimizers[0], x)
        compiled(twin, optimizers[1], x)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
            for key in ("memory_slots", "memory_birth"):
                torch.testing.assert_close(
                    optimizers[0].state[p][key], optimizers[1].state[q][key], rtol=1e-6, atol=1e-6
                )
