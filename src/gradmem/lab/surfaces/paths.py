"""One path: an optimizer from the start, step by step, and what became of it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from gradmem.lab.surfaces.plan import Entrant, Place, Plan

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """The points of one run from the start on, and the loss at each.

    A run ends before its last step where the loss or a coordinate ceases to be finite.
    """

    plan: Plan
    entrant: Entrant
    rate: float
    points: Array  # (steps run + 1, n)
    losses: Array  # (steps run + 1,)

    @property
    def diverged(self) -> bool:
        """Whether it ceased to be finite."""
        return not math.isfinite(self.final)

    @property
    def steps(self) -> int:
        """How many steps it made."""
        return len(self.losses) - 1

    @property
    def final(self) -> float:
        """The loss at its end; infinite if it diverged."""
        last = float(self.losses[-1])
        return last if math.isfinite(last) and np.isfinite(self.points[-1]).all() else math.inf

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which of its points lie in the box."""
        low, high = (corner.numpy() for corner in self.plan.surface.corners(self.plan.dimension))
        # the start may lie outside; what counts is leaving
        low, high = np.minimum(low, self.points[0]), np.maximum(high, self.points[0])
        within: npt.NDArray[np.bool_] = ((low <= self.points) & (self.points <= high)).all(axis=1)
        return within

    @property
    def left(self) -> int | None:
        """The step at which it first left the box."""
        outside = np.flatnonzero(~self.inside)
        return int(outside[0]) if outside.size else None

    @property
    def ends_inside(self) -> bool:
        """Whether its end lies in the box, so that its final loss means something."""
        return not self.diverged and bool(self.inside[-1])

    @property
    def least(self) -> float:
        """The value of the surface's minimum."""
        return self.plan.surface.minimum(self.plan.dimension)

    @property
    def best(self) -> float:
        """The lowest loss at any of its points in the box."""
        return float(self.losses[self.inside].min())

    @property
    def gap(self) -> float:
        """How far its final loss lies above the minimum; infinite outside the box."""
        return self.final - self.least if self.ends_inside else math.inf

    @cached_property
    def distance(self) -> float:
        """From its end to the nearest minimiser; infinite if it diverged."""
        if self.diverged:
            return math.inf
        minimisers = self.plan.surface.minimisers(self.plan.dimension).numpy()
        return float(np.linalg.norm(minimisers - self.points[-1], axis=1).min())

    @cached_property
    def solved(self) -> int | None:
        """The first step, in the box, within the tolerance: a share of the gap at the start."""
        within = self.losses - self.least <= self.plan.tolerance * (self.losses[0] - self.least)
        reached = np.flatnonzero(within & self.inside)
        return int(reached[0]) if reached.size else None


def follow(plan: Plan, entrant: Entrant, rate: float, seed: int) -> Path:
    """Run one optimizer from the start. Deterministic given its arguments."""
    place = Place(plan.start)
    point = place.x
    optimizer = entrant.build(place, rate)
    noise = torch.Generator().manual_seed(seed)
    points, losses = np.empty((plan.steps + 1, plan.dimension)), np.empty(plan.steps + 1)
    here = point.detach().numpy()  # a view: it moves with the point
    for t in range(plan.steps + 1):
        point.grad = None
        loss = plan.surface.function(point)
        points[t], losses[t] = here, loss.item()
        if t == plan.steps or not (math.isfinite(losses[t]) and np.isfinite(here).all()):
            break
        loss.backward()  # type: ignore[no-untyped-call]
        if plan.noise:
            drawn = torch.randn(plan.dimension, generator=noise, dtype=torch.float64)
            assert point.grad is not None
            point.grad += plan.noise * drawn
        optimizer.step()
    return Path(plan, entrant, rate, points[: t + 1], losses[: t + 1])
