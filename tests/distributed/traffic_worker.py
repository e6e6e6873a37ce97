"""What ranks say to each other in a step, and what each keeps, against benchmarks/scale.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import gradmem
from processes import in_group
from training import full

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scale

Make = Callable[..., torch.optim.Optimizer]
TENSORS = 4
# The optimizer, and what `scale.numbers_reduced` is told of it; None for nothing that is shared.
CASES: dict[str, tuple[Make, dict[str, Any] | None]] = {
    "Adam": (torch.optim.Adam, None),
    "switched off": (lambda p: gradmem.Adam_C(p, capacity=0), None),
    "Adam_C": (gradmem.Adam_C, {"ledgers": 1}),
    "fused": (lambda p: gradmem.Adam_C(p, fused=True), {"ledgers": 1}),
    "random": (lambda p: gradmem.SGD_C(p, policy="random"), {"ledgers": 1}),
    "scope tensor": (lambda p: gradmem.Adam_C(p, scope="tensor"), {"ledgers": TENSORS}),
    "scope group": (
        lambda p: gradmem.SGD_C([{"params": q} for q in p], scope="group"),
        {"ledgers": TENSORS},
    ),
    "norm sum": (lambda p: gradmem.Adam_C(p, norm="sum"), {"ledgers": 1, "tensors": TENSORS}),
    "norm sum of momenta": (
        lambda p: gradmem.SGD_CM(p, norm="sum"),
        {"ledgers": 1, "tensors": TENSORS, "critical": True},
    ),
    "Adam_CM": (gradmem.Adam_CM, {"ledgers": 1, "critical": True}),
    "SGD_CM": (gradmem.SGD_CM, {"ledgers": 1, "critical": True}),
    "Adam_CM, fused": (
        lambda p: gradmem.Adam_CM(p, fused=True),
        {"ledgers": 1, "critical": True},
    ),
    "cosine_diverse": (
        lambda p: gradmem.Adam_C(p, policy="cosine_diverse"),
        {"ledgers": 1, "directional": True},
    ),
    "mean_diverse of momenta": (
        lambda p: gradmem.Adam_CM(p, policy="mean_diverse", scope="tensor"),
        {"ledgers": TENSORS, "critical": True, "directional": True},
    ),
    "wrapped": (
        lambda p: gradmem.MemoryAugmented(torch.optim.Adam(p)),
        {"ledgers": 1},
    ),
}


def network(device: torch.device, hidden: int = 32, out: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, out)).to(device)


class Traffic(TorchDispatchMode):
    """Every collective that is called: its name, and the bytes of its largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace in ("c10d", "_c10d_functional"):
            given = [a for arg in args for a in (arg if isinstance(arg, (list, tuple)) else [arg])]
            given = [b for a in given for b in (a if isinstance(a, (list, tuple)) else [a])]
            sizes = [tensor.nbytes for tensor in given if isinstance(tensor, torch.Tensor)]
            if sizes:  # waiting for one has none
                self.seen.append((func._schema.name.split("::")[1], max(sizes)))
        return func(*args, **(kwargs or {}))

    def of(self, name: str) -> list[int]:
        return [size for kind, size in self.seen if name in kind]


@contextmanager
def watched() -> Iterator[Traffic]:
    with Traffic() as traffic:
        yield traffic


def backward(model: nn.Module, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(dist.get_rank())
    model(torch.randn(4, 8, generator=generator).to(device)).square().mean().backward()


def steps_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, count: int = 3
) -> list[list[tuple[str, int]]]:
    """What each step calls, the first among them, which makes the state."""
    seen = []
    for _ in range(count):
        optimizer.zero_grad()
        backward(model, device)
        with watched() as traffic, CommDebugMode() as mode:
            optimizer.step()
        assert mode.get_total_counts() == len(traffic.seen)  # torch counts the same
        seen.append(traffic.seen)
    return seen


def expected(told: dict[str, Any] | None, times: int = 1) -> list[tuple[str, int]]:
    numbers = [] if told is None else scale.numbers_reduced(**told)
    return [("allreduce_", 8 * count) for count in numbers for _ in range(times)]


def check_sharded(device: torch.device) -> None:
    """One list of all-reduces for a dimension that shards; none for one that replicates."""
    both = init_device_mesh(device.type, (1, 2), mesh_dim_names=("replicate", "shard"))
    for name, (make, told) in CASES.items():
        for mesh in (init_device_mesh(device.type, (2,)), both):
            model = network(device)
            fully_shard(model, mesh=mesh)
            optimizer = make(model.parameters())
            for seen in steps_of(model, optimizer, device):
                assert seen == expected(told), f"{name}, {mesh}: {seen}"


def check_the_wire(device: torch.device) -> None:
    """The profiler sees gloo itself at work, with the same sizes."""
    model = network(device)
    fully_shard(model)
    optimizer = gradmem.Adam_CM(model.parameters(), policy="mean_diverse")
    backward(model, device)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        optimizer.step()
    events = [event for event in profiler.events() if event.name == "gloo:all_reduce"]
    if dist.get_backend() == "gloo":
        assert [event.input_shapes for event in events] == [[[2, 1]], [[3, 1]]]


def check_two_dimensions(device: torch.device) -> None:
    """FSDP2 over tensor parallelism: two all-reduces for tensors that both shard, and one for a
    bias that tensor parallelism replicates.
    """
    mesh = init_device_mesh(device.type, (2, 1), mesh_dim_names=("dp", "tp"))
    model = network(device)
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    optimizer = gradmem.Adam_C(model.parameters())
    for seen in steps_of(model, optimizer, device):
        assert seen == expected({"ledgers": 1}, times=3), seen


def check_replicas(device: torch.device) -> None:
    """DDP's steps say nothing; ZeRO-1's are its broadcasts, and one sum if they decide together."""
    for name, (make, _) in CASES.items():
        model = DistributedDataParallel(network(device))
        for seen in steps_of(model, make(model.parameters()), device):
            assert seen == [], f"{name}: {seen}"

    def zero(make: Make, **options: Any) -> Any:
        model = DistributedDataParallel(network(device))
        return model, ZeroRedundancyOptimizer(model.parameters(), make, **options)

    plain = steps_of(*zero(torch.optim.Adam), device)[-1]
    assert {kind for kind, _ in plain} == {"broadcast_"}
    assert sum(size for _, size in plain) == 4 * scale.elements(shapes_of(network(device)))
    kinds: list[tuple[Make, dict[str, Any], dict[str, Any] | None]] = [
        (gradmem.Adam_C, {}, {"ledgers": 1}),
        (gradmem.Adam_CM, {}, {"ledgers": 1, "critical": True}),
        (gradmem.SGD_C, {"policy": "cosine_similar"}, {"ledgers": 1, "directional": True}),
        (gradmem.SGD_C, {"norm": "sum"}, {"ledgers": 1}),
        (gradmem.Adam_C, {"scope": "tensor"}, None),
    ]
    for make, options, told in kinds:
        apart = steps_of(*zero(make, **options), device)[-1]
        assert apart == plain, f"{make}, {options}: {apart}"
        model, optimizer = zero(make, **options)
        gradmem.decide_together(optimizer)
        for seen in steps_of(model, optimizer, device):
            sums = [call for call in seen if call[0] != "broadcast_"]
            assert sums == expected(told), f"{make}, {options}: {sums}"


def shapes_of(model: nn.Module) -> list[scale.Shape]:
    return [tuple(p.shape) for p in model.parameters()]


def most(value: int, device: torch.device) -> int:
    """The largest on any rank."""
    number = torch.tensor(value, device=device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def held(optimizer: torch.optim.Optimizer, *keys: str) -> int:
    """Bytes of these entries of the state on this rank."""
    entries = [state[key] for state in optimizer.state.values() for key in keys if key in state]
    return sum(getattr(entry, "_local_tensor", entry).nbytes for entry in entries)


def check_bytes(device: torch.device) -> None:
    """What the rank that has most holds, and that `memory_bytes` speaks of this rank's part."""
    odd = 33, 5  # no shards of equal size
    shapes = shapes_of(network(device, *odd))
    cases = [(5, None, None), (3, "bfloat16", "bfloat16"), (3, "int8", "int8"), (3, "cpu", "host")]
    for capacity, given, stored in cases:
        options: dict[str, Any] = {"capacity": capacity}
        options["memory_device" if given == "cpu" else "memory_dtype"] = given
        for layout in ("ddp", "zero1", "fsdp"):
            if layout == "fsdp" and given in ("int8", "cpu"):
                continue  # refused
            model = network(device, *odd)
            if layout == "fsdp":
                fully_shard(model)
            wrapped = model if layout == "fsdp" else DistributedDataParallel(model)
            if layout == "zero1":
                outer: Any = ZeroRedundancyOptimizer(model.parameters(), gradmem.Adam_C, **options)
                optimizer = outer.optim
            else:
                outer = optimizer = gradmem.Adam_C(model.parameters(), **options)
            steps_of(wrapped, outer, device, count=1)
            cost = scale.bytes_of(shapes, layout, 2, capacity=capacity, stored=stored)
            own = [p for group in optimizer.param_groups for p in group["params"]]
            said = gradmem.memory_bytes(own, capacity, memory_dtype=options.get("memory_dtype"))
            where = f"{layout}, {options}"
            assert said.total == optimizer.memory_report().bytes, where
            slots = most(held(optimizer, "memory_slots", "memory_scales"), device)
            assert slots == cost.slots + cost.host, where
            assert most(held(optimizer, "memory_sum"), device) == cost.sums, where
            assert most(held(optimizer, "exp_avg", "exp_avg_sq"), device) == cost.moments, where
            parts = [getattr(p, "_local_tensor", p).nbytes for p in model.parameters()]
            assert most(sum(parts), device) == cost.parameters == cost.gradients, where


def check_training(device: torch.device) -> None:
    """What training itself sends: the formulas that the memory's share is taken of."""
    ranks = dist.get_world_size()
    model = network(device)
    count = scale.elements(shapes_of(model))
    for layer in (model[0], model[2]):
        fully_shard(layer, reshard_after_forward=True)
    fully_shard(model)
    with watched() as traffic:
        backward(model, device)
    gathered, scattered = traffic.of("allgather"), traffic.of("reduce_scatter")
    sent = sum(scale.sent_in_all_gather(size, ranks) for size in [*gathered, *scattered])
    assert sent == scale.sent_in_training(count, "fsdp", ranks, moved=4), traffic.seen
    assert full(model[0].weight.grad).shape == (32, 8)

    replica = DistributedDataParallel(network(device))
    with watched() as traffic:
        backward(replica, device)
    sizes: Sequence[int] = traffic.of("allreduce")
    sent = sum(scale.sent_in_all_reduce(size, ranks) for size in sizes)
    assert sent == scale.sent_in_training(count, "ddp", ranks), traffic.seen


def check_scalers(device: torch.device) -> None:
    """An overflow that one rank alone sees leaves the step out on all, who else would wait for it.

    torch tells the ranks where parameters are sharded; where they are different parts of a model,
    its `ShardedGradScaler` does.
    """
    kind, everyone = device.type, dist.group.WORLD
    sharded, parts = network(device), network(device)
    fully_shard(sharded)
    pairs: list[tuple[nn.Module, Any, Any]] = [
        (sharded, gradmem.Adam_C(sharded.parameters()), torch.amp.GradScaler(kind)),
        (
            parts,
            gradmem.decide_together(gradmem.Adam_C(parts.parameters())),
            ShardedGradScaler(kind, process_group=everyone),
        ),
    ]
    for model, optimizer, scaler in pairs:
        scales = []
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(torch.ones((), device=device))  # it wants to have scaled something
            backward(model, device)
            if step == 2 and dist.get_rank() == 1:
                grad = next(model.parameters()).grad
                getattr(grad, "_local_tensor", grad)[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert scales == [2.0**16, 2.0**16, 2.0**15, 2.0**15]
        assert optimizer.memory_report().scopes[0].steps == 3


def work(device: torch.device) -> None:
    check_sharded(device)
    check_the_wire(device)
    check_two_dimensions(device)
    check_replicas(device)
    check_bytes(device)
    check_training(device)
    check_scalers(device)


if __name__ == "__main__":
    in_group(work)
