"""Times of steps, the optimizers taking turns."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

Clock = Callable[[Callable[[], object]], float]
BLOCK = 31 * 2**20  # bytes, just below the largest threshold
Times = list[tuple[float, float]]  # by round, there and back, in seconds


def clock_for(device: torch.device) -> Clock:
    """What takes the time of a step on this device."""
    return on_cuda if device.type == "cuda" else on_cpu


def on_cpu(step: Callable[[], object]) -> float:
    """Seconds of the wall clock."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def on_cuda(step: Callable[[], object]) -> float:
    """Seconds between two events of the device, which has nothing else to do."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000  # from milliseconds


class Steps(Protocol):
    """An optimizer, or what takes its steps."""

    def step(self) -> object:
        """Take one."""


def take_turns(optimizers: Sequence[Steps], rounds: int, clock: Clock) -> list[Times]:
    """Times of two steps a round for every optimizer.

    A round goes through them and back, A B C C B A, so that a machine that slows down slows all
    alike and nobody always follows the same one; the next round begins with B.
    """
    times: list[Times] = [[] for _ in optimizers]
    with collector_off():
        for round_ in range(rounds):
            count = len(optimizers)
            order = [(round_ + i) % count for i in range(count)]
            there = {i: clock(optimizers[i].step) for i in order}
            back = {i: clock(optimizers[i].step) for i in reversed(order)}
            for i in order:
                times[i].append((there[i], back[i]))
    return times


def settle_allocator() -> None:
    """Bring C's allocator to where a training process has long brought it.

    glibc gives memory back to the system, to fault it in again at the next step, until a large
    block was freed once (M_MMAP_THRESHOLD grows to that, 32 MiB at most). Who comes first would pay
    for that: Adam, not fused, took 1.6 times as long before as after.
    """
    torch.empty(BLOCK, dtype=torch.uint8)  # freed at once


@contextmanager
def collector_off() -> Iterator[None]:
    """Python's collector at rest: it would run in whosever step it happens to."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def collector_quick() -> Iterator[None]:
    """Python's collector without what is there now: all of torch, which it would look through."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
