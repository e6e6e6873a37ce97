"""scikit-learn's 569 breast tumours, and a logistic regression: a convex problem."""

from functools import cache

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits
from gradmem.lab.tasks.logistic import LogisticRegression, zero_linear
from gradmem.lab.tasks.splitting import split, standardised, three_parts
from gradmem.lab.tasks.supervised import whole_numbers

HELD_OUT = 114  # in validation and in test: a fifth each


class BreastCancer(LogisticRegression):
    """Benign or malignant from 30 measurements, standardised.

    341 tumours to train, 114 to validate, 114 to test.
    """

    name = "breast-cancer"
    title = "scikit-learn breast cancer (30 features, 569 examples), logistic regression with L2"
    budget = Budget(epochs=10, batch_size=16)
    target = 0.99

    def data(self) -> FixedSplits:
        """The stratified splits."""
        return _splits()

    def penalty(self) -> float:
        """One over the number of training examples, a usual strength."""
        return 1 / len(_splits().train)

    def model(self, seed: int) -> nn.Module:
        """One output for 30 features."""
        del seed  # the weights start from zero
        return zero_linear(30, 1)


@cache
def _splits() -> FixedSplits:
    features, benign = load_breast_cancer(return_X_y=True)
    parts = three_parts(len(benign), HELD_OUT, HELD_OUT, benign)
    inputs = torch.from_numpy(standardised(features, parts[0])).float()
    return split(Batch(inputs, whole_numbers(benign)), parts)
