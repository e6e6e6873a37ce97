"""scikit-learn's 1,797 handwritten digits, and a network with one hidden layer."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.splitting import split, three_parts
from gradmem.lab.tasks.supervised import Classifier, perceptron, whole_numbers

HELD_OUT = 360  # in validation and in test: a fifth each


class Digits(Classifier):
    """8x8 grey images of ten digits; 1,077 to train, 360 to validate, 360 to test."""

    name = "digits"
    title = "scikit-learn digits (8x8 images), network 64-32-10 with ReLU"
    budget = Budget(epochs=20, batch_size=32)
    target = 0.97

    def data(self) -> FixedSplits:
        """The stratified splits."""
        return _splits()

    def model(self, seed: int) -> nn.Module:
        """64-32-10, initialised as torch does by default."""
        with seeded(seed):
            return perceptron((64, 32, 10))


@cache
def _splits() -> FixedSplits:
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images / 16.0).float()  # whole numbers from 0 to 16
    parts = three_parts(len(labels), HELD_OUT, HELD_OUT, labels)
    return split(Batch(pixels, whole_numbers(labels)), parts)
