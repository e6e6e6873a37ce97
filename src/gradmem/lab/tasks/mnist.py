"""MNIST's digits and Fashion-MNIST's garments, which come in files of the same form.

A linear model, a network with one hidden layer, and one with two convolutions, for each.
"""

from functools import cached_property

import torch
from torch import nn

from gradmem.lab.data import idx
from gradmem.lab.data.catalogue import Found
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.splitting import balanced
from gradmem.lab.tasks.supervised import Classifier, perceptron, whole_numbers

CLASSES, PIXELS = 10, 28 * 28
VALIDATION_OF_A_CLASS, TRAIN_OF_A_CLASS = 500, 5000


class GreyImages(FromFiles, Classifier):
    """28x28 grey images of ten classes, the official 10,000 of them to test.

    Of each class's training images 500 validate and at most 5,000 train.
    """

    budget = Budget(epochs=10, batch_size=64)
    clip_norm = 10.0
    mean: float  # of the 60,000 training images' pixels, as a share of 255
    spread: float

    def data(self) -> FixedSplits:
        """The splits; validation and training are balanced between the classes."""
        return self._splits

    @cached_property
    def _splits(self) -> FixedSplits:
        train_images, train_labels, test_images, test_labels = self.files()
        pixels, labels = _read(train_images, train_labels)
        train, validation = balanced(labels, VALIDATION_OF_A_CLASS, TRAIN_OF_A_CLASS)
        test = _read(test_images, test_labels)
        return FixedSplits(
            self._batch(pixels[train], labels[train]),
            self._batch(pixels[validation], labels[validation]),
            self._batch(*test),
        )

    def _batch(self, pixels: idx.Bytes, labels: idx.Bytes) -> Batch:
        inputs = torch.from_numpy(pixels.reshape(len(pixels), PIXELS)).float()
        return Batch(inputs.div_(255).sub_(self.mean).div_(self.spread), whole_numbers(labels))


class Mnist(GreyImages):
    """Ten digits: 49,921 train, 5,000 validate, as in the paper's experiments.

    Of the digit 5 there are 4,921 to train.
    """

    needs = "mnist"
    mean, spread = 0.1307, 0.3081


class FashionMnist(GreyImages):
    """Ten kinds of garments: 50,000 train, 5,000 validate."""

    needs = "fashion-mnist"
    mean, spread = 0.2860, 0.3530


class Linear(GreyImages):
    """784-10."""

    def model(self, seed: int) -> nn.Module:
        """A linear layer, initialised as torch does by default."""
        with seeded(seed):
            return perceptron((PIXELS, CLASSES))


class OneHiddenLayer(GreyImages):
    """784-32-10."""

    def model(self, seed: int) -> nn.Module:
        """Linear layers, initialised as torch does by default."""
        with seeded(seed):
            return perceptron((PIXELS, 32, CLASSES))


class TwoConvolutions(GreyImages):
    """5x5 convolutions of 10 and 20 channels, then 320-50-10, with dropout of one half."""

    evaluate_batch_size = 500

    def model(self, seed: int) -> nn.Module:
        """21,840 parameters, initialised as torch does by default."""
        with seeded(seed):
            return nn.Sequential(
                *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
                *(nn.Conv2d(10, 20, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Dropout(0.5)),
                nn.Linear(50, CLASSES),
            )


class MnistLogreg(Mnist, Linear):
    """A linear model."""

    name = "mnist-logreg"
    title = "MNIST (28x28 images), linear model 784-10"
    target = 0.92


class MnistMlp(Mnist, OneHiddenLayer):
    """One hidden layer."""

    name = "mnist-mlp"
    title = "MNIST (28x28 images), network 784-32-10 with ReLU"
    target = 0.96


class MnistConvnet(Mnist, TwoConvolutions):
    """Two convolutions."""

    name = "mnist-convnet"
    title = "MNIST (28x28 images), convolutions 10 and 20 (5x5), linear 50 and 10, dropout"
    target = 0.985


class FashionMnistLogreg(FashionMnist, Linear):
    """A linear model."""

    name = "fashion-mnist-logreg"
    title = "Fashion-MNIST (28x28 images), linear model 784-10"
    target = 0.84


class FashionMnistMlp(FashionMnist, OneHiddenLayer):
    """One hidden layer."""

    name = "fashion-mnist-mlp"
    title = "Fashion-MNIST (28x28 images), network 784-32-10 with ReLU"
    target = 0.86


class FashionMnistConvnet(FashionMnist, TwoConvolutions):
    """Two convolutions."""

    name = "fashion-mnist-convnet"
    title = "Fashion-MNIST (28x28 images), convolutions 10 and 20 (5x5), linear 50 and 10, dropout"
    target = 0.86


MNIST_TASKS = (MnistLogreg, MnistMlp, MnistConvnet)
FASHION_MNIST_TASKS = (FashionMnistLogreg, FashionMnistMlp, FashionMnistConvnet)


def _read(images: Found, labels: Found) -> tuple[idx.Bytes, idx.Bytes]:
    checksums = (images.sha256, labels.sha256)
    return idx.read_pair(images.path, labels.path, CLASSES, checksums)
