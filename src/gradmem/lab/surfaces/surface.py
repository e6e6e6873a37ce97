"""What is known of a test function: its formula, where it is searched, where it is least."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Function: TypeAlias = Callable[[Tensor], Tensor]
Box: TypeAlias = tuple[tuple[float, float], ...]

SURVEY = "Jamil and Yang 2013, A literature survey of benchmark functions, arXiv:1308.4008"
LIBRARY = "Surjanovic and Bingham, Virtual Library of Simulation Experiments"
DE_JONG = "De Jong 1975, An analysis of the behavior of a class of genetic adaptive systems"
YANG = "Yang 2010, Test problems in optimization, arXiv:1008.0549"


@dataclass(frozen=True)
class Surface:
    """A test function with its minimum.

    Attributes:
        name: what it is called on the command line.
        title: what it is called in print.
        function: from points of shape (..., n) to values of shape (...); any floating dtype.
        dimension: n, or None where it is defined for every n.
        box: from n to the lowest and highest value of each coordinate in the search.
        minimisers: from n to the points of the box where it is least, shape (k, n), in float64.
        minimum: from n to its value there.
        smooth: the minimisers are inside the box and it is twice differentiable near them, so the
            gradient is zero there; where not, the note says why.
        note: what one should know.
        reference: where it is described.
        start: where a path begins by default, coordinates taking turns; None for a fifth and two
            thirds of the way through the box.
        least_dimension: the smallest n, where it is defined for more than one.
        authors_rate: the learning rate of the authors of *Memory Augmented Optimizers for Deep
            Learning*, on the surfaces that they drew.
    """

    name: str
    title: str
    function: Function
    dimension: int | None
    box: Callable[[int], Box]
    minimisers: Callable[[int], Tensor]
    minimum: Callable[[int], float]
    reference: str
    smooth: bool = True
    note: str = ""
    start: tuple[float, float] | None = None
    least_dimension: int = 1
    authors_rate: float | None = None

    def check_dimension(self, n: int) -> None:
        """Refuse a number of coordinates it is not defined for."""
        if self.dimension is not None and n != self.dimension:
            raise ValueError(f"{self.name} has {self.dimension} coordinates, not {n}")
        if n < self.least_dimension:
            raise ValueError(
                f"dimension of {self.name} must be at least {self.least_dimension}, got {n}"
            )

    def default_start(self, n: int) -> tuple[float, ...]:
        """Where a path of n coordinates begins if nothing else is said."""
        if self.start is not None:
            return tuple(self.start[i % 2] for i in range(n))
        shares = (1 / 5, 2 / 3)
        return tuple(
            round(low + shares[i % 2] * (high - low), 3)
            for i, (low, high) in enumerate(self.box(n))
        )

    def corners(self, n: int) -> tuple[Tensor, Tensor]:
        """The lowest and the highest corner of the box, in float64."""
        low, high = torch.tensor(self.box(n), dtype=torch.float64).unbind(-1)
        return low, high


def cube(low: float, high: float) -> Callable[[int], Box]:
    """The same interval for every coordinate."""
    return lambda n: ((low, high),) * n


def sides(*intervals: tuple[float, float]) -> Callable[[int], Box]:
    """An interval for each coordinate."""
    return lambda _: intervals


def points(*rows: Sequence[float]) -> Callable[[int], Tensor]:
    """These minimisers."""
    return lambda _: torch.tensor(rows, dtype=torch.float64)


def diagonal(value: float) -> Callable[[int], Tensor]:
    """One minimiser, all its coordinates the same."""
    return lambda n: torch.full((1, n), value, dtype=torch.float64)


def constant(value: float) -> Callable[[int], float]:
    """A minimum that is the same for every n."""
    return lambda _: value


def per_coordinate(value: float) -> Callable[[int], float]:
    """A minimum in proportion to n."""
    return lambda n: n * value


def counting(x: Tensor) -> Tensor:
    """The numbers 1 to n for points of n coordinates."""
    return torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)


def root(x: Tensor) -> Tensor:
    """The square root of |x|, with gradient 0 at 0, where it has a cusp and autograd gives NaN."""
    flat = x == 0
    return torch.where(flat, 0.0, torch.where(flat, 1.0, x).abs().sqrt())
