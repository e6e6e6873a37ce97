"""Which parameters share a ledger, and in which portions a step goes through them.

A plan is made from the param groups and the state alone, so that a resumed, copied or unpickled
optimizer makes the same one. It is made anew whenever parameters or state were changed from
outside, or edited options make groups part or unite; other edits of options it adopts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradmem.errors import StepError
from gradmem.memory.formats import sum_dtype
from gradmem.memory.ledger import CALLS, Ledger
from gradmem.memory.offload import host_copy
from gradmem.memory.options import OPTION_NAMES, MemoryOptions, options_of
from gradmem.memory.sharding import PLAIN, is_sharded, local
from gradmem.memory.slots import Scratch
from gradmem.optim.state import (
    PRIORITY,
    SCALES,
    SLOTS,
    Row,
    State,
    find_row,
    holds_memory,
    is_used,
    row_views,
    rows_agree,
    stack_rows,
)

Group = dict[str, Any]

# Elements in a portion: small enough that gradient, sum and update stay in cache from one operation
# to the next, large enough that calls cost little. An accelerator wants few, large launches.
PORTION_CPU = 2**18
PORTION_ACCELERATOR = 2**26


@dataclass(slots=True)
class Portion:
    """Parameters of one group and one ledger row that are stepped together."""

    group: int
    row: int
    parameters: list[Tensor]
    wide: list[Tensor] = field(default_factory=list)  # scratch of the running sum's type
    narrow: list[Tensor] = field(default_factory=list)  # scratch of the parameter's type


@dataclass(slots=True)
class Run:
    """Parameters of one group, device and type: what a fused pass takes at once."""

    group: int
    parameters: list[Tensor]
    rows: list[int]  # of each
    portions: list[Portion]  # the same parameters, for passes that are not fused
    sharded: bool  # one of them is spread over a device mesh
    fused: bool | None = None  # whether a fused pass takes them; None until it was asked
    layout: Any = None  # where that pass found everything at the last step
    forms: Any = None  # shapes, orders and types of the parameters, as it compares gradients with
    given: Any = None  # what it is given at this step


@dataclass(slots=True)
class Memory:
    """All ledgers of equal options: the rows of one Ledger, and the parameters of each row."""

    options: MemoryOptions
    names: list[str]
    rows: list[list[Tensor]]
    groups: list[int]
    ledger: Ledger
    runs: list[Run]
    calls: int
    stream: Tensor  # (R,) int64, what each ledger's random numbers are drawn by
    views: list[Row]  # by row, the state entries that show the ledger
    peers: Any = None  # process group whose ranks hold other parameters of the same rows
    holders: dict[Tensor, int] = field(default_factory=dict)  # who shows them, and which row
    check_ages: bool = True  # slots may be older than max_age allows
    known: Any = None  # norms that clipping has found, for the next step

    @property
    def portions(self) -> list[Portion]:
        """All parameters, in the portions that a step takes."""
        return [portion for run in self.runs for portion in run.portions]

    @property
    def sharded(self) -> bool:
        """Whether a parameter is spread over a device mesh."""
        return any(run.sharded for run in self.runs)

    @property
    def on_host(self) -> bool:
        """Whether decisions can be read without waiting for an accelerator."""
        return self.ledger.priority.device.type == "cpu"

    def attach(self, parameter: Tensor, row: int, state: State) -> None:
        """Let the state of a parameter of this row show the ledger."""
        state[parameter].update(self.views[row])
        self.holders[parameter] = row

    def is_current(self, state: State) -> bool:
        """Whether the state still shows this ledger, and was not replaced or moved from outside."""
        table = self.ledger.priority
        start, stride = table.data_ptr(), table.stride(0) * table.element_size()
        return all(
            state.get(parameter, {}).get(PRIORITY) is self.views[row][PRIORITY]
            for parameter, row in self.holders.items()
        ) and all(
            view[PRIORITY].data_ptr() == start + row * stride for row, view in enumerate(self.views)
        )

    def adopt(self, options: MemoryOptions) -> None:
        """Go on with options that were edited."""
        before, now = self.options.max_age, options.max_age
        self.check_ages |= now is not None and (before is None or now < before)
        self.options = options


@dataclass(slots=True)
class Plan:
    """The memories, the groups without one, and what they were made from."""

    memories: list[Memory]
    plain: list[int]
    parameters: tuple[Any, ...]
    options: tuple[Any, ...]
    pointers: list[list[tuple[Any, ...]]] | None = None  # None until they were seen

    def is_current(self, groups: Sequence[Group], state: State) -> bool:
        """Whether parameters and state are still those the plan was made from."""
        pointers = _pointers(groups)
        if pointers is None or pointers != self.pointers:
            if self.parameters != _parameters(groups):
                return False
            self.pointers = pointers
            for memory in self.memories:
                for run in memory.runs:
                    run.layout = run.forms = run.fused = None
        return all(memory.is_current(state) for memory in self.memories) and not self._unites()

    def _unites(self) -> bool:
        """Whether ledgers that were apart are the same now, where a resumed run would have one."""
        # Not on an accelerator, which would have to be waited for.
        model = [each for each in self.memories if each.options.scope == "model" and each.on_host]
        return any(
            one.options == other.options and rows_agree(one.views[0], other.views[0])
            for one, other in itertools.combinations(model, 2)
        )

    def options_edited(self, groups: Sequence[Group]) -> bool:
        """Whether a memory option of a group was changed."""
        return self.options != _options(groups)

    def adopt_options(self, groups: Sequence[Group]) -> bool:
        """Go on with edited options; False, nothing being changed, if groups now part or unite."""
        edited = [options_of(group) for group in groups]
        chosen = [{edited[i] for i in memory.groups} for memory in self.memories]
        on = [i for i, group in enumerate(groups) if edited[i].enabled and group["params"]]
        if on != sorted(i for memory in self.memories for i in memory.groups):
            return False
        if any(len(some) > 1 for some in chosen) or len(set.union(set(), *chosen)) < len(chosen):
            return False
        for memory, (options,) in zip(self.memories, chosen, strict=True):
            memory.adopt(options)
        self.options = _options(groups)
        return True


def make_plan(
    groups: Sequence[Group], state: State, peers: Any = None, last: Plan | None = None
) -> Plan:
    """The plan for these groups and this state, ledgers filled from the state.

    `peers` is a process group whose ranks hold other parameters of the same groups: a group may
    then be empty here, and what no parameter here shows yet of its ledger is in the `last` plan.
    """
    shares: list[_Share] = []
    plain: list[int] = []
    for i, group in enumerate(groups):
        options = options_of(group)
        # A tensor lies on one rank, which decides for it alone.
        together = peers is not None and options.scope != "tensor"
        if options.enabled and (group["params"] or together):
            _join(shares, i, group["params"], options, state)
        else:
            plain.append(i)
    for share in shares:
        if share.options.scope == "model" and len(shares) > 1:
            share.names = ["groups " + ", ".join(map(str, share.groups))]
    numbers = {p: i for i, p in enumerate(p for group in groups for p in group["params"])}
    memories = [_make_memory(share, groups, state, numbers) for share in shares]
    if peers is not None:
        for i, memory in enumerate(memories):
            before = last.memories[i] if last and i < len(last.memories) else None
            _join_peers(memory, peers, before)
    _attach_scratch([portion for memory in memories for portion in memory.portions])
    return Plan(memories, plain, _parameters(groups), _options(groups))


def _parameters(groups: Sequence[Group]) -> tuple[Any, ...]:
    return tuple(
        tuple((id(p), p.dtype, p.device, p.shape, p.stride()) for p in group["params"])
        for group in groups
    )


def _pointers(groups: Sequence[Group]) -> list[list[tuple[Any, ...]]] | None:
    """What changes whenever `_parameters` does or a parameter's order in memory, and is had sooner;
    None of unusual tensors.
    """
    if not all(set(map(type, group["params"])).issubset(PLAIN) for group in groups):
        return None
    return [
        [(id(p), p.data_ptr(), p.shape, p.stride(), p.dtype) for p in group["params"]]
        for group in groups
    ]


def _options(groups: Sequence[Group]) -> tuple[Any, ...]:
    return tuple(tuple(group.get(name) for name in OPTION_NAMES) for group in groups)


@dataclass(slots=True)
class _Share:
    """Groups of equal options, and the rows their parameters make."""

    options: MemoryOptions
    groups: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    rows: list[list[Tensor]] = field(default_factory=list)


def _join(
    shares: list[_Share], index: int, parameters: list[Tensor], options: MemoryOptions, state: State
) -> None:
    """Put a group with those of equal options, or on its own."""
    alike = [share for share in shares if share.options == options]
    if options.scope == "model":
        # Groups that were once apart stay apart although their options have become equal: two
        # different memories cannot become one.
        held = find_row(parameters, state)
        for share in alike:
            other = find_row(share.rows[0], state)
            if _can_be_one(held, other):
                share.groups.append(index)
                share.rows[0].extend(parameters)
                return
        shares.append(_Share(options, [index], ["model"], [list(parameters)]))
        return
    if not alike:
        shares.append(_Share(options))
    share = alike[0] if alike else shares[-1]
    share.groups.append(index)
    if options.scope == "group":
        share.names.append(f"group {index}")
        share.rows.append(list(parameters))
    else:
        share.names.extend(f"group {index}, tensor {j}" for j in range(len(parameters)))
        share.rows.extend([p] for p in parameters)


def _can_be_one(one: Row | None, other: Row | None) -> bool:
    """Whether what two groups hold fits one memory: only one has seen a gradient, or both alike."""
    used = [row for row in (one, other) if row is not None and is_used(row)]
    return len(used) < 2 or rows_agree(*used)


def _make_memory(
    share: _Share, groups: Sequence[Group], state: State, numbers: Mapping[Tensor, int]
) -> Memory:
    device = _ledger_device([p.device for row in share.rows for p in row], share.options)
    found = [find_row(row, state) for row in share.rows]
    ledger = stack_rows(found, share.options.capacity, device)
    calls = int(ledger.counters[:, CALLS].max())
    ledger.counters[:, CALLS] = calls  # also of tensors that had no gradient yet, and no state
    memory = Memory(
        options=share.options,
        names=share.names,
        rows=share.rows,
        groups=share.groups,
        ledger=ledger,
        runs=_runs(_portions(share, groups)),
        calls=calls,
        # Every rank has the same order of parameters, and a resumed run too.
        stream=torch.tensor([numbers[row[0]] if row else 0 for row in share.rows], device=device),
        views=[row_views(ledger, i) for i in range(len(share.rows))],
    )
    for i, row in enumerate(share.rows):
        for p in row:
            if holds_memory(state, p):
                _check_shape(p, state, share.names[i])
                if share.options.memory_device is not None:
                    _bring_home(state[p], p.device)
                memory.attach(p, i, state)
    return memory


def _join_peers(memory: Memory, peers: Any, last: Memory | None) -> None:
    """Let a memory's ledgers go along with those of other ranks."""
    if memory.options.scope == "tensor":
        return
    memory.peers = peers
    numbers = memory.groups if memory.options.scope == "group" else memory.groups[:1]
    memory.stream.copy_(torch.tensor(numbers))  # the same on every rank, as parameters are not
    if last is None or last.options.capacity != memory.options.capacity:
        return
    shown = set(memory.holders.values())
    for i, (view, before) in enumerate(zip(memory.views, last.views, strict=False)):
        if i not in shown:
            for key, tensor in before.items():
                view[key].copy_(tensor)


def _bring_home(entry: Row, beside: torch.device) -> None:
    """Put slots back into the host's memory; a trainer may have moved all of a state."""
    for key in (SLOTS, SCALES):
        if key in entry and entry[key].device.type != "cpu":
            entry[key] = host_copy(entry[key], beside)


def _check_shape(p: Tensor, state: State, where: str) -> None:
    kept = tuple(state[p][SLOTS].shape[1:])
    if kept != tuple(p.shape):
        raise StepError(
            f"a parameter of {where} has the shape {tuple(p.shape)}, but its memory has {kept}; if "
            "you replaced its data, delete its state: del optimizer.state[parameter]"
        )


def _ledger_device(devices: Sequence[torch.device], options: MemoryOptions) -> torch.device:
    """Where the parameters are, but the host where it has to know which slot to send for."""
    return torch.device("cpu") if options.memory_device is not None else common_device(devices)


def common_device(devices: Sequence[torch.device]) -> torch.device:
    """The device if it is one accelerator that has float64, else the host."""
    kinds = list(dict.fromkeys(devices))
    common = len(kinds) == 1 and kinds[0].type in ("cuda", "xpu")
    return kinds[0] if common else torch.device("cpu")


def _portions(share: _Share, groups: Sequence[Group]) -> Iterator[Portion]:
    """Runs of parameters of one group, row, device and type, none larger than a portion."""
    row_of = {p: i for i, row in enumerate(share.rows) for p in row}
    for index in share.groups:
        portion, room = Portion(index, -1, []), 0
        for p in groups[index]["params"]:
            size = local(p).numel()
            if size > room or row_of[p] != portion.row or not _alike(portion.parameters[0], p):
                if portion.parameters:
                    yield portion
                portion = Portion(index, row_of[p], [])
                room = PORTION_CPU if p.device.type == "cpu" else PORTION_ACCELERATOR
            portion.parameters.append(p)
            room -= size
        if portion.parameters:
            yield portion


def _runs(portions: Iterable[Portion]) -> list[Run]:
    """Neighbouring portions of one group, device and type, together."""
    runs: list[Run] = []
    for portion in portions:
        first = portion.parameters[0]
        if runs and runs[-1].group == portion.group and _alike(runs[-1].parameters[0], first):
            run = runs[-1]
        else:
            run = Run(portion.group, [], [], [], sharded=False)
            runs.append(run)
        run.portions.append(portion)
        run.parameters.extend(portion.parameters)
        run.rows.extend([portion.row] * len(portion.parameters))
        run.sharded |= any(map(is_sharded, portion.parameters))
    return runs


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype


def _attach_scratch(portions: Sequence[Portion]) -> None:
    """Views of one buffer, shared by all portions as they take turns; the largest sets its size."""
    scratch = Scratch()
    for portion in sorted(portions, key=lambda p: -sum(local(q).numel() for q in p.parameters)):
        parts = [local(p).detach() for p in portion.parameters]
        dtype = parts[0].dtype
        portion.wide = scratch.like(parts, sum_dtype(dtype))
        same = sum_dtype(dtype) == dtype
        portion.narrow = portion.wide if same else scratch.like(parts, dtype)
