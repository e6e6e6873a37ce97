"""What a memory holds and costs, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Module

from gradmem.errors import OptionTypeError
from gradmem.memory.aggregates import weigh
from gradmem.memory.ledger import ACCEPTED, OLDEST_USED, STEPS
from gradmem.memory.options import OPTION_NAMES, MemoryDtype, MemoryOptions, Scope
from gradmem.memory.sharding import local
from gradmem.optim.plan import Memory
from gradmem.optim.state import LEDGER_KEYS, State, blank_row, blank_store, holds_memory, store_of


@dataclass(frozen=True)
class ScopeReport:
    """One ledger.

    Attributes:
        name: which parameters share it.
        parameters: tensors in it.
        steps: steps it has seen; those with a zero or non-finite gradient are not counted.
        capacity: slots.
        occupied: slots in use.
        ages: per gradient held, in the order of slots: steps since it was stored; 1 for the newest.
        norms: their norms when they came.
        priorities: their decayed priorities.
        accepted_share: share of the steps that changed the memory; NaN before the first.
        oldest_used: the largest age that ever entered an update.
        weights: of the gradients held, in the coming update.
        total_weight: the sum of all weights in it, of the current gradient too; the step grows by
            this factor against a base optimizer that sees equal gradients.
        remark: what the weights mean for the convergence theorem, if they leave what it covers.
        bytes: bytes held on this rank.
    """

    name: str
    parameters: int
    steps: int
    capacity: int
    occupied: int
    ages: tuple[int, ...]
    norms: tuple[float, ...]
    priorities: tuple[float, ...]
    accepted_share: float
    oldest_used: int
    weights: tuple[float, ...]
    total_weight: float
    remark: str
    bytes: int


@dataclass(frozen=True)
class MemoryReport:
    """All ledgers of an optimizer; ``print`` it for a table."""

    scopes: tuple[ScopeReport, ...]

    @property
    def bytes(self) -> int:
        """Bytes held in all scopes on this rank."""
        return sum(scope.bytes for scope in self.scopes)

    def __str__(self) -> str:
        if not self.scopes:
            return "no memory (capacity or kappa is 0)"
        head = (
            "scope",
            "tensors",
            "steps",
            "fill",
            "oldest",
            "norms",
            "changed",
            "weight",
            "bytes",
        )
        rows = [head, *(_cells(scope) for scope in self.scopes)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        remarks = dict.fromkeys(scope.remark for scope in self.scopes if scope.remark)
        return "\n".join([*lines, *remarks])


def _cells(scope: ScopeReport) -> tuple[str, ...]:
    norms = f"{min(scope.norms):.3g}..{max(scope.norms):.3g}" if scope.norms else "-"
    return (
        scope.name,
        str(scope.parameters),
        str(scope.steps),
        f"{scope.occupied}/{scope.capacity}",
        str(max(scope.ages, default=0)),
        norms,
        f"{scope.accepted_share:.0%}" if scope.steps else "-",
        f"{scope.total_weight:.3g}",
        f"{scope.bytes:,}",
    )


def describe(memories: Sequence[Memory], state: State) -> MemoryReport:
    """The report on these memories; reads numbers from their device."""
    return MemoryReport(tuple(scope for memory in memories for scope in _describe(memory, state)))


def _describe(memory: Memory, state: State) -> Iterator[ScopeReport]:
    current, slots = weigh(memory.options.aggregate, memory.ledger, memory.options.kappa)
    for row, weights in enumerate(zip(current.tolist(), slots.tolist(), strict=True)):
        yield _describe_row(memory, row, weights, state)


def _describe_row(
    memory: Memory, row: int, weighed: tuple[float, list[float]], state: State
) -> ScopeReport:
    ledger = memory.ledger
    births = ledger.birth[row].tolist()
    counters = ledger.counters[row].tolist()
    held = [slot for slot, birth in enumerate(births) if birth > 0]
    norms, priorities = ledger.norm[row].tolist(), ledger.priority[row].tolist()
    tensors = [p for p in memory.rows[row] if holds_memory(state, p)]
    current, weights = weighed[0], [weighed[1][slot] for slot in held]
    return ScopeReport(
        name=memory.names[row],
        parameters=len(memory.rows[row]),
        steps=counters[STEPS],
        capacity=memory.options.capacity,
        occupied=len(held),
        ages=tuple(counters[STEPS] + 1 - births[slot] for slot in held),
        norms=tuple(norms[slot] for slot in held),
        priorities=tuple(priorities[slot] for slot in held),
        accepted_share=counters[ACCEPTED] / counters[STEPS] if counters[STEPS] else float("nan"),
        oldest_used=counters[OLDEST_USED],
        weights=tuple(weights),
        total_weight=current + sum(weights),
        remark=_remark(current, weights),
        bytes=sum(part.nbytes for p in tensors for part in store_of(state[p]) if part is not None)
        + (sum(state[tensors[0]][key].nbytes for key in LEDGER_KEYS) if tensors else 0),
    )


def _remark(current: float, weights: Sequence[float]) -> str:
    """What the convergence theorem asks of weights, where it does not get it."""
    smallest, total = min([current, *weights]), current + sum(weights)
    amiss = []
    if not smallest >= 0:
        amiss.append(f"the weight {smallest:.3g} is negative")
    if not total > 0:
        amiss.append(f"the total weight {total:.3g} is not positive")
    return " and ".join(amiss) + ": the convergence theorem does not cover that" if amiss else ""


@dataclass(frozen=True)
class MemoryBytes:
    """The cost of a memory in bytes on this rank.

    Attributes:
        slots: the stored gradients, with the scales of int8.
        sums: their running sums.
        ledgers: norms, priorities and ages.
    """

    slots: int
    sums: int
    ledgers: int

    @property
    def total(self) -> int:
        """All of it, beside what the base optimizer keeps."""
        return self.slots + self.sums + self.ledgers


def memory_bytes(
    params: Iterable[Any],
    capacity: int = 10,
    *,
    scope: Scope = "model",
    memory_dtype: MemoryDtype = None,
) -> MemoryBytes:
    """What a memory will hold once every parameter had a gradient; allocates nothing.

    Per parameter element: `capacity` times its size in `memory_dtype` (int8 with 1/64 of a byte for
    scales), and its own size again for the running sum (4 bytes for float16 and bfloat16). A step
    uses besides a working buffer of 2**18 elements on the CPU and 2**26 on an accelerator, or of
    all parameters if that is less, or of the largest if that is more; none where one fused pass
    does it all.

    Args:
        params: what the optimizer is given: parameters, named parameters, or groups, which are
            counted with their own memory options if they name any.
        capacity: gradients kept; at least 0.
        scope: "model", "group" or "tensor".
        memory_dtype: what stored gradients are rounded to; None for the parameter's own type.

    Returns:
        Bytes by kind; ``.total`` is what ``memory_report().bytes`` will say.

    Raises:
        OptionError: an option is out of range.
        OptionTypeError: an option or a parameter is of the wrong type, or a group has an iterator
            for params.

    Example:
        >>> import torch, gradmem
        >>> model = torch.nn.Linear(1000, 1000)
        >>> gradmem.memory_bytes(model.parameters(), capacity=10).slots
        40040000
    """
    if isinstance(params, (Module, Mapping, Tensor)):
        raise OptionTypeError(
            "params must be an iterable of parameters or of groups, got a "
            f"{type(params).__name__}; of a model give model.parameters()"
        )
    groups = list(params)
    if not groups or not isinstance(groups[0], Mapping):
        groups = [{"params": groups}]
    total = [0, 0, 0]
    given = {"capacity": capacity, "scope": scope, "memory_dtype": memory_dtype}
    shared: set[MemoryOptions] = set()
    for group in groups:
        chosen = {key: group[key] for key in OPTION_NAMES if key in group}
        options = MemoryOptions(**{**given, **chosen})
        if not options.enabled:
            continue
        if not isinstance(group["params"], (Tensor, list, tuple)):
            raise OptionTypeError(
                f"params of a group must be a list here, got {type(group['params']).__name__}: "
                "counting would use an iterator up; write list(...)"
            )
        listed = group["params"]
        tensors = [_tensor_of(p) for p in ([listed] if isinstance(listed, Tensor) else listed)]
        for part in tensors:
            store = blank_store(part, options)
            total[0] += store.slots.nbytes + (0 if store.scales is None else store.scales.nbytes)
            total[1] += store.total.nbytes
        rows = {"model": options not in shared, "group": True, "tensor": len(tensors)}[
            options.scope
        ]
        shared.add(options)
        total[2] += rows * _ledger_bytes(options.capacity)
    return MemoryBytes(*total)


def _tensor_of(item: Any) -> Tensor:
    parameter = item[1] if isinstance(item, tuple) and len(item) == 2 else item
    if not isinstance(parameter, Tensor):
        raise OptionTypeError(f"params must be tensors, or names and tensors, got {item!r}")
    return local(parameter)


def _ledger_bytes(capacity: int) -> int:
    return sum(entry.nbytes for entry in blank_row(capacity).values())
