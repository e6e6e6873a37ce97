"""One contestant on one set of parameters: times beside the reference's, and bytes."""

import gc
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

import gradmem
from gradmem.lab.bench import memory
from gradmem.lab.bench.clipping import Clipping, falling
from gradmem.lab.bench.contestants import CONTESTANTS, OURS, REFERENCE, Entry
from gradmem.lab.bench.machine import available_bytes
from gradmem.lab.bench.ratios import Ratio, paired
from gradmem.lab.bench.sets import ParameterSet
from gradmem.lab.bench.turns import Steps, Times, clock_for, settle_allocator, take_turns, threads
from gradmem.lab.errors import ConfigError

Status = Literal["measured", "not installed", "out of memory", "failed"]

PROBE = 2**16  # elements; an 8-bit optimizer keeps small tensors in 32
NO_ROOM = "can't allocate memory", "not enough memory", "out of memory"


@dataclass(frozen=True)
class Settings:
    """What all measurements in a folder share.

    ``clip``: gradients are clipped before every step, which counts to its time.
    """

    device: str
    threads: int
    rounds: int
    clip: bool = False


@dataclass(frozen=True)
class Measurement:
    """What was found of one entry on one set; without times if it was not measured.

    ``seconds`` has the times of all `rivals`.
    """

    set: str
    entry: Entry
    status: Status
    reason: str = ""
    elements: int = 0
    seconds: Mapping[str, Times] = field(default_factory=dict)
    state_bytes: int = 0
    host_bytes: int = 0  # of the state, those that are not on the accelerator it is for
    buffer_bytes: int = 0
    step_bytes: int = 0
    replaced: float | None = None  # share of the timed steps that changed the memory
    warned: list[str] = field(default_factory=list)  # say, of a kernel that is not there

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by."""
        return self.set, self.entry.key

    @property
    def working_bytes(self) -> int:
        """Buffers, and the most a step allocates."""
        return self.buffer_bytes + self.step_bytes

    def per_round(self, whose: str) -> list[float]:
        """Seconds of a step, the mean of there and back."""
        return [(there + back) / 2 for there, back in self.seconds[whose]]

    def to(self, other: str) -> Ratio | None:
        """Time of a step as a ratio to the other's; None if that did not take turns with it."""
        if other not in self.seconds:
            return None
        return paired(self.per_round("own"), self.per_round(other))


def measure(entry: Entry, on: ParameterSet, settings: Settings) -> Measurement:
    """Time and bytes of a step, or why there are none.

    The contestant takes turns with the reference and with its base, on the same parameters and
    gradients; no more than these are in memory at once.
    """
    if missing := entry.contestant.missing:
        return Measurement(on.name, entry, "not installed", missing)
    device = torch.device(settings.device)
    try:
        with threads(settings.threads), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # for those who wrote it
            if short := _too_large(entry, on, device):
                return Measurement(on.name, entry, "out of memory", short)
            found = _measured(entry, on, settings)
        said = (_reason(each.message) for each in heard)
        return replace(found, warned=list(dict.fromkeys(said)))
    except Exception as error:
        # One contestant, often of another package: the table says what it raised, the exit code
        # that something did, and the others are measured.
        status: Status = "out of memory" if is_out_of_memory(error) else "failed"
        return Measurement(on.name, entry, status, _reason(error))
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _measured(entry: Entry, on: ParameterSet, settings: Settings) -> Measurement:
    settle_allocator()
    device, rounds = torch.device(settings.device), settings.rounds
    params = on.make(device)
    made = {role: one.build(params) for role, one in rivals(entry).items()}
    turns: dict[str, Steps] = {**made}
    if settings.clip:
        limits = falling(params)
        turns = {role: Clipping(one, params, limits) for role, one in made.items()}
    for role, one in rivals(entry).items():
        for _ in range(one.warm_up):
            turns[role].step()
    own = made["own"]
    before = _changes(own)
    times = take_turns(list(turns.values()), rounds, clock_for(device))
    replaced = None if before is None else ((_changes(own) or 0) - before) / (2 * rounds)
    _check_condition(entry, replaced)
    state = memory.state_bytes(own)
    return Measurement(
        *(on.name, entry, "measured"),
        elements=on.facts.elements,
        seconds=dict(zip(turns, times, strict=True)),
        state_bytes=state,
        host_bytes=0 if device.type == "cpu" else memory.state_bytes(own, "cpu"),
        buffer_bytes=memory.held_bytes(own) - state,
        step_bytes=memory.step_bytes(turns["own"], device),
        replaced=replaced,
    )


def rivals(entry: Entry) -> dict[str, Entry]:
    """Who takes turns: the reference, the base if that is another, and the entry itself.

    Where there are several capacities, the entry with the smallest takes turns with it, too.
    """
    found = {"reference": Entry(CONTESTANTS[REFERENCE])}
    if entry.contestant.base not in (None, REFERENCE):
        found["base"] = Entry(CONTESTANTS[str(entry.contestant.base)])
    if entry.lesser is not None:
        found["lesser"] = entry.lesser
    return {**found, "own": entry}


def _changes(optimizer: Optimizer) -> int | None:
    """How many steps have changed the memory so far; None without one."""
    if not isinstance(optimizer, gradmem.MemoryOptimizer):
        return None
    return sum(round(s.accepted_share * s.steps) for s in optimizer.memory_report().scopes)


def _check_condition(entry: Entry, replaced: float | None) -> None:
    """Refuse to report as "keeps" or "replaces" what was something else."""
    expected = {"keeps": 0.0, "replaces": 1.0}.get(entry.condition)
    if replaced != expected:
        raise RuntimeError(
            f"{entry.title} changed its memory in {replaced:.0%} of the timed steps, "
            f"not in {expected:.0%}"
        )


def _too_large(entry: Entry, on: ParameterSet, device: torch.device) -> str | None:
    """Why it is not even tried: the system would end the process instead of raising an error."""
    free = available_bytes(device)
    if free is None:
        return None
    needed = 3 * on.facts.bytes  # parameters, gradients, and what a step may allocate for a moment
    for one in rivals(entry).values():
        for dtype, count in on.elements_of.items():
            needed += round(count * bytes_per_element(one, dtype, device))
    if needed <= free:
        return None
    return f"it needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def bytes_per_element(entry: Entry, dtype: torch.dtype, device: torch.device) -> float:
    """What it holds on the device for an element of a parameter, as seen on a small one."""
    parameter = nn.Parameter(torch.zeros(PROBE, dtype=dtype, device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = entry.build([parameter])
    for _ in range(entry.warm_up):
        optimizer.step()
    return memory.held_bytes(optimizer, device.type) / PROBE


def check_options(entries: Iterable[Entry]) -> None:
    """Refuse what the library refuses, before anything is measured.

    Raises:
        ConfigError: an option of a memory is unknown or out of range.
    """
    for entry in entries:
        if entry.contestant.module == OURS:
            try:
                entry.build([nn.Parameter(torch.zeros(1))])
            except gradmem.GradmemError as error:
                raise ConfigError(str(error)) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is what torch or Python raises when memory is used up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in NO_ROOM)


def _reason(error: Warning | Exception | str) -> str:
    """The error or warning in a line, without the folders of this machine."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {re.sub(r'(?:/[^/ :]+)+/', '', first)}"
