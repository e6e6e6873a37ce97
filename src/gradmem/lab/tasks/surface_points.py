"""Test surfaces as tasks: two numbers that move downhill without noise.

Nothing is learnt from data, so the parts of the data are empty rows and serve to count the steps:
an epoch is ten of them. A seed moves the start, by at most 0.1 in each coordinate: without that all
seeds would be one run, and what is true of a single path would look certain. With tuned learning
rates 200 steps are enough to tell optimizers apart; after 1,000 most are at the minimum.
"""

import math

import torch
from torch import Tensor, nn

from gradmem.lab.surfaces.surface import Surface
from gradmem.lab.surfaces.table import get_surface
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task

STEPS_OF_AN_EPOCH = 10
MOVED = 0.1  # at most, in each coordinate
FLOOR = 1e-12  # a relative gap below this is none


class Point(nn.Module):
    """Coordinates as parameters, in float64: the gap to the minimum gets very small."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(start.double())


class SurfaceTask(Task):
    """The gap to the minimum of a surface, as a share of the gap at the start.

    Dividing by the latter changes no path but the scale of the learning rates: one space of them
    suits all surfaces. The metric is the logarithm of that share, for it spans many decades.
    """

    metric = Metric("gap", higher_is_better=False, worst=0.0, unit="decades")
    budget = Budget(epochs=20, batch_size=1)
    surface: Surface
    start: tuple[float, float]

    def data(self) -> FixedSplits:
        """Rows without features."""
        return FixedSplits(_rows(STEPS_OF_AN_EPOCH), _rows(1), _rows(1))

    def model(self, seed: int) -> Point:
        """The start, moved."""
        generator = torch.Generator().manual_seed(seed)
        move = MOVED * (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1)
        return Point(torch.tensor(self.start, dtype=torch.float64) + move)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The gap as a share of that at the start before it is moved."""
        del batch  # nothing is learnt from data
        place = model.get_parameter("place")
        return self._gap(place) / self._gap(torch.tensor(self.start, dtype=place.dtype))

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Its decimal logarithm."""
        return math.log10(max(self.loss(model, batch).item(), FLOOR))

    def _gap(self, place: Tensor) -> Tensor:
        return self.surface.function(place) - self.surface.minimum(2)


def _rows(count: int) -> Batch:
    return Batch(torch.zeros(count, 0), torch.zeros(count))


class Beale(SurfaceTask):
    """A curved valley that gets flatter towards the minimum."""

    name = "beale"
    title = "Beale's surface from (0.75, 1), 2 numbers"
    target = -6.0
    surface = get_surface("beale")
    start = (0.75, 1.0)


class GoldsteinPrice(SurfaceTask):
    """Polynomials of degree eight with three local minima beside the lowest."""

    name = "goldstein-price"
    title = "Goldstein and Price's surface from (-1, 0), 2 numbers"
    target = -6.0
    surface = get_surface("goldstein-price")
    start = (-1.0, 0.0)


class SixHumpCamel(SurfaceTask):
    """Six local minima, two of them lowest."""

    name = "six-hump-camel"
    title = "six-hump camel surface from (3, 2.5), 2 numbers"
    target = -6.0
    surface = get_surface("six-hump-camel")
    start = (3.0, 2.5)
