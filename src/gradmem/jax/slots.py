"""Where the gradients lie: for every parameter slots of shape (C, *shape) and their running sum.

The sum is always that of what is stored, as it is read back. A step reads the sum and one slot and
writes both, whatever the capacity: summing the slots at every step instead would read all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gradmem.errors import GradientError, OptionError
from gradmem.jax.formats import carrier, decode, encode, real, wide
from gradmem.jax.ledger import Move


def allocate(leaf: Any, capacity: int, memory_dtype: str | None) -> tuple[Array, Array]:
    """Empty slots and their sum, sharded like the parameter they are for.

    Raises:
        GradientError: the parameter is none that has a gradient.
        OptionError: it has complex numbers, and these are to be stored in another type.
    """
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise GradientError(
            f"a parameter of shape {jnp.shape(leaf)} is of {dtype}; a memory holds floating-point "
            "and complex gradients: leave it out with optax.masked"
        )
    if memory_dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        raise OptionError(
            f"memory_dtype must be None for parameters of {dtype}, got {memory_dtype!r}; leave "
            "them out with optax.masked, or give them a memory of their own"
        )
    blank = jnp.zeros_like(leaf, dtype=carrier(memory_dtype or dtype))
    # Not zeros of that shape, which would lie on one device: this is sharded as the parameter is.
    slots = jnp.broadcast_to(blank, (capacity, *blank.shape))
    return slots, jnp.zeros_like(leaf, dtype=wide(dtype))


class Fetched(NamedTuple):
    """What a step reads, of every parameter.

    Attributes:
        leaving: the slot that may have to go, as it lies.
        stored: what is combined with the gradient: the sum, or one slot.
        totals: the sum.
    """

    leaving: list[Array]
    stored: list[Array]
    totals: list[Array]


def fetch(
    slots: Sequence[Array],
    totals: Sequence[Array],
    moves: Sequence[Move],
    renew: Array,
    *,
    one_slot: bool,
) -> Fetched:
    """What a step reads; the sums, if need be, made anew from the slots before they are used.

    What a conditional returns has memory of its own. Were the slots read outside of it, XLA would
    read them wherever they are used, after the exchange as well, and to that end copy all of them.
    """

    def read(sums: list[Array]) -> Fetched:
        leaving = [_row(kept, move.slot) for kept, move in zip(slots, moves, strict=True)]
        if not one_slot:
            return Fetched(leaving, sums, sums)
        chosen = [decode(_row(kept, move.read)) for kept, move in zip(slots, moves, strict=True)]
        return Fetched(leaving, chosen, sums)

    def anew() -> Fetched:
        return read([_sum(kept, total.dtype) for kept, total in zip(slots, totals, strict=True)])

    fetched: Fetched = lax.cond(renew, anew, lambda: read(list(totals)))
    return fetched


def combine(gradient: Array, stored: Array, total: Array, move: Move) -> Array:
    """What the base rule gets in place of the gradient: computed in the running sum's type."""
    dtype = real(total.dtype)
    current, weight = move.current.astype(dtype), move.stored.astype(dtype)
    combined = current * gradient.astype(total.dtype) + weight * stored.astype(total.dtype)
    return jnp.where(move.combine, combined.astype(gradient.dtype), gradient)


def exchange(
    gradient: Array | None, leaving: Array, slots: Array, total: Array, move: Move
) -> tuple[Array, Array]:
    """The slots and their sum once the gradient has taken its slot, if it takes one.

    A refused gradient writes the slot's own content back, so a NaN in it leaves no trace. None is
    zero.
    """
    new = jnp.zeros_like(leaving) if gradient is None else encode(gradient, slots.dtype)
    new = jnp.where(move.write, new, leaving)
    exchanged = total - decode(leaving).astype(total.dtype) + decode(new).astype(total.dtype)
    slots = lax.dynamic_update_index_in_dim(slots, new, move.slot, 0)
    return slots, jnp.where(move.write, exchanged, total)


def _sum(slots: Array, dtype: Any) -> Array:
    if slots.dtype == dtype:
        return jnp.sum(slots, axis=0)

    def add(k: Array, total: Array) -> Array:
        return total + decode(_row(slots, k)).astype(dtype)

    # On a CPU, XLA's sum in a wider type would first make a copy of all slots in it.
    total: Array = lax.fori_loop(0, len(slots), add, jnp.zeros_like(slots[0], dtype=dtype))
    return total


def _row(slots: Array, slot: Array) -> Array:
    row: Array = lax.dynamic_index_in_dim(slots, slot, keepdims=False)
    return row
