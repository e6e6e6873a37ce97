"""One training run in motion: its model, its optimizer, its curves, and all of them as a state."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradmem.lab.optimizers import Spec
from gradmem.lab.tasks.base import Batch, Splits, Task, evaluate


@dataclass(frozen=True)
class Epoch:
    """One more epoch of a run is done: what an onlooker is told."""

    number: int  # from 1
    of: int
    step: int  # steps so far
    train_loss: float
    validation_loss: float
    validation_score: float


Onlooker = Callable[[Epoch], None]


class Diverged(Exception):  # noqa: N818
    """A loss is NaN or infinite."""


class OutOfTime(Exception):  # noqa: N818
    """The run has used up its time."""


def set_mode(optimizer: torch.optim.Optimizer, mode: Literal["train", "eval"]) -> None:
    """Tell an optimizer that wants to know whether steps follow, or an evaluation.

    The parameters of the schedule-free ones are not the same in both: evaluated as they stand
    between steps they would look worse. Other optimizers have no modes.
    """
    if all(callable(getattr(optimizer, name, None)) for name in ("train", "eval")):
        getattr(optimizer, mode)()


@dataclass
class History:
    """What accumulates over the epochs of one run; plain numbers, so that it can be saved."""

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_score: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of training, cumulative
    step_seconds: list[float] = field(default_factory=list)  # of finished epochs
    elapsed: float = 0.0  # with the evaluation, over all processes that had a part in the run

    @property
    def best_epoch(self) -> int | None:
        """The epoch of lowest validation loss, from 1; the last of equal ones."""
        if not self.validation_loss:
            return None
        best = min(self.validation_loss)
        return max(i for i, loss in enumerate(self.validation_loss, 1) if loss == best)


class Training:
    """A run that can be stopped after any epoch and go on elsewhere, to the same numbers.

    Args:
        task: the task.
        spec: the optimizer.
        options: its setting.
        seed: of the initial weights and of the order of examples.
        batch_size: examples a step.
        timeout: seconds after which it ends in `OutOfTime`; None for no limit.
    """

    def __init__(
        self,
        task: Task,
        spec: Spec,
        options: dict[str, Any],
        *,
        seed: int,
        batch_size: int,
        timeout: float | None = None,
    ) -> None:
        self.task = task
        self.splits: Splits = task.data()
        self.batch_size = batch_size
        self.steps_per_epoch = math.ceil(len(self.splits.train) / batch_size)
        self.model = task.model(seed)
        self.optimizer = spec.build(self.model, options, task.parameters(self.model))
        set_mode(self.optimizer, "train")
        self.order = torch.Generator().manual_seed(seed)
        self.history = History()
        self.best_weights: dict[str, Any] = {}
        self._timeout = math.inf if timeout is None else timeout
        self._since = time.perf_counter()

    @property
    def epochs(self) -> int:
        """How many are finished."""
        return len(self.history.validation_loss)

    def epoch(self, of: int) -> Epoch:
        """Train for one epoch and validate.

        Raises:
            Diverged: a loss is NaN or infinite; the epoch then counts as none.
            OutOfTime: as it says.
        """
        losses, seconds = self._steps()
        with evaluating(self.optimizer):
            loss, score = evaluate(self.task, self.model, self.splits.validation)
            if not math.isfinite(loss):
                raise Diverged
            history = self.history
            history.train_loss.append(statistics.fmean(losses))
            history.validation_loss.append(loss)
            history.validation_score.append(score)
            history.seconds.append(sum(history.seconds[-1:]) + math.fsum(seconds))
            history.step_seconds += seconds
            if history.best_epoch == self.epochs:
                self.best_weights = copy.deepcopy(self.model.state_dict())
        return Epoch(
            *(self.epochs, of, self.epochs * self.steps_per_epoch, history.train_loss[-1]),
            *(loss, score),
        )

    def test(self) -> tuple[float, dict[str, float]]:
        """The one reading of the test split, with the weights of the best validation epoch.

        The metric, and what the task tells beside it.
        """
        self.model.load_state_dict(self.best_weights)
        batch = self.splits.test
        score = evaluate(self.task, self.model, batch)[1]
        self.model.eval()
        with torch.no_grad():
            return score, self.task.details(self.model, batch)

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on; tensors and plain values only."""
        self.history.elapsed = self._elapsed()
        self._since = time.perf_counter()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "chance": torch.get_rng_state(),
            "best_weights": self.best_weights,
            "history": dict(vars(self.history)),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["chance"])
        self.best_weights = state["best_weights"]
        self.history = History(**state["history"])

    def _steps(self) -> tuple[list[float], list[float]]:
        """The training losses of one epoch, and the seconds of its steps."""
        self.model.train()
        losses: list[float] = []
        seconds: list[float] = []
        for rows in torch.split(self._order(), self.batch_size):
            begin = time.perf_counter()
            loss = self._step(self.splits.train[rows])
            seconds.append(time.perf_counter() - begin)
            losses.append(loss)
            if not math.isfinite(loss):
                raise Diverged
            if self._elapsed() > self._timeout:
                raise OutOfTime
        return losses, seconds

    def _order(self) -> Tensor:
        """The rows of the training split as the epoch takes them."""
        count = len(self.splits.train)
        if self.task.ordered:
            return torch.arange(count)
        return torch.randperm(count, generator=self.order)

    def _step(self, batch: Batch) -> float:
        self.optimizer.zero_grad()
        loss = self.task.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.task.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.task.clip_norm)
        self.optimizer.step()
        return loss.item()

    def _elapsed(self) -> float:
        return self.history.elapsed + time.perf_counter() - self._since


@contextmanager
def evaluating(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The parameters as they are to be evaluated and copied, for the block."""
    set_mode(optimizer, "eval")
    try:
        yield
    finally:
        set_mode(optimizer, "train")
