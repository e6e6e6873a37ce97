"""MNIST's handwritten digits: a linear model, and a network with one hidden layer."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gradmem.lab.data import idx
from gradmem.lab.data.catalogue import Found
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.splitting import SPLIT_SEED, Rows
from gradmem.lab.tasks.supervised import Classifier, perceptron, whole_numbers

CLASSES, PIXELS = 10, 28 * 28
MEAN, SPREAD = 0.1307, 0.3081  # of the training pixels, as a share of 255
VALIDATION_OF_A_CLASS, TRAIN_OF_A_CLASS = 500, 5000


class Mnist(FromFiles, Classifier):
    """28x28 grey images of ten digits: 49,921 train, 5,000 validate, the official 10,000 test.

    Of each digit's training images 500 validate and at most 5,000 train, as in the paper's
    experiments: of the digit 5 there are 4,921.
    """

    needs = "mnist"
    budget = Budget(epochs=10, batch_size=64)
    clip_norm = 10.0
    widths: tuple[int, ...]

    def data(self) -> FixedSplits:
        """The splits; validation and training are balanced between the digits."""
        return self._splits

    def model(self, seed: int) -> nn.Module:
        """Linear layers, initialised as torch does by default."""
        with seeded(seed):
            return perceptron(self.widths)

    @cached_property
    def _splits(self) -> FixedSplits:
        train_images, train_labels, test_images, test_labels = self.files()
        pixels, labels = _read(train_images, train_labels)
        train, validation = balanced(labels)
        test = _read(test_images, test_labels)
        return FixedSplits(
            _batch(pixels[train], labels[train]),
            _batch(pixels[validation], labels[validation]),
            _batch(*test),
        )


class MnistLogreg(Mnist):
    """A linear model."""

    name = "mnist-logreg"
    title = "MNIST (28x28 images), linear model 784-10"
    target = 0.92
    widths = (PIXELS, CLASSES)


class MnistMlp(Mnist):
    """One hidden layer."""

    name = "mnist-mlp"
    title = "MNIST (28x28 images), network 784-32-10 with ReLU"
    target = 0.96
    widths = (PIXELS, 32, CLASSES)


def balanced(labels: npt.NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """Rows to train and to validate: of each class the same number, as far as there are enough."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    of_class = [order[labels[order] == kind] for kind in range(CLASSES)]
    last = VALIDATION_OF_A_CLASS + TRAIN_OF_A_CLASS
    train = np.concatenate([rows[VALIDATION_OF_A_CLASS:last] for rows in of_class])
    return train, np.concatenate([rows[:VALIDATION_OF_A_CLASS] for rows in of_class])


def _read(images: Found, labels: Found) -> tuple[idx.Bytes, idx.Bytes]:
    checksums = (images.sha256, labels.sha256)
    return idx.read_pair(images.path, labels.path, CLASSES, checksums)


def _batch(pixels: idx.Bytes, labels: idx.Bytes) -> Batch:
    inputs = torch.from_numpy(pixels.reshape(len(pixels), PIXELS)).float()
    return Batch(inputs.div_(255).sub_(MEAN).div_(SPREAD), whole_numbers(labels))
