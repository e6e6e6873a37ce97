"""Trains on two processes with sharded parameters and compares with one: `... worker.py FOLDER`."""

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
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gradmem

WORLD = 2
STEPS = 12
CASES = [
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


def check_aggmo_alone() -> None:
    plain, model = build(), build()
    fully_shard(model)
    reference = gradmem.AggMo(plain.parameters(), lr=0.01)
    optimizer = gradmem.AggMo(model.parameters(), lr=0.01)
    train(plain, reference, range(STEPS))
    train(model, optimizer, range(STEPS))
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.full_tensor(), p.detach(), rtol=1e-10, atol=1e-12)
        velocity = optimizer.state[q]["velocity"]
        assert velocity.to_local().shape[1:] == q.to_local().shape
        expected = reference.state[p]["velocity"]
        torch.testing.assert_close(velocity.full_tensor(), expected, rtol=1e-10, atol=1e-12)


def check_partial_gradients() -> None:
    """A gradient that is still a sum over the ranks is summed first, as torch's optimizers do."""
    mesh = init_device_mesh("cpu", (WORLD,))
    inputs = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
    trained = []
    for make in (torch.optim.SGD, lambda p, lr: gradmem.SGD_C(p, lr=lr, capacity=0), gradmem.SGD_C):
        weight = nn.Parameter(distribute_tensor(torch.ones(2, 1).double(), mesh, [Replicate()]))
        optimizer = make([weight], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            batch = distribute_tensor(inputs, mesh, [Shard(0)])
            (batch @ weight).square().mean().backward()
            assert weight.grad.placements[0].is_partial()
            optimizer.step()
        everyone = [torch.empty(2, 1).double() for _ in range(WORLD)]
        dist.all_gather(everyone, weight.to_local().detach())
        assert torch.equal(*everyone), "the ranks went apart"
        trained.append(weight.to_local().detach())
    assert torch.equal(trained[0], trained[1]), "switched off, it is torch's"
    assert not torch.equal(trained[0], trained[2])


def check_two_dimensional() -> None:
    """Tensor parallel and FSDP2 together shard a dimension twice; a slot must be laid out alike."""
    mesh = init_device_mesh("cpu", (WORLD, 1), mesh_dim_names=("dp", "tp"))
    model = build()
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    optimizer = gradmem.SGD_C(model.parameters(), lr=0.01, capacity=2)
    train(model, optimizer, range(1))
    weight = model[0].weight
    assert not any(type(placement) is Replicate for placement in weight.placements)
    slots = optimizer.state[weight]["memory_slots"]
    torch.testing.assert_close(slots.full_tensor()[0], weight.grad.full_tensor())


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    for name, options in CASES:
        check(name, options, folder)
    check_aggmo_alone()
    check_partial_gradients()
    check_two_dimensional()
    dist.barrier()
    dist.destroy_process_group()
    # All checks are done; gloo's threads now and then abort in the interpreter's shutdown.
    os._exit(0)


if __name__ == "__main__":
    torch.multiprocessing.spawn(worker, args=(sys.argv[1],), nprocs=WORLD)
