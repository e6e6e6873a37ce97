"""scikit-learn's 442 diabetes patients, and a network with one hidden layer."""

from functools import cache

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.splitting import split, standardised, three_parts
from gradmem.lab.tasks.supervised import Regressor, perceptron, root_mean_square

HELD_OUT = 88  # in validation and in test: a fifth each


class Diabetes(Regressor):
    """Progression of the disease within a year from 10 measurements, standardised.

    266 patients to train, 88 to validate, 88 to test.
    """

    name = "diabetes"
    title = "scikit-learn diabetes (10 features, 442 examples), network 10-32-1 with ReLU"
    metric = root_mean_square(worst=78.9)
    budget = Budget(epochs=15, batch_size=16)
    target = 54.0

    def data(self) -> FixedSplits:
        """The splits."""
        return _prepared()[0]

    def spread(self) -> float:
        """Standard deviation of the progression over the training examples."""
        return _prepared()[1]

    def model(self, seed: int) -> nn.Module:
        """10-32-1, initialised as torch does by default."""
        with seeded(seed):
            return perceptron((10, 32, 1))


@cache
def _prepared() -> tuple[FixedSplits, float]:
    features, progression = load_diabetes(return_X_y=True, scaled=False)
    parts = three_parts(len(progression), HELD_OUT, HELD_OUT)
    train = parts[0]
    inputs = torch.from_numpy(standardised(features, train)).float()
    targets = torch.from_numpy(standardised(progression, train)).float()
    return split(Batch(inputs, targets), parts), float(progression[train].std())
