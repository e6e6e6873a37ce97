"""What the terminal shows while runs are made: a bar for people, plain lines for files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from gradmem.lab.compare import Plan, Progress
from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.run import RunResult

Notify = Callable[[Progress], None]


@contextmanager
def watch(console: Console, plan: Plan) -> Iterator[Notify]:
    """Follow the runs of ``plan``; yields what `compare` calls after each."""
    if not console.is_terminal:
        yield _lines(console, plan)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        bar = bars.add_task("starting", total=plan.runs)

        def notify(event: Progress) -> None:
            bars.update(bar, advance=1, description=_describe(event.result))

        yield notify


def _lines(console: Console, plan: Plan) -> Notify:
    """One line whenever an optimizer is tuned, and one whenever a tenth of the seeds is done."""
    done = reused = 0
    every = max(1, plan.runs // 10)

    def notify(event: Progress) -> None:
        nonlocal done, reused
        done += 1
        reused += event.reused
        if done % every == 0 or done == plan.runs:
            kept = f", {reused} of them from before" if reused else ""
            console.print(f"{done} of {plan.runs} runs{kept}: {_describe(event.result)}")

    return notify


def _describe(result: RunResult) -> str:
    label = OPTIMIZERS[result.config.optimizer].label
    if result.config.purpose == "tune":
        return f"tuning {label}"
    return f"evaluating {label}, seed {result.config.seed}"
