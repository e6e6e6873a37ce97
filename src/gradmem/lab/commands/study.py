"""``gradmem tune``, ``gradmem compare``; what `resume` and `report` do with their folders."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gradmem.lab.commands import options

if TYPE_CHECKING:
    from rich.console import Console

    from gradmem.lab.compare import Comparison
    from gradmem.lab.config import CompareConfig, TuneConfig
    from gradmem.lab.findings import Findings
    from gradmem.lab.study import Study


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(tune)
    app.command()(compare)


def tune(
    task: options.TaskName = None,
    config: options.ConfigFile = None,
    optimizers: options.Optimizers = None,
    trials: options.Trials = None,
    tuning_seeds: options.TuningSeeds = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    sampler: options.Sampler = None,
    sampler_seed: options.SamplerSeed = None,
    startup: options.Startup = None,
    space: options.Spaces = None,
    timeout: options.Timeout = None,
    checkpoint_seconds: options.CheckpointSeconds = None,
    workers: options.Workers = None,
    storage: options.Storage = None,
    retry_crashed: options.RetryCrashed = None,
    tensorboard: options.TensorBoard = None,
    data: options.Data = None,
    out: options.Out = None,
    quiet: options.Quiet = None,
) -> None:
    """Search the best setting of each optimizer on TASK, with the same number of trials for each.

    Finished runs are kept: the same command again, after an interruption too, repeats none; started
    elsewhere on the same folder, it takes its share of the work.
    """
    given = dict(locals())
    from gradmem.lab.config import TuneConfig, assemble, parse_spaces

    with options.bad_input():
        file, spaces = given.pop("config"), parse_spaces(given.pop("space"))
        made = assemble(TuneConfig, file, {**given, "space": spaces})
    carry_out(made)


def compare(
    task: options.TaskName = None,
    config: options.ConfigFile = None,
    optimizers: options.Optimizers = None,
    trials: options.Trials = None,
    tuning_seeds: options.TuningSeeds = None,
    seeds: options.Seeds = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    sampler: options.Sampler = None,
    sampler_seed: options.SamplerSeed = None,
    startup: options.Startup = None,
    space: options.Spaces = None,
    timeout: options.Timeout = None,
    checkpoint_seconds: options.CheckpointSeconds = None,
    workers: options.Workers = None,
    storage: options.Storage = None,
    retry_crashed: options.RetryCrashed = None,
    records: options.Records = None,
    tensorboard: options.TensorBoard = None,
    data: options.Data = None,
    out: options.Out = None,
    open: options.OpenReport = None,
    quiet: options.Quiet = None,
) -> None:
    """Tune optimizers equally on TASK, run the best settings on fresh seeds, write a report.

    Finished runs are kept: the same command again, after an interruption too, repeats none; started
    elsewhere on the same folder, it takes its share of the work.
    """
    given = dict(locals())
    from gradmem.lab.config import CompareConfig, assemble, parse_spaces

    with options.bad_input():
        file, spaces = given.pop("config"), parse_spaces(given.pop("space"))
        made = assemble(CompareConfig, file, {**given, "space": spaces})
    carry_out(made)


def carry_out(config: "TuneConfig") -> None:
    """Make the runs and say what they give."""
    from gradmem.lab.config import CompareConfig
    from gradmem.lab.progress import watch
    from gradmem.lab.session import prepare, work

    console = options.console_for(quiet=config.quiet)
    with options.bad_input():
        plan = prepare(config)
    with options.sentences(console, config.folder):
        with watch(console, plan) as watcher:
            study = work(config, plan, watcher, lambda line: _warn(console, line))
        if isinstance(config, CompareConfig):
            comparison = study.comparison()
            if config.records:
                _record(console, comparison, config.folder)
            conclude(console, comparison, config)
        else:
            say_best(console, study, config)


def _record(console: "Console", comparison: "Comparison", folder: Path) -> None:
    from gradmem.lab.memory.first_runs import record_first_runs

    def tell(label: str) -> None:
        console.print(f"recording the memory of {label}")

    record_first_runs(comparison, folder, tell)


def report_on(config: "TuneConfig") -> None:
    """Say again what the runs in a folder give, without making any."""
    from gradmem.lab.config import CompareConfig
    from gradmem.lab.session import open_study, prepare

    console = options.console_for(quiet=config.quiet)
    with options.bad_input():
        plan = prepare(config)
    with options.sentences(console, config.folder):
        study = open_study(config, plan, lambda line: _warn(console, line))
        if isinstance(config, CompareConfig):
            conclude(console, study.comparison(), config)
        else:
            say_best(console, study, config)


def conclude(console: "Console", comparison: "Comparison", config: "CompareConfig") -> None:
    """Write the report; print the table, the verdict and where it lies."""
    from gradmem.lab import origin, report
    from gradmem.lab.files import write_atomically
    from gradmem.lab.findings import findings

    folder = config.folder
    found = findings(comparison, origin.read(folder))
    write_atomically(folder / "report.html", report.html_page(found))
    write_atomically(folder / "report.md", report.markdown_page(found))
    write_atomically(folder / "results.csv", report.csv_page(found))
    write_atomically(folder / "summary.csv", report.summary_csv(found))
    write_atomically(folder / "overview.svg", report.picture(found))
    if comparison.outstanding:
        _warn(console, f"some runs are yet to be made; go on with: gradmem resume {folder}")
    _say(console, found, folder / "report.html")
    if config.open:
        options.open_page(folder / "report.html")


def _say(console: "Console", found: "Findings", page: Path) -> None:
    from gradmem.lab.findings import score_table
    from gradmem.lab.score import caveat
    from gradmem.lab.terminal import grid

    console.print()
    console.print(grid(score_table(found)))
    console.print()
    for line in found.warnings:
        console.print(f"warning: {line}")
    for line in found.verdicts:
        console.print(line, style="bold")
    console.print(caveat(found.comparison, found.differences))
    console.print(f"\nReport: {page}", soft_wrap=True)


def say_best(console: "Console", study: "Study", config: "TuneConfig") -> None:
    """Print each best setting, as a command that trains with it."""
    import shlex

    from gradmem.lab.config import as_setting
    from gradmem.lab.report.commands import lasting

    for each in study.tuned():
        loss = each.best.validation_loss
        console.print(
            f"\n{each.spec.label}: validation loss {loss:.5g}, the best of {len(each.trials)}"
        )
        for line in each.warnings():
            console.print(f"warning: {line}")
        words = ["gradmem", "train", config.task, "--optimizer", each.spec.typed]
        for name, value in each.best.options.items():
            words += ["--set", f"{name}={as_setting(value)}"]
        console.print(f"  {shlex.join([*words, *lasting(study.plan)])}", soft_wrap=True)


def _warn(console: "Console", line: str) -> None:
    console.print(f"warning: {line}", soft_wrap=True)
