"""The penalties by name, with one signature for all: a new one is a file and a row here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from gradmem.errors import OptionError, OptionTypeError
from gradmem.proximal.group_lasso import group_lasso, group_lasso_value
from gradmem.proximal.group_linf import group_linf, group_linf_value
from gradmem.proximal.group_mcp import group_mcp, group_mcp_value
from gradmem.proximal.radial import per_row, wide_type


class Penalty(NamedTuple):
    """One penalty.

    Attributes:
        proximal: its operator, of x (G, n), strength, metric (G, n) or None, step size, and gamma.
        value: of x (G, n), the penalty of each group (G,), and gamma.
        radial: whether rows in the plain metric are scaled, as `radial.scale` says.
        concave: whether it has a gamma, which must be above step size / metric.
    """

    proximal: Callable[[Tensor, Any, Tensor | None, Any, float], Tensor]
    value: Callable[[Tensor, Tensor, float], Tensor]
    radial: bool
    concave: bool


PENALTIES: dict[str, Penalty] = {
    "group_lasso": Penalty(
        lambda x, strength, metric, _step, _gamma: group_lasso(x, strength, metric),
        lambda x, penalty, _gamma: group_lasso_value(x, penalty),
        radial=True,
        concave=False,
    ),
    "group_linf": Penalty(
        lambda x, strength, metric, _step, _gamma: group_linf(x, strength, metric),
        lambda x, penalty, _gamma: group_linf_value(x, penalty),
        radial=False,
        concave=False,
    ),
    "group_mcp": Penalty(
        lambda x, strength, metric, step, gamma: group_mcp(x, strength, step, gamma, metric),
        group_mcp_value,
        radial=True,
        concave=True,
    ),
}


def check_regularizer(name: object) -> None:
    """Refuse what is no name of a penalty."""
    listed = ", ".join(repr(known) for known in PENALTIES)
    if not isinstance(name, str):
        raise OptionTypeError(f"regularizer must be one of {listed}, got {name!r}")
    if name not in PENALTIES:
        raise OptionError(f"regularizer must be one of {listed}, got {name!r}")


def penalty_value(
    name: str,
    x: Tensor,
    penalty: float | Tensor,
    *,
    reweight: bool = True,
    gamma: float = 3.0,
) -> Tensor:
    """What a penalty adds to the loss for a matrix of groups; differentiable.

    Args:
        name: "group_lasso", "group_linf" or "group_mcp".
        x: groups as rows (G, n), real.
        penalty: lambda, at least 0, for all rows or one a row (G,).
        reweight: multiply lambda by the square root of n.
        gamma: of "group_mcp", above 0.

    Returns:
        A tensor without dimensions, of float32 or wider.

    Raises:
        OptionError: the name is unknown.

    Example:
        >>> import torch
        >>> from gradmem.proximal import penalty_value
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> penalty_value("group_lasso", x, 0.1, reweight=False)
        tensor(0.5000)
    """
    check_regularizer(name)
    wide = x.to(wide_type(x))
    if x.numel() == 0:
        return wide.sum()
    weight = math.sqrt(x.shape[1]) if reweight else 1.0
    per_group = (per_row(penalty, wide, wide.dtype) * weight).squeeze(1)
    return PENALTIES[name].value(wide, per_group, gamma)
