"""What ``gradmem sparsify`` does: check the input, run, measure, write, say."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gradmem.lab.bench.turns import collector_quick
from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.files import remove_abandoned_drafts, write_atomically
from gradmem.lab.sparsify import figure, findings, pages, speed, work
from gradmem.lab.sparsify.findings import Findings
from gradmem.lab.sparsify.methods import METHODS, get_methods
from gradmem.lab.sparsify.plan import Plan, parse_penalties, parse_rates
from gradmem.lab.sparsify.problem import get_problem
from gradmem.lab.sparsify.runs import Result, Store
from gradmem.lab.terminal import grid

REGULARIZERS = ("group_lasso", "group_linf", "group_mcp")


@dataclass(frozen=True)
class Job:
    """What to run, checked; where, and how it was asked for."""

    plan: Plan
    folder: Path
    data: Path | None
    workers: int
    command: str


def prepare(
    task: str,
    *,
    methods: str | None,
    regularizer: str,
    penalties: Sequence[str],
    lr: str | None,
    seeds: int,
    tuning_seeds: int,
    epochs: int,
    batch_size: int | None,
    examples: int | None,
    threshold: float,
    within: float,
    workers: int | None,
    data: Path | None,
    out: Path | None,
) -> Job:
    """Check everything that can be checked before anything is run.

    Raises:
        ConfigError: the input cannot be used.
        TaskError: the data are missing.
    """
    if regularizer not in REGULARIZERS:
        raise ConfigError(f"unknown regularizer {regularizer!r}; {hint(regularizer, REGULARIZERS)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    named = None if methods is None else [each.strip() for each in methods.split(",")]
    problem = get_problem(task, data, examples)
    plan = Plan(
        problem,
        get_methods(named),
        regularizer,
        parse_penalties(penalties),
        parse_rates(lr),
        *(seeds, tuning_seeds, epochs),
        batch_size=problem.budget.batch_size if batch_size is None else batch_size,
        threshold=threshold,
        within=within,
    )
    problem.check()
    plan.check()
    given = {
        "methods": methods,
        "regularizer": regularizer,
        "penalties": penalties,
        "lr": lr,
        "seeds": seeds,
        "tuning-seeds": tuning_seeds,
        "epochs": epochs,
        "batch-size": batch_size,
        "examples": examples,
        "threshold": threshold,
        "within": within,
    }
    folder = out or Path("gradmem-results") / f"sparsify-{task.replace(':', '-')}"
    return Job(plan, folder, data, workers or _cores(), _spelled(task, given))


def _spelled(task: str, given: Mapping[str, object]) -> str:
    """The command again, with every option that decides a number."""
    words = ["gradmem", "sparsify", task]
    for name, value in given.items():
        each = value if isinstance(value, (list, tuple)) else [value]
        for one in each:
            if one is not None:
                words += [f"--{name}", f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)


def _cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def carry_out(job: Job, console: Console) -> Path:
    """Make the runs that are not there yet, measure, write, print; returns the page.

    Raises:
        LabError: a file cannot be written, a process died, or a smaller model is not equal.
    """
    plan, folder = job.plan, job.folder
    remove_abandoned_drafts(folder / "runs")
    with _following(console, plan.count) as notify:
        run = (folder, job.data, job.workers, notify)
        tried = findings.tried_rates(work.carry_out(plan, plan.tuning(), *run))
        rates = findings.best_rates(plan, tried)
        results = work.carry_out(plan, plan.evaluation(rates), *run)
    found = Findings(plan, rates, tried, findings.points(plan, results), {})
    found = with_speeds(found, Store(folder))
    write(found, folder, job.command)
    _say(found, folder, console)
    return folder / "report.md"


def with_speeds(found: Findings, store: Store) -> Findings:
    """The same, with each method's smaller model measured where it lost a channel."""
    speeds = {}
    with collector_quick():
        for method in found.penalised:
            point = found.chosen(method)
            if point is None or not point.share.mean or point.results[0].status != "ok":
                continue
            weights = store.weights(point.results[0].setting)
            small = point.results[0].setting.threshold
            speeds[method.name] = speed.measure(found.plan.problem, weights, small)
    return Findings(found.plan, found.rates, found.tried, found.points, speeds)


def write(found: Findings, folder: Path, command: str) -> None:
    """The page, the picture, and the numbers.

    Raises:
        StoreError: a file cannot be written.
    """
    write_atomically(folder / "report.md", pages.markdown(found, command))
    write_atomically(folder / pages.PICTURE, figure.draw(found))
    write_atomically(folder / "results.csv", pages.as_csv(found))
    write_atomically(folder / "results.json", pages.as_json(found, command))


@contextmanager
def _following(console: Console, total: int) -> Iterator[work.Notify]:
    """A bar for people, a line every tenth of the runs for files."""
    done = 0
    if not console.is_terminal:

        def line(result: Result) -> None:
            nonlocal done
            done += 1
            if done % max(1, total // 10) == 0 or done == total:
                console.print(f"{done} of {total} runs: {_describe(result)}", soft_wrap=True)

        yield line
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("starting", total=total)
        yield lambda result: bars.update(bar, advance=1, description=_describe(result))


def _describe(result: Result) -> str:
    setting = result.setting
    label = METHODS[setting.method].label
    if setting.purpose == "tune":
        return f"{label}, learning rate {setting.lr:g}"
    return f"{label}, penalty {setting.penalty:g}, seed {setting.seed}"


def _say(found: Findings, folder: Path, console: Console) -> None:
    for line in findings.verdicts(found):
        console.print(line, soft_wrap=True)
    for line in findings.warnings(found):
        console.print(f"warning: {line}", soft_wrap=True)
    if found.speeds:
        console.print("\nThe smaller model beside the whole one, times as ratios:")
        console.print(grid(findings.speed_table(found)))
    console.print(f"\nReport: {folder / 'report.md'}", soft_wrap=True)
