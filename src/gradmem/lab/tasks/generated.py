"""Points drawn at random, whose label noise, separation and balance are axes: the paper's study.

scikit-learn's ``make_classification`` draws 500 points in 10 dimensions, 7 of them informative, 2
linear combinations of these, 1 without meaning. Each of two classes is two clusters at corners of
a hypercube. ``gradmem ablate generated-mlp label-noise`` goes through the values of one axis.
"""

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task, seeded
from gradmem.lab.tasks.logistic import zero_linear
from gradmem.lab.tasks.splitting import Numbers, Rows, split, standardised, three_parts
from gradmem.lab.tasks.supervised import perceptron
from gradmem.lab.tasks.varied import Range, in_range

POINTS, FEATURES, INFORMATIVE, REDUNDANT = 500, 10, 7, 2
HELD_OUT = 100  # in validation and in test: a fifth each
SEED = 1403  # the paper's
NO_SEPARATION = 1e-300  # scikit-learn refuses 0, and a coordinate plus this is the coordinate
LABEL_NOISE, SEPARATION, MINORITY = 0.01, 1.0, 0.5  # make_classification's own
LABEL, CLASS = 0, 1  # columns of the targets: what is learnt, and what it was before the noise


class Generated(Task):
    """Of which of two classes is a point? The smaller class is the positive one.

    Trained on, validated on and scored against are the labels with their noise, as in the paper;
    `details` sets the same guesses against the classes before it. The same points train, validate
    and test at every label noise and every separation: the one changes labels alone, the other
    moves the clusters.

    Args:
        label_noise: share of the labels that are drawn anew, in all parts alike, half of which stay
            as they were; at 1 they say nothing of the points.
        separation: half an edge of the hypercube; a cluster's own standard deviation is about 1.5
            in each informative dimension.
        minority: share of the smaller class before the noise.

    Raises:
        ValueError: one is out of its range.
    """

    metric = Metric("F1", higher_is_better=True, worst=0.0, decimals=3, mean=None)
    budget = Budget(epochs=10, batch_size=1)
    variations: ClassVar[Mapping[str, Range]] = {
        "label-noise": Range(0, 1, (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)),
        "separation": Range(0, 100, (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)),
        "minority": Range(0.02, 0.5, (0.1, 0.2, 0.3, 0.4, 0.5)),
    }

    def __init__(
        self,
        label_noise: float = LABEL_NOISE,
        separation: float = SEPARATION,
        minority: float = MINORITY,
    ) -> None:
        given = {"label-noise": label_noise, "separation": separation, "minority": minority}
        self.where = {
            name: in_range(name, self.variations[name], value) for name, value in given.items()
        }
        usual = (LABEL_NOISE, SEPARATION, MINORITY)
        moved = {
            name: value
            for (name, value), own in zip(self.where.items(), usual, strict=True)
            if value != own
        }
        self.name = "-".join([self.name, *(f"{name}{value:g}" for name, value in moved.items())])
        self.title = ", ".join(
            [self.title, *(f"{name} {value:g}" for name, value in moved.items())]
        )

    def at(self, **where: float) -> "Generated":
        """The same with other values; what is not named stays as it is here."""
        here = {name.replace("-", "_"): value for name, value in self.where.items()}
        return type(self)(**(here | where))

    def data(self) -> FixedSplits:
        """The splits, stratified by the classes before the noise."""
        return _splits(*self.where.values())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean logistic loss."""
        logits = model(batch.inputs).squeeze(-1)
        return binary_cross_entropy_with_logits(logits, batch.targets[:, LABEL].float())

    def score(self, model: nn.Module, batch: Batch) -> float:
        """F1 of the smaller class, by the labels."""
        return f1(guesses(model, batch), batch.targets[:, LABEL].bool())

    def details(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """F1 by the classes before the noise."""
        return {"F1 before the noise": f1(guesses(model, batch), batch.targets[:, CLASS].bool())}

    def versions(self) -> dict[str, str]:
        """What the points are drawn with, to the last digit."""
        drawn = ", ".join(f"{name} {value!r}" for name, value in self.where.items())
        return {**super().versions(), "drawn": drawn}


class GeneratedLogreg(Generated):
    """Logistic regression from weights of zero, so a seed decides the order of the points alone."""

    name = "generated-logreg"
    title = "500 points drawn at random in 10 dimensions, logistic regression"
    target = 0.83

    def model(self, seed: int) -> nn.Module:
        """One output for 10 features."""
        del seed  # the weights start from zero
        return zero_linear(FEATURES, 1)


class GeneratedMlp(Generated):
    """A network with one hidden layer, as the paper does not say which it took."""

    name = "generated-mlp"
    title = "500 points drawn at random in 10 dimensions, network 10-32-1 with ReLU"
    target = 0.85

    def model(self, seed: int) -> nn.Module:
        """10-32-1, initialised as torch does by default."""
        with seeded(seed):
            return perceptron((FEATURES, 32, 1))


def guesses(model: nn.Module, batch: Batch) -> Tensor:
    """Which points the model takes for the smaller class."""
    positive: Tensor = model(batch.inputs).squeeze(-1) > 0
    return positive


def f1(guessed: Tensor, positive: Tensor) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is both guessed and true.

    >>> f1(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    0.5
    """
    named = int(guessed.sum()) + int(positive.sum())
    return 2 * int((guessed & positive).sum()) / named if named else 0.0


def draw(label_noise: float, separation: float, minority: float) -> tuple[Numbers, Rows, Rows]:
    """Points, their labels, and their classes before the noise.

    Unshuffled, as the noise would decide the numbers that a shuffle draws: so two calls that differ
    in the noise give the same points.
    """
    points, labels = _make(label_noise, separation, minority)
    _, classes = _make(0.0, separation, minority)
    return points, labels, classes


def _make(label_noise: float, separation: float, minority: float) -> tuple[Numbers, Rows]:
    points, labels = make_classification(
        POINTS,
        FEATURES,
        n_informative=INFORMATIVE,
        n_redundant=REDUNDANT,
        weights=[1 - minority, minority],
        flip_y=label_noise,
        class_sep=max(separation, NO_SEPARATION),
        shuffle=False,
        random_state=SEED,
    )
    return points, labels


@cache
def _splits(label_noise: float, separation: float, minority: float) -> FixedSplits:
    points, labels, classes = draw(label_noise, separation, minority)
    parts = three_parts(POINTS, HELD_OUT, HELD_OUT, classes)
    inputs = torch.from_numpy(standardised(points, parts[0])).float()
    targets = torch.from_numpy(np.stack([labels, classes], axis=1)).long()
    return split(Batch(inputs, targets), parts)
