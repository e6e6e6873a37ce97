"""The proximal step on the parameters of a param group, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.memory.sharding import is_sharded, local
from gradmem.proximal.groups import Groups
from gradmem.proximal.metric import Diagonal, diagonal, number
from gradmem.proximal.penalties import PENALTIES
from gradmem.proximal.radial import scale, wide_type

# Elements of the rows that are computed together on the CPU: what they need stays in the cache.
_CHUNK = 2**15
# Elements that are measured before they are scaled.
_BATCH = 2**20


class _Part(NamedTuple):
    """What is to be shrunk: groups along the first dimension, of two or more, written in place."""

    rows: Tensor
    metric: Diagonal | None
    weight: float


def proximal_step(group: Mapping[str, Any], state: Mapping[Tensor, Mapping[str, Any]]) -> None:
    """Shrink the groups of those parameters that have a gradient."""
    step = number(group["lr"])
    if group["penalty"] == 0.0 or step_is_zero(step):
        return
    scaled: list[_Part] = []
    for p, entry in zip(group["params"], group["groups"], strict=True):
        if entry is None or p.grad is None or p.numel() == 0:
            continue
        groups = Groups(*entry)
        weight = math.sqrt(p.numel() / groups.count(p.shape)) if group["reweight"] else 1.0
        metric = diagonal(group, state[p]) if group["metric"] == "diagonal" else None
        sharing = not is_sharded(p) or _has_whole_rows(p, groups)
        whole = local if sharing else _gathered
        target = whole(p)
        if target.numel() == 0:
            continue
        seen = target if groups.view is None else target.reshape(groups.view)
        part = _Part(_rows(seen, groups), _metric_rows(metric, groups, whole), weight)
        in_place = sharing and seen.data_ptr() == target.data_ptr()
        if metric is None and in_place and PENALTIES[group["regularizer"]].radial:
            scaled.append(part)
            continue
        _shrink(part, step, group)
        if not in_place:
            _put_back(p, seen.reshape(target.shape), sharing)
    if scaled:
        _scale(scaled, step, group)


def step_is_zero(step: float | Tensor) -> bool:
    """Whether it is known to be, without waiting for an accelerator."""
    return isinstance(step, float) and step == 0.0


def _scale(parts: Sequence[_Part], step: float | Tensor, group: Mapping[str, Any]) -> None:
    """A radial penalty in the plain metric: two passes through the parameters."""
    concavity = step / group["gamma"] if PENALTIES[group["regularizer"]].concave else 0.0
    for some in _batches(parts):
        kind, device = wide_type(some[0].rows), some[0].rows.device
        counts = [len(rows) for rows, _, _ in some]
        norms = torch.empty(sum(counts), dtype=kind, device=device)
        for (rows, _, _), out in zip(some, torch.split(norms, counts), strict=True):
            others = tuple(range(1, rows.dim()))
            torch.linalg.vector_norm(rows, dim=others, dtype=kind, out=out)
        # One small computation for all factors: one a parameter would take as long as the passes.
        strengths = torch.empty_like(norms)
        for part, own in zip(some, torch.split(strengths, counts), strict=True):
            own.fill_(group["penalty"] * part.weight)
        factors = scale(norms, strengths.mul_(step), concavity)
        for (rows, _, _), own in zip(some, torch.split(factors, counts), strict=True):
            rows.mul_(own.view(-1, *[1] * (rows.dim() - 1)))


def _batches(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Neighbours of one kind and device, few enough on the CPU that the second pass finds what the
    first one read in the cache.
    """
    batch: list[_Part] = []
    size = 0
    for part in parts:
        first = batch[0].rows if batch else part.rows
        alike = first.dtype == part.rows.dtype and first.device == part.rows.device
        full = first.device.type == "cpu" and size + part.rows.numel() > _BATCH
        if batch and (full or not alike):
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += part.rows.numel()
    if batch:
        yield batch


def _shrink(part: _Part, step: float | Tensor, group: Mapping[str, Any]) -> None:
    """Any penalty in any metric, some rows at a time."""
    rows, metric, weight = part
    strength = step * (group["penalty"] * weight)
    proximal = PENALTIES[group["regularizer"]].proximal
    count = len(rows)
    if rows.device.type == "cpu":
        count = max(1, _CHUNK * len(rows) // rows.numel())
    for begin in range(0, len(rows), count):
        some = rows[begin : begin + count]
        d = None
        if metric is not None:
            mean = None if metric.mean is None else metric.mean[begin : begin + count]
            part_of = metric._replace(square=metric.square[begin : begin + count], mean=mean)
            d = part_of.compute().reshape(len(some), -1)
        z = proximal(some.reshape(len(some), -1), strength, d, step, group["gamma"])
        some.copy_(z.view(some.shape))


def _rows(seen: Tensor, groups: Groups) -> Tensor:
    """A view with the groups along the first dimension, of two or more."""
    rows = seen.movedim(groups.axis, 0)
    return rows if rows.dim() > 1 else rows.unsqueeze(1)


def _metric_rows(
    metric: Diagonal | None, groups: Groups, whole: Callable[[Tensor], Tensor]
) -> Diagonal | None:
    if metric is None:
        return None

    def rows(tensor: Tensor) -> Tensor:
        own = whole(tensor)
        return _rows(own if groups.view is None else own.reshape(groups.view), groups)

    mean = None if metric.mean is None else rows(metric.mean)
    return metric._replace(square=rows(metric.square), mean=mean)


# Parameters that are spread over a device mesh ----------------------------------------------------


def _has_whole_rows(p: Tensor, groups: Groups) -> bool:
    """Whether a DTensor is cut between groups only: each rank then has whole ones."""
    axis = groups.axis % p.dim()
    placements = p.placements  # type: ignore[attr-defined]
    return groups.view is None and all(
        placement.is_replicate() or getattr(placement, "dim", None) == axis
        for placement in placements
    )


def _gathered(p: Tensor) -> Tensor:
    full: Tensor = p.full_tensor()  # type: ignore[attr-defined]
    return full


def _put_back(p: Tensor, values: Tensor, sharing: bool) -> None:
    """Write into a parameter, or into this rank's part of it, what was computed on a copy."""
    if not sharing:
        from torch.distributed.tensor import DTensor, Replicate

        mesh = p.device_mesh  # type: ignore[attr-defined]
        everywhere = [Replicate()] * mesh.ndim
        whole = DTensor.from_local(values, mesh, everywhere, run_check=False)
        values = whole.redistribute(placements=p.placements).to_local()  # type: ignore[attr-defined]
    local(p).copy_(values)
