"""A task with a model whose channels can go: the command's own networks, or a task's."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from gradmem.lab.errors import ConfigError, TaskError
from gradmem.lab.sparsify.methods import Cut
from gradmem.lab.tasks import Batch, FixedSplits, Splits, Task, get_task, seeded
from gradmem.proximal import Groups, groups_of, penalty_value, shrink

SUBSET_SEED = 0  # which examples are left out is part of the problem, not of a run
EVALUATED_AT_ONCE = 1000


@dataclass(frozen=True)
class Network:
    """A network of the command's own: the task it is for, and what makes it."""

    task: str
    title: str
    make: Callable[[], nn.Sequential]


def _digits() -> nn.Sequential:
    # Without padding, so that `shrink` can take out every channel that is constant.
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def _mnist() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


NETWORKS: Mapping[str, Network] = {
    "digits": Network(
        "digits",
        "scikit-learn digits (8x8 images), convolutions 32 and 64 (3x3), linear 128 and 10",
        _digits,
    ),
    "mnist": Network(
        "mnist-mlp", "MNIST (28x28 images), convolutions 16 and 32 (5x5), linear 128 and 10", _mnist
    ),
}


class Problem(Task):
    """A task, the network, and how many of the training examples are used.

    Args:
        name: of ``NETWORKS``, or a task of the lab whose own model is used.
        folder: the data folder.
        examples: drawn from the training examples by a fixed seed; None for all.

    Raises:
        ConfigError: the task is unknown, has no such model, or its score is not an accuracy.
        TaskError: its data are missing.
    """

    def __init__(self, name: str, folder: Path | None, examples: int | None) -> None:
        network = NETWORKS.get(name)
        task = _task(network.task if network else name, folder)
        self.task, self.network, self.examples = task, network, examples
        self.name = name
        self.title = network.title if network else task.title
        self.version, self.metric, self.target = task.version, task.metric, task.target
        self.budget, self.clip_norm, self.partial = task.budget, task.clip_norm, task.partial
        self.ordered = task.ordered
        self.evaluate_batch_size = task.evaluate_batch_size or EVALUATED_AT_ONCE

    def data(self) -> Splits:
        """The task's, with a part of the training examples if only so many are used."""
        return self._data

    @cached_property
    def _data(self) -> Splits:
        splits = self.task.data()
        if self.examples is None:
            return splits
        chance = torch.Generator().manual_seed(SUBSET_SEED)
        rows = torch.randperm(len(splits.train), generator=chance)[: self.examples]
        return FixedSplits(splits.train[rows], splits.validation, splits.test)

    def model(self, seed: int) -> nn.Module:
        """The network, with torch's own initial weights."""
        if self.network is None:
            return self.task.model(seed)
        with seeded(seed):
            return self.network.make()

    def weight(self, batch: Batch) -> int:
        """The task's."""
        return self.task.weight(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's."""
        return self.task.loss(model, batch)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """The task's."""
        return self.task.score(model, batch)

    def versions(self) -> dict[str, str]:
        """The task's."""
        return self.task.versions()

    def check(self) -> None:
        """Read the data and make the model, so that what is wrong is said before any run.

        Raises:
            ConfigError: there is nothing to make zero, or more examples are asked for than there
                are.
            TaskError: the data are missing.
        """
        if sentence := self.task.missing():
            raise TaskError(sentence)
        model = self.model(0)
        try:
            shrink(model)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the model of {self.name} cannot lose channels: {error}") from None
        if not hidden_channels(model):
            raise ConfigError(f"the model of {self.name} has no hidden layer to take channels from")
        there = len(self.task.data().train)
        if self.examples is not None and not 1 <= self.examples <= there:
            raise ConfigError(
                f"examples must be from 1 to the {there:,} there are to train on, got "
                f"{self.examples}"
            )


class Penalised(Problem):
    """A problem whose training loss has the penalty in it, to be followed by its subgradient."""

    def __init__(self, problem: Problem, regularizer: str, penalty: float) -> None:
        vars(self).update(vars(problem))
        self._regularizer, self._penalty = regularizer, penalty
        self._cut: Cut = {}

    def model(self, seed: int) -> nn.Module:
        """The problem's; its channels are looked up once, not at every step."""
        made = super().model(seed)
        self._cut = hidden_channels(made)
        return made

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The problem's, and in training the penalty."""
        loss = super().loss(model, batch)
        if not model.training:
            return loss
        for parameter, groups in self._cut.items():
            loss = loss + penalty_value(self._regularizer, groups.split(parameter), self._penalty)
        return loss


@lru_cache(maxsize=1)
def get_problem(name: str, folder: Path | None, examples: int | None) -> Problem:
    """The problem; its data are read once in a process."""
    return Problem(name, folder, examples)


def _task(name: str, folder: Path | None) -> Task:
    try:
        task = get_task(name, folder)
    except ValueError as error:
        if isinstance(error, ConfigError) or ":" in name:
            raise
        mine = ", ".join(NETWORKS)
        raise ConfigError(f"{error}. With convolutions there are {mine}") from None
    if task.metric.unit != "%" or not task.metric.higher_is_better:
        raise ConfigError(
            f"the score of {name} is {task.metric.name}; sparsify compares accuracies alone"
        )
    return task


def hidden_channels(model: nn.Module) -> dict[nn.Parameter, Groups]:
    """What makes each output channel of the layers but the last, which makes the classes."""
    groups = groups_of(model)
    return dict(list(groups.items())[:-1])


@torch.no_grad()
def small_channels(cut: Cut, threshold: float) -> list[Tensor]:
    """For each layer, which channels have weights of a root mean square of at most so much."""
    rows = (groups.split(parameter) for parameter, groups in cut.items())
    return [each.square().mean(dim=1).sqrt() <= threshold for each in rows]


@torch.no_grad()
def without_small_channels(model: nn.Module, threshold: float) -> nn.Module:
    """A copy in which the weights of small channels are zero."""
    zeroed = copy.deepcopy(model)
    cut = hidden_channels(zeroed)
    for (parameter, groups), small in zip(cut.items(), small_channels(cut, threshold), strict=True):
        rows = groups.split(parameter).masked_fill(small[:, None], 0.0)
        parameter.copy_(groups.join(rows, parameter.shape))
    return zeroed
