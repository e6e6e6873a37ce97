"""The runs: the real optimizer, adversaries who choose the gradient to use, gradient descent."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

import gradmem
from gradmem.lab.bound.plan import Guarantee, Plan
from gradmem.lab.bound.problems import RESOLVED, Array, Logistic, Problem
from gradmem.lab.run import one_thread

DIVERGED = 1e6  # times the gap at the start


@dataclass(frozen=True)
class Run:
    """The gaps f(x_t) - f* of one run, from t = 0; infinite once it has diverged.

    ``kind`` says what made it: "memory", "descent", "oldest", "largest" or "greedy". ``oldest`` is
    the age of the oldest gradient that entered an update. ``pl`` is the largest mu with which the
    PL inequality |grad f|^2 >= 2 mu (f - f*) held at every step whose gap can be told from 0; NaN
    where nobody looked. The proof uses the inequality at the points of the run and nowhere else.
    """

    kind: str
    label: str
    gaps: Array
    oldest: int
    pl: float = math.nan


def everything(problem: Problem, plan: Plan, promise: Guarantee, steps: int) -> Iterator[Run]:
    """All runs of a setting, each as soon as it is done."""
    yield memory(problem, plan, promise.step, steps)
    if promise.adversaries:
        for kind in CHOICES:
            yield adversary(problem, kind, promise, steps)
    yield descent(problem, plan, promise.step, steps)


def memory(problem: Problem, plan: Plan, step: float, steps: int) -> Run:
    """The optimizer itself, on full gradients or on batches."""
    weights = torch.nn.Parameter(torch.from_numpy(problem.start.copy()))
    optimizer = gradmem.create(plan.optimizer, [weights], lr=step, **plan.optimizer_options())
    gradients = _gradients(problem, plan)
    point = weights.detach().numpy()  # a view: it moves with the parameter
    squares: list[float] = []

    def advance() -> float:
        value, gradient = gradients(point)
        squares.append(float(gradient @ gradient))
        weights.grad = torch.from_numpy(gradient)
        optimizer.step()
        return value

    with one_thread():
        gaps = _gaps(problem, advance, lambda: point, steps)
    scopes = optimizer.memory_report().scopes
    pl = math.nan if plan.batch_size is not None else _pl(problem, gaps, squares)
    return Run("memory", plan.label, gaps, scopes[0].oldest_used if scopes else 0, pl)


def _pl(problem: Problem, gaps: Array, squares: list[float]) -> float:
    """The least |grad f|^2 / (2 gap), over the steps at which the gap is known well."""
    seen = gaps[: len(squares)]
    clear = np.isfinite(seen) & (seen > RESOLVED * problem.resolution)
    if not clear.any():
        return math.nan
    return float((np.array(squares)[clear] / (2 * seen[clear])).min())


def descent(problem: Problem, plan: Plan, step: float, steps: int) -> Run:
    """Plain gradient descent at the same step, on the same batches if there are batches."""
    gradients = _gradients(problem, plan)
    point = problem.start.copy()

    def advance() -> float:
        value, gradient = gradients(point)
        np.subtract(point, step * gradient, out=point)
        return value

    label = "gradient descent" if plan.batch_size is None else "SGD"
    return Run("descent", label, _gaps(problem, advance, lambda: point, steps), 0)


@dataclass(frozen=True)
class Window:
    """What an adversary sees: the point, its image, and the allowed gradients, oldest first."""

    point: Array
    image: Array
    gradients: deque[Array]
    images: deque[Array]


Choose: TypeAlias = Callable[[Problem, Window, Guarantee], tuple[int, float]]


def oldest(_problem: Problem, _window: Window, promise: Guarantee) -> tuple[int, float]:
    """The oldest gradient the age limit allows."""
    return 0, promise.w_min


def largest(_problem: Problem, window: Window, promise: Guarantee) -> tuple[int, float]:
    """The one of largest norm."""
    return int(np.argmax([g @ g for g in window.gradients])), promise.w_min


def greedy(problem: Problem, window: Window, promise: Guarantee) -> tuple[int, float]:
    """The one, with the smallest or the largest weight, after which f is largest."""
    weights = sorted({promise.w_min, promise.w_max})
    gradients, images = np.stack(window.gradients), np.stack(window.images)
    after = [
        problem.values(
            window.point - promise.step * weight * gradients,
            window.image - promise.step * weight * images,
        )
        for weight in weights
    ]
    which, index = np.unravel_index(np.argmax(after), (len(weights), len(gradients)))
    return int(index), weights[which]


CHOICES: dict[str, tuple[str, Choose]] = {
    "oldest": ("always the oldest", oldest),
    "largest": ("always the largest", largest),
    "greedy": ("greedy adversary", greedy),
}


def adversary(problem: Problem, kind: str, promise: Guarantee, steps: int) -> Run:
    """One gradient a step, of any age up to the limit, chosen to do harm."""
    label, choose = CHOICES[kind]
    assert promise.age_limit is not None
    gradients: deque[Array] = deque(maxlen=promise.age_limit + 1)
    images: deque[Array] = deque(maxlen=promise.age_limit + 1)
    point = problem.start.copy()
    oldest_used = 0

    def advance() -> float:
        nonlocal oldest_used
        value, gradient = problem.value_and_gradient(point)
        gradients.append(gradient)
        images.append(problem.image(gradient))
        window = Window(point, problem.image(point), gradients, images)
        index, weight = choose(problem, window, promise)
        oldest_used = max(oldest_used, len(gradients) - 1 - index)
        np.subtract(point, promise.step * weight * gradients[index], out=point)
        return value

    return Run(kind, label, _gaps(problem, advance, lambda: point, steps), oldest_used)


def _gaps(
    problem: Problem, advance: Callable[[], float], point: Callable[[], Array], steps: int
) -> Array:
    """f(x_t) - f* at t = 0, ..., steps; ``advance`` returns f(x_t) and makes x_{t+1}."""
    gaps = np.full(steps + 1, np.inf)
    least = problem.minimum.value
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps):
            gaps[t] = advance() - least
            if not gaps[t] <= DIVERGED * max(gaps[0], problem.resolution):
                gaps[t:] = np.inf
                return gaps
        gaps[steps] = problem.value(point()) - least
    return gaps


def _gradients(problem: Problem, plan: Plan) -> Callable[[Array], tuple[float, Array]]:
    """f(x) with its gradient, or with the gradient of a random batch (drawn with replacement)."""
    if plan.batch_size is None:
        return problem.value_and_gradient
    assert isinstance(problem, Logistic)  # nothing else has examples to draw
    size = plan.batch_size
    rng = np.random.default_rng(plan.seed)

    def noisy(x: Array) -> tuple[float, Array]:
        rows = rng.integers(problem.examples, size=size)
        return problem.value(x), problem.batch(rows).value_and_gradient(x)[1]

    return noisy
