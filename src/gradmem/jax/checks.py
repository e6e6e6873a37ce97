"""Whether gradients, a state and the options belong together: all of it is known while tracing."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from gradmem.errors import CheckpointError, GradientError
from gradmem.jax.formats import carried
from gradmem.jax.ledger import Ledger
from gradmem.jax.options import Options


def check(
    gradients: Sequence[Array | None], slots: Sequence[Array], ledger: Ledger, options: Options
) -> None:
    """Refuse gradients that do not fit the slots, and a state of other options.

    Raises:
        CheckpointError: the state has another capacity, scope or memory_dtype.
        GradientError: a gradient has another shape or kind of number than its parameter.
    """
    rows, capacity = ledger.birth.shape
    if capacity != options.capacity:
        raise _differs("capacity", capacity, options.capacity)
    if options.scope == "tensor" and rows != len(slots):
        raise _differs("scope", "model", options.scope)
    if options.scope == "model" and rows != 1:
        raise _differs("scope", "tensor", options.scope)
    for gradient, kept in zip(gradients, slots, strict=True):
        held = carried(kept.dtype).name
        if options.memory_dtype not in (None, held):
            raise _differs("memory_dtype", held, options.memory_dtype)
        if gradient is not None:
            _check_gradient(gradient, kept)


def _check_gradient(gradient: Array, kept: Array) -> None:
    shape, dtype = jnp.shape(gradient), getattr(gradient, "dtype", jnp.result_type(float))
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    fits = jnp.issubdtype(dtype, jnp.inexact) and is_complex == jnp.iscomplexobj(kept)
    if shape != kept.shape[1:] or not fits:
        raise GradientError(
            f"a gradient of shape {shape} and {dtype} came for a parameter of shape "
            f"{kept.shape[1:]}, whose memory is of {carried(kept.dtype)}; update wants "
            "gradients like the parameters that init was given"
        )


def _differs(name: str, theirs: object, ours: object) -> CheckpointError:
    return CheckpointError(
        f"the state was made with {name}={theirs!r}, this transformation has {name}={ours!r}; "
        f"construct it with {name}={theirs!r}, or call init for an empty memory"
    )
