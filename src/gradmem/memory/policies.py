"""Which gradients are kept: one function each, one signature.

A policy is asked about ledgers that are full. It gives the offered gradient a priority, names the
slot that would have to go, and says whether the exchange is made. Empty slots, expired slots, zero
and non-finite gradients are dealt with by `on_host` and `on_device`, which then ignore the answer.
All tensors have one entry, or one row, a ledger; there is no host synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gradmem.memory.ledger import Ledger


class Offer(NamedTuple):
    """The incoming gradient: its norm and the step it would be stored at."""

    norm: Tensor
    step: Tensor


class Choice(NamedTuple):
    """The priority of the offered gradient, the slot it would take, and whether it takes it."""

    priority: Tensor
    slot: Tensor
    accept: Tensor


Policy: TypeAlias = Callable[[Offer, "Ledger"], Choice]


def top_norm(offer: Offer, ledger: Ledger) -> Choice:
    """Critical gradients: keeps the largest decayed norms."""
    return _beat_the_smallest(offer.norm, ledger)


def bottom_norm(offer: Offer, ledger: Ledger) -> Choice:
    """Keeps the smallest norms: the priority is 1 / norm, and decays like any other."""
    return _beat_the_smallest(1.0 / offer.norm, ledger)


def fifo(offer: Offer, ledger: Ledger) -> Choice:
    """Keeps the last ones: always accepts and drops the oldest, whatever the priorities."""
    oldest = ledger.birth.min(dim=1).indices
    return Choice(offer.norm, oldest, torch.ones_like(oldest, dtype=torch.bool))


def _beat_the_smallest(priority: Tensor, ledger: Ledger) -> Choice:
    """Replace the first slot of smallest priority if the offer is strictly greater."""
    smallest = ledger.priority.min(dim=1)
    return Choice(priority, smallest.indices, priority > smallest.values)


POLICIES: dict[str, Policy] = {"top_norm": top_norm, "bottom_norm": bottom_norm, "fifo": fifo}
