"""How the current gradient g and the memory are combined: one function each, one signature.

Every aggregate here is linear, ``current * g + stored * S`` with S the sum of the n stored
gradients, so a function only has to say the two weights: for one ledger with n a number, or for
several with n a tensor. With an empty memory the update is g, and with kappa = 0 there is no
memory: the functions are asked neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)
# n, kappa -> weight of the current gradient, weight of each stored one
AggregateFunction: TypeAlias = Callable[[Any, float], tuple[Any, Any]]


def mean(n: Number, kappa: float) -> tuple[Number, Number]:
    """``(g + kappa S) / (n + 1)``; total weight 1 at kappa 1."""
    share = 1.0 / (n + 1.0)
    return share, kappa * share


def sum_(n: Number, kappa: float) -> tuple[float, Number]:
    """``g + kappa S / n``; total weight 1 + kappa: at kappa 1 it doubles the step."""
    return 1.0, kappa / n


def mid(n: Number, kappa: float) -> tuple[float, Number]:
    """``(g + kappa S / n) / 2``; total weight 1 at kappa 1."""
    return 0.5, 0.5 * kappa / n


AGGREGATES: dict[str, AggregateFunction] = {"mean": mean, "sum": sum_, "mid": mid}


def weights_of_one(aggregate: str, n: int, kappa: float) -> tuple[float, float]:
    """The weights for one ledger, (1, 0) where there is nothing to combine with."""
    if n == 0:
        return 1.0, 0.0
    current, stored = AGGREGATES[aggregate](float(n), kappa)
    return current, stored


def total_weight(aggregate: str, n: int, kappa: float) -> float:
    """The sum of all weights, of the current gradient and of the n stored ones."""
    current, stored = weights_of_one(aggregate, n, kappa)
    return current + n * stored


class Weights(NamedTuple):
    """The weight of the current gradient and of each stored one, one entry a ledger."""

    current: Tensor
    stored: Tensor


def weights(aggregate: str, n: Tensor, kappa: float) -> Weights:
    """The weights for every ledger, (1, 0) where there is nothing to combine with."""
    empty = n == 0
    current, stored = AGGREGATES[aggregate](n.masked_fill(empty, 1.0), kappa)
    current = torch.zeros_like(n) + current
    return Weights(current.masked_fill(empty, 1.0), stored.masked_fill(empty, 0.0))
