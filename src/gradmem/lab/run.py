"""One training run: a setting and a seed in, a record of what happened out."""

import math
import statistics
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

import gradmem
from gradmem.lab.checkpoint import Checkpoint
from gradmem.lab.errors import LabError
from gradmem.lab.optimizers import Options, find
from gradmem.lab.tasks.base import Task, seeded
from gradmem.lab.training import Diverged, History, Onlooker, OutOfTime, Training

Status = Literal["ok", "diverged", "timeout", "crashed", "interrupted"]
Purpose = Literal["tune", "evaluate"]


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    return {"gradmem": gradmem.__version__, "torch": str(torch.__version__)}


@dataclass(frozen=True)
class RunConfig:
    """All that decides a run's result; two equal configs are the same run.

    A run that tunes never reads the test split; one that evaluates reads it once.
    """

    task: str
    task_version: int
    purpose: Purpose
    optimizer: str
    options: Options
    seed: int
    epochs: int
    batch_size: int
    versions: dict[str, str] = field(default_factory=versions)


@dataclass(frozen=True)
class Curves:
    """One number per finished epoch."""

    train_loss: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    validation_score: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What one run gave.

    A run that did not come to its end, whatever the reason, keeps the curves it has and counts
    with the worst values there are: an infinite validation loss, the metric's worst score, a target
    never reached.
    """

    config: RunConfig
    status: Status
    curves: Curves
    steps_per_epoch: int
    best_epoch: int | None  # counted from 1; the lowest validation loss
    validation_loss: float  # at the best epoch, as is the next
    validation_score: float
    test_score: float | None  # None in a run that tunes
    steps_to_target: int | None
    seconds_to_target: float | None  # of training, to the end of that epoch
    seconds_per_step: float  # median: forward, backward and update; 0 if no epoch was finished
    seconds: float  # of all training steps
    state_bytes: int
    memory: tuple[dict[str, Any], ...]  # the scopes of the memory report; empty without a memory
    error: str | None = None  # what was raised, with its traceback, in a run that crashed
    limit: float | None = None  # the seconds a run had that timed out
    details: dict[str, float] = field(default_factory=dict)  # what else the task says of the test

    @property
    def reason(self) -> str:
        """The last line of the error: what was raised, and why."""
        return (self.error or "").strip().rpartition("\n")[2]

    def to_json(self) -> dict[str, Any]:
        """Plain values only; an infinite number becomes a word, as JSON has none."""
        plain = asdict(self)
        for name in _MAY_BE_INFINITE:
            plain[name] = _sayable(plain[name])
        plain["curves"] = {
            name: [_sayable(value) for value in row] for name, row in plain["curves"].items()
        }
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RunResult":
        """The record that `to_json` wrote."""
        numbers = {
            name: float(plain[name]) for name in _MAY_BE_INFINITE if isinstance(plain[name], str)
        }
        return cls(
            **{
                **plain,
                **numbers,
                "config": RunConfig(**plain["config"]),
                "curves": Curves(
                    **{key: tuple(map(float, row)) for key, row in plain["curves"].items()}
                ),
                "memory": tuple(plain["memory"]),
            }
        )


_MAY_BE_INFINITE = ("validation_loss", "validation_score", "test_score")


def _sayable(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def train(
    task: Task,
    config: RunConfig,
    *,
    timeout: float | None = None,
    checkpoint: Checkpoint | None = None,
    onlooker: Onlooker | None = None,
) -> RunResult:
    """Train once. Deterministic given ``config``, but for the seconds.

    Args:
        task: the task that ``config`` names.
        config: the run.
        timeout: seconds it may take, looked at after every step.
        checkpoint: where it is kept in the middle, and found again.
        onlooker: told after every epoch.

    Raises:
        LabError: a checkpoint cannot be written. Whatever the task or the optimizer raises is a
            result: a run that crashed.
    """
    training = None
    status: Status = "ok"
    error = test_score = None
    details: dict[str, float] = {}
    with one_thread():
        try:
            training = _begin(task, config, timeout)
            # From here on, so that it does not matter what `data` and `model` drew.
            with seeded(config.seed, "training"):
                _all_epochs(training, config.epochs, checkpoint, onlooker)
                if config.purpose == "evaluate":
                    test_score, details = training.test()
        except Diverged:
            status = "diverged"
        except OutOfTime:
            status = "timeout"
        except LabError:
            raise
        except Exception:
            status, error = "crashed", traceback.format_exc()
        result = _result(task, config, status, training, test_score, error)
    if checkpoint is not None and status in ("ok", "diverged"):
        checkpoint.remove()  # else it stays, for a longer limit or another try
    result = replace(result, details=details)
    return replace(result, limit=timeout) if status == "timeout" else result


def broken_off(task: Task, config: RunConfig, status: Status, error: str | None) -> RunResult:
    """The record of a run that ended with its process, so that nothing is known but that it did."""
    return _result(task, config, status, None, None, error)


def _begin(task: Task, config: RunConfig, timeout: float | None) -> Training:
    return Training(
        task,
        find(config.optimizer),
        config.options,
        seed=config.seed,
        batch_size=config.batch_size,
        timeout=timeout,
    )


def _all_epochs(
    training: Training, epochs: int, checkpoint: Checkpoint | None, onlooker: Onlooker | None
) -> None:
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        training.load(state)
    while training.epochs < epochs:
        done = training.epoch(of=epochs)
        if checkpoint is not None and checkpoint.is_due and training.epochs < epochs:
            checkpoint.save(training.state())
        if onlooker is not None:
            onlooker(done)


def _result(
    task: Task,
    config: RunConfig,
    status: Status,
    training: Training | None,
    test_score: float | None,
    error: str | None,
) -> RunResult:
    history = training.history if training else History()
    best = history.best_epoch if status == "ok" else None
    reached = _target(task, history) if status == "ok" else None
    steps = training.steps_per_epoch if training else 0
    if status != "ok" and config.purpose == "evaluate":
        test_score = task.metric.worst
    return RunResult(
        config=config,
        status=status,
        curves=Curves(
            tuple(history.train_loss),
            tuple(history.validation_loss),
            tuple(history.validation_score),
        ),
        steps_per_epoch=steps,
        best_epoch=best,
        validation_loss=math.inf if best is None else history.validation_loss[best - 1],
        validation_score=task.metric.worst if best is None else history.validation_score[best - 1],
        test_score=test_score,
        steps_to_target=None if reached is None else reached * steps,
        seconds_to_target=None if reached is None else history.seconds[reached - 1],
        seconds_per_step=statistics.median(history.step_seconds or [0.0]),
        seconds=sum(history.seconds[-1:]),
        state_bytes=state_bytes(training.optimizer) if training else 0,
        memory=_memory_scopes(training.optimizer) if training else (),
        error=error,
    )


def _target(task: Task, history: History) -> int | None:
    """The first epoch after which the validation metric is as good as the target."""
    for epoch, score in enumerate(history.validation_score, start=1):
        if task.reaches_target(score):
            return epoch
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: small networks are faster so, and the sums are always the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors that a checkpoint has of it; those that share a storage count once."""
    storages = {}
    for tensor in _tensors(optimizer.state_dict()["state"]):
        storage = tensor.untyped_storage()
        storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _memory_scopes(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], ...]:
    if not isinstance(optimizer, (gradmem.MemoryOptimizer, gradmem.MemoryAugmented)):
        return ()
    return tuple(
        {
            "name": scope.name,
            "parameters": scope.parameters,
            "steps": scope.steps,
            "capacity": scope.capacity,
            "occupied": scope.occupied,
            "ages": list(scope.ages),
            "norms": list(scope.norms),
            "accepted_share": scope.accepted_share if scope.steps else None,
            "bytes": scope.bytes,
        }
        for scope in optimizer.memory_report().scopes
    )
