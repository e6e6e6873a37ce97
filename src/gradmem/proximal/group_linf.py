"""The l-infinity group penalty: the sum of the groups' largest absolute values."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmem.proximal.radial import per_row, wide_type


def group_linf(x: Tensor, strength: float | Tensor, metric: Tensor | None = None) -> Tensor:
    """The proximal operator of the largest absolute value, for each row.

    z = argmin 1/2 sum_j d_j (z_j - x_j)^2 + s max_j |z_j|: z_j is x_j cut off at c and -c, with c
    the root of sum_j d_j (|x_j| - c)_+ = s. z is zero if and only if sum_j d_j |x_j| <= s.

    Args:
        x: groups as rows (G, n), real.
        strength: s = step size times penalty, at least 0, for all rows or one a row (G,).
        metric: d > 0 for each element (G, n); None for 1.

    Returns:
        A new tensor of x's shape and type.

    Numerics: rows are sorted, and their sums taken in float64; nothing waits for an accelerator.

    Example:
        >>> import torch
        >>> from gradmem.proximal import group_linf
        >>> group_linf(torch.tensor([[4.0, -3.0, 1.0], [0.3, 0.2, 0.1]]), 2.0)
        tensor([[ 2.5000, -2.5000,  1.0000],
                [ 0.0000,  0.0000,  0.0000]])
    """
    if x.numel() == 0:
        return x.clone()
    s = per_row(strength, x, torch.float64)
    sizes, order = x.abs().sort(dim=1, descending=True)
    weights = torch.ones_like(sizes) if metric is None else metric.gather(1, order)
    sizes, weights = sizes.double(), weights.double()
    products = sizes * weights
    # The k largest alone would be cut off at a c that is too small, unless they are the right ones.
    cuts = (products.cumsum(1) - s) / weights.cumsum(1)
    c = torch.minimum(cuts.amax(1, keepdim=True).clamp_(min=0.0), sizes[:, :1])
    # Newton's step, from sums without the rounding of differences of large ones.
    excess = ((sizes - c).clamp_(min=0.0) * weights).sum(1, keepdim=True) - s
    active = torch.where(sizes >= c, weights, torch.zeros_like(weights)).sum(1, keepdim=True)
    c = (c + excess / active).clamp_(min=0.0)
    c = torch.where(products.sum(1, keepdim=True) > s, c, torch.zeros_like(c))
    c = torch.where(s > 0, c, torch.full_like(c, torch.inf)).to(wide_type(x))
    return x.to(c.dtype).clamp(-c, c).to(x.dtype)


def group_linf_value(x: Tensor, penalty: Tensor) -> Tensor:
    """``sum_g penalty_g max_j |x_gj|``."""
    return (penalty * x.abs().amax(1)).sum()
