"""Decisions that stay on an accelerator: tensor operations only, no host synchronisation.

The same as `on_host`, which is the easier to read; tests hold the two together. What is not decided
here is when the running sum is made anew: the host says so, by counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.memory.aggregates import is_uniform, uniform_of_all, weigh
from gradmem.memory.ledger import OLDEST_USED, STEPS, Ledger, Move
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import Offer, ask


class Decision(NamedTuple):
    """What a step does with the offered gradients: moves, and (R,) tensors they are rows of."""

    moves: list[Move]
    seen: Tensor
    write: Tensor
    slot: Tensor
    priority: Tensor
    size: Tensor


def is_capturing() -> bool:
    """Whether what is done now goes into a CUDA graph, to be done again without the host."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def is_renewed(calls: Any, capacity: int) -> Any:
    """Whether the running sum is made anew at the step after so many.

    How much it has drifted cannot be known without waiting: often enough, therefore, that the cost
    stays one read a step.
    """
    period = max(16, capacity)
    return calls % period == period - 1


def decide(
    ledger: Ledger,
    offer: Offer,
    options: MemoryOptions,
    size: Tensor | None = None,
    *,
    renew: bool,
) -> Decision:
    """What this step does with the offered gradients, one a ledger; changes nothing.

    `size` is the norm of what would be stored, (R,), if it is not the gradient.
    """
    seen = torch.isfinite(offer.norm) & (offer.norm > 0)
    slot, free = _free_slot(ledger.birth, offer.step, options.max_age)
    choice = ask(options.policy, offer, ledger)
    slot = torch.where(free, slot, choice.slot)
    write = seen & (free | choice.accept)
    columns: tuple[Sequence[Any], ...]
    columns = (*_weights(ledger, options), slot.unbind(), write.unbind())
    moves = [
        Move(current, stored, slots, where, when, renew)
        for current, stored, slots, where, when in zip(*columns, strict=True)
    ]
    return Decision(moves, seen, write, slot, choice.priority, offer.norm if size is None else size)


def _weights(ledger: Ledger, options: MemoryOptions) -> tuple[Sequence[Any], ...]:
    """The first three entries of the moves, a sequence each."""
    aggregate, kappa, rows = options.aggregate, options.kappa, len(ledger.drift)
    if isinstance(aggregate, str) and is_uniform(aggregate):
        current, stored = uniform_of_all(aggregate, ledger, kappa)
        return current.unbind(), stored.unbind(), [None] * rows
    current, slots = weigh(aggregate, ledger, kappa)
    return current.unbind(), [0.0] * rows, slots.unbind()


def refused_last(ledger: Ledger) -> Tensor:
    """Which ledgers, being full, did not take the last gradient they saw, (R,) bool."""
    births = ledger.birth
    return (births.amin(dim=1) > 0) & (births.amax(dim=1) < ledger.counters[:, STEPS])


def commit(ledger: Ledger, decision: Decision, decay: float) -> None:
    """Write a decision down, in place: enter the gradient, then decay every priority."""
    step = ledger.step
    births = torch.where(ledger.birth > 0, ledger.birth, step[:, None])
    oldest = torch.maximum(ledger.counters[:, OLDEST_USED], step - births.min(dim=1).values)
    _enter(ledger.priority, decision, decision.priority)
    _enter(ledger.norm, decision, decision.size)
    _enter(ledger.birth, decision, step)
    # Not torch.where(seen, decay, 1.0): of two Python numbers it makes a float32.
    factor = torch.ones_like(decision.size).masked_fill_(decision.seen, decay)
    ledger.priority.mul_(factor[:, None])
    seen = decision.seen.to(torch.int64)
    older = (oldest - ledger.counters[:, OLDEST_USED]) * seen
    more = (seen, decision.write.to(torch.int64), older, torch.ones_like(seen))
    ledger.counters.add_(torch.stack(more, dim=1))


def _free_slot(birth: Tensor, step: Tensor, max_age: int | None) -> tuple[Tensor, Tensor]:
    """The slot that takes a gradient without asking the policy, and whether there is one."""
    rank = (birth == 0).to(torch.int64)
    if max_age is not None:
        rank = rank.masked_fill((birth > 0) & (step[:, None] + 1 - birth > max_age), 2)
    best = rank.max(dim=1)
    return best.indices, best.values > 0


def _enter(table: Tensor, decision: Decision, value: Tensor) -> None:
    slot = decision.slot[:, None]
    entry = torch.where(decision.write[:, None], value[:, None], table.gather(1, slot))
    table.scatter_(1, slot, entry)
