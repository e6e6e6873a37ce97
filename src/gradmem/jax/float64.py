"""Float64 numbers in integers, so that priorities are float64 whatever JAX computes in.

JAX has no float64 unless its x64 mode is on, and some accelerators have none that is exact. Of a
number that is not negative the 64 bits of IEEE 754 are held here as two uint32, (..., 2), the high
one first: the order of numbers is the order of bits, and a product is that of two integers of 53
bits. It is rounded to the nearest, ties to even, as a processor does it; only what is smaller than
2.2e-308, the smallest normal number, becomes 0.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_FRACTION = 0xFFFFF  # of the high half, whose other bits are the exponent
_LEADING = 0x100000  # what a normal number has before its fraction
_BIAS = 1023


def from_float(number: Array) -> Array:
    """The bits of float32 or float64 numbers that are finite and not negative."""
    if number.dtype == jnp.dtype("float64"):
        halves = lax.bitcast_convert_type(number, jnp.uint32)  # the low one first
        low, high = halves[..., 0], halves[..., 1]
        return _normal(jnp.stack([high, low], axis=-1))
    bits = lax.bitcast_convert_type(number.astype(jnp.float32), jnp.uint32)
    high = (bits >> 3) + ((_BIAS - 127) << 20)
    halves = jnp.stack([high, bits << 29], axis=-1)
    return jnp.where((bits >> 23 > 0)[..., None], halves, jnp.uint32(0))


def from_python(number: float) -> Array:
    """The bits of one number that is not negative."""
    bits = int(np.float64(abs(number)).view(np.uint64))
    return _normal(jnp.array([bits >> 32, bits & 0xFFFFFFFF], dtype=jnp.uint32))


def to_numpy(bits: Array) -> np.ndarray:
    """The numbers as numpy has them."""
    halves = np.asarray(bits).astype(np.uint64)
    return (halves[..., 0] << np.uint64(32) | halves[..., 1]).view(np.float64)


def times(one: Array, factor: Array) -> Array:
    """The products with a factor of at most 1."""
    one, factor = jnp.broadcast_arrays(one, factor)
    words = _product(_digits(one), _digits(factor))
    # 106 bits, of which the first may be 0: with it shifted out, the same 53 are those that stay.
    first = words[3] >> 9
    shifted = [words[0] << 1] + [words[k] << 1 | words[k - 1] >> 31 for k in (1, 2, 3)]
    zeroth, w1, w2, w3 = (
        jnp.where(first > 0, word, other) for word, other in zip(words, shifted, strict=True)
    )
    high, low = w3 << 11 | w2 >> 21, w2 << 11 | w1 >> 21
    sticky = (w1 << 12 | zeroth) > 0
    exponent = (one[..., 0] >> 20) + (factor[..., 0] >> 20) + first
    product = _rounded(exponent - _BIAS, high, low, w1 >> 20 & 1, sticky)
    is_normal = (exponent > _BIAS) & _is_positive(one) & _is_positive(factor)
    return jnp.where(is_normal[..., None], product, jnp.uint32(0))


def reciprocal(number: Array) -> Array:
    """The bits of 1 / number, of float32 or float64 numbers that are finite and positive."""
    if number.dtype == jnp.dtype("float64"):
        return from_float(1.0 / number)
    bits = lax.bitcast_convert_type(number, jnp.uint32)
    whole = bits & 0x7FFFFF | 0x800000
    # 2^23 / whole, in (1/2, 1]: long division, eight bits at a time, which fit beside 24.
    rest = jnp.full_like(whole, 0x800000)
    is_one = whole == rest
    digits = []
    for _ in range(7):
        digits.append((rest << 8) // whole)
        rest = (rest << 8) % whole
    high = digits[0] << 16 | digits[1] << 8 | digits[2]
    low = digits[3] << 24 | digits[4] << 16 | digits[5] << 8 | digits[6]
    # The exponent of 1/2, less that of the number.
    exponent = 2 * _BIAS - 1 - ((bits >> 23) + _BIAS - 127)
    sticky = ((low & 3) | rest) > 0
    result = _rounded(exponent, high >> 3, low >> 3 | high << 29, low >> 2 & 1, sticky)
    exact = jnp.stack([(exponent + 1) << 20, jnp.zeros_like(low)], axis=-1)
    return jnp.where(is_one[..., None], exact, result)


def is_greater(one: Array, other: Array) -> Array:
    """Whether one is strictly greater than the other."""
    (high, low), (other_high, other_low) = ((bits[..., 0], bits[..., 1]) for bits in (one, other))
    return (high > other_high) | ((high == other_high) & (low > other_low))


def first_smallest(numbers: Array) -> Array:
    """The index of the smallest of (C, 2), the first of equal ones."""
    high, low = numbers[:, 0], numbers[:, 1]
    candidates = high == high.min()
    least = jnp.where(candidates, low, jnp.uint32(0xFFFFFFFF)).min()
    return jnp.argmax(candidates & (low == least)).astype(jnp.int32)


def ascending(numbers: Array, present: Array) -> Array:
    """The indices of (C, 2) in their order, equal ones by index, those not `present` last."""
    return jnp.lexsort((numbers[:, 1], numbers[:, 0], ~present)).astype(jnp.int32)


def _normal(halves: Array) -> Array:
    """Without what is smaller than a normal number, and without the sign of -0."""
    high = halves[..., :1] & 0x7FFFFFFF
    return jnp.where(high >= _LEADING, halves.at[..., :1].set(high), jnp.uint32(0))


def _is_positive(bits: Array) -> Array:
    return bits[..., 0] > 0


def _digits(bits: Array) -> list[Array]:
    """The 53 bits of normal numbers, sixteen to a digit, the lowest first."""
    high, low = bits[..., 0] & _FRACTION | _LEADING, bits[..., 1]
    return [low & 0xFFFF, low >> 16, high & 0xFFFF, high >> 16]


def _product(one: list[Array], other: list[Array]) -> list[Array]:
    """The product of two numbers in digits as four words of 32 bits, the lowest first."""
    columns = [jnp.zeros_like(one[0])] * 9
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            columns[i + j] += a * b & 0xFFFF
            columns[i + j + 1] += a * b >> 16
    for k in range(8):
        columns[k + 1] += columns[k] >> 16
        columns[k] &= 0xFFFF
    return [columns[k] | columns[k + 1] << 16 for k in (0, 2, 4, 6)]


def _rounded(exponent: Array, high: Array, low: Array, half: Array, sticky: Array) -> Array:
    """The number of these 53 bits, the leading one among them, and of what comes after them.

    `half` is the next bit, `sticky` says whether any after it is set.
    """
    up = half & (sticky.astype(jnp.uint32) | low & 1)
    low = low + up
    carry = up & (low == 0).astype(jnp.uint32)
    # The leading bit adds 1 to the exponent, and so does a carry out of all the others.
    return jnp.stack([((exponent - 1) << 20) + high + carry, low], axis=-1)
