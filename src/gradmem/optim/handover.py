"""What MemoryAugmented hands to the optimizer it wraps, and which ones it may wrap."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import OptionError, OptionTypeError, hint
from gradmem.memory.ledger import Move
from gradmem.memory.options import OPTION_NAMES
from gradmem.memory.sharding import like, local
from gradmem.memory.slots import Store
from gradmem.optim.clipping import known_norms
from gradmem.optim.holder import MemoryHolder
from gradmem.optim.plan import Memory, Portion
from gradmem.optim.remember import (
    Decision,
    Gradients,
    Offered,
    attach,
    combined,
    copied,
    decide,
    entry_for,
    retain,
    retain_nothing,
)
from gradmem.optim.state import Row, State, store_of


class Part(NamedTuple):
    """The parameters of a portion, and what this step does with those that have a gradient."""

    portion: Portion
    move: Move
    params: list[Tensor]
    grads: list[Tensor]
    entries: list[Row]
    stores: list[Store]
    combined: list[Tensor]

    def updates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What each ``p.grad`` is to be."""
        for p, update in zip(self.params, self.combined, strict=True):
            yield p, like(p, update)

    def exchange(self, memory: Memory, state: State) -> None:
        """Let the memory take the gradients, where the move says so."""
        for p, entry in zip(self.params, self.entries, strict=True):
            attach(memory, self.portion.row, state, p, entry)
        if self.stores:
            retain(self.stores, self.grads, self.move)
        present = set(self.params)
        absent = [p for p in self.portion.parameters if p not in present]
        retain_nothing(absent, state, self.move)


Work: TypeAlias = tuple[Memory, list[Part], Decision]


def combine_all(memory: Memory, state: State, grads: Gradients) -> Work:
    """Updates for all parameters of a memory that have a gradient; changes nothing."""
    decision = decide(memory, state, grads, Offered(grads, known_norms(memory)))
    parts = [
        _combine(memory, portion, decision.moves[portion.row], state, grads)
        for portion in memory.portions
    ]
    return memory, parts, decision


def _combine(memory: Memory, portion: Portion, move: Move, state: State, grads: Gradients) -> Part:
    present = [i for i, p in enumerate(portion.parameters) if p in grads]
    params = [portion.parameters[i] for i in present]
    own = [grads[p] for p in params]
    entries = [entry_for(p, state, memory.options) for p in params]
    stores = [store_of(entry) for entry in entries]
    # New tensors at every step, not scratch: an optimizer may keep what it finds in p.grad.
    narrow = [torch.empty_like(local(p), dtype=g.dtype) for p, g in zip(params, own, strict=True)]
    wide = [portion.wide[i] for i in present]
    if all(n.dtype == w.dtype for n, w in zip(narrow, wide, strict=True)):
        wide = narrow
    updates = own
    if params:
        updates = combined(narrow, wide, own, stores, move)
        # Never the gradients themselves: an optimizer may write into p.grad.
        updates = copied(narrow, own) if updates is own else updates
    return Part(portion, move, params, own, entries, stores, updates)


@contextmanager
def handed_over(updates: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """A block in which every ``p.grad`` is its update."""
    grads = {p: p.grad for p in updates}
    try:
        for p, update in updates.items():
            p.grad = update
        yield
    finally:
        for p, grad in grads.items():
            p.grad = grad


def check_wrappable(optimizer: Any) -> None:
    """Refuse what is no optimizer, has a memory, or evaluates the model itself."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise OptionTypeError(
            f"optimizer must be a torch.optim.Optimizer that was made already, got {optimizer!r}"
            if isinstance(optimizer, type)
            else f"optimizer must be a torch.optim.Optimizer, got one of type {kind}"
        )
    if isinstance(optimizer, MemoryHolder):
        raise OptionError(f"the optimizer, {kind}, has a memory already; wrap one without")
    own_step = vars(optimizer).get("step")
    if own_step is not None and not hasattr(own_step, "_wrapped_by_lr_sched"):
        raise OptionError(
            f"the step of this {kind} was replaced, as by torch.compile; wrap the optimizer first"
        )
    parameters = inspect.signature(type(optimizer).step).parameters.values()
    needed = [
        p.name
        for p in list(parameters)[1:]
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if needed:
        raise OptionError(
            f"{kind}.step needs {', '.join(needed)}: an optimizer that evaluates the model itself "
            "would mix gradients of different points in the memory; wrap one whose step() needs "
            "no argument"
        )


def own_options(groups: Any, count: int) -> list[dict[str, Any]]:
    """The options of each group, their names checked."""
    if groups is None:
        return [{} for _ in range(count)]
    mappings = isinstance(groups, Sequence) and all(isinstance(g, Mapping) for g in groups)
    if not mappings:
        raise OptionTypeError(f"groups must be a list of mappings, one a group, got {groups!r}")
    if len(groups) != count:
        raise OptionError(
            f"groups must have one mapping for each of the optimizer's {count} param groups, got "
            f"{len(groups)}; write an empty one for a group that has the common options"
        )
    for i, group in enumerate(groups):
        for name in group:
            if name not in OPTION_NAMES:
                raise OptionError(
                    f"param group {i}: unknown memory option {name!r}; {hint(name, OPTION_NAMES)}"
                )
    return [dict(group) for group in groups]
