"""Tensors that are spread over a device mesh (DTensor), and plain ones, seen alike.

All maths here runs on each rank's own part; what is kept as state is a DTensor sharded like its
parameter, so that checkpoints and resharding treat it as they treat the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PLAIN = (Tensor, torch.nn.Parameter)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; asked by attribute, as torch.distributed may be absent."""
    return type(tensor) not in PLAIN and hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, sharing its storage; a plain tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def locals_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`local` of each."""
    return [local(tensor) for tensor in tensors]


def like(reference: Tensor, part: Tensor) -> Tensor:
    """`part`, of the reference's local shape, made a DTensor if the reference is one."""
    if not is_sharded(reference):
        return part
    return _from_local(reference, part, _placements(reference), reference.shape)


def stacked_like(reference: Tensor, part: Tensor) -> Tensor:
    """`part`, of shape (C, *local shape), made a DTensor sharded one dimension further."""
    if not is_sharded(reference):
        return part
    placements = [_shifted(placement) for placement in _placements(reference)]
    return _from_local(reference, part, placements, (part.shape[0], *reference.shape))


def gradient(parameter: Tensor) -> Tensor | None:
    """This rank's part of the gradient, or None.

    A DTensor's gradient may still be a sum that is spread over the ranks, or be laid out otherwise
    than the parameter: it is brought to the parameter's layout first, as arithmetic between the two
    would do.
    """
    return None if parameter.grad is None else local_gradient(parameter, parameter.grad)


def local_gradient(parameter: Tensor, grad: Tensor) -> Tensor:
    """`gradient` of a parameter that has this one."""
    if is_sharded(parameter) and _placements(grad) != _placements(parameter):
        grad = grad.redistribute(placements=_placements(parameter))  # type: ignore[attr-defined]
    return local(grad)


def sum_over_mesh(reference: Tensor, value: Tensor) -> Tensor:
    """Sum a plain tensor, in place, over the ranks that hold different parts of a DTensor."""
    mesh = reference.device_mesh  # type: ignore[attr-defined]
    for dimension in _sharding_dimensions(reference):
        sum_over_group(mesh.get_group(dimension), value)
    return value


def shards_of(reference: Tensor) -> int:
    """Over how many ranks `sum_over_mesh` sums."""
    mesh = reference.device_mesh  # type: ignore[attr-defined]
    return math.prod(mesh.size(dimension) for dimension in _sharding_dimensions(reference))


def sum_over_group(group: Any, value: Tensor) -> Tensor:
    """Sum a plain tensor, in place, over the ranks of a process group."""
    import torch.distributed as dist

    carried = value
    if value.device.type == "cpu" and dist.get_backend(group) == "nccl":
        carried = value.cuda()
    dist.all_reduce(carried, group=group)
    return value if carried is value else value.copy_(carried)


def is_offloaded(tensor: Tensor) -> bool:
    """Whether a DTensor's part lies on another kind of device than its mesh."""
    if not is_sharded(tensor):
        return False
    kind: str = tensor.device_mesh.device_type  # type: ignore[attr-defined]
    return local(tensor).device.type != kind


def mesh_key(tensor: Tensor) -> Any:
    """Tensors with equal keys can be summed over the mesh together; None for plain ones."""
    if not is_sharded(tensor):
        return None
    return tensor.device_mesh, tuple(p.is_replicate() for p in _placements(tensor))  # type: ignore[attr-defined]


def _sharding_dimensions(tensor: Tensor) -> list[int]:
    """Dimensions of the mesh along which ranks hold different parts."""
    return [i for i, p in enumerate(_placements(tensor)) if not p.is_replicate()]


def _placements(tensor: Tensor) -> Sequence[Any]:
    placements: Sequence[Any] = tensor.placements  # type: ignore[attr-defined]
    return placements


def _shifted(placement: Any) -> Any:
    from torch.distributed.tensor import Shard

    if not hasattr(placement, "dim"):
        return placement
    if type(placement) is Shard:
        return Shard(placement.dim + 1)
    # Two-dimensional parallelism shards one dimension twice, in an order this placement records;
    # it is no Shard, nor says that it is one.
    return type(placement)(placement.dim + 1, split_factor=placement.split_factor)


def _from_local(
    reference: Tensor, part: Tensor, placements: Sequence[Any], shape: Sequence[int]
) -> Tensor:
    from torch.distributed.tensor import DTensor

    whole = torch.Size(shape)
    stride = torch.empty(whole, device="meta").stride()
    mesh = reference.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=whole, stride=stride)
