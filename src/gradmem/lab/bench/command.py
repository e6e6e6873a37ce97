"""What ``gradmem bench`` does: check the input, measure, write, say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gradmem.lab.bench import figure, tables
from gradmem.lab.bench.book import Book, open_book
from gradmem.lab.bench.contestants import CONTESTANTS, Entry, entries
from gradmem.lab.bench.machine import busy_with, this_machine
from gradmem.lab.bench.measure import Measurement, Settings, check_options, measure
from gradmem.lab.bench.model import load
from gradmem.lab.bench.ratios import FEWEST
from gradmem.lab.bench.sets import ParameterSet, get_sets
from gradmem.lab.bench.turns import collector_quick
from gradmem.lab.errors import ConfigError
from gradmem.lab.files import write_atomically
from gradmem.lab.terminal import grid

DEVICES = "cpu", "cuda"
DEFAULT_SETS = "mlp", "11m"
OWN_DTYPE = "none"  # how the command line says None: the parameters' own type


@dataclass(frozen=True)
class Job:
    """What to measure, checked."""

    sets: tuple[ParameterSet, ...]
    entries: tuple[Entry, ...]
    settings: Settings

    @property
    def names(self) -> list[str]:
        """Of the sets."""
        return [on.name for on in self.sets]

    @property
    def pairs(self) -> Iterator[tuple[ParameterSet, Entry]]:
        """Each set with each entry."""
        return ((on, entry) for on in self.sets for entry in self.entries)


def prepare(
    sets: Sequence[str],
    *,
    model: str | None,
    optimizers: str | None,
    capacities: Sequence[int],
    memory_dtypes: Sequence[str],
    memory_device: str | None,
    device: str | None,
    threads: int | None,
    rounds: int,
    clip: bool = False,
) -> Job:
    """Check everything that can be checked before anything is measured.

    Raises:
        ConfigError: the input cannot be used.
    """
    settings = _settings(device, threads, rounds, clip)
    named = optimizers.split(",") if optimizers is not None else CONTESTANTS
    chosen = entries(
        [name.strip() for name in named if name.strip()],
        capacities,
        [None if dtype == OWN_DTYPE else dtype for dtype in memory_dtypes],
        memory_device,
    )
    check_options(chosen)
    names = sets or (DEFAULT_SETS if model is None else ())
    found = get_sets(names, torch.device(settings.device))
    if model is not None:
        found.append(load(model))
    return Job(tuple(found), tuple(chosen), settings)


def _settings(device: str | None, threads: int | None, rounds: int, clip: bool) -> Settings:
    if rounds < FEWEST:
        raise ConfigError(
            f"rounds must be at least {FEWEST}, got {rounds}: fewer allow no 95% interval"
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch sees no CUDA device here; leave --device out, or give cpu")
    return Settings(device, threads or torch.get_num_threads(), rounds, clip)


def carry_out(job: Job, out: Path | None, console: Console) -> bool:
    """Measure what is not in ``out`` yet, write and print it all.

    What was measured is kept and shown after an interruption, too.

    Returns:
        Whether nothing failed.

    Raises:
        StoreError: a file cannot be written, or what is there does not go with this.
    """
    machine = this_machine(torch.device(job.settings.device))
    book = open_book(out, machine, job.settings, job.sets)
    console.print(machine.describe(job.settings.threads) + ".", soft_wrap=True)
    if (load := busy_with()) is not None:
        console.print(
            f"warning: this machine was busy a moment ago (load {load:.1f} on {machine.cores} "
            "cores); if it still is, intervals will be wide",
            soft_wrap=True,
        )
    try:
        with collector_quick():
            _measure_all(job, book, console)
    except KeyboardInterrupt:
        _conclude(job, book, out, console)
        raise
    _conclude(job, book, out, console)
    return not any(found.status == "failed" for found in book.measurements.values())


def _conclude(job: Job, book: Book, out: Path | None, console: Console) -> None:
    if not book.measurements:
        return
    if out is not None:
        write(book, out)
    say(book, job, console)
    if out is not None:
        console.print(f"\nReport: {out / 'bench.md'}", soft_wrap=True)


def _measure_all(job: Job, book: Book, console: Console) -> None:
    pairs = list(job.pairs)
    waiting = [(on, entry) for on, entry in pairs if book.get(on, entry) is None]
    if kept := len(pairs) - len(waiting):
        console.print(f"{kept} of {len(pairs)} are there from before.")
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        TimeRemainingColumn(),
    )
    # A bar that refreshed itself would take processor time from the steps.
    bars = Progress(*columns, console=console, transient=True, auto_refresh=False)
    with bars as progress:
        bar = progress.add_task("measuring", total=len(pairs), completed=kept)
        for on, entry in waiting:
            progress.update(bar, description=f"{on.name}: {entry.title}", refresh=True)
            found = measure(entry, on, job.settings)
            book.add(on, found)
            progress.update(bar, advance=1)
            if not console.is_terminal:
                console.print(_line(found), soft_wrap=True)


def _line(found: Measurement) -> str:
    """How far it is, where no bar can be shown."""
    result = found.reason if found.status != "measured" else f"{found.to('reference')} x"
    return f"{found.set}, {found.entry.title}: {result}"


def write(book: Book, out: Path) -> None:
    """The page and the picture beside the book's own file.

    Raises:
        StoreError: a file cannot be written.
    """
    write_atomically(out / "bench.md", tables.page(book))
    if (svg := figure.draw(book)) is not None:
        write_atomically(out / tables.PICTURE, svg)


def say(book: Book, job: Job, console: Console) -> None:
    """Print a table for each set, and who is not in it."""
    found = list(tables.shown(book, job.names, job.entries))
    for heading, table in found:
        console.print(f"\n{heading}", style="bold", soft_wrap=True)
        console.print(grid(tables.fitting(table, console.width)))
    for line in tables.left_out(book, job.names, job.entries):
        console.print(line, soft_wrap=True)
    for line in tables.warned(book, job.names, job.entries):
        console.print(f"warning: {line}", soft_wrap=True)
    if found:
        console.print("\n" + "\n".join(tables.notes(book)))
