"""The group lasso: the sum of the groups' L2 norms."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmem.proximal.radial import shrink


def group_lasso(x: Tensor, strength: float | Tensor, metric: Tensor | None = None) -> Tensor:
    """The proximal operator of the L2 norm, for each row.

    z = argmin 1/2 sum_j d_j (z_j - x_j)^2 + s |z|. With d = 1, z = (1 - s / |x|) x; else
    z_j = d_j t / (d_j t + s) x_j with t = |z| the root of sum_j (d_j x_j)^2 / (d_j t + s)^2 = 1.
    z is zero if and only if |D x| <= s.

    Args:
        x: groups as rows (G, n), real.
        strength: s = step size times penalty, at least 0, for all rows or one a row (G,).
        metric: d > 0 for each element (G, n); None for 1.

    Returns:
        A new tensor of x's shape and type.

    Numerics: in float32 or wider; nothing waits for an accelerator. z is exact for a strength that
    differs from s by 32 units in the last place at most. A row of zeros stays one.

    Example:
        >>> import torch
        >>> from gradmem.proximal import group_lasso
        >>> group_lasso(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
        tensor([[2.4000, 3.2000],
                [0.0000, 0.0000]])
    """
    return shrink(x, strength, metric)


def group_lasso_value(x: Tensor, penalty: Tensor) -> Tensor:
    """``sum_g penalty_g |x_g|``."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=1)
    return (penalty * norms).sum()
