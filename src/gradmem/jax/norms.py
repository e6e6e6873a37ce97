"""The norm of the gradient each ledger is offered, in float32 or wider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from gradmem.jax.formats import real, wide
from gradmem.jax.options import Options


def norm_dtype(leaves: Sequence[Array]) -> Any:
    """The type of norms of gradients like these: float64 if any of them has such numbers."""
    return jnp.result_type(jnp.float32, *(real(wide(leaf.dtype)) for leaf in leaves))


def ledger_norms(
    leaves: Sequence[Array | None], options: Options, dtype: Any, axis_name: Any
) -> Array:
    """The norm of each ledger's gradients, (R,); a None counts as zero.

    In float32 a norm above 1.8e19 counts as infinite and one below 1e-19 as zero, as squares do.
    """
    zero = jnp.zeros((), dtype)
    squares = [zero if g is None else _squared_norm(g).astype(dtype) for g in leaves]
    if axis_name is not None:
        squares = lax.psum(squares, axis_name)  # type: ignore[no-untyped-call]
    if options.scope == "tensor":
        return jnp.sqrt(jnp.stack(squares))
    if options.norm == "sum":
        return sum(map(jnp.sqrt, squares), zero)[None]
    return jnp.sqrt(sum(squares, zero))[None]


def _squared_norm(gradient: Array) -> Array:
    if jnp.iscomplexobj(gradient):
        return _squared_norm(gradient.real) + _squared_norm(gradient.imag)
    return jnp.sum(jnp.square(gradient.astype(wide(gradient.dtype))))
