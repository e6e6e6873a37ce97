"""CIFAR-10 and CIFAR-100: convolutional and residual networks, on the whole set or on a part."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

from torch import nn

from gradmem.lab.data import cifar
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.convolutions import residual_network, six_convolutions, two_convolutions
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.pixels import Pixels
from gradmem.lab.tasks.splitting import balanced, three_parts
from gradmem.lab.tasks.supervised import Classifier, whole_numbers

VALIDATION = 5000
HELD_OUT_OF_PART = 500  # in validation and in test


class Cifar(FromFiles, Classifier):
    """32x32 images in colour: 45,000 train, 5,000 validate, the official 10,000 test.

    Validation and training are balanced between the classes. Images are normalised by channel and
    not varied otherwise.
    """

    budget = Budget(epochs=100, batch_size=64)
    clip_norm = 10.0
    evaluate_batch_size = 250
    layout: cifar.Layout
    mean: Sequence[float]  # of the 50,000 training images' channels, as shares of 255
    spread: Sequence[float]

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.layout.labels[-1]

    @abstractmethod
    def network(self) -> nn.Module:
        """The network, with weights drawn from torch's global generator."""

    def model(self, seed: int) -> nn.Module:
        """The network."""
        with seeded(seed):
            return self.network()

    def data(self) -> FixedSplits:
        """The splits; images are kept as bytes."""
        return self._splits

    @cached_property
    def _splits(self) -> FixedSplits:
        files = [(file.path, file.sha256) for file in self.files()]
        pixels, labels = cifar.read_all(files[:-1], self.layout)
        train, validation = balanced(labels, VALIDATION // self.classes)
        return FixedSplits(
            self._batch(pixels[train], labels[train]),
            self._batch(pixels[validation], labels[validation]),
            self._batch(*cifar.read(files[-1][0], self.layout, files[-1][1])),
        )

    def _batch(self, pixels: cifar.Bytes, labels: cifar.Bytes) -> Batch:
        return Batch(Pixels(pixels, self.mean, self.spread), whole_numbers(labels))


class Cifar10(Cifar):
    """Ten classes."""

    needs = "cifar10"
    layout = cifar.CIFAR10
    mean, spread = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Cifar100(Cifar):
    """A hundred classes."""

    needs = "cifar100"
    layout = cifar.CIFAR100
    mean, spread = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class ResNet110(Cifar):
    """Stages of 18 blocks, 16, 32 and 64 channels wide."""

    def network(self) -> nn.Module:
        """1.73 million parameters for ten classes."""
        return residual_network(self.classes, blocks=18, widths=(16, 32, 64))


class ResNet18(Cifar):
    """Stages of 2 blocks, 16 to 128 channels wide: a quarter of the usual 64 to 512."""

    def network(self) -> nn.Module:
        """0.70 million parameters for ten classes, where the usual one has 11.2 million."""
        return residual_network(self.classes, blocks=2, widths=(16, 32, 64, 128))


class Cifar10Convnet(Cifar10):
    """Two convolutions."""

    name = "cifar10-convnet"
    title = "CIFAR-10 (32x32 images), convolutions 6 and 16 (5x5), linear 120, 84 and 10"
    target = 0.6

    def network(self) -> nn.Module:
        """62,006 parameters."""
        return two_convolutions(self.classes)


class Cifar10ResNet110(Cifar10, ResNet110):
    """A deep and narrow residual network."""

    name = "cifar10-resnet110"
    title = "CIFAR-10 (32x32 images), residual network of 110 layers"
    target = 0.75


class Cifar10ResNet18(Cifar10, ResNet18):
    """A small residual network."""

    name = "cifar10-resnet18"
    title = "CIFAR-10 (32x32 images), residual network of 18 layers, 16 to 128 channels"
    target = 0.75


class Cifar100Convnet(Cifar100):
    """Six convolutions."""

    name = "cifar100-convnet"
    title = "CIFAR-100 (32x32 images), six convolutions (3x3) of 32 to 256, linear 1024, 512, 100"
    target = 0.45

    def network(self) -> nn.Module:
        """5.9 million parameters."""
        return six_convolutions(self.classes)


class Cifar100ResNet110(Cifar100, ResNet110):
    """A deep and narrow residual network."""

    name = "cifar100-resnet110"
    title = "CIFAR-100 (32x32 images), residual network of 110 layers"
    target = 0.45


class Cifar100ResNet18(Cifar100, ResNet18):
    """A small residual network."""

    name = "cifar100-resnet18"
    title = "CIFAR-100 (32x32 images), residual network of 18 layers, 16 to 128 channels"
    target = 0.4


class Cifar10ConvnetPart(Cifar10Convnet):
    """The first 4,000 training images of CIFAR-10 alone: 3,000 train, 500 validate, 500 test."""

    name = "cifar10-convnet-part"
    title = "CIFAR-10's first 4,000 images, convolutions 6 and 16 (5x5), linear 120, 84 and 10"
    partial = (
        "This is a part of CIFAR-10, its first 4,000 training images, divided into 3,000 to "
        "train, 500 to validate and 500 to test; scores do not compare with those on the whole set"
    )
    needs = "cifar10-part"
    budget = Budget(epochs=15, batch_size=64)
    target = 0.42

    @cached_property
    def _splits(self) -> FixedSplits:
        (file,) = self.files()
        pixels, labels = cifar.read(file.path, self.layout, file.sha256)
        parts = three_parts(len(labels), HELD_OUT_OF_PART, HELD_OUT_OF_PART, labels)
        return FixedSplits(*(self._batch(pixels[rows], labels[rows]) for rows in parts))


CIFAR_TASKS = (
    *(Cifar10Convnet, Cifar10ResNet110, Cifar10ResNet18),
    *(Cifar100Convnet, Cifar100ResNet110, Cifar100ResNet18),
    Cifar10ConvnetPart,
)
