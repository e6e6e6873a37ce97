"""The fused pass on an accelerator: what a run does in a step as one graph, made by torch.compile.

The graph combines, steps and exchanges slots for all parameters of a run. What differs from step to
step is a tensor on the device: the options' numbers, which are filled in when they change, and the
decision. So a graph goes on through schedules, refusals and replacements. What it cannot change is
part of its key: the rule, which of its parts are on, and the parameters that have a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gradmem.memory import slots as storage
from gradmem.memory.formats import sum_dtype
from gradmem.memory.ledger import Move
from gradmem.memory.on_device import is_capturing
from gradmem.optim.fused.kernel import Kernel, warn_of_fallback
from gradmem.optim.fused.rules import RULES, Switches, options_of
from gradmem.optim.plan import Memory, Run
from gradmem.optim.remember import Gradients
from gradmem.optim.state import SLOTS, State, holds_memory, store_of

if TYPE_CHECKING:
    from gradmem.optim.shell import MemoryOptimizer

# What torch.compile makes of a graph, and the devices whose runs are compiled. Where there is no
# accelerator, tests put "cpu" here, keep decisions in tensors, and take backends that are quick.
BACKEND: Any = "inductor"
DEVICES = {"cuda", "xpu"}

# Graphs of one run: sets of parameters with a gradient, or switches that were turned. Each takes
# a compiler tens of seconds; what comes later is not fused.
GRAPHS = 8


class Form(NamedTuple):
    """What a graph cannot change.

    Attributes:
        rule: the base rule.
        switches: which of its parts are on.
        states: which of its tensors there are.
        uniform: all stored gradients weigh alike.
        members: for every ledger, the places of its parameters.
    """

    rule: str
    switches: Switches
    states: tuple[bool, ...]
    uniform: bool
    members: tuple[tuple[int, ...], ...]


class Tensors(NamedTuple):
    """What a graph reads and changes; in lists, an entry a parameter."""

    params: list[Tensor]
    offers: list[Tensor]
    slots: list[Tensor]
    totals: list[Tensor]
    scales: list[Tensor | None]
    states: list[list[Tensor]]  # by the rule's keys; empty for one it does without
    steps: list[Tensor]
    numbers: Tensor  # the rule's
    current: Tensor  # by ledger, as the three below
    stored: Tensor  # one weight, or one a slot
    slot: Tensor
    write: Tensor


class Programs:
    """The graphs of one run, and the numbers they read."""

    def __init__(self, run: Run, count: int) -> None:
        part = run.parameters[0]
        self.numbers = torch.zeros(count, dtype=sum_dtype(part.dtype), device=part.device)
        self._values: list[float | None] = [None] * count
        self._made: dict[Any, Callable[[Tensors], None]] = {}
        self._last: Any = None

    def fill(self, values: Sequence[float | Tensor]) -> None:
        """Let the device have these numbers: by launches, as a copy from the host may wait."""
        for i, (value, before) in enumerate(zip(values, self._values, strict=True)):
            if isinstance(value, Tensor):
                self.numbers[i].copy_(value.detach().reshape(()))
                self._values[i] = None
            elif value != before:
                self.numbers[i].fill_(value)
                self._values[i] = value

    def program(self, key: Any, form: Form) -> Callable[[Tensors], None] | None:
        """The graph of this form; None until two steps in a row want it, or if there are many."""
        again, self._last = key == self._last, key
        if key not in self._made and again and len(self._made) < GRAPHS and not is_capturing():
            self._made[key] = compiled(form)
        return self._made.get(key)


# By optimizer, and by group and first parameter of a run; None where compiling failed.
_PROGRAMS: WeakKeyDictionary[Any, dict[tuple[int, int], Programs] | None] = WeakKeyDictionary()


def takes(optimizer: MemoryOptimizer, memory: Memory, run: Run) -> bool:
    """Whether a compiled pass is wanted for this run, and there is one.

    Not for sharded parameters, whose local tensors are new at every step, nor under a recorder,
    which asks for the updates.
    """
    return (
        optimizer.has_kernel
        and bool(optimizer.param_groups[run.group].get("fused"))
        and run.parameters[0].device.type in DEVICES
        and not (memory.on_host or run.sharded)
        and optimizer._observer is None
        and _PROGRAMS.get(optimizer, {}) is not None
    )


def step(
    optimizer: MemoryOptimizer, memory: Memory, run: Run, offers: Gradients, moves: Sequence[Move]
) -> bool:
    """Update a run's parameters and let the memory take what it is offered; False if not taken.

    Parameters without a gradient are left to the caller.
    """
    here = [i for i, p in enumerate(run.parameters) if p in offers]
    if not here or not takes(optimizer, memory, run):
        return False
    params, rows = [run.parameters[i] for i in here], [run.rows[i] for i in here]
    kernel = optimizer._kernel(optimizer.param_groups[run.group])
    options = options_of(kernel)
    if options is None or not _has_state(optimizer.state, params, kernel):
        return False
    own = _PROGRAMS.setdefault(optimizer, {})
    assert own is not None
    place = run.group, id(run.parameters[0])
    if place not in own:
        if is_capturing():  # what a captured graph reads must not lie in its own memory
            return False
        own[place] = Programs(run, len(options.numbers))
    programs, present = own[place], list(dict.fromkeys(rows))
    members = tuple(tuple(i for i, r in enumerate(rows) if r == row) for row in present)
    uniform = moves[present[0]].slots is None
    states = tuple(key is not None for key in kernel.states)
    form = Form(kernel.name, options.switches, states, uniform, members)
    program = programs.program((form, tuple(map(id, params))), form)
    if program is None:
        return False
    programs.fill(options.numbers)
    some = [moves[row] for row in present]
    tensors = _gather(optimizer.state, kernel, params, offers, some, programs.numbers)
    reason = _failure(program, tensors)
    if reason is not None:
        _PROGRAMS[optimizer] = None
        warn_of_fallback(f"torch.compile failed with {reason}")
        return False
    if not RULES[kernel.name].counts and "step" in optimizer.state[params[0]]:
        torch._foreach_add_([optimizer.state[p]["step"] for p in params], 1)
    both = zip(params, rows, strict=True)
    renewed = [store_of(optimizer.state[p]) for p, row in both if moves[row].renew]
    if renewed:
        storage.renew(renewed)
    return True


def compiled(form: Form) -> Callable[[Tensors], None]:
    """The pass of this form. It is compiled when it is first called."""

    def run(tensors: Tensors) -> None:
        one_pass(form, tensors)

    # torch.compile counts and compares graphs by the function's code: one of its own for each, or
    # all runs of all optimizers would share a limit of eight.
    own = FunctionType(run.__code__.replace(), globals(), "fused_step", None, run.__closure__)
    program: Callable[[Tensors], None] = torch.compile(
        own, fullgraph=True, dynamic=False, backend=BACKEND
    )
    return program


def one_pass(form: Form, tensors: Tensors) -> None:
    """Combine with the memory, step along that, and let the memory take what is offered."""
    stores = list(map(storage.Store, tensors.slots, tensors.totals, tensors.scales))
    updates = [torch.empty_like(total) for total in tensors.totals]
    for k, places in enumerate(form.members):
        out = [updates[i] for i in places]
        offers, some = [tensors.offers[i] for i in places], [stores[i] for i in places]
        current, stored = tensors.current[k], tensors.stored[k]
        if form.uniform:
            storage.combine(out, offers, [store.total for store in some], current, stored)
        else:
            storage.combine_slots(out, offers, some, current, stored)
    rule = RULES[form.rule]
    rule.apply(
        tensors.params, updates, tensors.states, tensors.steps, tensors.numbers, form.switches
    )
    for k, places in enumerate(form.members):
        offers, some = [tensors.offers[i] for i in places], [stores[i] for i in places]
        storage.exchange_where(some, offers, tensors.slot[k], tensors.write[k])


def _gather(
    state: State,
    kernel: Kernel,
    params: Sequence[Tensor],
    offers: Gradients,
    moves: Sequence[Move],
    numbers: Tensor,
) -> Tensors:
    entries = [state[p] for p in params]
    stores = list(map(store_of, entries))

    def stacked(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).to(numbers.dtype)

    stored = [move.stored if move.slots is None else move.slots for move in moves]
    return Tensors(
        params=[_vector(p.detach()) for p in params],
        offers=[_vector(offers[p].detach()) for p in params],
        slots=[s.slots if s.slots.dim() > 1 else s.slots.unsqueeze(1) for s in stores],
        totals=[_vector(store.total) for store in stores],
        scales=[store.scales for store in stores],
        states=[[_vector(entry[key]) for entry in entries] if key else [] for key in kernel.states],
        steps=[_vector(entry["step"]) for entry in entries] if RULES[kernel.name].counts else [],
        numbers=numbers,
        current=stacked([move.current for move in moves]),
        stored=stacked(stored),
        slot=torch.stack([move.slot for move in moves]),
        write=torch.stack([move.write for move in moves]),
    )


def _vector(tensor: Tensor) -> Tensor:
    """A view with a dimension. Of float64 without one, on the CPU, torch 2.13 drops the second
    change of ``x.sub_(y).add_(z)`` in a graph.
    """
    return tensor if tensor.dim() else tensor.view(1)


def _has_state(state: State, params: Sequence[Tensor], kernel: Kernel) -> bool:
    """Whether all that the graph would change is there: the eager pass makes it, in its way."""
    keys = [key for key in kernel.states if key is not None]
    if RULES[kernel.name].counts:
        keys.append("step")
    return all(
        holds_memory(state, p)
        and state[p][SLOTS].device == p.device
        and all(_is_on(p.device, state[p].get(key)) for key in keys)
        for p in params
    )


def _is_on(device: torch.device, value: Any) -> bool:
    return isinstance(value, Tensor) and value.device == device


def _failure(program: Callable[[Tensors], None], tensors: Tensors) -> str | None:
    """Run a graph; what went wrong if it could not be made, in which case nothing has changed.

    An error in a graph that was made, such as memory that ran out, is raised.
    """
    from torch._dynamo import exc  # seconds, which is why it is not done on import

    try:
        program(tensors)
    except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: " + " / ".join(lines[:3])
    return None
