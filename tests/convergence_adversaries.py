"""Problems with known constants, and adversaries who pick among the past gradients.

Quadratics: f(x) = sum_k spectrum_k x_k^2 / 2, so f* = 0 and gaps keep their precision.
An adversary sees the past gradients, newest first, and answers with one normalised weight for each
age, the same for all coordinates or one for each (the memories of scope "tensor" differ like that).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_breast_cancer

from gradmem.memory.ledger import empty_ledger
from gradmem.memory.on_device import commit, decide
from gradmem.memory.options import MemoryOptions
from gradmem.memory.policies import Directions, Offer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What an adversary sees: B problems of d coordinates, ages 0 to A - 1."""

    x: Array  # (B, d)
    spectrum: Array  # (B, d)
    gradients: Array  # (B, A, d), index = age
    step: Array  # (B,), learning rate times total weight
    random: np.random.Generator


Adversary = Callable[[View], Array]  # -> (B, A) or (B, A, d)


def one_hot(ages: NDArray[np.int64], count: int) -> Array:
    return np.eye(count)[ages]


def oldest(view: View) -> Array:
    batch, count, _ = view.gradients.shape
    return one_hot(np.full(batch, count - 1), count)


def largest_norm(view: View) -> Array:
    norms = np.einsum("bad,bad->ba", view.gradients, view.gradients)
    return one_hot(norms.argmax(axis=1), norms.shape[1])


def candidates(view: View) -> Array:
    """The terms of f after a step along each past gradient, (B, A, d)."""
    after = view.x[:, None] - view.step[:, None, None] * view.gradients
    return np.asarray(view.spectrum[:, None] * after**2)


def greedy(view: View) -> Array:
    """The gradient after which f is largest."""
    values = candidates(view).sum(axis=2)
    return one_hot(values.argmax(axis=1), values.shape[1])


def greedy_in_each_coordinate(view: View) -> Array:
    values = candidates(view)
    return one_hot(values.argmax(axis=1), values.shape[1]).swapaxes(1, 2)


def uniform(view: View) -> Array:
    batch, count, _ = view.gradients.shape
    return one_hot(view.random.integers(0, count, batch), count)


def dirichlet(view: View) -> Array:
    """Random weights, most of them on few ages."""
    batch, count, _ = view.gradients.shape
    return view.random.dirichlet(np.full(count, 0.3), batch)


def fixed_weights(view: View) -> Array:
    """Weights that stay: of every age a share falling by 5 % from the oldest on."""
    batch, count, _ = view.gradients.shape
    share = 0.95 ** np.arange(count)[::-1]
    return np.tile(share / share.sum(), (batch, 1))


def mean(view: View) -> Array:
    batch, count, _ = view.gradients.shape
    return np.full((batch, count), 1.0 / count)


ADVERSARIES: dict[str, Adversary] = {
    "oldest": oldest,
    "largest norm": largest_norm,
    "greedy": greedy,
    "greedy in each coordinate": greedy_in_each_coordinate,
    "random": uniform,
    "dirichlet": dirichlet,
    "fixed weights": fixed_weights,
    "mean": mean,
}


def gaps(
    adversary: Adversary,
    spectrum: Array,
    step: Array,
    max_age: int,
    steps: int,
    *,
    weight: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> Array:
    """f(x_t) for t = 0 to `steps`, (steps + 1, B), with total weights drawn from `weight`."""
    random = np.random.default_rng(seed)
    batch, size = spectrum.shape
    x = random.standard_normal((batch, size))
    past = np.empty((batch, 0, size))
    values = [0.5 * (spectrum * x**2).sum(axis=1)]
    for _ in range(steps):
        past = np.concatenate([(spectrum * x)[:, None], past[:, :max_age]], axis=1)
        # Half of the totals at the ends of their range, where the theorem is tight.
        total = random.uniform(*weight, batch)
        total = np.where(random.random(batch) < 0.5, random.choice(weight, batch), total)
        chosen = adversary(View(x, spectrum, past, step * total, random))
        chosen = chosen[..., None] if chosen.ndim == 2 else chosen
        x = x - (step * total)[:, None] * (chosen * past).sum(axis=1)
        values.append(0.5 * (spectrum * x**2).sum(axis=1))
    return np.stack(values)


def spectra(
    conditions: tuple[float, ...], size: int, per_condition: int, seed: int
) -> tuple[Array, Array]:
    """Random spectra with L = 1 and mu = 1 / condition, (B, size), and mu, (B,)."""
    random = np.random.default_rng(seed)
    mu = np.repeat(1.0 / np.array(conditions), per_condition)
    exponent = random.random((len(mu), size))
    exponent[:, 0], exponent[:, 1] = 0.0, 1.0
    return mu[:, None] ** exponent, mu


# Logistic regression ------------------------------------------------------------------------------


class Logistic:
    """L2-regularised logistic regression on all of breast-cancer; L is exact, mu is the penalty."""

    def __init__(self, penalty: float) -> None:
        features, label = load_breast_cancer(return_X_y=True)
        features = (features - features.mean(axis=0)) / features.std(axis=0)
        signed = np.c_[features, np.ones(len(features))] * (2.0 * label - 1.0)[:, None]
        self.rows, self.mu = torch.tensor(signed), penalty
        # f'' is largest at 0, where the sigmoid's slope is 1/4, and falls to the penalty far away.
        largest = float(np.linalg.eigvalsh(signed.T @ signed)[-1])
        self.smoothness = largest / (4 * len(signed)) + penalty
        w = np.zeros(signed.shape[1])
        for _ in range(20):  # Newton
            doubt = 1 / (1 + np.exp(signed @ w))
            slope = -signed.T @ doubt / len(signed) + penalty * w
            curvature = (signed.T * (doubt * (1 - doubt))) @ signed / len(signed)
            w -= np.linalg.solve(curvature + penalty * np.eye(len(w)), slope)
        self.least = float(self.loss(torch.tensor(w)))

    def loss(self, w: torch.Tensor) -> torch.Tensor:
        fit = torch.nn.functional.softplus(-(self.rows @ w)).mean()
        return fit + 0.5 * self.mu * w.square().sum()


# Noise --------------------------------------------------------------------------------------------

RATES = (0.1, 0.03, 0.01)


def excess_losses(
    policy: str | None, *, skewed: bool = True, max_age: int | None = None
) -> tuple[Array, float]:
    """Mean loss of 32 seeds at each learning rate, (32, 3), and s^2 of the selected noise.

    One gradient in twenty is large: always to the same side (the mean noise is zero all the same),
    or to both sides alike. Equal noise for every policy and rate: pair them.
    """
    seeds, size, steps, capacity = 32, 4, 3000, 10
    random = torch.Generator().manual_seed(0)
    rates = torch.tensor(RATES, dtype=torch.float64).repeat(seeds)[:, None]
    curvature = torch.linspace(1 / 3, 1.0, size, dtype=torch.float64)
    x = torch.zeros(len(rates), size, dtype=torch.float64)
    ledger = empty_ledger(len(rates), capacity, torch.device("cpu"))
    streams = torch.arange(len(rates))
    options = MemoryOptions(capacity, 0.99, "mean", policy=policy or "fifo", max_age=max_age)
    slots, noises = torch.zeros(2, len(rates), capacity, size, dtype=torch.float64)
    loss, square = (
        torch.zeros(len(rates), dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
    )
    for t in range(steps):
        rare = (torch.rand(seeds, 1, generator=random) < 0.05).double()
        small = 0.5 * torch.randn(seeds, size, generator=random, dtype=torch.float64)
        large = 5.0 * (rare - 0.05) if skewed else 10.0 * rare * small
        noise = (small + large).repeat_interleave(len(RATES), dim=0)
        gradient = curvature * x + noise
        update, chosen = gradient, noise
        if policy is not None:
            norm = gradient.norm(dim=1)
            offer = Offer(norm, ledger.step, seed=0, stream=streams, directions=no_directions)
            decision = decide(ledger, offer, options, renew=False)
            current = torch.stack([move.current for move in decision.moves])[:, None]
            stored = torch.stack([move.stored for move in decision.moves])[:, None]
            update = current * gradient + stored * slots.sum(dim=1)
            chosen = current * noise + stored * noises.sum(dim=1)
            rows = decision.write.nonzero().squeeze(1)
            slots[rows, decision.slot[rows]] = gradient[rows]
            noises[rows, decision.slot[rows]] = noise[rows]
            commit(ledger, decision, options.decay)
        x = x - rates * update
        square = torch.maximum(square, chosen.square().sum(dim=1).mean())
        if t >= steps // 2:
            loss += 0.5 * (curvature * x.square()).sum(dim=1) / (steps - steps // 2)
    return loss.reshape(seeds, -1).numpy(), float(square)


def no_directions() -> Directions:
    raise AssertionError("the policies looked at here do not ask for directions")


def interval(values: Array) -> tuple[float, float]:
    """The 95% t interval of the mean."""
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return float(low), float(high)
