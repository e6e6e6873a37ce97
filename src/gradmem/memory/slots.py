"""Where the gradients lie: slots of shape (C, *shape) and their running sum, per parameter.

Functions on lists of parameters, in place, through `Scratch`. A weight or a slot is a Python number
where decisions are known on the host, and a zero-dimensional tensor where they stay on the
accelerator. The running sum is always that of what is stored, as it is read back. Slots that lie
in the host's memory beside an accelerator (`offload`) are exchanged by decisions of the host alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.memory import offload
from gradmem.memory.formats import blocks_of, decode, encode, is_dense, stored_dtype, sum_dtype
from gradmem.memory.sharding import like, local, stacked_like


class Store(NamedTuple):
    """What the memory holds of one parameter on this rank; of DTensors, the local parts.

    Attributes:
        slots: (C, *shape), in the format of the memory.
        total: (*shape), the running sum, float32 or wider.
        scales: (C, blocks) float32 where the slots are int8; else None.
    """

    slots: Tensor
    total: Tensor
    scales: Tensor | None

    @property
    def is_apart(self) -> bool:
        """Whether the slots are in the host's memory, and the sum is not."""
        return offload.is_apart(self.slots, self.total)

    @property
    def is_at_hand(self) -> bool:
        """Whether all of it is in the host's memory, and a slot holds the numbers themselves."""
        return self.scales is None and self.total.device.type == "cpu" and not self.is_apart

    def row(self, slot: int) -> tuple[Tensor, Tensor | None]:
        """One slot where it lies, and its scales if it has any."""
        return self.slots[slot], None if self.scales is None else self.scales[slot]

    def read(self, slot: int) -> Tensor:
        """The gradient in a slot, where the sum is: a view of it, or new numbers."""
        if self.is_apart:
            lane = offload.lane_of(self.total.device)
            return decode(*lane.fetch(self.slots, self.scales, slot))
        return decode(*self.row(slot))

    def write(self, slot: int, gradient: Tensor) -> Tensor:
        """Put a gradient into a slot; returns what `read` will."""
        codes, scales = encode(gradient, self.slots.dtype)
        if self.is_apart:
            lane = offload.lane_of(self.total.device)
            lane.put(self.slots, self.scales, slot, codes, scales)
            return decode(codes, scales)
        for table, new in zip(self.row(slot), (codes, scales), strict=True):
            if table is not None and new is not None:
                table.copy_(new)
        return self.read(slot)


def allocate(
    parameter: Tensor, capacity: int, chosen: str | None, *, on_host: bool = False
) -> Store:
    """An empty store, of the `chosen` format or the parameter's own; DTensors for a DTensor.

    `on_host`: slots and scales are in the host's memory, wherever the parameter is.
    """
    part = local(parameter).detach()
    dtype = stored_dtype(part.dtype, chosen)

    def table(*shape: int, dtype: torch.dtype) -> Tensor:
        if on_host:
            return offload.host_zeros(shape, dtype, part.device)
        return part.new_zeros(shape, dtype=dtype)

    slots = table(capacity, *part.shape, dtype=dtype)
    total = torch.zeros_like(part, dtype=sum_dtype(part.dtype))
    if dtype is torch.int8:
        scales = table(capacity, blocks_of(part.numel()), dtype=torch.float32)
        return Store(slots, total, scales)
    if is_dense(part):
        slots = slots.as_strided(slots.shape, (part.numel(), *part.stride()))
    return Store(stacked_like(parameter, slots), like(parameter, total), None)


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
    stores: Sequence[Store],
    current: float | Tensor,
    weights: Sequence[float] | Tensor,
) -> None:
    """``out = current * g + sum of weights[k] * slots[k]``, computed in the running sum's type.

    Of weights known on the host, those that are zero cost nothing.
    """
    for result, grad, store in zip(out, grads, stores, strict=True):
        torch.mul(grad.to(result.dtype), _like(current, result), out=result)
        for k, weight in enumerate(weights):
            if isinstance(weight, Tensor):
                result.addcmul_(store.read(k).to(result), _like(weight, result))
            elif weight != 0.0:
                result.add_(store.read(k), alpha=weight)


def _like(weight: float | Tensor, result: Tensor) -> Any:
    return weight.to(result.real.dtype) if isinstance(weight, Tensor) else weight


def prefetch(stores: Sequence[Store], slot: int) -> None:
    """Begin to bring what an `exchange` with this slot will read, where it has a way to go."""
    apart = [store for store in stores if store.is_apart]
    if apart:
        lane = offload.lane_of(apart[0].total.device)
        room = offload.UNDERWAY - lane.underway
        for store in apart:
            if room > 0:
                lane.start(store.slots, store.scales, slot)
                room -= store.slots[slot].nbytes


def exchange(stores: Sequence[Store], grads: list[Tensor], slot: int) -> None:
    """``S += g - slot; slot = g`` for every parameter, the slot known on the host."""
    if all(store.is_at_hand for store in stores):  # one after the other, as they stay in cache
        for store, grad in zip(stores, grads, strict=True):
            row = store.slots[slot]
            store.total.sub_(row)
            row.copy_(encode(grad, row.dtype)[0])
            store.total.add_(row)
        return
    sums = [store.total for store in stores]
    torch._foreach_sub_(sums, [store.read(slot) for store in stores])
    new = [store.write(slot, grad) for store, grad in zip(stores, grads, strict=True)]
    torch._foreach_add_(sums, new)


def exchange_where(
    stores: Sequence[Store], grads: Sequence[Tensor], slot: Tensor, write: Tensor
) -> None:
    """`exchange` where the zero-dimensional `write` holds, nothing elsewhere; no host sync.

    A refused gradient writes the slot's own content back, so a NaN in it leaves no trace.
    """
    index = slot.reshape(1)
    for store, grad in zip(stores, grads, strict=True):
        old = store.slots.index_select(0, index)[0]
        new, new_scales = encode(grad, old.dtype)
        new = torch.where(write, new, old)
        old_scales = None
        if store.scales is not None and new_scales is not None:
            old_scales = store.scales.index_select(0, index)[0]
            new_scales = torch.where(write, new_scales, old_scales)
            store.scales.index_copy_(0, index, new_scales[None])
        store.total.sub_(decode(old, old_scales)).add_(decode(new, new_scales))
        store.slots.index_copy_(0, index, new[None])


def renew(stores: Sequence[Store]) -> None:
    """``S`` made anew from the slots, which ends whatever rounding error it had gathered."""
    for store in stores:
        # On the CPU, torch's sum in a wider type would first make a copy of all slots in it.
        widened = store.slots.dtype is not store.total.dtype and store.total.device.type == "cpu"
        if widened or store.scales is not None or store.is_apart:
            store.total.zero_()
            for k in range(len(store.slots)):
                store.total.add_(store.read(k))
        else:
            torch.sum(store.slots, dim=0, dtype=store.total.dtype, out=store.total)


def clear(stores: Sequence[Store], emptied: Tensor) -> None:
    """Empty the slots marked in the (C,) mask, and renew the sums."""
    if any(store.is_apart for store in stores):
        offload.settle()
    for store in stores:
        for table in (store.slots, store.scales):
            if table is not None:
                mask = emptied.to(table.device).reshape(-1, *[1] * (table.dim() - 1))
                table.masked_fill_(mask, 0)
    renew(stores)


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
            if is_dense(tensor)
            else part[: tensor.numel()].view(tensor.shape)
            for part, tensor in zip(parts, tensors, strict=True)
        ]
