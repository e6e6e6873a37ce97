"""What a task is: data, a model, a loss, a metric, a budget and a target."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Examples and their targets, along the first dimension."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Tensor) -> "Batch":
        return Batch(self.inputs[rows], self.targets[rows])


class Splits(Protocol):
    """The three parts of a data set, the same in every run.

    A protocol rather than a record, so that a task may load a part only when it is asked for, and
    a test may count how often that happens.
    """

    @property
    def train(self) -> Batch:
        """What the optimizer sees."""

    @property
    def validation(self) -> Batch:
        """What every choice is made on: setting and epoch."""

    @property
    def test(self) -> Batch:
        """Read once in an evaluation run, after every choice is made; never while tuning."""


@dataclass(frozen=True)
class FixedSplits:
    """Three parts held in memory."""

    train: Batch
    validation: Batch
    test: Batch


@dataclass(frozen=True)
class Metric:
    """What is reported beside the loss, and how it is written.

    ``worst`` is what a diverged run scores; values are shown times ``scale``, in ``unit``.
    """

    name: str
    higher_is_better: bool
    worst: float
    scale: float = 1.0
    unit: str = ""
    decimals: int = 2

    def show(self, value: float) -> str:
        """``value`` as a reader sees it, without the unit."""
        return f"{value * self.scale:.{self.decimals}f}"

    def show_difference(self, value: float) -> str:
        """A difference of two values, with its sign; zero has none."""
        text = f"{value * self.scale:+.{self.decimals}f}"
        return text if float(text) else text[1:]


@dataclass(frozen=True)
class Budget:
    """How long a run lasts."""

    epochs: int
    batch_size: int


class Task(ABC):
    """One learning problem.

    The lab chooses settings and epochs by the *validation loss*, whatever the metric: a loss is
    continuous, where an accuracy on a few hundred examples ties all the time.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when data, model or loss change: old runs then expire
    metric: ClassVar[Metric]
    budget: ClassVar[Budget]
    target: ClassVar[float]  # level of the validation metric that counts as "got there"

    @abstractmethod
    def data(self) -> Splits:
        """The splits, identical in every call and every process."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A fresh model whose initial weights depend on ``seed`` alone."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of ``model`` on ``batch``, differentiable."""

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch) -> float:
        """The metric of ``model`` on ``batch``."""

    def reaches_target(self, value: float) -> bool:
        """Whether a validation metric of ``value`` is as good as the target."""
        return value >= self.target if self.metric.higher_is_better else value <= self.target
