"""Decisions in Python numbers, where a ledger can be read without waiting.

A ledger is some tens of numbers: reading them all costs less than one or two tensor operations.
Policies and weighing aggregates, of which there is one definition, are asked in tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradmem.errors import StepError
from gradmem.memory.aggregates import is_uniform, uniform_of_one, weigh
from gradmem.memory.ledger import ACCEPTED, CALLS, OLDEST_USED, STEPS, Ledger, Move
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import Offer, ask

# The running sum is made anew when its estimated rounding error, relative to the root sum of
# squares of the stored norms, passes TOLERANCE. UNIT_ROUNDOFF is float32's, whatever the sum's own
# type, so that the decision does not depend on it.
UNIT_ROUNDOFF = 2.0**-24
TOLERANCE = 1e-6


@dataclass(slots=True)
class Row:
    """One ledger's numbers, and what it is offered: the gradient's norm, the norm of what would be
    stored, and what the policy says.
    """

    offered: float
    size: float
    priority: float
    slot: int
    accept: bool
    priorities: list[float]
    norms: list[float]
    births: list[int]
    counters: list[int]
    drift: float

    @property
    def step(self) -> int:
        """The number of this step, if it is seen."""
        return self.counters[STEPS] + 1

    @property
    def held(self) -> int:
        """How many gradients the memory holds."""
        return len(self.births) - self.births.count(0)

    @property
    def seen(self) -> bool:
        """The gradient is finite and not zero; otherwise the ledger stays as it is."""
        return 0.0 < self.offered < math.inf


class Decision:
    """What a step does with the offered gradients: moves, and the rows for `commit`."""

    def __init__(self, rows: list[Row], moves: list[Move]) -> None:
        self.rows = rows
        self.moves = moves


def decide(
    ledger: Ledger, offer: Offer, options: MemoryOptions, size: Tensor | None = None
) -> Decision:
    """What this step does with the offered gradients, one a ledger; changes nothing.

    `size` is the norm of what would be stored, (R,), if it is not the gradient.
    """
    choice = ask(options.policy, offer, ledger)
    sizes = offer.norm if size is None else size
    tables = (ledger.priority, ledger.norm, ledger.birth, ledger.counters, ledger.drift)
    columns = (tensor.tolist() for tensor in (offer.norm, sizes, *choice, *tables))
    rows = [Row(*numbers) for numbers in zip(*columns, strict=True)]
    if not isinstance(options.policy, str):
        _check_choices(rows, options)
    weights = _weights(ledger, rows, options)
    return Decision(rows, [_decide_row(*each, options) for each in zip(rows, weights, strict=True)])


def refused_last(ledger: Ledger) -> list[bool]:
    """Which ledgers, being full, did not take the last gradient they saw, one or more steps ago."""
    steps = ledger.counters[:, STEPS].tolist()
    births = ledger.birth.tolist()
    return [min(row) > 0 and max(row) < step for row, step in zip(births, steps, strict=True)]


def commit(ledger: Ledger, decision: Decision, decay: float) -> None:
    """Write a decision down, in place: enter the gradient, then decay every priority."""
    for row, move in zip(decision.rows, decision.moves, strict=True):
        row.counters[CALLS] += 1
        if row.seen:
            _commit_row(row, move, decay)
    rows = decision.rows
    _write(ledger.priority, [row.priorities for row in rows])
    _write(ledger.counters, [row.counters for row in rows])
    if any(move.write for move in decision.moves):  # else the others are as they were
        _write(ledger.norm, [row.norms for row in rows])
        _write(ledger.birth, [row.births for row in rows])
        _write(ledger.drift, [row.drift for row in rows])


def _weights(
    ledger: Ledger, rows: list[Row], options: MemoryOptions
) -> list[tuple[float, float, list[float] | None]]:
    """The first three entries of every ledger's move."""
    aggregate, kappa = options.aggregate, options.kappa
    if isinstance(aggregate, str) and is_uniform(aggregate):
        return [(*uniform_of_one(aggregate, row.held, kappa), None) for row in rows]
    current, slots = weigh(aggregate, ledger, kappa)
    weights = list(zip(current.tolist(), slots.tolist(), strict=True))
    for number, each in weights:
        if not all(map(math.isfinite, (number, *each))):
            raise StepError(
                f"the aggregate {aggregate!r} returned the weights {number:g} and {each}; all must "
                "be finite numbers"
            )
    return [
        (number, 0.0, each) if row.held else (1.0, 0.0, None)
        for row, (number, each) in zip(rows, weights, strict=True)
    ]


def _check_choices(rows: list[Row], options: MemoryOptions) -> None:
    """What a user's policy said of gradients that are seen."""
    for row in rows:
        if row.seen and not math.isfinite(row.priority):
            raise StepError(
                f"the policy {options.policy!r} returned the priority {row.priority} for a "
                f"gradient of norm {row.offered:g}; a priority must be a finite number"
            )
        if row.seen and not 0 <= row.slot < options.capacity:
            raise StepError(
                f"the policy {options.policy!r} chose the slot {row.slot}; there are slots from 0 "
                f"to {options.capacity - 1}"
            )


def _decide_row(
    row: Row, weights: tuple[float, float, list[float] | None], options: MemoryOptions
) -> Move:
    if not row.seen:
        return Move(*weights, slot=0, write=False, renew=False)
    free = _free_slot(row, options.max_age)
    slot = row.slot if free is None else free
    write = row.accept or free is not None
    renew = write and _drifts(row, slot)
    return Move(*weights, slot=slot, write=write, renew=renew)


def _free_slot(row: Row, max_age: int | None) -> int | None:
    """The slot that takes a gradient without asking the policy.

    A slot that would be too old at the next step goes before an empty one: at most one grows too
    old at a time, so a step never touches two slots.
    """
    if max_age is not None:
        for slot, birth in enumerate(row.births):
            if birth and row.step + 1 - birth > max_age:
                return slot
    return row.births.index(0) if row.held < len(row.births) else None


def _commit_row(row: Row, move: Move, decay: float) -> None:
    oldest = min((birth for birth in row.births if birth), default=row.step)
    row.counters[OLDEST_USED] = max(row.counters[OLDEST_USED], row.step - oldest)
    if move.write:
        row.priorities[move.slot] = row.priority
        row.norms[move.slot] = row.size
        row.births[move.slot] = row.step
        row.counters[ACCEPTED] += 1
    row.priorities = [priority * decay for priority in row.priorities]
    row.counters[STEPS] += 1


def _drifts(row: Row, slot: int) -> bool:
    """Whether the running sum is too far off once the gradient has taken the slot; counts it in.

    Sums are taken for as long as the root sum of squares of their terms, which is their expected
    length for gradients that point every way.
    """
    squares = [norm * norm for norm in row.norms]
    before, old, new = sum(squares), squares[slot], row.size * row.size
    squares[slot] = 0.0
    after = sum(squares) + new
    row.drift += UNIT_ROUNDOFF**2 * (old + new + before + after)
    if row.drift <= TOLERANCE**2 * after:
        return False
    row.drift = 0.0
    return True


def _write(table: Tensor, numbers: list[list[float]] | list[list[int]] | list[float]) -> None:
    table.copy_(torch.tensor(numbers, dtype=table.dtype))
