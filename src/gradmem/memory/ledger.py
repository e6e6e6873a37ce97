"""Which gradient sits in which slot: a few numbers a slot, one row a ledger, never per parameter.

What happens to an offered gradient is decided in `on_host`, in Python numbers, or in `on_device`,
in tensors, where reading a number would wait for an accelerator. Both first decide, which changes
nothing, and then commit. Priorities are plain float64 products ``norm * decay * decay * ...``:
comparisons are exactly those of the definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Columns of Ledger.counters.
STEPS, ACCEPTED, OLDEST_USED, CALLS = range(4)


@dataclass(slots=True)
class Ledger:
    """The bookkeeping of R ledgers of C slots.

    Attributes:
        priority: (R, C) float64, decayed; 0 where empty.
        norm: (R, C) float64, the norm of what each slot holds; 0 where empty.
        birth: (R, C) int64, the step each was stored at, from 1; 0 where empty.
        counters: (R, 4) int64: steps seen, gradients accepted, largest age ever used, calls.
        drift: (R,) float64, squared rounding error estimated in the running sum.
    """

    priority: Tensor
    norm: Tensor
    birth: Tensor
    counters: Tensor
    drift: Tensor

    @property
    def capacity(self) -> int:
        """Slots of each ledger, C."""
        return self.birth.shape[1]

    @property
    def occupied(self) -> Tensor:
        """Which slots hold a gradient, (R, C) bool."""
        return self.birth > 0

    @property
    def count(self) -> Tensor:
        """How many do, (R,) int64."""
        return self.occupied.sum(dim=1)

    @property
    def step(self) -> Tensor:
        """The number of the step being taken, (R,) int64, from 1."""
        return self.counters[:, STEPS] + 1

    @property
    def age(self) -> Tensor:
        """Steps since each was stored, (R, C) int64: 1 for the newest; 0 where empty."""
        return (self.step[:, None] - self.birth).masked_fill(~self.occupied, 0)


class Move(NamedTuple):
    """What one ledger does in a step: Python values on the host, else 0-d tensors.

    Attributes:
        current: weight of the current gradient in the update.
        stored: weight of each stored one, 0 if `slots` says them singly.
        slots: a weight for each slot, a list of C numbers or a (C,) tensor; None for equal ones.
        slot: where the gradient goes if it enters.
        write: it enters the memory.
        renew: the running sum is to be made anew from the slots; always known on the host.
    """

    current: Any
    stored: Any
    slots: Any
    slot: Any
    write: Any
    renew: bool


def empty_ledger(rows: int, capacity: int, device: torch.device) -> Ledger:
    """Ledgers with nothing in them."""
    return Ledger(
        priority=torch.zeros(rows, capacity, dtype=torch.float64, device=device),
        norm=torch.zeros(rows, capacity, dtype=torch.float64, device=device),
        birth=torch.zeros(rows, capacity, dtype=torch.int64, device=device),
        counters=torch.zeros(rows, 4, dtype=torch.int64, device=device),
        drift=torch.zeros(rows, dtype=torch.float64, device=device),
    )


def expired(ledger: Ledger, max_age: int) -> Tensor:
    """Which slots are too old for the coming step, (R, C).

    Retention frees a slot before it grows too old: this is for a `max_age` that was made smaller.
    """
    return ledger.age > max_age


def written(ledger: Ledger, moves: list[Move]) -> Tensor:
    """Which slots the moves write to, (R, C)."""
    device = ledger.birth.device
    slot = torch.stack([torch.as_tensor(move.slot, device=device) for move in moves])
    write = torch.stack([torch.as_tensor(move.write, device=device) for move in moves])
    nowhere = torch.zeros_like(ledger.birth, dtype=torch.bool)
    return nowhere.scatter(1, slot[:, None], write[:, None])


def forget(ledger: Ledger, emptied: Tensor) -> None:
    """Empty, in place, the slots marked in the (R, C) mask."""
    for table in (ledger.priority, ledger.norm, ledger.birth):
        table.masked_fill_(emptied, 0)
    ledger.drift.masked_fill_(emptied.any(dim=1), 0.0)
