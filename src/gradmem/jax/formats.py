"""Types of numbers: what gradients are summed in, and how they are stored.

Floating-point numbers of 16 bits are stored as these bits, in integers. On a CPU, XLA computes with
such floats by way of float32, and to write one slot would convert all of them, there and back. The
type of the integers says which floats they are.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

_CARRIERS = {"bfloat16": "uint16", "float16": "int16"}
_CARRIED = {carrier: name for name, carrier in _CARRIERS.items()}


def carrier(dtype: Any) -> Any:
    """The type of slots that hold numbers of this type."""
    name = jnp.dtype(dtype).name
    return jnp.dtype(_CARRIERS.get(name, name))


def carried(dtype: Any) -> Any:
    """The type of the numbers that slots of this type hold."""
    return jnp.dtype(_CARRIED.get(dtype.name, dtype.name))


def encode(values: Array, dtype: Any) -> Array:
    """Values as slots of this type hold them."""
    numbers = _rounded(values, carried(dtype))
    return numbers if numbers.dtype == dtype else lax.bitcast_convert_type(numbers, dtype)


def decode(stored: Array) -> Array:
    """The numbers in a slot."""
    dtype = carried(stored.dtype)
    return stored if stored.dtype == dtype else lax.bitcast_convert_type(stored, dtype)


def wide(dtype: Any) -> Any:
    """The type that numbers of this one are summed in: itself, or float32 for narrower ones."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype("float32")


def real(dtype: Any) -> Any:
    """The type of the real part of numbers of this one."""
    return _info(dtype).dtype


def _rounded(values: Array, dtype: Any) -> Array:
    """To the nearest, by way of float32, and to the type's largest number what lies beyond it."""
    if values.dtype == dtype or jnp.iscomplexobj(values):
        return values.astype(dtype)
    largest = float(_info(dtype).max)
    if largest < float(_info(values.dtype).max):
        values = jnp.clip(values.astype(wide(values.dtype)), -largest, largest)
    return (values if dtype.itemsize > 4 else values.astype(jnp.float32)).astype(dtype)


def _info(dtype: Any) -> Any:
    return jnp.finfo(dtype)  # type: ignore[no-untyped-call]
