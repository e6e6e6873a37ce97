"""scikit-learn's 178 wines of three growers, and a network with one hidden layer."""

from functools import cache

import torch
from sklearn.datasets import load_wine
from torch import nn

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.splitting import split, standardised, three_parts
from gradmem.lab.tasks.supervised import Classifier, perceptron, whole_numbers

HELD_OUT = 36  # in validation and in test: a fifth each


class Wine(Classifier):
    """13 measurements of a wine, standardised; 106 to train, 36 to validate, 36 to test."""

    name = "wine"
    title = "scikit-learn wine (13 features, 178 examples), network 13-16-3 with ReLU"
    budget = Budget(epochs=10, batch_size=32)
    target = 1.0

    def data(self) -> FixedSplits:
        """The stratified splits."""
        return _splits()

    def model(self, seed: int) -> nn.Module:
        """13-16-3, initialised as torch does by default."""
        with seeded(seed):
            return perceptron((13, 16, 3))


@cache
def _splits() -> FixedSplits:
    features, growers = load_wine(return_X_y=True)
    parts = three_parts(len(growers), HELD_OUT, HELD_OUT, growers)
    inputs = torch.from_numpy(standardised(features, parts[0])).float()
    return split(Batch(inputs, whole_numbers(growers)), parts)
