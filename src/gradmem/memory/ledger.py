"""Which gradient sits in which slot: a few numbers a slot, one row a ledger, never per parameter.

`decide` says what happens to the gradient that is offered and changes nothing; `commit` writes it
down. Both are tensor operations only, so they run on an accelerator without a host synchronisation.
Priorities are plain float64 products ``norm * decay * decay * ...``: comparisons are exactly those
of the definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradmem.memory.aggregates import Weights, weights
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import POLICIES, Offer

# Columns of Ledger.counters.
STEPS, ACCEPTED, OLDEST_USED, CALLS = range(4)

# The running sum is made anew when its estimated rounding error, relative to the root sum of
# squares of the stored norms, passes TOLERANCE. UNIT_ROUNDOFF is float32's, whatever the sum's own
# type, so that the decision does not depend on it.
UNIT_ROUNDOFF = 2.0**-24
TOLERANCE = 1e-6


@dataclass(slots=True)
class Ledger:
    """The bookkeeping of R ledgers of C slots.

    Attributes:
        priority: (R, C) float64, decayed; 0 where empty.
        norm: (R, C) float64, the norm each stored gradient came with; 0 where empty.
        birth: (R, C) int64, the step each was stored at, from 1; 0 where empty.
        counters: (R, 4) int64: steps seen, gradients accepted, largest age ever used, calls.
        drift: (R,) float64, squared rounding error estimated in the running sum.
    """

    priority: Tensor
    norm: Tensor
    birth: Tensor
    counters: Tensor
    drift: Tensor


class Decision(NamedTuple):
    """What a step does with the offered gradients, one entry a ledger.

    Attributes:
        weights: of the current gradient and of each stored one in the update.
        seen: the gradient is finite and not zero; otherwise the ledger stays as it is.
        write: the gradient enters the memory.
        slot: where.
        priority: with which priority.
        norm: with which norm.
        drift: the running sum's estimated squared error after the step.
        renew: the running sum is to be made anew from the slots.
    """

    weights: Weights
    seen: Tensor
    write: Tensor
    slot: Tensor
    priority: Tensor
    norm: Tensor
    drift: Tensor
    renew: Tensor


def empty_ledger(rows: int, capacity: int, device: torch.device) -> Ledger:
    """Ledgers with nothing in them."""
    return Ledger(
        priority=torch.zeros(rows, capacity, dtype=torch.float64, device=device),
        norm=torch.zeros(rows, capacity, dtype=torch.float64, device=device),
        birth=torch.zeros(rows, capacity, dtype=torch.int64, device=device),
        counters=torch.zeros(rows, 4, dtype=torch.int64, device=device),
        drift=torch.zeros(rows, dtype=torch.float64, device=device),
    )


def decide(ledger: Ledger, norm: Tensor, options: MemoryOptions) -> Decision:
    """What this step does with gradients of the given norms, one a ledger; changes nothing."""
    step = ledger.counters[:, STEPS] + 1
    seen = torch.isfinite(norm) & (norm > 0)
    slot, free = _free_slot(ledger.birth, step, options.max_age)
    choice = POLICIES[options.policy](Offer(norm, step), ledger)
    slot = torch.where(free, slot, choice.slot)
    write = seen & (free | choice.accept)
    drift, renew = _drift(ledger, slot, norm)
    renew = renew & write
    occupied = (ledger.birth > 0).sum(dim=1).to(torch.float64)
    return Decision(
        weights=weights(options.aggregate, occupied, options.kappa),
        seen=seen,
        write=write,
        slot=slot,
        priority=choice.priority,
        norm=norm,
        drift=torch.where(write, drift, ledger.drift).masked_fill(renew, 0.0),
        renew=renew,
    )


def commit(ledger: Ledger, decision: Decision, decay: float) -> None:
    """Write a decision down, in place: enter the gradient, then decay every priority."""
    step = ledger.counters[:, STEPS] + 1
    births = torch.where(ledger.birth > 0, ledger.birth, step[:, None])
    oldest = torch.maximum(ledger.counters[:, OLDEST_USED], step - births.min(dim=1).values)
    _enter(ledger.priority, decision, decision.priority)
    _enter(ledger.norm, decision, decision.norm)
    _enter(ledger.birth, decision, step)
    # Not torch.where(seen, decay, 1.0): of two Python numbers it makes a float32.
    factor = torch.ones_like(decision.norm).masked_fill_(decision.seen, decay)
    ledger.priority.mul_(factor[:, None])
    ledger.drift.copy_(decision.drift)
    seen = decision.seen.to(torch.int64)
    older = (oldest - ledger.counters[:, OLDEST_USED]) * seen
    more = (seen, decision.write.to(torch.int64), older, torch.ones_like(seen))
    ledger.counters.add_(torch.stack(more, dim=1))


def expired(ledger: Ledger, max_age: int) -> Tensor:
    """Which slots are too old for the coming step, (R, C).

    Retention frees a slot before it grows too old: this is for a `max_age` that was made smaller.
    """
    step = ledger.counters[:, STEPS] + 1
    return (ledger.birth > 0) & (step[:, None] - ledger.birth > max_age)


def written(ledger: Ledger, decision: Decision) -> Tensor:
    """Which slots the decision writes to, (R, C)."""
    nowhere = torch.zeros_like(ledger.birth, dtype=torch.bool)
    return nowhere.scatter(1, decision.slot[:, None], decision.write[:, None])


def forget(ledger: Ledger, emptied: Tensor) -> None:
    """Empty, in place, the slots marked in the (R, C) mask."""
    for table in (ledger.priority, ledger.norm, ledger.birth):
        table.masked_fill_(emptied, 0)
    ledger.drift.masked_fill_(emptied.any(dim=1), 0.0)


def _free_slot(birth: Tensor, step: Tensor, max_age: int | None) -> tuple[Tensor, Tensor]:
    """The slot that takes a gradient without asking the policy, and whether there is one.

    A slot that would be too old at the next step goes before an empty one: at most one grows too
    old at a time, so a step never touches two slots.
    """
    rank = (birth == 0).to(torch.int64)
    if max_age is not None:
        rank = rank.masked_fill((birth > 0) & (step[:, None] + 1 - birth > max_age), 2)
    best = rank.max(dim=1)
    return best.indices, best.values > 0


def _enter(table: Tensor, decision: Decision, value: Tensor) -> None:
    slot = decision.slot[:, None]
    entry = torch.where(decision.write[:, None], value[:, None], table.gather(1, slot))
    table.scatter_(1, slot, entry)


def _drift(ledger: Ledger, slot: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The running sum's squared error once `norm` has taken `slot`, and whether it is too large.

    Sums are taken for as long as the root sum of squares of their terms, which is their expected
    length for gradients that point every way.
    """
    squares = ledger.norm.square()
    before = squares.sum(dim=1)
    old = squares.gather(1, slot[:, None]).squeeze(1)
    new = norm.square()
    after = before - old + new
    drift = ledger.drift + UNIT_ROUNDOFF**2 * (old + new + before + after)
    return drift, ~(drift <= TOLERANCE**2 * after)
