"""Trains on two processes with sharded parameters and compares with one: `... worker.py FOLDER`."""

from __future__ import annotations

import copy
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import gradmem

WORLD = 2
STEPS = 12
CASES = [
    ("adam_c", {"capacity": 3, "decay": 0.95}),
    ("adamw_c", {"capacity": 3, "scope": "tensor", "norm": "sum", "max_age": 2}),
    ("sgd_c", {"capacity": 3, "momentum": 0.9, "policy": "fifo"}),
    ("rmsprop_c", {"capacity": 3, "scope": "group", "norm": "sum", "centered": True}),
]


def build() -> nn.Module:
    torch.manual_seed(0)
    # Odd sizes: the shards of the two processes differ, and one tensor lies on one process alone.
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double()


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64) * (1 + step % 3)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def check(name: str, options: dict, folder: str) -> None:
    plain, model = build(), build()
    fully_shard(model)
    reference = gradmem.create(name, plain.parameters(), lr=0.01, **options)
    optimizer = gradmem.create(name, model.parameters(), lr=0.01, **options)
    train(plain, reference, range(STEPS))
    train(model, optimizer, range(STEPS))
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.full_tensor(), p.detach(), rtol=1e-10, atol=1e-12)
        state, other = reference.state[p], optimizer.state[q]
        assert state.keys() == other.keys()
        assert other["memory_slots"].to_local().shape[1:] == q.to_local().shape
        for key in state:
            torch.testing.assert_close(full(other[key]), state[key], rtol=1e-10, atol=1e-12)

    # Saved by two processes, loaded into a fresh optimizer, continued: bit for bit.
    path = f"{folder}/{name}"
    saved = get_optimizer_state_dict(model, optimizer)
    dcp.save(saved, checkpoint_id=path)
    twin = build()
    fully_shard(twin)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = gradmem.create(name, twin.parameters(), lr=0.01, **options)
    loaded = get_optimizer_state_dict(twin, resumed)
    dcp.load(loaded, checkpoint_id=path)
    set_optimizer_state_dict(twin, resumed, loaded)
    train(model, optimizer, range(STEPS, 2 * STEPS))
    train(twin, resumed, range(STEPS, 2 * STEPS))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.to_local(), q.to_local())
        for key, value in optimizer.state[p].items():
            assert torch.equal(full(value), full(resumed.state[q][key])), key


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    for name, options in CASES:
        check(name, options, folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(worker, args=(sys.argv[1],), nprocs=WORLD)
