"""Training runs with a recorder on the optimizer."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gradmem import Recorder, StepRecord
from gradmem.lab.errors import ConfigError, TaskError
from gradmem.lab.files import cannot_write
from gradmem.lab.optimizers import find
from gradmem.lab.run import one_thread
from gradmem.lab.session import check_task, complaint, raised
from gradmem.lab.tasks.base import Task, seeded
from gradmem.lab.training import Diverged, Training

End = Literal["finished", "diverged", "interrupted"]


@dataclass(frozen=True)
class Plan:
    """What is trained: one run for each combination of capacities and decays.

    Args:
        task: the task.
        optimizer: one with a memory, as `find` knows it.
        options: those that all runs share.
        capacities, decays: each with each.
        epochs, batch_size: None for the task's own.
        seed: of the initial weights and the order of examples.
    """

    task: Task
    optimizer: str
    options: Mapping[str, Any]
    capacities: Sequence[int]
    decays: Sequence[float]
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0

    @property
    def epochs_each(self) -> int:
        """Epochs of each run."""
        return self.epochs or self.task.budget.epochs

    @property
    def batch(self) -> int:
        """Examples a step."""
        return self.batch_size or self.task.budget.batch_size

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The options of every run."""
        pairs = itertools.product(self.capacities, self.decays)
        return [{**self.options, "capacity": c, "decay": d} for c, d in pairs]


@dataclass(frozen=True)
class Run:
    """One recorded run."""

    capacity: int
    decay: float
    records: Sequence[StepRecord]
    end: End
    scores: Sequence[float] = ()  # on the validation split, by epoch
    path: Path | None = None

    @property
    def label(self) -> str:
        """What sets it apart from the others."""
        return f"capacity {self.capacity}, decay {self.decay:g}"


def check(plan: Plan) -> None:
    """Make task, model and every optimizer once, so that what is wrong is said before any run.

    Raises:
        ConfigError: an option is wrong, or leaves nothing to record.
        TaskError: the task cannot be used.
    """
    for name, value in (("epochs", plan.epochs), ("batch size", plan.batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    check_task(plan.task)
    model = plan.task.model(plan.seed)
    for options in plan.settings:
        try:
            optimizer = find(plan.optimizer).build(model, options, plan.task.parameters(model))
        except Exception as error:  # of a user's own it may be any
            raise ConfigError(f"{plan.optimizer}: {complaint(error)}") from error
        groups = getattr(optimizer, "memory_groups", optimizer.param_groups)
        if not any(group["capacity"] and group["kappa"] for group in groups):
            raise ConfigError("with capacity or kappa 0 there is no memory to inspect")


def record(
    plan: Plan, options: Mapping[str, Any], path: Path, advance: Callable[[int], None]
) -> Run:
    """Train once, a line in the file for every step; an interruption ends the run, and is noted.

    Args:
        plan: what all runs share.
        options: of this one, from ``plan.settings``.
        path: the file, made anew.
        advance: told the steps of the run, after each.

    Raises:
        StoreError: the file cannot be made.
        TaskError: the task raised in the middle.
    """
    _clear(path)
    end: End = "finished"
    training: Training | None = None
    try:
        with one_thread():
            training = Training(
                *(plan.task, find(plan.optimizer), dict(options)),
                seed=plan.seed,
                batch_size=plan.batch,
            )
            with seeded(plan.seed, "training"), Recorder(training.optimizer, path):
                _epochs(training, plan.epochs_each, advance)
    except KeyboardInterrupt:
        end = "interrupted"
    except Diverged:
        end = "diverged"
    except Exception as error:
        raise TaskError(f"the run on {plan.task.name} broke off: {raised(error)}") from error
    scores = training.history.validation_score if training else []
    records = Recorder.read(path) if path.exists() else []
    return Run(options["capacity"], options["decay"], records, end, tuple(scores), path)


def _clear(path: Path) -> None:
    """Room for the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _epochs(training: Training, epochs: int, advance: Callable[[int], None]) -> None:
    steps = itertools.count(1)
    hook = training.optimizer.register_step_post_hook(lambda *_: advance(next(steps)))
    try:
        for _ in range(epochs):
            training.epoch(of=epochs)
    finally:
        hook.remove()
