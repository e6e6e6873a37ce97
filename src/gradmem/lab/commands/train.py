"""``gradmem train``: one run at a given setting."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradmem.lab.commands import options

if TYPE_CHECKING:
    from rich.console import Console

    from gradmem.lab.compare import Plan, Progress
    from gradmem.lab.config import TrainConfig
    from gradmem.lab.run import RunConfig, RunResult
    from gradmem.lab.study import Study
    from gradmem.lab.training import Epoch

OptimizerName = Annotated[
    str | None, options.told("As in `gradmem optimizers`, or your own.", "adam", "--optimizer")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="An option of the optimizer: lr=1e-3. As often as needed."),
]
Seed = Annotated[int | None, options.told("Of the initial weights and the order.", "0")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(train)


def train(
    task: options.TaskName = None,
    config: options.ConfigFile = None,
    optimizer: OptimizerName = None,
    setting: Settings = None,
    seed: Seed = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    timeout: options.Timeout = None,
    checkpoint_seconds: options.CheckpointSeconds = None,
    tensorboard: options.TensorBoard = None,
    data: options.Data = None,
    out: Annotated[
        Path | None,
        options.folder_option("Folder for everything.", "gradmem-results/train-TASK"),
    ] = None,
    quiet: options.Quiet = None,
) -> None:
    """Train once on TASK with one optimizer at one setting; the test split is read at the end.

    A finished run is kept and not made again; an interrupted one goes on from its last checkpoint.
    """
    given = dict(locals())
    from gradmem.lab.config import TrainConfig, assemble, parse_settings

    with options.bad_input():
        file, settings = given.pop("config"), parse_settings(given.pop("setting"), "--set")
        made = assemble(TrainConfig, file, {**given, "options": settings})
    carry_out(made)


def carry_out(config: "TrainConfig") -> None:
    """Make the run, unless it is there, and say what it gives."""
    from gradmem.lab.session import check_setting, check_task, keep_config
    from gradmem.lab.tensorboard import with_tensorboard

    console = options.console_for(quiet=config.quiet)
    with options.bad_input():
        plan, run = _prepare(config)
    with options.sentences(console, config.folder):
        check_task(plan.task)
        check_setting(plan.task, plan.optimizers[0], run.options)
        study = _study(console, config, plan)
        keep_config(config, plan.epochs, plan.examples_a_step, warn=_unsaid)
        watcher = with_tensorboard(_Teller(console, plan), config.tensorboard)
        _say(console, plan, study.single(run, watcher), study)


def report_on(config: "TrainConfig") -> None:
    """Say again what the run in a folder gave."""
    from gradmem.lab.errors import NoResultsError

    console = options.console_for(quiet=config.quiet)
    with options.bad_input():
        plan, run = _prepare(config)
    with options.sentences(console, config.folder):
        study = _study(console, config, plan)
        if (result := study.store.load(run)) is None:
            raise NoResultsError(
                f"the run in {config.folder} is not finished; go on with: "
                f"gradmem resume {config.folder}"
            )
        _say(console, plan, result, study)


def _prepare(config: "TrainConfig") -> "tuple[Plan, RunConfig]":
    from gradmem.lab.compare import Plan
    from gradmem.lab.optimizers import get_optimizers
    from gradmem.lab.session import task_of

    task = task_of(config)
    specs = get_optimizers([config.optimizer], to_search=False)
    epochs = config.epochs or task.budget.epochs
    plan = Plan(task, specs, 1, 1, epochs, config.batch_size, timeout=config.timeout)
    return plan, plan.config("evaluate", specs[0], config.options, config.seed)


def _study(console: "Console", config: "TrainConfig", plan: "Plan") -> "Study":
    import time

    from gradmem.lab.study import Study

    return Study(
        plan,
        config.folder,
        checkpoint_seconds=config.checkpoint_seconds,
        retry_before=time.time(),  # whoever asks for one run that crashed wants another try
        warn=lambda line: console.print(f"warning: {line}", soft_wrap=True),
    )


def _unsaid(line: str) -> None:
    """Another run in the same folder is nothing to be warned of."""


class _Teller:
    """A line after every epoch."""

    def __init__(self, console: "Console", plan: "Plan") -> None:
        self._console = console
        self._metric = plan.task.metric

    def begin(self, config: "RunConfig") -> None:
        """Nothing to say yet."""

    def epoch(self, config: "RunConfig", epoch: "Epoch") -> None:  # noqa: ARG002
        """Where the curves are."""
        score = (
            f"{self._metric.name} {self._metric.show(epoch.validation_score)}{self._metric.unit}"
        )
        self._console.print(
            f"epoch {epoch.number} of {epoch.of}: training loss {epoch.train_loss:.4g}, "
            f"validation loss {epoch.validation_loss:.4g}, {score}",
            soft_wrap=True,
        )

    def done(self, progress: "Progress") -> None:
        """Say if nothing had to be done."""
        if progress.reused:
            self._console.print("This run was made before.")


def _say(console: "Console", plan: "Plan", result: "RunResult", study: "Study") -> None:
    metric = plan.task.metric
    path = study.store.path(result.config)
    if result.status == "ok" and result.test_score is not None:
        console.print(
            f"Test {metric.name} {metric.show(result.test_score)}{metric.unit}, at epoch "
            f"{result.best_epoch}, whose validation loss is {result.validation_loss:.5g}."
        )
        if result.details:
            told = ", ".join(f"{name} {value:.4g}" for name, value in result.details.items())
            console.print(f"Beside it on the test split: {told}.", soft_wrap=True)
        console.print(f"Run: {path}", soft_wrap=True)
        return
    reason = f": {result.reason}" if result.reason else ""
    options.print_error(f"the run {_ENDS[result.status]}{reason}. Its record is {path}")
    raise typer.Exit(options.FAILED)


_ENDS = {
    "diverged": "diverged: a loss is NaN or infinite",
    "timeout": "ran out of time; with a longer --timeout it goes on from its last checkpoint",
    "crashed": "crashed",
    "interrupted": "was interrupted",
}
