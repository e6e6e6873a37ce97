"""One training run: a setting and a seed in, a record of what happened out."""

import copy
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

import gradmem
from gradmem.lab.optimizers import OPTIMIZERS, Options
from gradmem.lab.tasks.base import Batch, Splits, Task

Status = Literal["finished", "diverged"]
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

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_score: tuple[float, ...]


@dataclass(frozen=True)
class RunResult:
    """What one run gave.

    A diverged run keeps the curves it has and counts with the worst values there are: an infinite
    validation loss, the metric's worst score, a target never reached.
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
    seconds_per_step: float  # median over all steps: forward, backward and update
    state_bytes: int
    memory: tuple[dict[str, Any], ...]  # the scopes of the memory report; empty without a memory

    def to_json(self) -> dict[str, Any]:
        """Plain values only; an infinite loss becomes None, for JSON has no infinity."""
        plain = asdict(self)
        if math.isinf(self.validation_loss):
            plain["validation_loss"] = None
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RunResult":
        """The record that `to_json` wrote."""
        loss = plain["validation_loss"]
        return cls(
            **{
                **plain,
                "config": RunConfig(**plain["config"]),
                "curves": Curves(**{key: tuple(row) for key, row in plain["curves"].items()}),
                "validation_loss": math.inf if loss is None else loss,
                "memory": tuple(plain["memory"]),
            }
        )


def train(task: Task, config: RunConfig) -> RunResult:
    """Train once. Deterministic given ``config``, but for the time per step."""
    splits = task.data()
    model = task.model(config.seed)
    optimizer = OPTIMIZERS[config.optimizer].build(model, config.options)
    order = torch.Generator().manual_seed(config.seed)
    history = _History(task, math.ceil(len(splits.train) / config.batch_size))
    with one_thread():
        for _ in range(config.epochs):
            if not history.add_epoch(model, optimizer, splits, config.batch_size, order):
                break
        test_score = None
        if config.purpose == "evaluate":
            test_score = history.test_score(model, splits)
    diverged = history.diverged
    best = None if diverged else history.best_epoch
    return RunResult(
        config=config,
        status="diverged" if diverged else "finished",
        curves=history.curves(),
        steps_per_epoch=history.steps_per_epoch,
        best_epoch=best,
        validation_loss=math.inf if best is None else history.validation_loss[best - 1],
        validation_score=task.metric.worst if best is None else history.validation_score[best - 1],
        test_score=test_score,
        steps_to_target=None if diverged else history.steps_to_target(),
        seconds_per_step=statistics.median(history.seconds),
        state_bytes=state_bytes(optimizer),
        memory=_memory_scopes(optimizer),
    )


class _History:
    """What accumulates over the epochs of one run."""

    def __init__(self, task: Task, steps_per_epoch: int) -> None:
        self.task = task
        self.steps_per_epoch = steps_per_epoch
        self.train_loss: list[float] = []
        self.validation_loss: list[float] = []
        self.validation_score: list[float] = []
        self.seconds: list[float] = []
        self.diverged = False
        self.best_epoch: int | None = None
        self.best_weights: dict[str, Any] = {}

    def add_epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        splits: Splits,
        batch_size: int,
        order: torch.Generator,
    ) -> bool:
        """Train and validate for one epoch; False as soon as a loss is NaN or infinite."""
        model.train()
        losses = []
        shuffled = torch.randperm(len(splits.train), generator=order)
        for rows in torch.split(shuffled, batch_size):
            begin = time.perf_counter()
            loss = _step(self.task, model, optimizer, splits.train[rows])
            self.seconds.append(time.perf_counter() - begin)
            losses.append(loss)
            if not math.isfinite(loss):
                self.diverged = True
                return False
        loss, score = _evaluate(self.task, model, splits.validation)
        if not math.isfinite(loss):
            self.diverged = True
            return False
        self.train_loss.append(statistics.fmean(losses))
        self.validation_loss.append(loss)
        self.validation_score.append(score)
        if loss <= min(self.validation_loss[:-1], default=math.inf):
            self.best_epoch = len(self.validation_loss)
            self.best_weights = copy.deepcopy(model.state_dict())
        return True

    def test_score(self, model: nn.Module, splits: Splits) -> float:
        """The one reading of the test split, with the weights of the best validation epoch."""
        if self.diverged:
            return self.task.metric.worst
        model.load_state_dict(self.best_weights)
        return _evaluate(self.task, model, splits.test)[1]

    def steps_to_target(self) -> int | None:
        """Steps until the validation metric first reached the target, to a whole epoch."""
        for epoch, score in enumerate(self.validation_score, start=1):
            if self.task.reaches_target(score):
                return epoch * self.steps_per_epoch
        return None

    def curves(self) -> Curves:
        return Curves(
            tuple(self.train_loss), tuple(self.validation_loss), tuple(self.validation_score)
        )


def _step(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    loss = task.loss(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _evaluate(task: Task, model: nn.Module, batch: Batch) -> tuple[float, float]:
    model.eval()
    return task.loss(model, batch).item(), task.score(model, batch)


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
    """Bytes of all tensors in the optimizer's state; tensors that share a storage count once."""
    storages = {}
    for tensor in _tensors(optimizer.state):
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
    if not isinstance(optimizer, gradmem.MemoryOptimizer):
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
