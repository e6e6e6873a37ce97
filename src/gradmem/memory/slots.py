"""Where the gradients lie: slots of shape (C, *shape) and their running sum, per parameter.

Functions on lists of plain tensors, in place, through `Scratch`. A weight or a slot is a Python
number where decisions are known on the host, and a zero-dimensional tensor where they stay on the
accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradmem.memory.sharding import like, local, stacked_like

_SUM_DTYPES = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the running sum of gradients of this type: float32 or wider."""
    return _SUM_DTYPES.get(dtype, dtype)


def allocate(parameter: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Empty slots (capacity, *shape) of the parameter's type and their running sum (*shape)."""
    part = local(parameter).detach()
    slots = part.new_zeros((capacity, *part.shape))
    if _is_dense(part):
        slots = slots.as_strided(slots.shape, (part.numel(), *part.stride()))
    total = torch.zeros_like(part, dtype=sum_dtype(part.dtype))
    return stacked_like(parameter, slots), like(parameter, total)


def flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension; a view if they lie densely, whatever their order."""
    if _is_dense(tensor):
        return tensor.as_strided((tensor.numel(),), (1,))
    return tensor.reshape(-1)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill one block of memory, in any order of dimensions."""
    return tensor.numel() > 0 and torch.ops.aten.is_non_overlapping_and_dense(tensor)


def combine(
    out: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    current: float | Tensor,
    stored: float | Tensor,
) -> None:
    """``out = current * g + stored * S`` for every tensor, computed in the running sum's type.

    `current` must not be zero.
    """
    ratio = stored / current
    if isinstance(ratio, Tensor):
        # Of the tensors' own type, or foreach would take them one by one.
        ratio = ratio.to(out[0].real.dtype)
        torch._foreach_copy_(out, sums)
        torch._foreach_mul_(out, ratio)
        torch._foreach_add_(out, grads)
    else:  # known on the host, it costs one pass instead of three
        for result, grad, total in zip(out, grads, sums, strict=True):
            torch.add(grad, total, alpha=ratio, out=result)
    if isinstance(current, Tensor):
        torch._foreach_mul_(out, current.to(out[0].real.dtype))
    elif current != 1.0:
        torch._foreach_mul_(out, current)


def combine_slots(
    out: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    current: float | Tensor,
    weights: Sequence[float] | Tensor,
) -> None:
    """``out = current * g + sum of weights[k] * slots[k]``, computed in the running sum's type.

    Of weights known on the host, those that are zero cost nothing.
    """
    for result, grad, stored in zip(out, grads, slots, strict=True):
        torch.mul(grad.to(result.dtype), _like(current, result), out=result)
        for k, weight in enumerate(weights):
            if isinstance(weight, Tensor):
                result.addcmul_(stored[k].to(result.dtype), _like(weight, result))
            elif weight != 0.0:
                result.add_(stored[k], alpha=weight)


def _like(weight: float | Tensor, result: Tensor) -> Any:
    return weight.to(result.real.dtype) if isinstance(weight, Tensor) else weight


def exchange(slots: list[Tensor], sums: list[Tensor], grads: list[Tensor], slot: int) -> None:
    """``S += g - slot; slot = g`` for every tensor, the slot known on the host."""
    rows = [tensor[slot] for tensor in slots]
    torch._foreach_sub_(sums, rows)
    torch._foreach_add_(sums, grads)
    torch._foreach_copy_(rows, grads)


def exchange_where(
    slots: Sequence[Tensor],
    sums: Sequence[Tensor],
    grads: Sequence[Tensor],
    slot: Tensor,
    write: Tensor,
) -> None:
    """`exchange` where the zero-dimensional `write` holds, nothing elsewhere; no host sync.

    A refused gradient writes the slot's own content back, so a NaN in it leaves no trace.
    """
    index = slot.reshape(1)
    for tensor, total, grad in zip(slots, sums, grads, strict=True):
        old = tensor.index_select(0, index)
        new = torch.where(write, grad, old)
        total.sub_(old[0]).add_(new[0])
        tensor.index_copy_(0, index, new)


def renew(slots: Sequence[Tensor], sums: Sequence[Tensor]) -> None:
    """``S`` made anew from the slots, which ends whatever rounding error it had gathered."""
    for tensor, total in zip(slots, sums, strict=True):
        torch.sum(tensor, dim=0, dtype=total.dtype, out=total)


def clear(slots: Sequence[Tensor], sums: Sequence[Tensor], emptied: Tensor) -> None:
    """Empty the slots marked in the (C,) mask, and renew the sums."""
    for tensor in slots:
        mask = emptied.to(tensor.device).reshape(-1, *[1] * (tensor.dim() - 1))
        tensor.masked_fill_(mask, 0)
    renew(slots, sums)


class Scratch:
    """Reused working memory: one flat buffer a device and type, as large as was ever asked for."""

    def __init__(self) -> None:
        self._flat: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Uninitialised tensors of these shapes and layouts on their (common) device."""
        key = (tensors[0].device, dtype)
        # Each begins on a multiple of 16 elements: vector instructions want it so.
        sizes = [-(-tensor.numel() // 16) * 16 for tensor in tensors]
        buffer = self._flat.get(key)
        if buffer is None or buffer.numel() < sum(sizes):
            buffer = self._flat[key] = torch.empty(sum(sizes), dtype=dtype, device=key[0])
        parts = torch.split(buffer[: sum(sizes)], sizes)
        return [
            part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())
            if _is_dense(tensor)
            else part[: tensor.numel()].view(tensor.shape)
            for part, tensor in zip(parts, tensors, strict=True)
        ]
