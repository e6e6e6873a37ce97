"""A step of an optimizer by fused passes: which of its runs they take, and what goes in.

A step is bound by the bytes it moves, and goes over the data twice: for the norms, by which the
memory decides, and for the update and what enters the memory. But the update does not depend on the
decision where all stored gradients weigh alike. So of a ledger that refused its last gradient, norm
and update share the first pass; where it refuses this one too, there is nothing left to do.
"""

from __future__ import annotations

import functools
import math
import operator
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from gradmem.memory import on_host
from gradmem.memory import slots as storage
from gradmem.memory.aggregates import is_uniform, uniform_of_one
from gradmem.memory.formats import stored_dtype
from gradmem.memory.ledger import Move
from gradmem.memory.sharding import locals_of
from gradmem.optim.fused import native, on_triton
from gradmem.optim.fused.kernel import Kernel
from gradmem.optim.fused.places import all_in_order, forms_of, in_order_of
from gradmem.optim.plan import Memory, Run
from gradmem.optim.remember import Gradients, Norms, Observer, attach, entry_for, retain_nothing
from gradmem.optim.state import holds_memory, store_of

if TYPE_CHECKING:
    from gradmem.optim.shell import MemoryOptimizer


class Given(NamedTuple):
    """What a run is given in one step: parameters that have a gradient, and what is offered.

    Attributes:
        params: the parameters.
        rows: which ledger each belongs to.
        grads: their gradients, or what is offered in their place, as `in_order_of` has it.
        addresses: where those lie.
        ahead: of which ledgers the parameters have taken their step, before the decision.
        layout: by which they took it.
    """

    params: list[Tensor]
    rows: list[int]
    grads: list[Tensor]
    addresses: array[int]
    ahead: Sequence[bool] | None = None
    layout: native.Layout | None = None


def takes(optimizer: MemoryOptimizer, memory: Memory, run: Run) -> bool:
    """Whether a fused pass is wanted for this run, and there is one."""
    if not optimizer.has_kernel or not optimizer.param_groups[run.group].get("fused"):
        return False
    if run.fused is None:
        params = locals_of(run.parameters)
        kinds = {(p, stored_dtype(p.dtype, memory.options.format)) for p in params}
        on_cpu = memory.on_host and all(p.device.type == "cpu" for p in params)
        run.fused = on_cpu and native.available() and all(native.takes(*kind) for kind in kinds)
        run.fused = run.fused and _fits(optimizer, run)
    return run.fused


def _fits(optimizer: MemoryOptimizer, run: Run) -> bool:
    """Whether the state there is lies as a kernel goes through it. Asked before the gradients are
    measured: a resumed run is to measure them as the one that it goes on with.
    """
    state = optimizer.state
    held = [i for i, p in enumerate(run.parameters) if holds_memory(state, p)]
    if not held:
        return True
    keys = optimizer._kernel(optimizer.param_groups[run.group]).states
    params, rows = [run.parameters[i] for i in held], [run.rows[i] for i in held]
    return native.Layout(params, rows, state, keys).fits


def norms(optimizer: MemoryOptimizer, memory: Memory, *, ahead: bool = True) -> Norms | None:
    """The kernels' norms where all of a memory's runs are theirs; else None.

    `ahead`: they are of a step, and on the way make the updates that need not wait for decisions.
    """
    forget(memory)  # of a step that an error ended
    ahead = ahead and _is_safe(optimizer)
    if not all(takes(optimizer, memory, run) for run in memory.runs):
        return on_triton.norms(optimizer, memory, ahead=ahead)
    return None if memory.sharded else functools.partial(_norms, optimizer, ahead)


def forget(memory: Memory) -> None:
    """Let go of what runs were given to measure."""
    for run in memory.runs:
        run.given = None


def _norms(
    optimizer: MemoryOptimizer, goes_ahead: bool, memory: Memory, vectors: Sequence[Gradients]
) -> Tensor:
    squares: list[list[float]] = [[] for _ in memory.rows]
    (gradients,) = vectors
    ahead = _ahead(memory) if goes_ahead else None
    for run in memory.runs:
        given = run.given = gather(run, gradients)
        each = _measured(optimizer, memory, run, ahead) if given.params else []
        for row, value in zip(given.rows, each, strict=True):
            squares[row].append(value)
    return row_norms(memory, [squares])


def _ahead(memory: Memory) -> native.Pass | None:
    """The updates that can be made before the decisions, where it is likely that they are all there
    is to do; None if there are none.
    """
    refused = on_host.refused_last(memory.ledger)
    if not any(refused):
        return None
    options = memory.options
    weights = uniform_of_one(str(options.aggregate), options.capacity, options.kappa)
    move = Move(*weights, slots=None, slot=0, write=False, renew=False)
    return native.Pass([move] * len(refused), refused)


def _is_safe(optimizer: MemoryOptimizer) -> bool:
    """Whether updates may be made before decisions: no error can still end the step, which is to
    change nothing then, and nobody asks for the updates.
    """
    plan = optimizer._plan
    if plan is None or plan.plain or optimizer._observer is not None:
        return False
    return all(map(_decides_by_itself, plan.memories))


def _decides_by_itself(memory: Memory) -> bool:
    """Whether no function of a user's and no other rank has a say in it."""
    options = memory.options
    return isinstance(options.policy, str) and is_uniform(options.aggregate) and not memory.peers


def _measured(
    optimizer: MemoryOptimizer, memory: Memory, run: Run, ahead: native.Pass | None
) -> list[float]:
    """Squared norms of what the run is given; on the way, the updates that go ahead."""
    given: Given = run.given
    if ahead is None or not any(ahead.update[row] for row in given.rows):
        return native.squared_norms(given.grads, given.addresses)
    kernel = optimizer._kernel(optimizer.param_groups[run.group])
    layout = _last_layout(optimizer, run, given, kernel)
    if layout is None:
        return native.squared_norms(given.grads, given.addresses)
    run.given = given._replace(ahead=ahead.update, layout=layout)
    squares = native.step(
        kernel, layout, given.addresses, ahead, memory.options.capacity, measure=True
    )
    _touch(given, ahead.update)
    return squares


def row_norms(memory: Memory, vectors: Sequence[Sequence[Sequence[float]]]) -> Tensor:
    """Norms of each row's part of K vectors, (K, R) float64, of the squared norms of tensors."""
    if memory.options.norm == "l2":
        results = [[math.sqrt(sum(row)) for row in squares] for squares in vectors]
    else:
        results = [[sum(map(math.sqrt, row)) for row in squares] for squares in vectors]
    return torch.tensor(results, dtype=torch.float64)


def gather(run: Run, gradients: Gradients) -> Given:
    """What the run is given, of these gradients."""
    params, rows, found = run.parameters, run.rows, list(map(gradients.get, run.parameters))
    grads = [grad for grad in found if grad is not None]
    if len(grads) == len(found) and not run.sharded:
        run.forms = run.forms or forms_of(params)
        grads = all_in_order(params, run.forms, grads)
    else:
        some = [i for i, grad in enumerate(found) if grad is not None]
        params, rows = [params[i] for i in some], [rows[i] for i in some]
        grads = list(map(in_order_of, locals_of(params), grads))
    return Given(params, rows, grads, native.pointers(grads))


def momenta(
    given: Given, averages: Sequence[Tensor], beta: float, share: float
) -> tuple[list[float], list[float]]:
    """``m = beta m + share g`` in place, with the squared norms of the gradients and of m."""
    return native.momenta(given.grads, given.addresses, averages, beta, share)


def step(
    optimizer: MemoryOptimizer,
    memory: Memory,
    run: Run,
    grads: Gradients,
    offers: Gradients,
    moves: Sequence[Move],
) -> bool:
    """Update a run's parameters and let the memory take what it is offered; False if not taken."""
    if not takes(optimizer, memory, run):
        return on_triton.step(optimizer, memory, run, offers, moves)
    given, run.given = run.given or gather(run, offers), None
    if given.params and not _is_done(given, moves):
        kernel = optimizer._kernel(optimizer.param_groups[run.group])
        layout, fresh = _layout(optimizer, memory, run, given, kernel)
        if not layout.fits:
            run.fused = False
            _unmake(optimizer, kernel, given, fresh)
            return False
        _pass(optimizer, memory, (kernel, layout, fresh), given, grads, moves)
    if len(given.params) < len(run.parameters):
        _age_others(optimizer, run, grads, moves)
    return True


def _is_done(given: Given, moves: Sequence[Move]) -> bool:
    """Whether all updates were made ahead, and no gradient enters the memory."""
    return given.ahead is not None and all(
        given.ahead[row] and not moves[row].write for row in given.rows
    )


def _age_others(
    optimizer: MemoryOptimizer, run: Run, grads: Gradients, moves: Sequence[Move]
) -> None:
    """What the memory does with parameters that have no gradient."""
    for portion in run.portions:
        absent = [p for p in portion.parameters if p not in grads]
        retain_nothing(absent, optimizer.state, moves[portion.row])


def _layout(
    optimizer: MemoryOptimizer,
    memory: Memory,
    run: Run,
    given: Given,
    kernel: Kernel,
) -> tuple[native.Layout, list[bool] | None]:
    """That of the last step if it still holds; else a new one, with state made where need be, and
    for whom it was.
    """
    last = given.layout or _last_layout(optimizer, run, given, kernel)
    if last is not None:
        return last, None
    params, state = given.params, optimizer.state
    key = kernel.states[0]
    fresh = [key is not None and state[p].get(key) is None for p in params]
    optimizer._make_state({**optimizer.param_groups[run.group], "params": params})
    for p, row in zip(params, given.rows, strict=True):
        attach(memory, row, state, p, entry_for(p, state, memory.options))
    layout = native.Layout(params, given.rows, state, kernel.states)
    run.layout = None if run.sharded else layout
    return layout, fresh


def _last_layout(
    optimizer: MemoryOptimizer, run: Run, given: Given, kernel: Kernel
) -> native.Layout | None:
    """That of the last step if it still holds."""
    params, state, last = given.params, optimizer.state, run.layout
    if (
        last is not None
        and len(params) == len(last.params)
        and all(map(operator.is_, params, last.params))
        and last.keys == kernel.states
        and last.watch.is_current(state)
    ):
        return cast(native.Layout, last)
    return None


def _unmake(
    optimizer: MemoryOptimizer, kernel: Kernel, given: Given, fresh: list[bool] | None
) -> None:
    """Take momenta of zero away again, where it is their absence that tells a first step."""
    key = kernel.states[0]
    if kernel.name == "sgd" and key is not None and fresh is not None:
        for p, made in zip(given.params, fresh, strict=True):
            if made:
                del optimizer.state[p][key]


def _pass(
    optimizer: MemoryOptimizer,
    memory: Memory,
    how: tuple[Kernel, native.Layout, list[bool] | None],
    given: Given,
    grads: Gradients,
    moves: Sequence[Move],
) -> None:
    kernel, layout, fresh = how
    observer, capacity = optimizer._observer, memory.options.capacity
    updates = None if observer is None else [torch.empty_like(part) for part in layout.parts]
    to_come = [True] * len(moves) if given.ahead is None else [not done for done in given.ahead]
    what = native.Pass(moves, to_come)
    native.step(kernel, layout, given.addresses, what, capacity, fresh=fresh, updates=updates)
    _touch(given, to_come)
    if any(move.renew for move in moves):
        both = zip(given.params, given.rows, strict=True)
        storage.renew([store_of(optimizer.state[p]) for p, row in both if moves[row].renew])
    if observer is not None and updates is not None:
        _tell(observer, memory, given, grads, updates)


def _touch(given: Given, changed: Sequence[bool]) -> None:
    """As after any operation in place: autograd refuses what it has saved of these parameters."""
    params = [p for p, row in zip(given.params, given.rows, strict=True) if changed[row]]
    torch.autograd.graph.increment_version(params)


def _tell(
    observer: Observer, memory: Memory, given: Given, grads: Gradients, updates: Sequence[Tensor]
) -> None:
    """The observer, row by row."""
    for row in dict.fromkeys(given.rows):
        of_row = [i for i, other in enumerate(given.rows) if other == row]
        params = [given.params[i] for i in of_row]
        own = [grads[p] for p in params]
        observer(memory, row, params, own, [updates[i] for i in of_row])
