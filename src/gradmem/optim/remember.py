"""What a step does with a memory, whoever applies the update: decide, combine, retain.

Functions of a `Memory` (see `plan`), the optimizer's state and the gradients. `decide` changes
nothing; the exchange of slots goes inside `exchanging`, and is either written down or undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from gradmem.errors import GradientError
from gradmem.memory import on_device, on_host
from gradmem.memory import slots as storage
from gradmem.memory.ledger import Move, expired, forget, written
from gradmem.memory.norms import ledger_dots, ledger_norms
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import Directions, Offer
from gradmem.memory.sharding import PLAIN, local, local_gradient, sum_over_group
from gradmem.memory.slots import Store
from gradmem.optim.plan import Memory
from gradmem.optim.state import PRIORITY, SUM, Row, State, entry_of, holds_memory, store_of

Gradients: TypeAlias = Mapping[Tensor, Tensor]
Decision: TypeAlias = on_host.Decision | on_device.Decision
# Told, for every portion of every step: the memory, the row, parameters, gradients, and updates.
Observer: TypeAlias = Callable[[Memory, int, list[Tensor], list[Tensor], list[Tensor]], None]


def gradients_of(memory: Memory) -> dict[Tensor, Tensor]:
    """This rank's parts of the gradients there are, in the order of rows.

    Raises:
        GradientError: one is sparse, and cannot be stored.
    """
    found: dict[Tensor, Tensor] = {}
    for name, row in zip(memory.names, memory.rows, strict=True):
        for p in row:
            if (whole := p.grad) is not None:
                if whole.layout is not torch.strided:
                    raise _sparse(p, whole, name)
                found[p] = whole if type(p) in PLAIN else local_gradient(p, whole)
    return found


def _sparse(p: Tensor, grad: Tensor, name: str) -> GradientError:
    return GradientError(
        f"a parameter of shape {tuple(p.shape)} in {name} has a gradient of layout {grad.layout}; "
        "a memory holds dense ones (torch.strided): use nn.Embedding(sparse=False), or put it in a "
        "group with capacity=0 if the base optimizer takes sparse gradients"
    )


# The norms of each row's gradients, (K, R), as `norms_of` has them but for rounding.
Norms: TypeAlias = Callable[[Memory, Sequence[Gradients]], Tensor]


class Offered(NamedTuple):
    """What is combined with a memory and would be stored in it, and what measures it.

    Attributes:
        values: the gradients, or what stands in their place.
        norms: measures gradients and these, where a fused pass does it; else None.
    """

    values: Gradients
    norms: Norms | None = None


def norms_of(memory: Memory, vectors: Sequence[Gradients]) -> Tensor:
    """The norms of each row's part of K vectors, (K, R) float64 where the ledger is."""
    l2 = memory.options.norm == "l2"
    return ledger_norms(memory.rows, vectors, memory.ledger.priority.device, l2=l2)


def decide(memory: Memory, state: State, grads: Gradients, offer_of: Offered) -> Decision:
    """What this step will do, a move for every row.

    Gradients are ranked by their norms. Where something else would be stored that is not finite,
    the gradient counts as such.
    """
    offered, norms = offer_of
    if memory.check_ages:
        _drop_expired(memory, state)
    ledger, options = memory.ledger, memory.options
    vectors = [grads] if offered is grads else [grads, offered]
    norm, *others = _of_all_ranks(memory, (norms or norms_of)(memory, vectors)).unbind()
    size = norm
    if others:
        (size,) = others
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
    # What is captured in a graph is done at every replay, but for the fused pass, which asks there.
    renew = on_device.is_capturing() or on_device.is_renewed(memory.calls, options.capacity)
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
    if memory.holders or memory.peers is not None:  # else no parameter had a gradient yet
        _commit(memory, decision)


def entry_for(p: Tensor, state: State, options: MemoryOptions) -> Row:
    """What the memory keeps of a parameter as a state entry, made if need be.

    torch classes make their own state only while ``state[p]`` is empty, so a new one is put there,
    by `attach`, after the base's first update.
    """
    held = state.get(p)
    if held is not None and PRIORITY in held:
        return held
    on_host = options.memory_device is not None
    return entry_of(storage.allocate(p, options.capacity, options.format, on_host=on_host))


def attach(memory: Memory, row: int, state: State, p: Tensor, entry: Row) -> None:
    """Keep a new entry in the state, and show the ledger there."""
    if PRIORITY not in entry:
        state[p].update(entry)
        memory.attach(p, row, state)


def combined(
    narrow: list[Tensor],
    wide: list[Tensor],
    grads: list[Tensor],
    stores: Sequence[Store],
    move: Move,
) -> list[Tensor]:
    """What the base rule gets in place of the gradients: they themselves, or in `narrow`.

    `wide` is working memory of the running sum's type; `narrow` itself where that is its type. Of
    slots in the host's memory, the one that has to go sets out, to be here when `retain` wants it.
    """
    updates = grads
    if changes(move):
        if move.slots is None:
            sums = [store.total for store in stores]
            storage.combine(wide, grads, sums, move.current, move.stored)
        else:
            storage.combine_slots(wide, grads, stores, move.current, move.slots)
        if wide[0] is not narrow[0]:
            torch._foreach_copy_(narrow, wide)
        updates = narrow
    if move.write is True:  # a tensor where decisions stay on the accelerator, and slots too
        storage.prefetch(stores, move.slot)
    return updates


def copied(narrow: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The gradients, where the base rule may write over them."""
    torch._foreach_copy_(narrow, grads)
    return narrow


def changes(move: Move) -> bool:
    """Whether the update may differ from the gradient."""
    return move.slots is not None or not isinstance(move.stored, float) or move.stored != 0.0


def retain(stores: Sequence[Store], grads: list[Tensor], move: Move) -> None:
    """Put the gradients where the move says, if it says so."""
    if isinstance(move.write, bool):
        if move.write:
            storage.exchange(stores, grads, move.slot)
    else:
        storage.exchange_where(stores, grads, move.slot, move.write)
    if move.renew:
        storage.renew(stores)


def retain_nothing(params: Sequence[Tensor], state: State, move: Move) -> None:
    """A parameter without a gradient contributes zero to the gradient that is stored."""
    stores = [store_of(state[p]) for p in params if holds_memory(state, p)]
    if stores:
        nothing = [s.total.new_zeros(()).expand(s.total.shape) for s in stores]
        retain(stores, nothing, move)


def _directions(memory: Memory, state: State, offered: Gradients) -> Directions:
    rows, device = memory.rows, memory.ledger.priority.device
    held = (p for row in rows for p in row if holds_memory(state, p))
    sums = {p: local(state[p][SUM]) for p in held}
    dots = ledger_dots(rows, [(offered, offered), (offered, sums), (sums, sums)], device)
    if memory.peers is not None:
        dots = sum_over_group(memory.peers, dots)
    n = memory.ledger.count.clamp(min=1)
    return Directions(gradient=dots[0], both=dots[1] / n, mean=dots[2] / n**2)


def _of_all_ranks(memory: Memory, norms: Tensor) -> Tensor:
    """Norms of gradients of which every rank that decides together has a part."""
    if memory.peers is None:
        return norms
    if memory.options.norm == "sum":
        return sum_over_group(memory.peers, norms)
    return sum_over_group(memory.peers, norms.square()).sqrt()


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
        storage.clear([store_of(state[p]) for p in row if holds_memory(state, p)], emptied[i])
