"""What a memory does step by step: a recorder that hooks onto an optimizer."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import CheckpointError, OptionError, OptionTypeError
from gradmem.memory.ledger import STEPS
from gradmem.memory.norms import ledger_dots, ledger_norms
from gradmem.optim.holder import MemoryHolder
from gradmem.optim.plan import Memory


@dataclass(frozen=True)
class StepRecord:
    """What one ledger did in one step.

    Attributes:
        call: number of the call of ``step()`` since the recorder began, from 1.
        scope: name of the ledger, as in `memory_report`.
        step: the ledger's own number of the step: calls whose gradient was zero or not finite are
            not counted there.
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
    norm: float
    stored_norm: float
    cosine: float
    entered: bool
    slot: int | None
    left: int | None
    left_age: int | None
    held: tuple[int, ...]


_NUMBERS = ("norm", "stored_norm", "cosine")


@dataclass(slots=True)
class _Products:
    """What is summed up over the portions of a row."""

    norms: list[float] = field(default_factory=list)
    gradient: float = 0.0
    both: float = 0.0
    update: float = 0.0


class Recorder:
    """Writes down, at every step, what enters an optimizer's memory, what leaves, and at which age.

    It reads numbers from the device at every step, and goes twice through gradients and updates:
    for looking inside, not for timing. Updates are the same bits with it and without.

    Args:
        optimizer: any of this package's that has a memory, `MemoryAugmented` included.
        path: a file that gets a line of JSON for every ledger and step; None keeps the records in
            memory. An existing file is continued.
        every: record one call of ``step()`` in so many, from 1.

    Attributes:
        records: the records so far, if there is no path; else read them with `Recorder.read`.

    Raises:
        OptionTypeError: the optimizer has no memory.
        OptionError: it has a recorder already, or `every` is out of range.

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
                f"optimizer must be one with a memory, got one of type {type(optimizer).__name__}; "
                "wrap it in gradmem.MemoryAugmented"
            )
        if optimizer._observer is not None:
            raise OptionError("the optimizer has a recorder already; close() that one first")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every must be an integer of at least 1, got {every!r}")
        self.records: list[StepRecord] = []
        # Open until close(), like the recorder itself.
        self._file = None if path is None else Path(path).open("a", encoding="utf-8")  # noqa: SIM115
        self._optimizer = optimizer
        self._every = every
        self._calls = 0
        self._before: list[tuple[Memory, Tensor, Tensor]] = []
        self._products: dict[tuple[int, int], _Products] = defaultdict(_Products)
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._begin()),
            optimizer.register_step_post_hook(lambda *_: self._end()),
        ]

    def close(self) -> None:
        """Stop recording, and close the file if there is one."""
        for hook in self._hooks:
            hook.remove()
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

        Raises:
            CheckpointError: another line is no record.
        """
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        return [_parse(line, path, i + 1) for i, line in enumerate(lines[:-1])]

    def _begin(self) -> None:
        """Before a step: what is held, and have the step tell of its updates."""
        self._calls += 1
        self._before, self._products = [], defaultdict(_Products)
        self._optimizer._observer = None
        if self._calls % self._every == 0:
            for memory in self._optimizer._current_plan().memories:
                ledger = memory.ledger
                self._before.append((memory, ledger.birth.clone(), ledger.norm.clone()))
            self._optimizer._observer = self._observe

    def _observe(
        self,
        memory: Memory,
        row: int,
        params: list[Tensor],
        grads: list[Tensor],
        updates: list[Tensor],
    ) -> None:
        device = memory.ledger.priority.device
        own, given = dict(zip(params, grads, strict=True)), dict(zip(params, updates, strict=True))
        products, l2 = self._products[id(memory), row], memory.options.norm == "l2"
        products.norms.append(ledger_norms([params], own, device, l2=l2).item())
        products.gradient += ledger_dots([params], own, own, device).item()
        products.both += ledger_dots([params], own, given, device).item()
        products.update += ledger_dots([params], given, given, device).item()

    def _end(self) -> None:
        for record in self._new_records():
            if self._file is None:
                self.records.append(record)
            else:
                self._file.write(_line(record) + "\n")
                self._file.flush()

    def _new_records(self) -> Iterator[StepRecord]:
        for memory, births, norms in self._before:
            ledger = memory.ledger
            changed = ledger.birth != births
            tables = (births, norms, ledger.birth, changed, ledger.counters[:, STEPS])
            rows = zip(*(table.tolist() for table in tables), strict=True)
            for i, (before, stored, after, different, step) in enumerate(rows):
                products = self._products[id(memory), i]
                l2 = memory.options.norm == "l2"
                held = [norm for norm, birth in zip(stored, before, strict=True) if birth]
                # An age limit that was made smaller empties other slots in the same step.
                slot = next((k for k, new in enumerate(different) if new and after[k]), None)
                left = before[slot] if slot is not None and before[slot] else None
                yield StepRecord(
                    call=self._calls,
                    scope=memory.names[i],
                    step=step,
                    norm=math.hypot(*products.norms) if l2 else math.fsum(products.norms),
                    stored_norm=math.fsum(held) / len(held) if held else math.nan,
                    cosine=_cosine(products),
                    entered=slot is not None,
                    slot=slot,
                    left=left,
                    left_age=None if left is None else step - left,
                    held=tuple(after),
                )


def _cosine(products: _Products) -> float:
    squared = products.gradient * products.update
    if not (0.0 < squared < math.inf):
        return math.nan
    return max(-1.0, min(1.0, products.both / math.sqrt(squared)))


def _line(record: StepRecord) -> str:
    """The record as JSON, which has neither NaN nor Inf: they become null."""
    entries = asdict(record)
    for name in _NUMBERS:
        if not math.isfinite(entries[name]):
            entries[name] = None
    return json.dumps(entries, allow_nan=False)


def _parse(line: str, path: str | PathLike[str], number: int) -> StepRecord:
    try:
        entries: dict[str, Any] = json.loads(line)
        entries["held"] = tuple(entries["held"])
        for name in _NUMBERS:
            entries[name] = math.nan if entries[name] is None else entries[name]
        return StepRecord(**{one.name: entries[one.name] for one in fields(StepRecord)})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"line {number} of {path} is no record of a step: {error}") from None
