"""Which gradients are kept: one function each, one signature.

A policy is asked at every step. It gives the offered gradient a priority, names the slot that would
have to go if the memory is full, and says whether the exchange is made. Of a gradient that is zero
or not finite nothing is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array

from gradmem.jax import float64


class Choice(NamedTuple):
    """The priority of the offered gradient, the slot it would take, and whether it takes it.

    Attributes:
        priority: (2,) uint32, see `float64`.
        slot: () int32.
        accept: () bool.
    """

    priority: Array
    slot: Array
    accept: Array


# norm, the priorities (C, 2) and births (C,) of the slots
PolicyFunction: TypeAlias = Callable[[Array, Array, Array], Choice]


def top_norm(norm: Array, priorities: Array, birth: Array) -> Choice:  # noqa: ARG001
    """Critical gradients: keeps the largest decayed norms."""
    return _beat_the_smallest(float64.from_float(norm), priorities)


def bottom_norm(norm: Array, priorities: Array, birth: Array) -> Choice:  # noqa: ARG001
    """Keeps the smallest norms: the priority is 1 / norm, and decays like any other."""
    return _beat_the_smallest(float64.reciprocal(norm), priorities)


def fifo(norm: Array, priorities: Array, birth: Array) -> Choice:  # noqa: ARG001
    """Keeps the last ones: always accepts and drops the oldest, whatever the priorities."""
    oldest = jnp.argmin(birth).astype(jnp.int32)
    return Choice(float64.from_float(norm), oldest, jnp.array(True))


def _beat_the_smallest(priority: Array, priorities: Array) -> Choice:
    """Replace the first slot of smallest priority if the offer is strictly greater."""
    slot = float64.first_smallest(priorities)
    return Choice(priority, slot, float64.is_greater(priority, priorities[slot]))


POLICIES: dict[str, PolicyFunction] = {
    "top_norm": top_norm,
    "bottom_norm": bottom_norm,
    "fifo": fifo,
}
