"""The norm of the gradient each ledger is offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradmem.memory.formats import flat
from gradmem.memory.sharding import mesh_key, sum_over_mesh

# A float32 norm of many millions of elements loses digits (2e-4 at 8 million); blocks of this many
# are summed in float64.
BLOCK = 2**18


def ledger_norms(
    rows: Sequence[Sequence[Tensor]],
    gradients: Mapping[Tensor, Tensor],
    device: torch.device,
    *,
    l2: bool,
) -> Tensor:
    """Norm of the gradients of each row of parameters, (R,) float64 on `device`.

    `gradients` has this rank's part of the gradient of every parameter that has one; a row without
    any has the norm 0. `l2`: the L2 norm of the row's gradients together; else the sum of theirs.
    In float32 a norm above 1.8e19 counts as infinite and one below 1e-23 as zero, as squares do.
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=device)
    present = [[p for p in row if p in gradients] for row in rows]
    for alike in _by_mesh(present):
        some = [p for row in alike for p in row]
        counts = [len(row) for row in alike]
        each = squared_norms([gradients[p] for p in some], device)
        if l2:
            total += sum_over_mesh(some[0], _sum_rows(each, counts))
        else:
            total += _sum_rows(sum_over_mesh(some[0], each).sqrt(), counts)
    return total.sqrt() if l2 else total


def ledger_dots(
    rows: Sequence[Sequence[Tensor]],
    one: Mapping[Tensor, Tensor],
    other: Mapping[Tensor, Tensor],
    device: torch.device,
) -> Tensor:
    """Inner product of two vectors spread over the parameters of each row, (R,) float64.

    `one` and `other` have this rank's parts; a parameter that one of them lacks counts as zero.
    Complex numbers count as pairs of real ones.
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=device)
    for alike in _by_mesh([[p for p in row if p in one and p in other] for row in rows]):
        some = [p for row in alike for p in row]
        dots = torch.stack([_dot(one[p], other[p], device) for p in some])
        total += sum_over_mesh(some[0], _sum_rows(dots, [len(row) for row in alike]))
    return total


def _by_mesh(rows: Sequence[Sequence[Tensor]]) -> list[Sequence[Sequence[Tensor]]]:
    """Rows of those parameters alone that can be summed over the mesh together, for each kind."""
    kinds = list(dict.fromkeys(mesh_key(p) for row in rows for p in row))
    if len(kinds) == 1:
        return [rows]
    return [[[p for p in row if mesh_key(p) == kind] for row in rows] for kind in kinds]


def squared_norms(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Squared L2 norm of each tensor, (T,) float64 on `device`."""
    parts = [_blocks(tensor) for tensor in tensors]
    blocks = [block for some in parts for block in some]
    if _prefer_dots(blocks):
        squares = torch.stack([torch.dot(block, block) for block in map(flat, blocks)]).double()
    else:
        squares = _norms(blocks, device).square()
    return _sum_rows(squares, [len(some) for some in parts])


def _dot(one: Tensor, other: Tensor, device: torch.device) -> Tensor:
    """Inner product in float32 or wider by blocks, their sum in float64."""
    if one.is_complex():
        one, other = (
            torch.view_as_real(one.resolve_conj()),
            torch.view_as_real(other.resolve_conj()),
        )
    dtype = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    if one.stride() == other.stride():
        one, other = flat(one), flat(other)
    else:
        one, other = one.reshape(-1), other.reshape(-1)
    pairs = zip(torch.split(one, BLOCK), torch.split(other, BLOCK), strict=True)
    dots = [torch.dot(a.to(dtype), b.to(dtype)) for a, b in pairs]
    return torch.stack(dots).to(device=device, dtype=torch.float64).sum()


def _prefer_dots(tensors: Sequence[Tensor]) -> bool:
    """Whether dot products are faster: twice as fast as norms on the CPU, unless calls dominate."""
    large = sum(tensor.numel() for tensor in tensors) > 2**13 * len(tensors)
    return large and all(t.device.type == "cpu" and t.dtype is torch.float32 for t in tensors)


def _sum_rows(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum consecutive runs of the given lengths. No index tensor: making one would synchronise."""
    if all(count == 1 for count in counts):
        return values
    return torch.stack([run.sum() for run in torch.split(values, list(counts))])


def _blocks(tensor: Tensor) -> Sequence[Tensor]:
    if tensor.numel() <= BLOCK:
        return [tensor]
    return torch.split(flat(tensor), BLOCK)


def _norms(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """L2 norm of each tensor in float32 or wider, (T,) float64 on `device`."""
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        alike.setdefault((tensor.device, tensor.dtype), []).append(i)
    norms: list[Tensor] = [torch.empty(0)] * len(tensors)
    for (_, dtype), indices in alike.items():
        wide = torch.promote_types(dtype, torch.float32)
        some = torch._foreach_norm([tensors[i] for i in indices], 2, dtype=wide)
        together = torch.stack(list(some)).to(device=device, dtype=torch.float64)
        if len(alike) == 1:
            return together
        for i, norm in zip(indices, together.unbind(), strict=True):
            norms[i] = norm
    return torch.stack(norms)
