"""A small training that can be split over ranks in any way, and the same on one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

ROWS = 8  # in a batch, over all ranks
FROM = 6  # the step from which on `late` has a gradient
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


class Net(nn.Module):
    """Odd sizes, so that shards differ and a tensor lies on one rank alone; two parameters have no
    gradient at first, two never.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1)
        self.late, self.unused = nn.Linear(7, 1), nn.Linear(2, 3)

    def forward(self, inputs: Tensor, late: bool) -> Tensor:
        hidden = self.norm(torch.tanh(self.first(inputs)))
        return self.last(hidden) + (self.late(hidden) if late else 0.0)


def build() -> Net:
    torch.manual_seed(0)
    return Net().double()


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices with weight decay, all else without, as people do it."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def inputs_of(step: int, rank: int = 0, world: int = 1) -> Tensor:
    """This rank's rows of a batch; what they are scaled by lets the norms go up and down."""
    generator = torch.Generator().manual_seed(step)
    whole = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64) * (1 + step % 3)
    return whole[rank * ROWS // world : (rank + 1) * ROWS // world]


# Clips the gradients of a model that this optimizer trains.
Clip: TypeAlias = Callable[[nn.Module, Any], Any]


def clip_by_torch(model: nn.Module, optimizer: Any) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.5)


def clip_by_optimizer(model: nn.Module, optimizer: Any) -> None:
    optimizer.clip_grad_norm_(1.5)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    *,
    rank: int = 0,
    world: int = 1,
    clip: Clip = clip_by_torch,
    unsynchronized: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Two microbatches a step, and the gradient clipped.

    `rank` and `world` split the batch; `unsynchronized` is what all backward passes but the last
    of a step run in.
    """
    for step in steps:
        optimizer.zero_grad()
        parts = inputs_of(step, rank, world).to(next(model.parameters()).device).chunk(2)
        for i, part in enumerate(parts):
            with nullcontext() if i == len(parts) - 1 else unsynchronized():
                (model(part, step >= FROM).square().mean() / len(parts)).backward()
        clip(model, optimizer)
        optimizer.step()


def full(value: Any) -> Any:
    """A DTensor gathered from all ranks; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def assert_same_everywhere(value: Tensor) -> None:
    """Every rank has these very bits."""
    value = value.detach().contiguous()
    everyone = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, value)
    assert all(torch.equal(value, other) for other in everyone), "the ranks went apart"


def assert_close_state(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    """The state of one parameter, whole, against that of one process."""
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        mine = full(ours[key]).to(value.device)
        assert mine.dtype == value.dtype, key
        tolerance = {"rtol": 1e-2, "atol": 1e-6} if value.dtype is torch.bfloat16 else CLOSE
        torch.testing.assert_close(mine, value, **tolerance, msg=lambda text, k=key: f"{k}: {text}")
