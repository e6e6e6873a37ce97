"""How the current gradient g and the memory are combined: one function each, one signature.

Every aggregate here is linear, ``current * g + stored * S`` with S the sum of the stored gradients,
so a function only has to say the two weights. `n` holds how many gradients each ledger has stored.
`weights` answers where n = 0, and with kappa = 0 there is no memory: the functions see neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class Weights(NamedTuple):
    """The weight of the current gradient and of each stored one, one entry a ledger."""

    current: Tensor
    stored: Tensor


AggregateFunction: TypeAlias = Callable[[Tensor, float], Weights]


def mean(n: Tensor, kappa: float) -> Weights:
    """``(g + kappa S) / (n + 1)``; total weight 1 at kappa 1."""
    share = 1.0 / (n + 1.0)
    return Weights(share, kappa * share)


def sum_(n: Tensor, kappa: float) -> Weights:
    """``g + kappa S / n``; total weight 1 + kappa: at kappa 1 it doubles the step."""
    return Weights(torch.ones_like(n), kappa / n)


def mid(n: Tensor, kappa: float) -> Weights:
    """``(g + kappa S / n) / 2``; total weight 1 at kappa 1."""
    return Weights(torch.full_like(n, 0.5), 0.5 * kappa / n)


AGGREGATES: dict[str, AggregateFunction] = {"mean": mean, "sum": sum_, "mid": mid}


def weights(aggregate: str, n: Tensor, kappa: float) -> Weights:
    """The weights for every ledger, (1, 0) where there is nothing to combine with."""
    empty = n == 0
    combined = AGGREGATES[aggregate](n.masked_fill(empty, 1.0), kappa)
    return Weights(
        combined.current.masked_fill(empty, 1.0), combined.stored.masked_fill(empty, 0.0)
    )
