"""In what numbers a stored gradient lies: a floating type, or int8 by blocks.

Functions of one slot: `stored` (*shape) and, for int8, `scales` (blocks,), one for every `BLOCK`
elements in the order of indices: a checkpoint keeps that, and need not keep how they lie in memory.
What is read back is what the running sum adds, and is always finite.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

FormatName: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]

FORMATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}

# Elements that share a scale: large enough that scales cost 1/64 of a byte each, small enough that
# one outlier coarsens few others.
BLOCK = 256
_LARGEST = 127.0  # the codes are symmetric: -127 to 127
# No smaller than a normal number, as some devices take others for zero; and small enough that the
# largest code still stands for a finite number.
_SCALES = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max * (1 - 2**-23) / _LARGEST

_SUM_DTYPES = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the running sum of gradients of this type: float32 or wider."""
    return _SUM_DTYPES.get(dtype, dtype)


def stored_dtype(parameter: torch.dtype, chosen: str | None) -> torch.dtype:
    """The type of the slots of parameters of this type."""
    return parameter if chosen is None else FORMATS[chosen]


def blocks_of(elements: int) -> int:
    """How many scales so many elements of int8 have."""
    return -(-elements // BLOCK)


def flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension; a view if they lie densely, whatever their order."""
    if is_dense(tensor):
        return tensor.as_strided((tensor.numel(),), (1,))
    return tensor.reshape(-1)


def is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill one block of memory, in any order of dimensions."""
    return tensor.numel() > 0 and torch.ops.aten.is_non_overlapping_and_dense(tensor)


def encode(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Values in the number format of slots of this type, and their scales if it has any.

    A floating type rounds to the nearest, and to its largest number what lies beyond it, never to
    infinity: bfloat16 is off by 2^-8 of a number at most, float16 by 2^-11, or by 2^-25 where that
    is more. int8: a block's scale is its largest magnitude / 127, and a number is off by half of it
    at most; by 2^-127 if that is more. May be the values themselves.
    """
    if dtype is not torch.int8:
        return _rounded(values, dtype), None
    numbers = _blocks(values.to(torch.promote_types(values.dtype, torch.float32)))
    scales = numbers.abs().amax(dim=1, keepdim=True).div_(_LARGEST).float().clamp_(*_SCALES)
    codes = (numbers / scales).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    return codes.view(-1)[: values.numel()].view(values.shape), scales.view(-1)


def decode(stored: Tensor, scales: Tensor | None) -> Tensor:
    """The values a slot stands for: it itself, or new float32 numbers where it holds codes."""
    if scales is None:
        return stored
    numbers = _blocks(stored.float()).mul_(scales[:, None])
    return numbers.view(-1)[: stored.numel()].view(stored.shape)


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == values.dtype:
        return values
    if values.is_complex():  # only ever to a type as wide
        return values.to(dtype)
    largest = torch.finfo(dtype).max
    if largest < torch.finfo(values.dtype).max:
        # In a type that has the bound: bfloat16 would round 65504, float16's, up to 65536.
        values = values.to(torch.promote_types(values.dtype, dtype)).clamp(-largest, largest)
    return values.to(dtype)


def _blocks(numbers: Tensor) -> Tensor:
    """Rows of a block each, in the order of indices, the last filled up with zeros."""
    row = numbers.reshape(-1)
    missing = blocks_of(row.numel()) * BLOCK - row.numel()
    if missing:
        row = torch.nn.functional.pad(row, (0, missing))
    return row.view(blocks_of(row.numel()), BLOCK)
