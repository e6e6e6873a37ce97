"""The fused pass on an accelerator: for all parameters of a run one launch of a Triton kernel.

What differs from step to step lies in the device's memory, decisions and options too: a kernel is
compiled for a rule and types, never for numbers, sets of gradients or what the memory takes. A step
goes over the data twice, as on the CPU (see `apply`), and reads nothing back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradmem.memory import on_device
from gradmem.memory.aggregates import is_uniform, uniform_of_one
from gradmem.memory.ledger import CALLS, Move
from gradmem.optim.fused.kernel import Kernel
from gradmem.optim.fused.launches import (
    Form,
    Orders,
    add_up,
    are_made,
    available,
    count_steps,
    measure,
    one_pass,
    renew,
)
from gradmem.optim.fused.places import Place, place_of
from gradmem.optim.fused.tables import Layout, addresses, column
from gradmem.optim.plan import Memory, Run
from gradmem.optim.remember import Gradients, Norms, norms_of
from gradmem.optim.state import State, holds_memory

if TYPE_CHECKING:
    from gradmem.optim.shell import MemoryOptimizer

# Where tests run the kernels in Triton's interpreter, they put "cpu" here.
DEVICES = {"cuda", "xpu"}

# Rules that read the count of steps, which is then on the device, and raised there.
_COUNTING = ("adam", "critical_adam")


class Given(NamedTuple):
    """What a run is given in one step, if this pass takes it.

    Attributes:
        layout: where the run is.
        form: which kernels it takes.
        grads: gradients, or what is offered in their place, as `Layout.in_order` has them.
        sent: their addresses, and options; on the device.
        to_come: (R,), the ledgers whose parameters have not taken their step yet; there too.
    """

    layout: Layout
    form: Form
    grads: list[Tensor | None]
    sent: tuple[Tensor, Tensor]
    to_come: Tensor


def takes(optimizer: MemoryOptimizer, memory: Memory, run: Run) -> bool:
    """Whether this pass is wanted for a run, and there is one.

    Not for sharded parameters, whose local tensors are new at every step, nor under a recorder,
    which asks for the updates.
    """
    return (
        optimizer.has_kernel
        and bool(optimizer.param_groups[run.group].get("fused"))
        and run.parameters[0].device.type in DEVICES
        and not (memory.on_host or run.sharded)
        and optimizer._observer is None
        and available()
    )


def norms(optimizer: MemoryOptimizer, memory: Memory, *, ahead: bool) -> Norms | None:
    """The kernels' norms where all of a memory's runs are theirs; else None.

    `ahead`: on the way they make the updates of those ledgers that refused their last gradient.
    """
    theirs = all(takes(optimizer, memory, run) for run in memory.runs)
    if not memory.runs or not theirs or _kernel(optimizer, memory.runs[0]).name == "critical_adam":
        return None
    return functools.partial(_norms, optimizer, ahead)


def _norms(
    optimizer: MemoryOptimizer, ahead: bool, memory: Memory, vectors: Sequence[Gradients]
) -> Tensor:
    (gradients,) = vectors
    found = [_gather(optimizer, memory, run, gradients) for run in memory.runs]
    if any(given is None for given in found):
        return norms_of(memory, vectors)
    l2 = memory.options.norm == "l2"
    refused = on_device.refused_last(memory.ledger) if ahead else None
    total = torch.zeros_like(memory.ledger.drift)
    for run, given in zip(memory.runs, found, strict=True):
        assert given is not None
        squares = _measure(given, memory, refused)
        total += _by_row(given.layout, squares, l2=l2)
        run.given = given if refused is None else given._replace(to_come=~refused)
    return (total.sqrt() if l2 else total)[None]


def _measure(given: Given, memory: Memory, refused: Tensor | None) -> Tensor:
    """Squares of the gradients' norms, by chunk; and the updates of ledgers that refused."""
    layout, form, (grads, numbers) = given.layout, given.form, given.sent
    if refused is None:
        return measure(form, layout, grads, layout.every_row)
    squares = measure(form, layout, grads, ~refused)
    if form.count_kind is not None:
        count_steps(form, layout, given.sent, refused)
    # Both weights lie behind the options. Nothing is written, so any integers do for slots.
    current, stored = (weight.expand(len(refused)) for weight in numbers[-2:].unbind())
    orders = Orders(current.contiguous(), stored.contiguous(), grads, refused, layout.no_row)
    one_pass(form, layout, given.sent, orders, memory.options.capacity, squares)
    return squares


def _by_row(layout: Layout, squares: Tensor, *, l2: bool) -> Tensor:
    """Squared norms of each row's gradients together, or the sum of their norms."""
    if not l2:
        each = add_up(squares, layout.ends.tensors, roots=True)
        return add_up(each, layout.ends.row_tensors)
    if len(layout.no_row) == 1:  # as torch has it, by many programs
        return squares.sum().reshape(1)
    return add_up(squares, layout.ends.rows)


def step(
    optimizer: MemoryOptimizer, memory: Memory, run: Run, offers: Gradients, moves: Sequence[Move]
) -> bool:
    """Update a run's parameters and let the memory take what it is offered; False if not taken.

    A parameter without a gradient is left, and zero stored for it.
    """
    given, run.given = run.given, None
    given = given or _gather(optimizer, memory, run, offers)
    if given is None:
        return False
    layout, form = given.layout, given.form
    if form.count_kind is not None:
        count_steps(form, layout, given.sent, given.to_come)
    orders = _orders(moves, given.to_come)
    one_pass(form, layout, given.sent, orders, memory.options.capacity)
    state = optimizer.state
    present = [p for p, grad in zip(layout.params, given.grads, strict=True) if grad is not None]
    if form.count_kind is None and present and "step" in state[present[0]]:
        torch._foreach_add_([state[p]["step"] for p in present], 1)
    # As after any operation in place: autograd refuses what it has saved of them.
    torch.autograd.graph.increment_version(present)
    if moves[layout.places[0].row].renew:  # as all are
        renew(form, layout, _due(memory, layout), memory.options.capacity)
    return True


def _due(memory: Memory, layout: Layout) -> Tensor:
    """Of which ledgers the sums are to be made anew; a graph finds out at every replay."""
    if not on_device.is_capturing():
        return layout.every_row
    calls = memory.ledger.counters[:, CALLS]
    due: Tensor = on_device.is_renewed(calls, memory.options.capacity)
    return due


def _orders(moves: Sequence[Move], update: Tensor) -> Orders:
    stored = [move.stored if move.slots is None else move.slots for move in moves]
    return Orders(
        column([move.current for move in moves], torch.float64),
        column(stored, torch.float64),
        column([move.slot for move in moves], torch.int64),
        update,
        column([move.write for move in moves], torch.bool),
    )


def _gather(
    optimizer: MemoryOptimizer, memory: Memory, run: Run, offers: Gradients
) -> Given | None:
    """What the run is given; None if this pass does not take it."""
    if not takes(optimizer, memory, run):
        return None
    options, kernel = memory.options, _kernel(optimizer, run)
    layout = _layout(optimizer.state, run, kernel, offers, len(memory.rows))
    if layout is None or not layout.fits:
        return None
    uniform = isinstance(options.aggregate, str) and is_uniform(options.aggregate)
    form = _form(layout, kernel, uniform=uniform)
    if not are_made(form, layout, options.capacity):
        return None
    weights = (1.0, 0.0)
    if uniform:
        weights = uniform_of_one(str(options.aggregate), options.capacity, options.kappa)
    grads = layout.in_order(offers)
    sent = layout.inputs.send(addresses(grads), (*kernel.options, *weights))
    return Given(layout, form, grads, sent, layout.every_row)


def _kernel(optimizer: MemoryOptimizer, run: Run) -> Kernel:
    return optimizer._kernel(optimizer.param_groups[run.group])


def _layout(
    state: State, run: Run, kernel: Kernel, offers: Gradients, ledgers: int
) -> Layout | None:
    """Where the run is; None where there is not all of its state yet: the eager pass makes it."""
    held = [holds_memory(state, p) for p in run.parameters]
    if any(p in offers and not own for p, own in zip(run.parameters, held, strict=True)):
        return None
    last: Layout | None = run.layout
    if (
        last is not None
        and last.keys == kernel.states
        and len(last.places) == sum(held)
        and last.watch.is_current(state)
    ):
        return last
    members = [i for i, own in enumerate(held) if own]
    found = [_place(run.parameters[i], run.rows[i], state, kernel) for i in members]
    places = [place for place in found if place is not None]
    if not places or len(places) < len(found) or on_device.is_capturing():
        return None
    layout = run.layout = Layout(places, state, kernel, ledgers)
    return layout


def _place(p: Tensor, row: int, state: State, kernel: Kernel) -> Place | None:
    """Where a parameter and its state are; None if some of that is not there."""
    keys = kernel.states
    if kernel.name == "critical_adam":  # the momentum is what is offered
        keys = (None, *keys[1:])
    place = place_of(p, row, state[p], keys)
    wanted = [kept for key, kept in zip(keys, place.states, strict=False) if key is not None]
    if kernel.name in _COUNTING:
        wanted.append(place.step)
    else:
        place = place._replace(step=None)
    return place if all(isinstance(value, Tensor) for value in wanted) else None


def _form(layout: Layout, kernel: Kernel, *, uniform: bool) -> Form:
    place = layout.places[0]
    states = sum(1 << i for i, state in enumerate(place.states) if state is not None)
    count = None if place.step is None else place.step.dtype
    return Form(kernel.name, states, place.param.dtype, place.store.slots.dtype, count, uniform)
