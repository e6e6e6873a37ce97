"""Continues a saved run in a process of its own: `python resume_worker.py IN OUT`."""

from __future__ import annotations

import sys

import torch

import gradmem

SHAPES = ((6, 4), (6,), ())


def make(name: str, dtype: torch.dtype, options: dict[str, object]):
    """Parameters in two groups, and their optimizer."""
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in SHAPES
    ]
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}]
    return params, gradmem.create(name, groups, lr=0.01, **options)


def gradient_step(params, optimizer, step: int) -> None:
    """Step `step` of the run: gradients depend on the step and on the parameters."""
    generator = torch.Generator().manual_seed(1000 + step)
    scale = 0.2 + 3 * torch.rand((), generator=generator, dtype=torch.float64)
    for i, p in enumerate(params):
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        missing = (step + i) % 5 == 0
        p.grad = None if missing else (noise * scale + 0.1 * p.detach().double()).to(p.dtype)
    optimizer.step()


def main(source: str, target: str) -> None:
    torch.set_num_threads(1)
    results = []
    for case in torch.load(source):
        params, optimizer = make(case["name"], case["dtype"], case["options"])
        for p, value in zip(params, case["params"], strict=True):
            p.data.copy_(value)
        optimizer.load_state_dict(case["state"])
        for step in range(case["at"], case["until"]):
            gradient_step(params, optimizer, step)
        results.append(
            {"params": [p.detach() for p in params], "state": optimizer.state_dict()["state"]}
        )
    torch.save(results, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
