"""Proximal steps on two processes with sharded parameters, against one: `... worker.py FOLDER`."""

from __future__ import annotations

import copy
import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import gradmem
from gradmem.proximal import Groups, ProximalOptimizer

WORLD = 2
STEPS = 10
CASES = [
    (torch.optim.Adam, {"eps": 0.1, "amsgrad": True}, {"penalty": 1.0}),
    (torch.optim.SGD, {"momentum": 0.5}, {"penalty": 1.0, "regularizer": "group_mcp"}),
    (gradmem.RMSprop_C, {"centered": True}, {"penalty": 2.0, "regularizer": "group_linf"}),
    (gradmem.AdamW_C, {}, {"penalty": 1.0, "metric": "plain"}),
]


def build() -> nn.Module:
    torch.manual_seed(0)
    # Odd sizes: the shards of the two processes differ, and one tensor lies on one process alone.
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4), nn.Linear(4, 1)).double()


def cuts(model: nn.Module) -> dict[torch.Tensor, Groups]:
    """Rows, which lie on one process each; columns and a view, which lie across; a vector."""
    return {
        model[0].weight: Groups(0),
        model[0].bias: Groups(0),
        model[2].weight: Groups(1),
        model[2].bias: Groups(1, view=(2, 2)),
        model[3].weight: Groups(0),
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (model(inputs).squeeze(1) - inputs[:, 0]).square().mean().backward()
        optimizer.step()


def check(index: int, folder: str) -> None:
    cls, kwargs, options = CASES[index]
    plain, model = build(), build()
    fully_shard(model)
    reference = ProximalOptimizer(
        cls(plain.parameters(), lr=0.02, **kwargs), groups=cuts(plain), **options
    )
    optimizer = ProximalOptimizer(
        cls(model.parameters(), lr=0.02, **kwargs), groups=cuts(model), **options
    )
    train(plain, reference, range(STEPS))
    train(model, optimizer, range(STEPS))
    found = 0
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.full_tensor(), p.detach(), rtol=1e-10, atol=1e-12)
        assert torch.equal(q.full_tensor() == 0, p == 0)
        found += int((p == 0).sum())
    assert 0 < found < sum(p.numel() for p in plain.parameters()), found
    torch.testing.assert_close(optimizer.penalty_value(), reference.penalty_value())

    # Saved by two processes, loaded into a fresh optimizer, continued: bit for bit.
    path = f"{folder}/{index}"
    dcp.save(get_optimizer_state_dict(model, optimizer), checkpoint_id=path)
    twin = build()
    fully_shard(twin)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = ProximalOptimizer(
        cls(twin.parameters(), lr=0.02, **kwargs), groups=cuts(twin), **options
    )
    loaded = get_optimizer_state_dict(twin, resumed)
    dcp.load(loaded, checkpoint_id=path)
    set_optimizer_state_dict(twin, resumed, loaded)
    train(model, optimizer, range(STEPS, STEPS + 3))
    train(twin, resumed, range(STEPS, STEPS + 3))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.to_local(), q.to_local())


def check_columns() -> None:
    """Tensor parallel: a matrix cut by columns has whole columns, and parts of rows."""
    mesh = init_device_mesh("cpu", (WORLD,))
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    for placement in (Shard(0), Shard(1), Replicate()):
        for groups in (Groups(0), Groups(1), Groups(1, view=(2, 3, 4))):
            plain = nn.Parameter(weight.clone())
            spread = nn.Parameter(distribute_tensor(weight, mesh, [placement]))
            for p in (plain, spread):
                base = torch.optim.Adam([p], lr=0.1, eps=0.5)
                optimizer = ProximalOptimizer(base, penalty=1.5, groups={p: groups})
                for _ in range(3):
                    p.grad = 0.1 * p.detach().clone()
                    optimizer.step()
            torch.testing.assert_close(spread.full_tensor(), plain.detach())
            assert torch.equal(spread.full_tensor() == 0, plain == 0)
            assert spread.placements == (placement,)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    for index in range(len(CASES)):
        check(index, folder)
    check_columns()
    dist.barrier()
    dist.destroy_process_group()
    # All checks are done; gloo's threads now and then abort in the interpreter's shutdown.
    os._exit(0)


if __name__ == "__main__":
    torch.multiprocessing.spawn(worker, args=(sys.argv[1],), nprocs=WORLD)
