"""The base rules as Triton's functions: of an update, a parameter and the rule's state.

They return the new parameter and state. `numbers` are the options, in the order of the optimizer's
`_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import constexpr


@triton.jit
def divide(x, y):
    """Rounded to the nearest, in either width."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def root(x):
    """Rounded to the nearest, in either width."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _number(numbers, i: constexpr, like):
    return tl.load(numbers + i).to(like.dtype)


@triton.jit
def _rest(numbers, i: constexpr, like):
    """One less this option."""
    return (1.0 - tl.load(numbers + i)).to(like.dtype)


@triton.jit
def _gradient(u, p, decay, maximize):
    """What a rule sees. Without a decay, an infinite parameter makes no NaN."""
    u = tl.where(maximize != 0, -u, u)
    return tl.where(decay == 0, u, u + decay * p)


@triton.jit
def _near(start, end, share):
    """From one to the other by a share of the way, begun at the nearer end, as torch has it."""
    way = end - start
    return tl.where(share < 0.5, start + share * way, end - (1.0 - share) * way)


@triton.jit
def sgd(u, p, buffer, numbers, has_buffer: constexpr):
    """SGD, with a momentum if there is a buffer."""
    u = _gradient(u, p, _number(numbers, 3, u), _number(numbers, 5, u))
    if has_buffer:
        momentum = _number(numbers, 1, u)
        buffer = momentum * buffer + _rest(numbers, 2, u) * u
        u = tl.where(_number(numbers, 4, u) != 0, u + momentum * buffer, buffer)
    return p - _number(numbers, 0, u) * u, buffer


@triton.jit
def rmsprop(u, p, square, mean, buffer, numbers, has_mean: constexpr, has_buffer: constexpr):
    """RMSprop; centered if there is a mean, with a momentum if there is a buffer."""
    u = _gradient(u, p, _number(numbers, 3, u), _number(numbers, 5, u))
    rest = _rest(numbers, 1, u)
    square = _number(numbers, 1, u) * square + rest * u * u
    variance = square
    if has_mean:
        mean = _near(mean, u, rest)
        variance = square - mean * mean
    u = divide(u, root(variance) + _number(numbers, 2, u))
    if has_buffer:
        buffer = _number(numbers, 4, u) * buffer + u
        u = buffer
    return p - _number(numbers, 0, u) * u, square, mean, buffer


@triton.jit
def adam(u, p, mean, square, most, numbers, correction, has_most: constexpr, critical: constexpr):
    """Adam; of critical momenta, where the mean is not made here but is what u was made of."""
    lr, decay = tl.load(numbers), tl.load(numbers + 4)
    decoupled = tl.load(numbers + 5) != 0
    p *= tl.where(decoupled, 1.0 - lr * decay, 1.0).to(u.dtype)
    u = _gradient(u, p, tl.where(decoupled, 0.0, decay).to(u.dtype), _number(numbers, 6, u))
    along = u
    if not critical:
        mean = _near(mean, u, _rest(numbers, 1, u))
        along = mean
    square = _number(numbers, 2, u) * square + _rest(numbers, 2, u) * u * u
    second = square
    if has_most:
        second = tl.where((square <= most) | (most != most), most, square)  # NaN stays
    below = root(second) * _number(correction, 1, u) + _number(numbers, 3, u)
    return p - _number(correction, 0, u) * divide(along, below), mean, square, second
