"""Decisions that stay on an accelerator: tensor operations only, no host synchronisation.

The same as `on_host`, which is the easier to read; tests hold the two together. What is not decided
here is when the running sum is made anew: the host says so, by counting.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradmem.memory.aggregates import Weights, weights
from gradmem.memory.ledger import OLDEST_USED, STEPS, Ledger, Move
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import POLICIES, Offer


class Decision(NamedTuple):
    """What a step does with the offered gradients: moves, and (R,) tensors they are rows of."""

    moves: list[Move]
    weights: Weights
    seen: Tensor
    write: Tensor
    slot: Tensor
    priority: Tensor
    norm: Tensor


def decide(ledger: Ledger, norm: Tensor, options: MemoryOptions, *, renew: bool) -> Decision:
    """What this step does with gradients of the given norms, one a ledger; changes nothing."""
    step = ledger.counters[:, STEPS] + 1
    seen = torch.isfinite(norm) & (norm > 0)
    slot, free = _free_slot(ledger.birth, step, options.max_age)
    choice = POLICIES[options.policy](Offer(norm, step), ledger)
    slot = torch.where(free, slot, choice.slot)
    write = seen & (free | choice.accept)
    occupied = (ledger.birth > 0).sum(dim=1).to(torch.float64)
    weight = weights(options.aggregate, occupied, options.kappa)
    columns = (weight.current.unbind(), weight.stored.unbind(), slot.unbind(), write.unbind())
    moves = [Move(*row, renew=renew) for row in zip(*columns, strict=True)]
    return Decision(moves, weight, seen, write, slot, choice.priority, norm)


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
