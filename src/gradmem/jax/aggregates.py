"""How the current gradient g and the memory are combined: ``current * g + stored * what is read``.

What is read is the running sum S of the n stored gradients or, for aggregates of one slot, the
gradient b there. With an empty memory the update is g, whatever the weights say.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradmem.jax import float64
from gradmem.jax.options import Options


def reads_one_slot(aggregate: str) -> bool:
    """Whether it is one stored gradient that is combined, and not their sum."""
    return aggregate not in ("mean", "sum", "mid")


def weights(options: Options, held: Array, dtype: Any) -> tuple[Array, Array]:
    """The weights of the gradient and of what is read, of n = `held` stored gradients."""
    n = jnp.maximum(held, 1).astype(dtype)
    kappa = jnp.asarray(options.kappa, dtype)
    one = jnp.ones_like(kappa)
    if options.aggregate == "mean":
        share = 1 / (n + 1)
        return share, kappa * share
    if options.aggregate == "sum":
        return one, kappa / n
    if options.aggregate == "mid":
        return one / 2, kappa / (2 * n)
    if options.aggregate.endswith("_mean"):
        return one / 2, kappa / 2
    return one, kappa


def slot_read(options: Options, priorities: Array, birth: Array) -> Array:
    """Which slot is read, if it is one that is; any where all are empty."""
    if not reads_one_slot(options.aggregate):
        return jnp.zeros((), jnp.int32)
    n = (birth > 0).sum(dtype=jnp.int32)
    # In the order of priorities; the median of an even number is the upper middle.
    places = {"min": jnp.zeros_like(n), "median": n // 2, "max": jnp.maximum(n - 1, 0)}
    order = float64.ascending(priorities, birth > 0)
    return order[places[options.aggregate.removesuffix("_mean")]]
