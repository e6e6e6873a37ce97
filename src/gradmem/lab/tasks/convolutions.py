"""Networks for 32x32 images in colour: CIFAR's."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def two_convolutions(classes: int) -> nn.Sequential:
    """LeNet's shape: 5x5 convolutions of 6 and 16 channels, pooled, then 400-120-84."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )


def six_convolutions(classes: int) -> nn.Sequential:
    """3x3 convolutions with batch normalisation, pooled after every second, then 4096-1024-512."""
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise((3, 32, 64, 128, 128, 256, 256))):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        if place % 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers,
        *(nn.Flatten(), nn.Linear(4096, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU()),
        nn.Linear(512, classes),
    )


def residual_network(classes: int, blocks: int, widths: Sequence[int]) -> nn.Sequential:
    """Stages of ``blocks`` residual blocks, one a width; from the second on at half the size.

    Convolutions start from He's normal distribution, the rest as torch does by default.
    """
    layers: list[nn.Module] = [_convolution(3, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for inputs, outputs in pairwise((widths[0], *widths)):
        first = Residual(inputs, outputs, stride=1 if inputs == outputs else 2)
        layers += [first, *(Residual(outputs, outputs) for _ in range(blocks - 1))]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return nn.Sequential(*layers, *head)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input.

    Where the shape changes the input goes through a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *(_convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(_convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(_convolution(inputs, outputs, 1, stride))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Of ``outputs`` channels, at a ``stride``-th of the size."""
        return torch.relu(self.change(images) + self.shortcut(images))


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    # without intercepts: the batch normalisation after it has its own
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
