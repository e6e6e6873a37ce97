"""What a task is: data, a model, a loss, a metric, a budget and a target."""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn


def take(inputs: Any, rows: Tensor | slice) -> Any:
    """The examples ``rows`` of a tensor, of a mapping or tuple of tensors, or of other rows."""
    if isinstance(inputs, Mapping):
        return {name: take(part, rows) for name, part in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(take(part, rows) for part in inputs)
    return inputs[rows]


@dataclass(frozen=True)
class Batch:
    """Examples and their targets, along the first dimension.

    ``inputs`` is a tensor, a mapping or a tuple of tensors, or anything else that can be indexed by
    a tensor of row numbers and by a slice.
    """

    inputs: Any
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Tensor | slice) -> "Batch":
        return Batch(take(self.inputs, rows), self.targets[rows])


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
    ``mean`` says which mean over parts of a split, weighted by their sizes, is the value on the
    whole: arithmetic (a share, an average), quadratic (a root mean square), or geometric (a
    perplexity). It is used where a task evaluates in chunks; None for a metric that no such mean
    gives (F1), of a task that does not.
    """

    name: str
    higher_is_better: bool
    worst: float
    scale: float = 1.0
    unit: str = ""
    decimals: int = 2
    mean: Literal["arithmetic", "quadratic", "geometric"] | None = "arithmetic"

    @property
    def difference_unit(self) -> str:
        """That of a difference: two percentages differ by points."""
        return "points" if self.unit == "%" else self.unit

    def show(self, value: float) -> str:
        """``value`` as a reader sees it, without the unit."""
        return f"{value * self.scale:.{self.decimals}f}"

    def show_difference(self, value: float) -> str:
        """A difference of two values, with its sign; zero has none."""
        text = f"{value * self.scale:+.{self.decimals}f}"
        return text if float(text) else text[1:]

    def pooled(self, values: Sequence[float], sizes: Sequence[int]) -> float:
        """The value on a whole split from those on its parts.

        >>> Metric("RMSE", False, 9.0, mean="quadratic").pooled([3.0, 4.0], [10, 10])
        3.5355339059327378

        Raises:
            ValueError: there are several parts, and no mean over them is the value.
        """
        if len(values) == 1:
            return values[0]
        if self.mean is None:
            raise ValueError(
                f"{self.name} of a split is no mean over its parts, of which there are "
                f"{len(values)} ({sum(sizes)} examples); evaluate it at once"
            )
        if self.mean == "quadratic":
            return math.sqrt(weighted_mean([value * value for value in values], sizes))
        if self.mean == "geometric":
            return math.exp(weighted_mean([math.log(value) for value in values], sizes))
        return weighted_mean(values, sizes)


@dataclass(frozen=True)
class Budget:
    """How long a run lasts."""

    epochs: int
    batch_size: int


class Task(ABC):
    """One learning problem.

    The lab chooses settings and epochs by the *validation loss*, whatever the metric: a loss is
    continuous, where an accuracy on a few hundred examples ties all the time.

    A diverged run scores ``metric.worst``. In the tasks here that is finite, what guessing scores
    or worse, so that one such run spoils a mean without making it infinite.
    """

    name: str
    title: str
    version: int = 1  # raise it when data, model or loss change: old runs then expire
    metric: Metric
    budget: Budget
    target: float  # level of the validation metric that counts as "got there"
    clip_norm: float | None = None  # the gradient's norm is clipped to this before every step
    ordered: bool = False  # a run takes the training examples in their order, never shuffled
    evaluate_batch_size: int | None = None  # None: a split is evaluated at once
    needs: str | None = None  # the data set that has to lie in the data folder
    partial: str | None = None  # a sentence if the data set is not the whole canonical one
    asked: str | None = None  # what a command calls it, where that is not its name
    origin: str | None = None  # digest of the file that a user's task stands in

    @abstractmethod
    def data(self) -> Splits:
        """The splits, identical in every call and every process."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A fresh model whose initial weights depend on ``seed`` alone."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of ``model`` on ``batch``, differentiable.

        What is random in it (dropout) draws from torch's global generator, which a run sets by
        `seeded`; a penalty on the weights belongs to it while ``model.training`` only.
        """

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch) -> float:
        """The metric of ``model`` on ``batch``."""

    def weight(self, batch: Batch) -> int:
        """What ``batch`` counts for where a split is evaluated in chunks: its examples.

        It is the number of what `loss` is the mean of, where that is something else, as words.
        """
        return len(batch)

    def details(self, model: nn.Module, batch: Batch) -> dict[str, float]:  # noqa: ARG002
        """What else there is to say of the test split, by name; kept with an evaluation run."""
        return {}

    def parameters(self, model: nn.Module) -> Iterable[Tensor] | Iterable[dict[str, Any]]:
        """What the optimizer is given: all parameters, or groups with options of their own."""
        return model.parameters()

    def reaches_target(self, value: float) -> bool:
        """Whether a validation metric of ``value`` is as good as the target."""
        return value >= self.target if self.metric.higher_is_better else value <= self.target

    def missing(self) -> str | None:
        """A sentence if the task's files are not there, without reading them."""
        return None

    def versions(self) -> dict[str, str]:
        """What its runs depend on beside gradmem, torch and ``version``: a change expires them."""
        return {"origin": self.origin} if self.origin else {}


def weighted_mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    """The mean of ``values`` over ``sizes`` examples each, summed without rounding errors."""
    total = math.fsum(value * size for value, size in zip(values, sizes, strict=True))
    return total / sum(sizes)


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, batch: Batch, chunk: int | None = None
) -> tuple[float, float]:
    """Loss and metric of ``model`` on ``batch`` in evaluation mode, ``chunk`` examples at a time.

    The value does not depend on the chunk, but for rounding. Without one it is the task's own, and
    without that the whole batch. Examples are taken in their order, all for the loss and then all
    for the metric. The model's mode is as before afterwards.
    """
    size = chunk or task.evaluate_batch_size or len(batch)
    training = model.training
    model.eval()
    try:
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        losses = [task.loss(model, part).item() for part in parts]
        scores = [task.score(model, part) for part in parts]
    finally:
        model.train(training)
    sizes = [task.weight(part) for part in parts]
    return weighted_mean(losses, sizes), task.metric.pooled(scores, sizes)


@contextmanager
def seeded(seed: int, use: str = "weights") -> Iterator[None]:
    """torch's global generator as ``seed`` and ``use`` say; what it was before is restored.

    A model is made under ``seeded(seed)``, a run trains under ``seeded(seed, "training")``: else
    dropout would repeat the numbers that the weights were drawn from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if use == "weights" else zlib.crc32(f"{use} {seed}".encode()))
        yield
