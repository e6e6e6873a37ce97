"""What the terminal shows while runs are made: a bar for people, plain lines for files."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from gradmem.lab.compare import Plan, Progress
from gradmem.lab.optimizers import find
from gradmem.lab.run import RunConfig
from gradmem.lab.study import Watcher
from gradmem.lab.training import Epoch


@contextmanager
def watch(console: Console, plan: Plan) -> Iterator[Watcher]:
    """Follow the runs of ``plan``; yields what a study tells."""
    if not console.is_terminal:
        yield Lines(console, plan.runs)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield Bar(bars, bars.add_task("starting", total=plan.runs))


class Bar:
    """One bar over all runs; beside it, the run that was last heard of."""

    def __init__(self, bars: Bars, bar: TaskID) -> None:
        self._bars = bars
        self._bar = bar

    def begin(self, config: RunConfig) -> None:
        """Say which run has begun."""
        self._bars.update(self._bar, description=describe(config))

    def epoch(self, config: RunConfig, epoch: Epoch) -> None:
        """Say how far it is."""
        text = f"{describe(config)}, epoch {epoch.number} of {epoch.of}"
        self._bars.update(self._bar, description=text)

    def done(self, progress: Progress) -> None:
        """One more."""
        self._bars.update(self._bar, advance=1, description=describe(progress.result.config))


class Lines:
    """A line whenever a tenth of the runs is done, and one for each that failed."""

    def __init__(self, console: Console, runs: int) -> None:
        self._console = console
        self._runs = runs
        self._every = max(1, runs // 10)
        self._done = 0
        self._reused = 0

    def begin(self, config: RunConfig) -> None:
        """Nothing to say yet."""

    def epoch(self, config: RunConfig, epoch: Epoch) -> None:
        """Nothing to say yet."""

    def done(self, progress: Progress) -> None:
        """Count, and speak now and then."""
        self._done += 1
        self._reused += progress.reused
        result = progress.result
        if result.status in ("crashed", "timeout") and not progress.reused:
            reason = f": {result.reason}" if result.reason else ""
            self._print(f"{result.status} while {describe(result.config)}{reason}")
        if self._done % self._every == 0 or self._done == self._runs:
            kept = f", {self._reused} of them from before" if self._reused else ""
            self._print(f"{self._done} of {self._runs} runs{kept}: {describe(result.config)}")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def describe(config: RunConfig) -> str:
    """A run in a few words."""
    label = find(config.optimizer).label
    if config.purpose == "tune":
        return f"tuning {label}"
    return f"evaluating {label}, seed {config.seed}"
