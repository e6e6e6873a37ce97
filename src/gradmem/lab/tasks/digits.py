"""scikit-learn's 1,797 handwritten digits, and a network with one hidden layer."""

from functools import cache
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task

HELD_OUT = 360  # in validation and in test: a fifth each
SPLIT_SEED = 0  # the split is part of the task, not of a run


class Digits(Task):
    """8x8 grey images of ten digits; 1,077 to train, 360 to validate, 360 to test."""

    name: ClassVar[str] = "digits"
    title: ClassVar[str] = "scikit-learn digits (8x8 images), network 64-32-10 with ReLU"
    metric: ClassVar[Metric] = Metric(
        "accuracy", higher_is_better=True, worst=0.0, scale=100.0, unit="%"
    )
    budget: ClassVar[Budget] = Budget(epochs=20, batch_size=32)
    target: ClassVar[float] = 0.97

    def data(self) -> FixedSplits:
        """The stratified splits."""
        return _splits()

    def model(self, seed: int) -> nn.Module:
        """64-32-10, initialised as torch does by default."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(model(batch.inputs), batch.targets)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Share of images recognised."""
        right = model(batch.inputs).argmax(dim=1) == batch.targets
        return float(right.double().mean())


@cache
def _splits() -> FixedSplits:
    images, labels = load_digits(return_X_y=True)
    rows = np.arange(len(labels))
    rest, test = train_test_split(
        rows, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    train, validation = train_test_split(
        rest, test_size=HELD_OUT, stratify=labels[rest], random_state=SPLIT_SEED
    )
    inputs = torch.from_numpy(images / 16.0).float()  # pixels are whole numbers from 0 to 16
    everything = Batch(inputs, torch.from_numpy(labels).long())
    return FixedSplits(*(everything[torch.from_numpy(part)] for part in (train, validation, test)))
