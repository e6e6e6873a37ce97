"""Shrinking rows along themselves: what group lasso and group MCP have in common.

Both minimise ``1/2 sum_j d_j (z_j - x_j)^2 + s |z| - a |z|^2 / 2`` over z, with a = 0 for the group
lasso, as long as ``|z| <= s / a``, beyond which MCP is flat and z = x.
"""

from __future__ import annotations

import torch
from torch import Tensor

# From the start below, Newton's method needs 15 at most on rows made to be hard (x and d spread
# over 16 decades, against each other), 2 to 4 on usual ones.
_ITERATIONS = 24

# In units of the type's precision: a sum of squares this close to 1 is a root.
_TOLERANCE = 8.0


def wide_type(*tensors: Tensor | None) -> torch.dtype:
    """The type in which tensors are computed with: theirs, or float32 if that is wider."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def per_row(value: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """One value or one a row as a column (G, 1) or (1, 1), without a copy from the host."""
    if isinstance(value, Tensor):
        return value.to(device=x.device, dtype=dtype).reshape(-1, 1)
    return torch.full((1, 1), value, device=x.device, dtype=dtype)


def scale(norms: Tensor, strength: float | Tensor, concavity: float | Tensor = 0.0) -> Tensor:
    """The factor on rows of these norms in the plain metric: 0 up to the strength, at most 1.

    The norms are overwritten.
    """
    info = torch.finfo(norms.dtype)
    norms = norms.clamp_(info.tiny, info.max)  # finite, and no division by zero
    factor = (norms - strength).clamp_(min=0.0).div_(norms)
    if isinstance(concavity, float) and concavity == 0.0:
        return factor
    return factor.div_(1.0 - concavity).clamp_(max=1.0)


def shrink(
    x: Tensor,
    strength: float | Tensor,
    metric: Tensor | None = None,
    concavity: float | Tensor = 0.0,
) -> Tensor:
    """The minimiser z for each row of x (G, n).

    Args:
        x: rows of real numbers.
        strength: s, for all rows or one a row (G,), at least 0.
        metric: d > 0 for each element (G, n); None for 1.
        concavity: a, from 0 and below every d.

    Returns:
        A new tensor of x's type; rows with ``|D x| <= s`` are exactly zero.
    """
    if x.numel() == 0:
        return x.clone()
    dtype = wide_type(x, metric)
    wide, s = x.to(dtype), per_row(strength, x, dtype)
    a = per_row(concavity, x, dtype) if isinstance(concavity, Tensor) else concavity
    # By a power of two, which is exact, so that squares neither overflow nor vanish beside s.
    unit = torch.ldexp(torch.ones_like(s), -torch.frexp(s).exponent.clamp(-120, 120))
    if metric is None:
        norms = torch.linalg.vector_norm(wide * unit, dim=1, keepdim=True)
        return (wide * scale(norms, s * unit, a)).to(x.dtype)
    d = metric.to(dtype)
    weighted = torch.linalg.vector_norm((wide * d).mul_(unit), dim=1, keepdim=True)
    kept = (weighted > s * unit) | (s == 0)
    plain = isinstance(a, float) and a == 0.0
    ratio = s / (d if plain else d - a)
    y = wide if plain else wide * (d / (d - a))
    t = torch.where(kept, radius(y.abs(), ratio)[:, None], torch.zeros_like(s))
    z = y * torch.add(ratio, t).reciprocal_().mul_(t)
    if not plain:
        norms = torch.linalg.vector_norm(wide * unit, dim=1, keepdim=True)
        z = torch.where(a * norms >= s * unit, wide, z)
    return z.to(x.dtype)


def radius(y: Tensor, r: Tensor) -> Tensor:
    """For each row the t of ``sum_j (y_j / (t + r_j))^2 = 1``; nearly 0 if that at 0 is below 1.

    The sum is 1 to within 32 units in the last place, as long as it is computed to that: z is then
    exact for a strength that differs by half of it, relatively.

    Newton's method is applied to 1 / sqrt(sum) - 1, which is concave and nearly a straight line:
    from a start below the root it rises to it and does not pass it. Rows that have arrived stay.

    Args:
        y: at least 0, (G, n) of float32 or wider.
        r: at least 0, (G, n).
    """
    info = torch.finfo(y.dtype)
    # From max (y - r) on no quotient is above 1, and no square overflows.
    t = (y - r).amax(1, keepdim=True).clamp_(min=info.tiny)
    # Another bound, closer for small r, is |y| less the mean of r weighted by y^2: 1 / (t + r)^2 is
    # convex in r. Where squares overflow or vanish it is not a number, and fmax takes the first.
    terms = y.square()
    total = terms.sum(1, keepdim=True)
    t = torch.fmax(t, total.sqrt() - terms.mul_(r).sum(1, keepdim=True) / total)
    inverse = torch.empty_like(r)
    on_host = y.device.type == "cpu"
    for _ in range(_ITERATIONS):
        torch.add(r, t, out=inverse).reciprocal_()
        torch.mul(y, inverse, out=terms).square_()
        total = terms.sum(1, keepdim=True)
        below = total - 1.0 > _TOLERANCE * info.eps
        # Further rounds would change nothing, but to know it on an accelerator one would wait.
        if on_host and not bool(below.any()):
            break
        slope = terms.mul_(inverse).sum(1, keepdim=True)
        t = torch.where(below, t + total * (total.sqrt() - 1.0) / slope, t)
    return t.squeeze(1)
