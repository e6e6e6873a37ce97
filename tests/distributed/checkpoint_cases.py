"""What `checkpoint_worker.py` saves: optimizers around a small model, and how two are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

import gradmem
from gradmem.memory.ledger import CALLS

SAVED, LATE, END = 10, 12, 24  # steps: of the save, of a parameter's first gradient, the last
Make = Callable[[Any], Optimizer]


def named(name: str, **options: Any) -> Make:
    return lambda params: gradmem.create(name, params, lr=0.01, **options)


def augmented(base: type[Optimizer], **options: Any) -> Make:
    return lambda params: gradmem.MemoryAugmented(base(params, lr=0.01), **options)


def grouped(params: Any) -> Optimizer:
    """Two groups of one memory; nothing of the second has a gradient until `LATE`."""
    params = list(params)
    used, unused = params[:4], params[4:]
    groups = [{"params": used}, {"params": unused, "weight_decay": 0.1}]
    return gradmem.AdamW_C(groups, lr=0.01, capacity=3, decay=0.95)


CASES: dict[str, Make] = {
    "adam_c": named("adam_c", capacity=3, decay=0.95),
    "adamw_c": named("adamw_c", capacity=3, scope="tensor", norm="sum", max_age=2),
    "sgd_c": named("sgd_c", capacity=3, momentum=0.9, policy="fifo"),
    "adam_cm": named("adam_cm", capacity=3, decay=0.95, aggregate="max_mean"),
    "fused": named("adam_c", capacity=3, decay=0.95, fused=True, memory_dtype="bfloat16"),
    "grouped": grouped,
    "augmented": augmented(torch.optim.Adam, capacity=3, decay=0.95, memory_dtype="bfloat16"),
    # Its own state is empty: the memory's is all there is.
    "augmented_sgd": augmented(torch.optim.SGD, capacity=3, decay=0.95, scope="group"),
}
# All but that one: saved once more before a step, its unused parameters have a memory of zeros.
RESHARDED = {name: make for name, make in CASES.items() if name != "augmented_sgd"}


class Model(nn.Module):
    """Odd sizes: shards differ, and tensors of one row or three lie on some processes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 7)
        self.outer = nn.Linear(7, 1)
        self.late = nn.Linear(5, 3, bias=False)
        self.never = nn.Linear(3, 2)

    def forward(self, inputs: Tensor, late: bool) -> Tensor:
        outputs = self.outer(self.inner(inputs).tanh())
        return outputs + self.late(inputs).sum(1, keepdim=True) if late else outputs


def build(make: Make, sharded: bool = True) -> tuple[Model, Optimizer]:
    torch.manual_seed(0)
    model = Model().double()
    if sharded:
        fully_shard(model)
    return model, make(model.parameters())


def train(model: Model, optimizer: Optimizer, steps: range) -> None:
    """Every process of a sharded model takes its part of the batch."""
    sharded = isinstance(model.inner.weight, DTensor)
    rank, world = (dist.get_rank(), dist.get_world_size()) if sharded else (0, 1)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64) * (1 + step % 3)
        optimizer.zero_grad()
        model(inputs[rank::world], late=step >= LATE).square().mean().backward()
        optimizer.step()


def tensors(model: Model, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Name, parameter and tensor of all there is, the parameters themselves included."""
    memory = getattr(optimizer, "memory_state", {})
    for name, p in model.named_parameters():
        yield name, p, p.detach()
        for key, value in {**optimizer.state.get(p, {}), **memory.get(p, {})}.items():
            yield f"{name}.{key}", p, value


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(model: Model, optimizer: Optimizer) -> dict[str, Tensor]:
    """All there is, put together and copied."""
    check_sharding(model, optimizer)
    return {name: full(value).clone() for name, _, value in tensors(model, optimizer)}


def check_sharding(model: Model, optimizer: Optimizer) -> None:
    """No process holds more of a slot than of its parameter."""
    for name, p, value in tensors(model, optimizer):
        per_element = value.dim() > 0 and value.shape[-p.dim() :] == p.shape
        assert isinstance(value, DTensor) == (isinstance(p, DTensor) and per_element), name
        if isinstance(value, DTensor):
            local, part = value.to_local(), p.to_local()
            lead = value.shape[:1] if name.endswith("memory_slots") else ()
            assert local.shape == (*lead, *part.shape), name
            if "memory" in name:  # FSDP2's own may be padded
                assert local.untyped_storage().nbytes() == local.nbytes, name


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same keys, types and bits."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(counted(name, found[name]), counted(name, tensor)), name


def check_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same decisions, and equal but for rounding."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        if tensor.dtype is torch.int64:
            assert torch.equal(counted(name, found[name]), counted(name, tensor)), name
        else:
            torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


def counted(name: str, tensor: Tensor) -> Tensor:
    """Without the number of calls: torch makes the state of an optimizer that seems to have none by
    a step with gradients of zero, whenever it is asked for; that changes nothing else.
    """
    return tensor[:CALLS] if name.endswith("memory_counters") else tensor


def undisturbed(make: Make) -> dict[str, Tensor]:
    """What one process that was never stopped has in the end."""
    model, optimizer = build(make, sharded=False)
    train(model, optimizer, range(END))
    return whole(model, optimizer)
