"""The norm of the gradient each ledger is offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gradmem.memory.formats import flat, is_dense
from gradmem.memory.sharding import mesh_key, shards_of, sum_over_mesh

# A float32 norm of many millions of elements loses digits (2e-4 at 8 million); blocks of this many
# are summed in float64.
BLOCK = 2**18

Rows: TypeAlias = Sequence[Sequence[Tensor]]
Vector: TypeAlias = Mapping[Tensor, Tensor]
# Of T parameters, this rank's share of K numbers each: (K, T) float64.
Measure: TypeAlias = Callable[[Sequence[Tensor]], Tensor]


def ledger_norms(
    rows: Rows, vectors: Sequence[Vector], device: torch.device, *, l2: bool
) -> Tensor:
    """Norms of the gradients of each row of parameters, (K, R) float64 on `device`.

    Each of the K vectors has this rank's parts, of the same parameters as the others; a row without
    any has the norm 0. `l2`: the L2 norm of the row's gradients together; else the sum of theirs.
    In float32 a norm above 1.8e19 counts as infinite and one below 1e-23 as zero, as squares do
    (not of a single element, whose norm is its size).
    """

    def squares(parameters: Sequence[Tensor]) -> Tensor:
        each = [squared_norms([vector[p] for p in parameters], device) for vector in vectors]
        return torch.stack(each)

    present = [[p for p in row if p in vectors[0]] for row in rows]
    total = _row_sums(present, squares, len(vectors), device, roots=not l2)
    return total.sqrt() if l2 else total


def ledger_dots(rows: Rows, pairs: Sequence[tuple[Vector, Vector]], device: torch.device) -> Tensor:
    """Inner products of K pairs of vectors spread over the parameters of each row, (K, R) float64.

    The vectors have this rank's parts; a parameter that one of them lacks counts as zero. Complex
    numbers count as pairs of real ones.
    """
    zero = torch.zeros((), dtype=torch.float64, device=device)

    def dots(parameters: Sequence[Tensor]) -> Tensor:
        products = [
            _dot(one[p], other[p], device) if p in one and p in other else zero
            for one, other in pairs
            for p in parameters
        ]
        return torch.stack(products).view(len(pairs), -1)

    known = set().union(*(one.keys() & other.keys() for one, other in pairs))
    present = [[p for p in row if p in known] for row in rows]
    return _row_sums(present, dots, len(pairs), device)


def _row_sums(
    rows: Rows, measure: Measure, count: int, device: torch.device, *, roots: bool = False
) -> Tensor:
    """What is measured of the parameters of each row, summed: (K, R), K being `count`.

    `roots`: the sum of each parameter's square root. Every rank has the same sums, to the last bit:
    what lies on all alike is taken from all in equal shares where there is anything to sum over
    them at all, as the ranks would go apart for good if they decided differently once.
    """
    plain, meshes = _by_mesh(rows)
    # Into a plain tensor: the norm of a wrapper subclass is of that class too, and no number.
    total = torch.zeros(count, len(rows), dtype=torch.float64, device=device)
    if any(plain):
        total += _sum_each(plain, measure, roots=roots)
    for alike in meshes:
        reference = next(p for row in alike for p in row)
        total = total / shards_of(reference)
        if roots:
            each = measure([p for row in alike for p in row])
            packed = sum_over_mesh(reference, torch.cat((each, total), dim=1))
            each, total = packed[:, : each.shape[1]], packed[:, each.shape[1] :]
            total = total + _sum_rows(each.sqrt(), [len(row) for row in alike])
        else:
            total = sum_over_mesh(reference, total + _sum_each(alike, measure, roots=False))
    return total


def _by_mesh(rows: Rows) -> tuple[Rows, Sequence[Rows]]:
    """Rows of the plain parameters alone, and of those of each mesh that can be summed together."""
    kinds = dict.fromkeys(mesh_key(p) for row in rows for p in row)
    if kinds.keys() <= {None}:
        return rows, []
    plain, *meshes = (
        [[p for p in row if mesh_key(p) == kind] for row in rows]
        for kind in dict.fromkeys([None, *kinds])
    )
    return plain, meshes


def _sum_each(rows: Rows, measure: Measure, *, roots: bool) -> Tensor:
    each = measure([p for row in rows for p in row])
    return _sum_rows(each.sqrt() if roots else each, [len(row) for row in rows])


def squared_norms(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Squared L2 norm of each tensor, (T,) float64 on `device`."""
    parts = [_blocks(tensor) for tensor in tensors]
    blocks = [block for some in parts for block in some]
    if _prefer_dots(blocks):
        squares = torch.stack([torch.dot(block, block) for block in map(_vector, blocks)]).double()
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
    """Sum consecutive runs of the given lengths in the last dimension."""
    if all(count == 1 for count in counts):
        return values
    if len(counts) == 1:
        return values.sum(dim=-1, keepdim=True)
    if values.device.type == "cpu":
        owners = torch.repeat_interleave(torch.tensor(counts))
        return values.new_zeros(*values.shape[:-1], len(counts)).index_add_(-1, owners, values)
    # Three calls a run, but no index tensor: to make one would be to wait for the accelerator.
    runs = torch.split(values, list(counts), dim=-1)
    return torch.stack([run.sum(dim=-1) for run in runs], dim=-1)


def _blocks(tensor: Tensor) -> Sequence[Tensor]:
    if tensor.numel() >= 2**10 and not is_dense(tensor):
        tensor = tensor.contiguous()  # of what has gaps torch sums one by one, which loses digits
    if tensor.numel() <= BLOCK:
        return [tensor]
    return torch.split(flat(tensor), BLOCK)


def _vector(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 1 else flat(tensor)


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
