"""What a step does with a memory, whoever applies the update: decide, combine, retain.

Functions of a `Memory` (see `plan`), the optimizer's state and the gradients. `decide` changes
nothing; the exchange of slots goes inside `exchanging`, and is either written down or undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from gradmem.errors import GradientError
from gradmem.memory import on_device, on_host
from gradmem.memory import slots as storage
from gradmem.memory.ledger import Move, expired, forget, written
from gradmem.memory.norms import ledger_dots, ledger_norms
from gradmem.memory.policies import Directions, Offer
from gradmem.memory.sharding import gradient, local
from gradmem.optim.plan import Memory
from gradmem.optim.state import SLOTS, SUM, State, holds_memory

Gradients: TypeAlias = Mapping[Tensor, Tensor]
Decision: TypeAlias = on_host.Decision | on_device.Decision
# Told, for every portion of every step: the memory, the row, parameters, gradients, and updates.
Observer: TypeAlias = Callable[[Memory, int, list[Tensor], list[Tensor], list[Tensor]], None]


def check_gradients(memory: Memory) -> None:
    """Refuse what cannot be stored.

    Raises:
        GradientError: a gradient is sparse.
    """
    for name, row in zip(memory.names, memory.rows, strict=True):
        for p in row:
            if p.grad is not None and p.grad.layout is not torch.strided:
                raise GradientError(
                    f"a parameter of shape {tuple(p.shape)} in {name} has a gradient of layout "
                    f"{p.grad.layout}; a memory holds dense ones (torch.strided): use "
                    "nn.Embedding(sparse=False), or put it in a group with capacity=0 if the base "
                    "optimizer takes sparse gradients"
                )


def gradients_of(memory: Memory) -> dict[Tensor, Tensor]:
    """This rank's parts of the gradients there are, in the order of rows."""
    return {p: grad for row in memory.rows for p in row if (grad := gradient(p)) is not None}


def decide(memory: Memory, state: State, grads: Gradients, offered: Gradients) -> Decision:
    """What this step will do, a move for every row.

    Gradients are ranked by their norms. `offered` is what would be stored, if it is not they: where
    it is not finite, the gradient counts as such.
    """
    if memory.check_ages:
        _drop_expired(memory, state)
    ledger, options = memory.ledger, memory.options
    device, l2 = ledger.priority.device, options.norm == "l2"
    norm = size = ledger_norms(memory.rows, grads, device, l2=l2)
    if offered is not grads:
        size = ledger_norms(memory.rows, offered, device, l2=l2)
        norm = norm.masked_fill(~torch.isfinite(size), torch.nan)
    offer = Offer(
        norm,
        ledger.step,
        seed=options.seed,
        stream=memory.stream,
        directions=lambda: _directions(memory, state, offered),
    )
    if memory.on_host:
        return on_host.decide(ledger, offer, options, size)
    # The host cannot know how much the sums have drifted without waiting: renew them regularly,
    # often enough that the cost stays one read a step, always inside a captured graph.
    captured = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    period = 1 if captured else max(16, options.capacity)
    renew = memory.calls % period == period - 1
    return on_device.decide(ledger, offer, options, size, renew=renew)


@contextmanager
def exchanging(memory: Memory, state: State, decision: Decision) -> Iterator[list[Move]]:
    """A block in which slots are exchanged as the moves say; they are written down at its end."""
    try:
        yield decision.moves
    except BaseException:
        # Some parameters have exchanged a slot, others have not: it belongs to no gradient.
        _empty(memory, state, written(memory.ledger, decision.moves))
        raise
    if memory.holders:  # else no parameter had a gradient yet
        _commit(memory, decision)


def slots_of(p: Tensor, state: State, capacity: int) -> tuple[Tensor, Tensor]:
    """Slots and running sum, made if need be. torch classes make their own state only while
    ``state[p]`` is empty, so new ones are put there, by `attach`, after the base's first update.
    """
    if holds_memory(state, p):
        return state[p][SLOTS], state[p][SUM]
    return storage.allocate(p, capacity)


def attach(memory: Memory, row: int, state: State, p: Tensor, slots: Tensor, total: Tensor) -> None:
    """Keep new slots in the state, and show the ledger there."""
    if not holds_memory(state, p):
        state[p].update({SLOTS: slots, SUM: total})
        memory.attach(p, row, state)


def combined(
    narrow: list[Tensor],
    wide: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    sums: list[Tensor],
    move: Move,
) -> list[Tensor]:
    """What the base rule gets in place of the gradients: they themselves, or in `narrow`.

    `wide` is working memory of the running sum's type; `narrow` itself where that is its type.
    """
    if not changes(move):
        return grads
    if move.slots is None:
        storage.combine(wide, grads, sums, move.current, move.stored)
    else:
        storage.combine_slots(wide, grads, slots, move.current, move.slots)
    if wide[0] is not narrow[0]:
        torch._foreach_copy_(narrow, wide)
    return narrow


def copied(narrow: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The gradients, where the base rule may write over them."""
    torch._foreach_copy_(narrow, grads)
    return narrow


def changes(move: Move) -> bool:
    """Whether the update may differ from the gradient."""
    return move.slots is not None or not isinstance(move.stored, float) or move.stored != 0.0


def retain(slots: list[Tensor], sums: list[Tensor], grads: list[Tensor], move: Move) -> None:
    """Put the gradients where the move says, if it says so."""
    if isinstance(move.write, bool):
        if move.write:
            storage.exchange(slots, sums, grads, move.slot)
    else:
        storage.exchange_where(slots, sums, grads, move.slot, move.write)
    if move.renew:
        storage.renew(slots, sums)


def retain_nothing(params: Sequence[Tensor], state: State, move: Move) -> None:
    """A parameter without a gradient contributes zero to the gradient that is stored."""
    held = [state[p] for p in params if holds_memory(state, p)]
    if held:
        slots, sums = [local(s[SLOTS]) for s in held], [local(s[SUM]) for s in held]
        retain(slots, sums, [s.new_zeros(()).expand(s.shape[1:]) for s in slots], move)


def _directions(memory: Memory, state: State, offered: Gradients) -> Directions:
    rows, device = memory.rows, memory.ledger.priority.device
    held = (p for row in rows for p in row if holds_memory(state, p))
    sums = {p: local(state[p][SUM]) for p in held}
    n = memory.ledger.count.clamp(min=1)
    return Directions(
        gradient=ledger_dots(rows, offered, offered, device),
        both=ledger_dots(rows, offered, sums, device) / n,
        mean=ledger_dots(rows, sums, sums, device) / n**2,
    )


def _commit(memory: Memory, decision: Decision) -> None:
    if isinstance(decision, on_host.Decision):
        on_host.commit(memory.ledger, decision, memory.options.decay)
    else:
        on_device.commit(memory.ledger, decision, memory.options.decay)
    memory.calls += 1


def _drop_expired(memory: Memory, state: State) -> None:
    """Empty slots that a smaller `max_age` forbids; seldom, so it may wait for a device."""
    if memory.options.max_age is not None:
        too_old = expired(memory.ledger, memory.options.max_age)
        if bool(too_old.any()):
            _empty(memory, state, too_old)
    memory.check_ages = False


def _empty(memory: Memory, state: State, emptied: Tensor) -> None:
    """Empty the slots marked in the (R, C) mask."""
    forget(memory.ledger, emptied)
    for i, row in enumerate(memory.rows):
        held = [state[p] for p in row if holds_memory(state, p)]
        slots, sums = [local(s[SLOTS]) for s in held], [local(s[SUM]) for s in held]
        storage.clear(slots, sums, emptied[i])
