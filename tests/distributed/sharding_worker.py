"""Sharded parameters (DTensor) against one process: FSDP2, HSDP, tensor parallel, and mixtures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gradmem
from processes import in_group
from training import (
    CLOSE,
    assert_close_state,
    assert_same_everywhere,
    build,
    clip_by_optimizer,
    clip_by_torch,
    full,
    groups,
    train,
)

STEPS = 12
CASES: list[tuple[str, dict[str, Any]]] = [
    ("adam_c", {"capacity": 3, "decay": 0.95}),
    ("adamw_c", {"capacity": 3, "scope": "tensor", "norm": "sum", "max_age": 2}),
    ("sgd_c", {"capacity": 3, "momentum": 0.9, "policy": "fifo"}),
    ("rmsprop_c", {"capacity": 3, "scope": "group", "norm": "sum", "centered": True}),
    ("nadam_c", {"capacity": 3, "aggregate": "sum", "policy": "cosine_similar", "seed": 7}),
    ("radam_c", {"capacity": 3, "betas": (0.8, 0.9), "policy": "reservoir", "aggregate": "max"}),
    ("adagrad_c", {"capacity": 3, "decay": 0.9, "initial_accumulator_value": 0.1}),
    ("aggmo_c", {"capacity": 3, "weight_decay": 0.1}),
    ("adam_cm", {"capacity": 3, "decay": 0.95, "amsgrad": True, "aggregate": "max_mean"}),
    ("sgd_cm", {"capacity": 3, "scope": "tensor", "policy": "cosine_diverse"}),
    ("adam_c", {"capacity": 3, "decay": 0.95, "fused": True, "memory_dtype": "bfloat16"}),
    ("rmsprop_c", {"capacity": 3, "fused": True, "aggregate": "median", "momentum": 0.9}),
    ("adam_cm", {"capacity": 3, "fused": True, "scope": "tensor"}),
]
SOME = [CASES[i] for i in (0, 3, 4, 8, 10)]


def create(name: str, model: nn.Module, options: dict[str, Any]) -> torch.optim.Optimizer:
    return gradmem.create(name, groups(model), lr=0.01, **options)


def without_sync(model: Any) -> Any:
    @contextmanager
    def block() -> Iterator[None]:
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)

    return block


def compare(model: nn.Module, name: str, options: dict[str, Any], **how: Any) -> None:
    """Train a model that is spread over the ranks, and one that is not; all must be the same."""
    alone = build()
    reference, optimizer = create(name, alone, options), create(name, model, options)
    train(alone, reference, range(STEPS))
    train(model, optimizer, range(STEPS), **how)
    for p, q in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(full(q.detach()).cpu(), p.detach(), **CLOSE)
        state = optimizer.state[q]
        assert_close_state(state, reference.state[p])
        if state:
            part = q.to_local() if hasattr(q, "to_local") else q
            slots = state["memory_slots"]
            slots = slots.to_local() if hasattr(slots, "to_local") else slots
            assert slots.shape[1:] == part.shape, "a rank holds its own part of a slot alone"
            for key in ("memory_priority", "memory_birth", "memory_counters"):
                assert_same_everywhere(state[key])


def check_fsdp(device: torch.device) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    for i, (name, options) in enumerate(CASES):
        model = build().to(device)
        fully_shard(model)
        how = {"rank": rank, "world": world, "unsynchronized": without_sync(model)}
        compare(model, name, options, clip=(clip_by_torch, clip_by_optimizer)[i % 2], **how)


def check_hsdp(device: torch.device) -> None:
    """Copies of sharded models: sums go over one dimension of the mesh, not over the other."""
    mesh = init_device_mesh(device.type, (2, 2), mesh_dim_names=("copies", "shards"))
    for name, options in SOME:
        model = build().to(device)
        fully_shard(model, mesh=mesh)
        how = {"rank": dist.get_rank(), "world": 4, "unsynchronized": without_sync(model)}
        compare(model, name, options, **how)


def check_tensor_parallel(device: torch.device) -> None:
    """Some parameters sharded by column or row, the others plain and alike on every rank."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for name, options in SOME:
        model = build().to(device)
        parallelize_module(model, mesh, {"first": ColwiseParallel(output_layouts=Replicate())})
        kinds = {hasattr(p, "to_local") for p in model.parameters()}
        assert kinds == {True, False}
        # torch has no norm over sharded and plain gradients together.
        compare(model, name, options, clip=clip_by_optimizer)


def check_mixed_decisions(device: torch.device) -> None:
    """Plain gradients that differ in their last digits must not part the ranks' decisions."""
    rank = dist.get_rank()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = torch.ones(8, 3, dtype=torch.float64, device=device)
    for norm in ("l2", "sum"):
        sharded = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
        plain = nn.Parameter(torch.ones(3, dtype=torch.float64, device=device))
        optimizer = gradmem.SGD_C([sharded, plain], lr=0.0, capacity=1, decay=1.0, norm=norm)
        for step in range(20):
            # A tie but for rounding, which falls otherwise on every rank.
            sharded.grad = distribute_tensor(whole, mesh, [Shard(0)])
            plain.grad = torch.ones_like(plain) * (1 + ((step + rank) % 3 - 1) * 1e-15)
            optimizer.step()
            for key in ("memory_birth", "memory_priority"):
                assert_same_everywhere(optimizer.state[plain][key])
        exact = {"l2": (24 + 3) ** 0.5, "sum": 24**0.5 + 3**0.5}[norm]
        assert abs(optimizer.memory_report().scopes[0].norms[0] - exact) < 1e-12


def check_aggmo_alone(device: torch.device) -> None:
    alone, model = build(), build().to(device)
    fully_shard(model)
    reference = gradmem.AggMo(alone.parameters(), lr=0.01)
    optimizer = gradmem.AggMo(model.parameters(), lr=0.01)
    train(alone, reference, range(STEPS))
    train(model, optimizer, range(STEPS), rank=dist.get_rank(), world=dist.get_world_size())
    for p, q in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.full_tensor().cpu(), p.detach(), **CLOSE)
        assert_close_state(optimizer.state[q], reference.state[p])


def check_partial_gradients(device: torch.device) -> None:
    """A gradient that is still a sum over the ranks is summed first, as torch's optimizers do."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    inputs = torch.arange(8.0, dtype=torch.float64, device=device).reshape(4, 2)
    trained = []
    for make in (torch.optim.SGD, lambda p, lr: gradmem.SGD_C(p, lr=lr, capacity=0), gradmem.SGD_C):
        start = torch.ones(2, 1, dtype=torch.float64, device=device)
        weight = nn.Parameter(distribute_tensor(start, mesh, [Replicate()]))
        optimizer = make([weight], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            batch = distribute_tensor(inputs, mesh, [Shard(0)])
            (batch @ weight).square().mean().backward()
            assert weight.grad.placements[0].is_partial()
            optimizer.step()
        assert_same_everywhere(weight.to_local())
        trained.append(weight.to_local().detach())
    assert torch.equal(trained[0], trained[1]), "switched off, it is torch's"
    assert not torch.equal(trained[0], trained[2])


def check_swapped_parameters(device: torch.device) -> None:
    """What is refused of sharded parameters is refused too when a trainer puts them in later."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = torch.ones(8, 3, dtype=torch.float64, device=device)
    for options in ({"memory_dtype": "int8"}, {"memory_device": "cpu"}):
        optimizer = gradmem.SGD_C([nn.Parameter(whole)], lr=0.1, **options)
        sharded = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
        optimizer.param_groups[0]["params"] = [sharded]
        sharded.grad = distribute_tensor(whole, mesh, [Shard(0)])
        with pytest.raises(gradmem.OptionError, match="sharded"):
            optimizer.step()


def check_two_dimensional(device: torch.device) -> None:
    """Tensor parallel and FSDP2 together shard a dimension twice; a slot must be laid out alike."""
    world = dist.get_world_size()
    mesh = init_device_mesh(device.type, (2, world // 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    hidden = 7 if world == 2 else 8  # torch's tensor parallel wants equal shards
    model = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 1)).double().to(device)
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    optimizer = gradmem.SGD_C(model.parameters(), lr=0.01, capacity=2)
    model(torch.ones(4, 5, dtype=torch.float64, device=device)).square().mean().backward()
    optimizer.step()
    weight = model[0].weight
    assert not any(type(placement) is Replicate for placement in weight.placements)
    slots = optimizer.state[weight]["memory_slots"]
    torch.testing.assert_close(slots.full_tensor()[0], weight.grad.full_tensor())
    (norm,) = optimizer.memory_report().scopes[0].norms
    squares = sum(p.grad.full_tensor().square().sum().item() for p in model.parameters())
    assert abs(norm - squares**0.5) < 1e-12


def work(device: torch.device) -> None:
    check_fsdp(device)
    check_tensor_parallel(device)
    check_mixed_decisions(device)
    check_partial_gradients(device)
    check_swapped_parameters(device)
    check_two_dimensional(device)
    if dist.get_world_size() == 4:
        check_hsdp(device)
    else:
        check_aggmo_alone(device)


if __name__ == "__main__":
    in_group(work)
