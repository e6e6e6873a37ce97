"""The group MCP: a group lasso that leaves large groups alone."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmem.errors import OptionError
from gradmem.proximal.radial import shrink


def group_mcp(
    x: Tensor,
    strength: float | Tensor,
    step: float | Tensor,
    gamma: float,
    metric: Tensor | None = None,
) -> Tensor:
    """The proximal operator of the minimax concave penalty of the L2 norm, for each row.

    z = argmin 1/2 sum_j d_j (z_j - x_j)^2 + step P(|z|), with P(u) = l u - u^2 / (2 gamma) up to
    u = gamma l and constant beyond, and l = strength / step. z is zero if and only if
    |D x| <= strength, and z = x if |x| >= gamma l. Otherwise
    z_j = d_j t / ((d_j - step / gamma) t + strength) x_j with t = |z| the root of
    sum_j (d_j x_j)^2 / ((d_j - step / gamma) t + strength)^2 = 1.

    Args:
        x: groups as rows (G, n), real.
        strength: step size times penalty, at least 0, for all rows or one a row (G,).
        step: the step size, at least 0.
        gamma: width of the penalty; gamma d must be above the step size, or z would jump.
        metric: d > 0 for each element (G, n); None for 1.

    Returns:
        A new tensor of x's shape and type.

    Raises:
        OptionError: gamma times the smallest d is not above the step size. On an accelerator, where
            asking would wait, rows that have such a d become NaN.

    Numerics: as `group_lasso`, which it is for gamma = infinity.

    Example:
        >>> import torch
        >>> from gradmem.proximal import group_mcp
        >>> group_mcp(torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.3, 0.4]]), 0.6, step=0.5, gamma=2.0)
        tensor([[3.0000, 4.0000],
                [0.3200, 0.4267],
                [0.0000, 0.0000]])
    """
    concavity = step / gamma
    if x.device.type == "cpu":
        _check(float(concavity), gamma, metric)
        return shrink(x, strength, metric, float(concavity))
    z = shrink(x, strength, metric, concavity)
    least = torch.ones((1, 1), device=x.device) if metric is None else metric.amin(1, keepdim=True)
    return torch.where(least > concavity, z, torch.full_like(z, torch.nan))


def _check(concavity: float, gamma: float, metric: Tensor | None) -> None:
    """Refuse a problem that is not convex."""
    least = 1.0 if metric is None or metric.numel() == 0 else float(metric.amin())
    if not least > concavity:
        raise OptionError(
            f"gamma times the smallest metric must be above the step size, got {gamma!r} times "
            f"{least:.3g} and {concavity * gamma:.3g}; take a gamma above "
            f"{concavity * gamma / least if least > 0 else torch.inf:.3g} or a smaller step"
        )


def group_mcp_value(x: Tensor, penalty: Tensor, gamma: float) -> Tensor:
    """``sum_g P(|x_g|)`` with ``P(u) = l u - u^2 / (2 gamma)`` up to gamma l, constant beyond."""
    norms = torch.minimum(torch.linalg.vector_norm(x, dim=1), gamma * penalty)
    return (penalty * norms - norms.square() / (2.0 * gamma)).sum()
