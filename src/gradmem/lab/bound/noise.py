"""Rare, large, one-sided noise: what choosing gradients by their norm does to the level reached.

A quadratic whose gradients carry noise of mean zero: small Gaussian noise, and now and then a large
push along one direction, as examples of a rare class give it. Everything starts at the minimum and
the excess loss f(x_t) - f*, averaged over the second half of the run, is the level the noise keeps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

import gradmem
from gradmem.lab.bound.problems import Array, Quadratic
from gradmem.lab.run import one_thread
from gradmem.lab.statistics import student_interval

RATES = (0.1, 0.03, 0.01)
BACKGROUND, PUSH, RARITY = 0.3, 5.0, 0.02  # standard deviation, length, probability
METHODS: Mapping[str, str | None] = {
    "SGD": None,
    "SGD_C fifo": "fifo",
    "SGD_C top_norm": "top_norm",
}


@dataclass(frozen=True)
class NoisePlan:
    """The memory's options, as for SGD_C; learning rates are in units of 1/L."""

    aggregate: str = "mean"
    capacity: int = 10
    decay: float = 0.99
    kappa: float = 1.0
    max_age: int | None = None
    seeds: int = 16
    steps: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        gradmem.MemoryOptions(**self.memory_options())  # type: ignore[arg-type]
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, for an interval, got {self.seeds}")
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, got {self.steps}")

    def memory_options(self) -> dict[str, str | int | float | None]:
        """The options of the memory but its policy."""
        names = ("aggregate", "capacity", "decay", "kappa", "max_age")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Level:
    """The excess loss of one method at one learning rate: by seed, mean, 95% interval."""

    method: str
    rate: float
    by_seed: tuple[float, ...]
    mean: float
    low: float
    high: float


def levels(problem: Quadratic, plan: NoisePlan, method: str) -> list[Level]:
    """The levels of one method, at every rate over all seeds."""
    with one_thread():
        excess = _excess(problem, plan, METHODS[method])
    return [_level(method, rate, row) for rate, row in zip(RATES, excess, strict=True)]


def sgd_level(problem: Quadratic, rate: float) -> float:
    """The level of plain SGD in the long run, exactly: sum_i h s_i^2 / (2 (2 - h l_i)) / L.

    l_i are the eigenvalues in units of L, s_i^2 the variances of the noise along their axes.
    """
    values, axes = np.linalg.eigh(problem.matrix.T @ problem.matrix)
    scale = problem.smoothness
    push = axes.T @ _direction(problem)
    variance = BACKGROUND**2 / push.size + PUSH**2 * RARITY / (1 - RARITY) * push**2
    return float(np.sum(rate * variance / (2 * (2 - rate * values / scale)))) / scale


def noise(problem: Quadratic, rng: np.random.Generator, seeds: int) -> Array:
    """One noise vector a seed, each of mean zero."""
    dimension = problem.start.size
    rare = rng.random((seeds, 1)) < RARITY
    pushed = np.where(rare, PUSH, -PUSH * RARITY / (1 - RARITY)) * _direction(problem)
    blurred: Array = pushed + BACKGROUND / np.sqrt(dimension) * rng.standard_normal(pushed.shape)
    return blurred


def _direction(problem: Quadratic) -> Array:
    """The same share of every axis of the quadratic: the push is hard and soft to undo alike."""
    _, axes = np.linalg.eigh(problem.matrix.T @ problem.matrix)
    direction: Array = axes.sum(axis=1) / np.sqrt(axes.shape[0])
    return direction


def _excess(problem: Quadratic, plan: NoisePlan, policy: str | None) -> Array:
    """Mean excess loss in the second half, a row a rate, a column a seed.

    One optimizer holds all rates (groups) and seeds (tensors, each with a memory of its own), which
    gives what as many optimizers would. Every method and rate meets the same noise.
    """
    hessian = problem.matrix.T @ problem.matrix
    points = np.tile(problem.centre, (len(RATES), plan.seeds, 1))
    tensors = [[torch.nn.Parameter(torch.from_numpy(p)) for p in row] for row in points]
    gradients = np.zeros_like(points)
    for row, pushes in zip(tensors, gradients, strict=True):
        for tensor, push in zip(row, pushes, strict=True):
            tensor.grad = torch.from_numpy(push)  # all views: points and gradients stay in step
    groups = [
        {"params": row, "lr": rate / problem.smoothness}
        for row, rate in zip(tensors, RATES, strict=True)
    ]
    optimizer = _optimizer(groups, plan, policy)
    rng = np.random.default_rng(plan.seed)
    total, counted = np.zeros(points.shape[:2]), 0
    for t in range(plan.steps):
        offset = points - problem.centre
        pull = offset @ hessian
        if t >= plan.steps // 2:
            total += 0.5 * (offset * pull).sum(axis=2)
            counted += 1
        gradients[:] = pull + noise(problem, rng, plan.seeds)
        optimizer.step()
    return total / counted


def _optimizer(
    groups: Sequence[dict[str, object]], plan: NoisePlan, policy: str | None
) -> torch.optim.Optimizer:
    if policy is None:
        return torch.optim.SGD(groups, foreach=True)
    options = plan.memory_options() | {"policy": policy, "scope": "tensor", "foreach": True}
    return gradmem.create("sgd_c", groups, **options)


def _level(method: str, rate: float, excess: Array) -> Level:
    by_seed: list[float] = excess.tolist()
    estimate = student_interval(by_seed)
    low, high = estimate.interval or (math.nan, math.nan)
    return Level(method, rate, tuple(by_seed), estimate.mean, low, high)
