"""What a memory does step by step: a recorder that hooks onto an optimizer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from os import SEEK_END, PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import CheckpointError, OptionError, OptionTypeError, StepError, check_integer
from gradmem.memory.ledger import STEPS
from gradmem.memory.norms import ledger_dots, ledger_norms
from gradmem.memory.on_device import is_capturing
from gradmem.optim.holder import MemoryHolder
from gradmem.optim.plan import Memory


@dataclass(frozen=True)
class StepRecord:
    """What one ledger did in one step.

    Attributes:
        call: number of the call of ``step()`` since the recorder began, from 1.
        scope: name of the ledger, as in `memory_report`.
        step: the ledger's own number of the step, which goes on through a resume; a call whose
            gradient was zero or not finite has the number of the step before.
        seen: whether the gradient was finite and not zero; else the ledger took no note of it.
        norm: norm of the gradient, of the kind the option ``norm`` names. (A file says NaN for an
            infinite one.)
        stored_norm: mean norm of the gradients held before the step; NaN if none was.
        cosine: of the angle between the gradient and what the base rule got in its place; NaN where
            one of them is zero or not finite.
        entered: whether the gradient entered the memory.
        slot: where it entered, or None.
        left: the step at which the gradient that had to go was stored, or None.
        left_age: how many steps it had lain there, or None.
        held: for each slot the step of the gradient in it after the step, 0 for none.
    """

    call: int
    scope: str
    step: int
    seen: bool
    norm: float
    stored_norm: float
    cosine: float
    entered: bool
    slot: int | None
    left: int | None
    left_age: int | None
    held: tuple[int, ...]


class Recorder:
    """Writes down, at every step, what enters an optimizer's memory, what leaves, and at which age.

    It reads numbers from the device at every step it records, and goes twice through gradients and
    updates: for looking inside, not for timing. Updates are the same bits with it and without. A
    copy of the optimizer, pickled or not, has no recorder. Where parameters are sharded, every
    process needs one, and every one a path of its own.

    Args:
        optimizer: any of this package's with the option ``capacity``, `MemoryAugmented` included.
        path: a file that gets a line of JSON for every ledger and step; None keeps the records in
            memory. An existing file is continued.
        every: record one call of ``step()`` in so many; at least 1.

    Attributes:
        records: the records so far, if there is no path; else read them with `Recorder.read`.

    Raises:
        OptionTypeError: the optimizer has no memory, or `every` is no integer.
        OptionError: it has a recorder already, or `every` is out of range.
        CheckpointError: the file is there and holds something else; it is left as it is.

    Example:
        >>> import torch
        >>> from gradmem import Adam_C, Recorder
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = Adam_C(model.parameters(), capacity=2)
        >>> with Recorder(optimizer) as recorder:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(8, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> [record.held for record in recorder.records]
        [(1, 0), (1, 2), (3, 2)]
        >>> recorder.records[-1].left_age
        2
    """

    def __init__(
        self,
        optimizer: Optimizer,
        path: str | PathLike[str] | None = None,
        every: int = 1,
    ) -> None:
        if not isinstance(optimizer, MemoryHolder):
            raise OptionTypeError(
                "optimizer must be one with a memory of `capacity` gradients, got one of type "
                f"{type(optimizer).__name__}; an optimizer without can be wrapped in "
                "gradmem.MemoryAugmented"
            )
        if optimizer._observer is not None:
            raise OptionError("the optimizer has a recorder already; close() that one first")
        check_integer("every", every, 1, "1 records every call")
        self.records: list[StepRecord] = []
        self._file = None if path is None else _opened(Path(path))
        self._optimizer = optimizer
        self._every = int(every)
        self._calls = 0
        self._watched: dict[int, _Watched] = {}  # by the memory's identity
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._begin()),
            optimizer.register_step_post_hook(lambda *_: self._end()),
        ]
        optimizer._observer = self._observe

    def close(self) -> None:
        """Stop recording, and close the file if there is one; again, it does nothing."""
        for hook in self._hooks:
            hook.remove()
        if self._optimizer._observer == self._observe:
            self._optimizer._observer = None
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def read(path: str | PathLike[str]) -> list[StepRecord]:
        """The records of a file; a last line that was cut off by a kill is left out.

        Where a run went on from an earlier checkpoint, the steps it took again replace those that
        were lost.

        Raises:
            CheckpointError: another line is no record.
        """
        lines = Path(path).read_bytes().split(b"\n")
        return _in_force(_parse(line, path, i) for i, line in enumerate(lines[:-1], start=1))

    @property
    def _is_due(self) -> bool:
        return self._calls % self._every == 0

    def _begin(self) -> None:
        """Before a step, which may yet fail."""
        self._calls += 1
        self._watched = {}
        if is_capturing():
            raise StepError(
                "a recorder reads numbers, which a graph that is being captured cannot do; close() "
                "it before the capture"
            )

    def _observe(
        self,
        memory: Memory,
        row: int,
        params: list[Tensor],
        grads: list[Tensor],
        updates: list[Tensor],
    ) -> None:
        """In a step, when it is decided and nothing is stored yet."""
        if self._is_due:
            self._watch(memory).add(row, params, grads, updates)

    def _watch(self, memory: Memory) -> _Watched:
        if id(memory) not in self._watched:
            self._watched[id(memory)] = _Watched(memory)
        return self._watched[id(memory)]

    def _end(self) -> None:
        """After a step."""
        if not self._is_due or self._optimizer._plan is None:
            return
        memories = self._optimizer._plan.memories
        records = [record for each in memories for record in self._watch(each).records(self._calls)]
        if self._file is None:
            self.records += records
        else:
            self._file.write(b"".join(_line(record) for record in records))
            self._file.flush()


class _Watched:
    """The ledgers of a memory as a step finds them, and what it adds up over the portions."""

    def __init__(self, memory: Memory) -> None:
        ledger = memory.ledger
        self.memory = memory
        self.births, self.norms = ledger.birth.clone(), ledger.norm.clone()
        self.steps = ledger.counters[:, STEPS].clone()
        self.products: dict[int, list[Tensor]] = {}  # by row, four numbers a portion

    def add(
        self, row: int, params: list[Tensor], grads: list[Tensor], updates: list[Tensor]
    ) -> None:
        """The norm of the gradients; their square, their product with the updates, whose square."""
        device, l2 = self.memory.ledger.priority.device, self.memory.options.norm == "l2"
        own, given = (
            {p: tensor.resolve_conj() for p, tensor in zip(params, tensors, strict=True)}
            for tensors in (grads, updates)
        )
        norms = ledger_norms([params], [own], device, l2=l2)
        dots = ledger_dots([params], [(own, own), (own, given), (given, given)], device)
        self.products.setdefault(row, []).append(torch.cat((norms, dots)).squeeze(1))

    def records(self, call: int) -> Iterator[StepRecord]:
        """What became of them, the step being over."""
        ledger, l2 = self.memory.ledger, self.memory.options.norm == "l2"
        tables = (self.births, self.norms, self.steps, ledger.birth, ledger.counters[:, STEPS])
        rows = zip(*(table.tolist() for table in tables), strict=True)
        for i, (before, stored, last, after, step) in enumerate(rows):
            norms, *sums = self._columns(i)
            held = [norm for norm, birth in zip(stored, before, strict=True) if birth]
            changed = (k for k, birth in enumerate(after) if birth and birth != before[k])
            slot = next(changed, None)
            left = None if slot is None else before[slot] or None
            yield StepRecord(
                call=call,
                scope=self.memory.names[i],
                step=step,
                seen=step > last,
                norm=math.hypot(*norms) if l2 else sum(norms),
                stored_norm=math.fsum(held) / len(held) if held else math.nan,
                cosine=_cosine(*map(sum, sums)),
                entered=slot is not None,
                slot=slot,
                left=left,
                left_age=None if left is None else step - left,
                held=tuple(after),
            )

    def _columns(self, row: int) -> list[list[float]]:
        """What `add` gave for this row: a list of each of the four numbers, read at once."""
        portions = self.products.get(row)
        if portions is None:  # no parameter of it had a gradient
            return [[], [], [], []]
        columns: list[list[float]] = torch.stack(portions, dim=1).tolist()
        return columns


def _cosine(gradient: float, both: float, update: float) -> float:
    if not (0.0 < gradient < math.inf and 0.0 < update < math.inf):
        return math.nan
    return max(-1.0, min(1.0, both / (math.sqrt(gradient) * math.sqrt(update))))


_NUMBERS = ("norm", "stored_norm", "cosine")


def _line(record: StepRecord) -> bytes:
    """The record as JSON, which has neither NaN nor Inf: they become null."""
    entries = asdict(record)
    for name in _NUMBERS:
        if not math.isfinite(entries[name]):
            entries[name] = None
    return json.dumps(entries, allow_nan=False).encode() + b"\n"


def _parse(line: bytes, path: str | PathLike[str], number: int) -> StepRecord:
    try:
        entries: dict[str, Any] = json.loads(line)
        entries["held"] = tuple(entries["held"])
        for name in _NUMBERS:
            entries[name] = math.nan if entries[name] is None else float(entries[name])
        return StepRecord(**{one.name: entries[one.name] for one in fields(StepRecord)})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"line {number} of {path} is no record of a step: {error}") from None


def _in_force(records: Iterable[StepRecord]) -> list[StepRecord]:
    """The records without those that a resumed run took back, by taking their steps again."""
    last: dict[str, int] = {}
    kept: list[StepRecord] = []
    for record in records:
        before = last.get(record.scope, 0)
        if record.step < before or (record.seen and record.step == before):
            first = record.step if record.seen else record.step + 1
            kept = [one for one in kept if one.scope != record.scope or one.step < first]
        last[record.scope] = record.step
        kept.append(record)
    return kept


def _opened(path: Path) -> BinaryIO:
    """The file to go on writing, without a last line that a kill cut off.

    Raises:
        CheckpointError: it holds something else.
    """
    file = path.open("ab+")
    try:
        file.seek(0)
        first = file.readline()
        if first.endswith(b"\n"):
            _parse(first, path, 1)
        elif first[: len(_BEGINNING)] != _BEGINNING[: len(first)]:
            raise CheckpointError(f"{path} holds something else than records of steps")
        file.truncate(_end_of_lines(file))
    except BaseException:
        file.close()
        raise
    return file


_BEGINNING = b'{"call": '
_BLOCK = 2**16


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    start = file.seek(0, SEEK_END)
    while start > 0:
        start = max(0, start - _BLOCK)
        file.seek(start)
        found = file.read(_BLOCK).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
