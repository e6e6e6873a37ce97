"""How the current gradient g and the memory are combined: one function each.

Two kinds. A *uniform* aggregate gives every stored gradient the same weight: ``current * g + stored
* S`` with S the running sum, so a step costs the same whatever the capacity; its function says the
two weights, of a number n of stored gradients or a tensor of them. A *weighing* one, the kind a
user may write, gives every slot a weight of its own; the slots whose weight is not zero are read.

With an empty memory the update is g, whatever the function says; with kappa = 0 there is no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from gradmem.memory.ledger import Ledger, empty_ledger
from gradmem.memory.returned import check_entries, check_tensor

Number = TypeVar("Number", float, Tensor)


class Weights(NamedTuple):
    """The weights in an update.

    Attributes:
        current: of the current gradient, (R,) of any real type, or a number.
        slots: of each slot, (R, C) of any real type; what it says of empty slots is not used.
    """

    current: Tensor | float
    slots: Tensor


# n, kappa -> weight of the current gradient, weight of each stored one
UniformFunction: TypeAlias = Callable[[Any, float], tuple[Any, Any]]


class AggregateFunction(Protocol):
    """An aggregate, for the option ``aggregate``: a function of what is held, and kappa.

    It is called once a step with one row a ledger, and must not wait for a device: tensors in,
    tensors out. Weights may be of either sign; their sum, in `memory_report`, is what the step is
    multiplied by. The slots whose weight is not zero are read: a step costs as much more.

    Example:
        >>> import torch
        >>> from gradmem import Ledger, SGD_C, Weights
        >>> def fading(ledger: Ledger, kappa: float) -> Weights:
        ...     return Weights(1.0, kappa * 0.5**ledger.age.double())
        >>> optimizer = SGD_C([torch.nn.Parameter(torch.ones(3))], aggregate=fading)
    """

    def __call__(self, ledger: Ledger, kappa: float, /) -> Weights:
        """The weight of the current gradient, and of each slot."""


def mean(n: Number, kappa: float) -> tuple[Number, Number]:
    """``(g + kappa S) / (n + 1)``; total weight 1 at kappa 1."""
    share = 1.0 / (n + 1.0)
    return share, kappa * share


def sum_(n: Number, kappa: float) -> tuple[float, Number]:
    """``g + kappa S / n``; total weight 1 + kappa: at kappa 1 it doubles the step."""
    return 1.0, kappa * (1.0 / n)  # not kappa / n, of which a tensor makes these two roundings


def mid(n: Number, kappa: float) -> tuple[float, Number]:
    """``(g + kappa S / n) / 2``; total weight 1 at kappa 1."""
    return 0.5, 0.5 * kappa * (1.0 / n)


UNIFORM: dict[str, UniformFunction] = {"mean": mean, "sum": sum_, "mid": mid}


def min_(ledger: Ledger, kappa: float) -> Weights:
    """``g + kappa b``, b the stored gradient of smallest priority; total weight 1 + kappa."""
    return Weights(1.0, kappa * _one_slot(ledger, torch.zeros_like(ledger.count)))


def median(ledger: Ledger, kappa: float) -> Weights:
    """``g + kappa b``, b that of middle priority, the upper middle of an even number."""
    return Weights(1.0, kappa * _one_slot(ledger, ledger.count // 2))


def max_(ledger: Ledger, kappa: float) -> Weights:
    """``g + kappa b``, b that of largest priority."""
    return Weights(1.0, kappa * _one_slot(ledger, ledger.count - 1))


def min_mean(ledger: Ledger, kappa: float) -> Weights:
    """``(g + kappa b) / 2``, b the stored gradient of smallest priority; total weight 1."""
    return _halved(min_(ledger, kappa))


def median_mean(ledger: Ledger, kappa: float) -> Weights:
    """``(g + kappa b) / 2``, b that of middle priority."""
    return _halved(median(ledger, kappa))


def max_mean(ledger: Ledger, kappa: float) -> Weights:
    """``(g + kappa b) / 2``, b that of largest priority."""
    return _halved(max_(ledger, kappa))


WEIGHING: dict[str, AggregateFunction] = {
    "min": min_,
    "median": median,
    "max": max_,
    "min_mean": min_mean,
    "median_mean": median_mean,
    "max_mean": max_mean,
}


def _one_slot(ledger: Ledger, place: Tensor) -> Tensor:
    """1 for the slot at that place in the order of priorities, equal ones by their slot."""
    ranked = ledger.priority.masked_fill(~ledger.occupied, torch.inf)
    order = ranked.sort(dim=1, stable=True).indices
    slot = order.gather(1, place.clamp(min=0)[:, None])
    return torch.zeros_like(ledger.priority).scatter_(1, slot, 1.0)


def _halved(weights: Weights) -> Weights:
    return Weights(0.5 * weights.current, 0.5 * weights.slots)


AGGREGATES = (*UNIFORM, *WEIGHING)


def is_uniform(aggregate: str | AggregateFunction) -> bool:
    """Whether the running sum is all it needs."""
    return isinstance(aggregate, str) and aggregate in UNIFORM


def uniform_of_one(aggregate: str, n: int, kappa: float) -> tuple[float, float]:
    """The weights of a uniform aggregate for one ledger, (1, 0) where nothing is stored."""
    if n == 0:
        return 1.0, 0.0
    current, stored = UNIFORM[aggregate](float(n), kappa)
    return current, stored


def uniform_of_all(aggregate: str, ledger: Ledger, kappa: float) -> tuple[Tensor, Tensor]:
    """The weights of a uniform aggregate for every ledger, (R,) each."""
    n = ledger.count.to(torch.float64)
    empty = n == 0
    current, stored = UNIFORM[aggregate](n.masked_fill(empty, 1.0), kappa)
    current = torch.zeros_like(n) + current
    return current.masked_fill(empty, 1.0), stored.masked_fill(empty, 0.0)


def total_weight(aggregate: str, n: int, kappa: float) -> float:
    """The sum of all weights, of the current gradient and of the n stored ones."""
    if aggregate in UNIFORM:
        current, stored = uniform_of_one(aggregate, n, kappa)
        return current + n * stored
    ledger = empty_ledger(1, max(n, 1), torch.device("cpu"))
    ledger.birth[:, :n] = 1
    weight, slots = weigh(aggregate, ledger, kappa)
    return float(weight + slots.sum())


def weigh(
    aggregate: str | AggregateFunction, ledger: Ledger, kappa: float
) -> tuple[Tensor, Tensor]:
    """The weights of any aggregate: of the current gradient, (R,), and of every slot, (R, C).

    Raises:
        StepError: a user's function returned something else than `Weights`.
    """
    if isinstance(aggregate, str) and aggregate in UNIFORM:
        current, stored = uniform_of_all(aggregate, ledger, kappa)
        each = stored[:, None].expand(ledger.priority.shape)
        return current, each.masked_fill(~ledger.occupied, 0.0)
    if isinstance(aggregate, str):
        weights = WEIGHING[aggregate](ledger, kappa)
    else:
        weights = aggregate(ledger, kappa)
        _check(weights, aggregate, ledger)
    # Adding a number to zeros, unlike making a tensor of it, does not wait for an accelerator.
    current = torch.zeros_like(ledger.drift) + weights[0]
    slots = weights[1].to(torch.float64).masked_fill(~ledger.occupied, 0.0)
    return current.masked_fill(ledger.count == 0, 1.0), slots


def _check(weights: Any, aggregate: AggregateFunction, ledger: Ledger) -> None:
    who = f"the aggregate {aggregate!r}"
    check_entries(who, weights, "Weights", Weights._fields)
    if not isinstance(weights[0], Real):
        check_tensor(who, "current, if not a number", weights[0], ledger.drift, None)
    check_tensor(who, "slots", weights[1], ledger.priority, None)
