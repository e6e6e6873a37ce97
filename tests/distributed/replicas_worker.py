"""DistributedDataParallel, and ZeroRedundancyOptimizer over it, against one process."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import gradmem
from processes import in_group
from training import CLOSE, assert_close_state, assert_same_everywhere, build, groups, train

STEPS = 12
CASES: list[tuple[str, dict[str, Any]]] = [
    ("adam_c", {"capacity": 3, "decay": 0.95}),
    ("adamw_c", {"capacity": 3, "decay": 0.9, "fused": True, "memory_dtype": "float32"}),
    ("sgd_c", {"capacity": 3, "momentum": 0.9, "policy": "random", "seed": 5}),
    ("rmsprop_c", {"capacity": 3, "scope": "group", "norm": "sum", "centered": True}),
    ("nadam_c", {"capacity": 3, "aggregate": "sum", "policy": "cosine_similar", "seed": 7}),
    ("adam_c", {"capacity": 3, "scope": "tensor", "max_age": 2}),
    ("adam_cm", {"capacity": 3, "decay": 0.95, "amsgrad": True, "aggregate": "max_mean"}),
    ("adam_cm", {"capacity": 3, "fused": True}),
    ("adam_c", {"capacity": 0}),
]


def augmented(params: Any, lr: float) -> gradmem.MemoryAugmented:
    return gradmem.MemoryAugmented(torch.optim.Adamax(params, lr=lr), capacity=3, decay=0.9)


def create(name: str, params: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
    return gradmem.create(name, params, lr=0.01, **options)


def state_of(optimizer: Any, p: nn.Parameter) -> dict[str, Any]:
    own = getattr(optimizer, "memory_state", None)
    return dict(optimizer.state[p]) if own is None else {**optimizer.state[p], **own[p]}


def check_ddp(device: torch.device) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    for name, options in CASES:
        alone = build()
        reference = create(name, groups(alone), options)
        train(alone, reference, range(STEPS))
        model = DistributedDataParallel(
            build().to(device), find_unused_parameters=True, gradient_as_bucket_view=True
        )
        optimizer = create(name, groups(model), options)
        train(model, optimizer, range(STEPS), rank=rank, world=world, unsynchronized=model.no_sync)
        for p, q in zip(alone.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(q.cpu(), p, **CLOSE)
            assert_close_state(optimizer.state[q], reference.state[p])
            assert_same_everywhere(q)
            for value in optimizer.state[q].values():
                assert_same_everywhere(value.to(device))


def zero(model: nn.Module, make: Any, options: dict[str, Any]) -> ZeroRedundancyOptimizer:
    optimizer = ZeroRedundancyOptimizer(groups(model), make, lr=0.01, **options)
    return gradmem.decide_together(optimizer)


def check_zero(name: str, make: Any, options: dict[str, Any], device: torch.device) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = build()
    reference = make(groups(alone), lr=0.01, **options)
    train(alone, reference, range(STEPS))

    def replica() -> DistributedDataParallel:
        return DistributedDataParallel(build().to(device), find_unused_parameters=True)

    def go(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        train(model, optimizer, steps, rank=rank, world=world, unsynchronized=model.no_sync)

    model = replica()
    optimizer = zero(model, make, options)
    go(model, optimizer, range(STEPS))
    held = 0
    for p, q in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.cpu(), p, **CLOSE)
        assert_same_everywhere(q)
        if q in optimizer.optim.state:
            held += 1
            assert_close_state(state_of(optimizer.optim, q), state_of(reference, p))
    assert held < len(list(model.parameters())), "a rank has the state of its own parameters alone"

    # One rank gathers the checkpoint; all load it, and continue bit for bit.
    optimizer.consolidate_state_dict(to=0)
    box = [copy.deepcopy(optimizer.state_dict()) if rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    weights = copy.deepcopy(model.module.state_dict())
    twin = replica()
    twin.module.load_state_dict(weights)
    resumed = zero(twin, make, options)
    resumed.load_state_dict(copy.deepcopy(box[0]))
    gradmem.decide_together(resumed)
    go(model, optimizer, range(STEPS, 2 * STEPS))
    go(twin, resumed, range(STEPS, 2 * STEPS))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
        if p in optimizer.optim.state:
            ours, theirs = state_of(optimizer.optim, p), state_of(resumed.optim, q)
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name

    # One process loads it too, and has the whole memory.
    alone = build()
    alone.load_state_dict({key: value.cpu() for key, value in weights.items()})
    reference = make(groups(alone), lr=0.01, **options)
    reference.load_state_dict(box[0])
    train(alone, reference, range(STEPS, 2 * STEPS))
    for p, q in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.cpu(), p, **CLOSE)


def work(device: torch.device) -> None:
    check_ddp(device)
    for name, options in CASES:
        cls = gradmem.registry.optimizer_class(name)
        if options["capacity"]:
            check_zero(name, cls, options, device)
    check_zero("augmented", augmented, {}, device)


if __name__ == "__main__":
    in_group(work)
