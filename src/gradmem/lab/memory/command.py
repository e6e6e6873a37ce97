"""What ``gradmem inspect`` does: check the input, train and record, write, say."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import gradmem
from gradmem.lab.errors import ConfigError, NoResultsError, hint
from gradmem.lab.files import write_atomically
from gradmem.lab.importing import is_foreign
from gradmem.lab.memory import pages, recording
from gradmem.lab.memory.recording import Plan, Run
from gradmem.lab.optimizers import OPTIMIZERS, Spec, get_optimizers
from gradmem.lab.own_optimizers import MEMORY
from gradmem.lab.tasks import get_task
from gradmem.lab.terminal import grid


def prepare(
    task: str,
    optimizer: str,
    *,
    capacity: str | None,
    decay: str | None,
    options: Mapping[str, Any],
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    data: Path | None,
) -> Plan:
    """Check everything that can be checked before anything is run.

    Raises:
        ValueError: the input cannot be used.
        LabError: the task cannot be used.
    """
    spec = _with_a_memory(optimizer)
    defaults = {**asdict(gradmem.MemoryOptions()), **_defaults(optimizer)}
    shared = dict(options)
    chosen = {
        name: _numbers(name, text, kind, shared.pop(name, defaults[name]))
        for name, text, kind in (("capacity", capacity, int), ("decay", decay, float))
    }
    plan = Plan(
        task=get_task(task, data),
        optimizer=spec.name,
        options=shared,
        capacities=chosen["capacity"],
        decays=chosen["decay"],
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    recording.check(plan)
    return plan


def _with_a_memory(name: str) -> Spec:
    """The optimizer of this name; an option that is not given is at its default."""
    known = {each.name for each in OPTIMIZERS.values() if each.base}
    if not is_foreign(name) and name not in known:
        raise ConfigError(f"{name!r} is no optimizer with a memory; {hint(name, sorted(known))}")
    (spec,) = get_optimizers([name], to_search=False)
    if is_foreign(name) and not name.endswith(MEMORY):
        raise ConfigError(f"{name} is inspected with a memory around it: {name}{MEMORY}")
    return spec


def _defaults(name: str) -> dict[str, Any]:
    """Of the options, where the library knows them by this name."""
    return gradmem.options(name) if name in gradmem.names() else {}


def _numbers(name: str, text: str | None, kind: type, otherwise: Any) -> list[Any]:
    """Numbers with commas between them."""
    if text is None:
        return [otherwise]
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{name} must be a number, or several with commas between them, got {text!r}"
        ) from None
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{name} names a number twice: {text!r}")
    return numbers


def carry_out(plan: Plan, out: Path | None, console: Console) -> tuple[Path, bool]:
    """Train, write pages, pictures and records, print the result.

    Returns:
        The page to open, and whether all runs were made: an interruption ends the training, not
        the report.

    Raises:
        LabError: a file cannot be written, the task raised, or no step was recorded.
    """
    folder = out or Path("gradmem-results") / f"inspect-{plan.task.name}"
    runs = _record_all(plan, folder, console)
    whole = len(runs) == len(plan.settings) and all(run.end != "interrupted" for run in runs)
    runs = [run for run in runs if run.records]
    if not runs:
        raise NoResultsError("no step was recorded, so there is nothing to draw")
    page = folder / "report.html"
    write_atomically(page, pages.as_html(plan, runs))
    write_atomically(folder / "report.md", pages.as_markdown(plan, runs))
    for name, svg in pages.pictures(runs).items():
        write_atomically(folder / name, svg)
    _say(console, plan, runs, page)
    return page, whole


def _record_all(plan: Plan, folder: Path, console: Console) -> list[Run]:
    """All runs, or those until an interruption."""
    task = plan.task
    each = plan.epochs_each * -(-len(task.data().train) // plan.batch)
    runs: list[Run] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("steps", total=each * len(plan.settings))
        for i, options in enumerate(plan.settings):
            path = folder / _file_name(plan, options)

            def advance(step: int, before: int = each * i) -> None:
                progress.update(bar, completed=before + step)

            run = recording.record(plan, options, path, advance)
            runs.append(run)
            console.print(f"{run.label}: {_state(plan, run)}", soft_wrap=True)
            if run.end == "interrupted":
                break
    return runs


def _file_name(plan: Plan, options: Mapping[str, Any]) -> str:
    if len(plan.settings) == 1:
        return "records.jsonl"
    return f"records-capacity-{options['capacity']}-decay-{options['decay']:g}.jsonl"


def _state(plan: Plan, run: Run) -> str:
    """How a run ended."""
    metric = plan.task.metric
    steps = max((record.call for record in run.records), default=0)
    said = f"{run.end} after {steps:,} steps"
    if run.scores:
        said += f", validation {metric.name} {metric.show(run.scores[-1])}{metric.unit}"
    return said


def _say(console: Console, plan: Plan, runs: list[Run], page: Path) -> None:
    console.print()
    for i, line in enumerate(pages.verdicts(runs)):
        console.print(line, style="bold" if i == 0 else None)
    console.print()
    console.print(grid(pages.short_table(runs)))
    if len(runs) < len(plan.settings):
        console.print(f"{len(runs)} of {len(plan.settings)} runs were made.")
    console.print(f"\nReport: {page}", soft_wrap=True)
    paths = [str(run.path) for run in runs]
    console.print(f"Records: {paths[0]}{' and others' * (len(paths) > 1)}", soft_wrap=True)
