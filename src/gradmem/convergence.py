"""What can be promised about convergence, as functions of plain numbers.

The setting, the same in every function: x_{t+1} = x_t - eta sum_i w_{t,i} grad f(x_{t - a_{t,i}}),
where gradients are kept and weighted in any way, even an adversary's, with f(x) - f* as the gap.

- step: eta > 0, the learning rate.
- max_age: tau, the largest age used, 0 <= a <= tau; the optimizer's option of that name.
- w_min, w_max: the range of the total weight sum_i w_{t,i}, 0 < w_min <= w_max; all w >= 0.
- smoothness: L > 0, the Lipschitz constant of the gradient (the largest curvature), in f per x^2.
- strong_convexity: mu in (0, L], the smallest curvature; the Polyak-Lojasiewicz (PL) inequality
  |grad f|^2 >= 2 mu (f - f*) suffices.

Theorem. If eta w_max <= 1 / (2 L (tau + 1)), then f(x_t) - f* <= (1 - eta w_min mu)^t (f(x_0) - f*)
for every t.

docs/convergence.md has the proof, and what cannot be promised. The theorem is gradmem's own; its
last step is the delay lemma of Aytekin, Feyzmahdavian and Johansson, arXiv 1610.05507.

Errors: every function raises OptionError for an argument out of its range and OptionTypeError for
one that is no number, both with name, value, range and remedy.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from numbers import Integral, Real
from typing import Any

from gradmem.errors import OptionError, OptionTypeError
from gradmem.memory import aggregates
from gradmem.memory.aggregates import AGGREGATES

# Policies that do not look at the gradient they keep, so that they cannot prefer noise.
NOISE_BLIND_POLICIES = frozenset({"fifo", "random", "reservoir"})


def total_weight(aggregate: str, kappa: float, occupied: int) -> float:
    """The total weight W = sum_i w_i of an update, against 1 for a plain gradient step.

    Args:
        aggregate: "mean", W = (1 + kappa n) / (n + 1); "sum", "min", "median" and "max", 1 + kappa;
            "mid", "min_mean", "median_mean" and "max_mean", (1 + kappa) / 2.
        kappa: weight of the memory, any finite number; 0 switches it off, W = 1.
        occupied: n, the gradients held, from 0; with none W = 1.

    Example:
        >>> total_weight("sum", 1.0, 10), total_weight("mean", 1.0, 10)
        (2.0, 1.0)
    """
    _check(occupied=occupied)
    return _total_weights(aggregate, kappa, occupied)[-1]


def weight_range(aggregate: str, kappa: float, capacity: int) -> tuple[float, float]:
    """The bounds w_min and w_max: the range of `total_weight` as the memory fills up.

    It holds 0 to `capacity` gradients; aggregate and kappa are as in `total_weight`. The theorem
    needs w_min > 0 and, besides, `has_nonnegative_weights`.

    Example:
        >>> weight_range("sum", 1.0, 10), weight_range("mid", 0.5, 10)
        ((1.0, 2.0), (0.75, 1.0))
    """
    _check(capacity=capacity)
    totals = _total_weights(aggregate, kappa, capacity)
    return min(totals), max(totals)


def has_nonnegative_weights(kappa: float) -> bool:
    """Whether all weights w >= 0: a stored gradient's has the sign of kappa in every aggregate.

    Example:
        >>> has_nonnegative_weights(1.0), has_nonnegative_weights(-0.1)
        (True, False)
    """
    _check(kappa=kappa)
    return kappa >= 0


def age_bound(capacity: int, decay: float, norm_ratio: float) -> float:
    """How old a gradient can be when it is used, if no `max_age` is set: C + ceil(ln(M/m)/ln(1/d)).

    It holds for "top_norm" and "bottom_norm" while all offered norms are in [m, M]; noiseless
    gradients shrink towards zero, and then nothing but `max_age` bounds the age. "fifo" has C.

    Args:
        capacity: C, gradients kept, from 0.
        decay: d in [0, 1]. The bound is infinite at 1, where a gradient of norm M stays for ever,
            and where d^C underflows (d = 0, C > 1): only the first slot of a tie is replaced.
        norm_ratio: M/m, at least 1.

    Example:
        >>> age_bound(10, 0.7, 100.0), age_bound(20, 0.99, 100.0), age_bound(20, 1.0, 2.0)
        (23.0, 479.0, inf)
    """
    _check(capacity=capacity, decay=decay, norm_ratio=norm_ratio)
    if capacity == 0:
        return 0.0
    if decay == 1 or norm_ratio == math.inf or (capacity > 1 and decay**capacity == 0):
        return math.inf
    if decay == 0:
        return 1.0
    return float(capacity + math.ceil(math.log(norm_ratio) / -math.log(decay)))


def admissible_step(smoothness: float, max_age: int, w_max: float = 1.0) -> float:
    """The theorem's step in closed form, eta = 1 / (2 L (tau + 1) w_max); needs no mu.

    Every smaller step is admissible as well. Take w_max from `weight_range`.

    Example:
        >>> admissible_step(smoothness=10.0, max_age=4, w_max=2.0)
        0.005
    """
    _check(smoothness=smoothness, max_age=max_age, w_max=w_max)
    return 1.0 / (2.0 * smoothness * (max_age + 1) * w_max)


def is_admissible(
    step: float,
    *,
    smoothness: float,
    strong_convexity: float,
    max_age: int,
    w_min: float = 1.0,
    w_max: float = 1.0,
) -> bool:
    """Whether the proof covers this step: (h L)^2 tau sum_{j=0..tau} a^-j <= 1 - h L.

    Here h = eta w_max and a = 1 - eta w_min mu. The condition is sufficient for the bound; it is
    monotone in the step, and `admissible_step` always fulfils it. Nothing overflows, whatever tau.

    Example:
        >>> is_admissible(0.005, smoothness=10.0, strong_convexity=0.1, max_age=9)
        True
    """
    _check(step=step, smoothness=smoothness, strong_convexity=strong_convexity)
    _check(max_age=max_age, w_min=w_min, w_max=w_max)
    length, decrease = step * w_max * smoothness, step * w_min * strong_convexity  # h L, 1 - a
    if length > 1 or max_age == 0:
        return length <= 1
    log = -math.log1p(-decrease) if decrease < 1 else math.inf
    if (max_age + 1) * log > 700:  # the sum alone exceeds 1 / length^2
        return False
    # sum_{j=0..tau} a^-j, geometric with ratio e^log
    total = math.expm1((max_age + 1) * log) / math.expm1(log) if log > 0 else max_age + 1.0
    return length**2 * max_age * total <= 1.0 - length


def largest_admissible_step(
    *,
    smoothness: float,
    strong_convexity: float,
    max_age: int,
    w_min: float = 1.0,
    w_max: float = 1.0,
) -> float:
    """The largest step that `is_admissible`, by bisection to the last bit.

    In units of 1 / (L (tau + 1) w_max) it is between 0.806 (L = mu, tau large) and 1 (L >> mu, or
    tau = 0), where the closed form of `admissible_step` is 0.5.

    Example:
        >>> step = largest_admissible_step(smoothness=1.0, strong_convexity=1e-9, max_age=9)
        >>> round(10 * step, 3)
        1.0
    """
    covered = partial(
        is_admissible,
        smoothness=smoothness,
        strong_convexity=strong_convexity,
        max_age=max_age,
        w_min=w_min,
        w_max=w_max,
    )
    low, high = admissible_step(smoothness, max_age, w_max), 1.0 / (smoothness * w_max)
    if covered(high):
        return high
    while low < (middle := low + 0.5 * (high - low)) < high:
        if covered(middle):
            low = middle
        else:
            high = middle
    return low


def divergence_step(smoothness: float, delay: int) -> float:
    """Where gradient descent with one fixed delay stops converging: 2 sin(pi/(2(2 tau + 1))) / L.

    The delay is tau, from 0. At this step x_{t+1} = x_t - eta L x_{t-tau} has a root on the unit
    circle; above it the iterates grow. No theorem for arbitrary selections can allow more, and
    `admissible_step` is smaller by a factor of 4 (tau = 0, 1), falling to pi (tau large).

    Example:
        >>> round(divergence_step(1.0, delay=1), 12)
        1.0
    """
    _check(smoothness=smoothness, delay=delay)
    return 2.0 * math.sin(math.pi / (2.0 * (2 * delay + 1))) / smoothness


def rate(step: float, strong_convexity: float, w_min: float = 1.0) -> float:
    """The factor by which the bound falls in a step, a = 1 - eta w_min mu, in [0, 1].

    It is the theorem's rate only if the step `is_admissible`, which this does not check; but
    eta w_min mu > 1, which no admissible step has, is refused.

    Example:
        >>> rate(0.1, strong_convexity=0.5)
        0.95
    """
    return 1.0 - _decrease(step, strong_convexity, w_min)


def gap_bound(
    steps: int, gap: float, *, step: float, strong_convexity: float, w_min: float = 1.0
) -> float:
    """The theorem's bound on f(x_t) - f*: (1 - eta w_min mu)^t (f(x_0) - f*).

    Steps is t, from 0; gap is f(x_0) - f* >= 0, and the bound has its unit.

    Example:
        >>> round(gap_bound(100, 2.0, step=0.1, strong_convexity=0.5), 5)
        0.01184
    """
    _check(steps=steps, gap=gap)
    decrease = _decrease(step, strong_convexity, w_min)
    if decrease == 1.0:
        return 0.0 if steps else gap
    return gap * math.exp(steps * math.log1p(-decrease))


def distance_bound(
    steps: int,
    squared_distance: float,
    *,
    step: float,
    smoothness: float,
    strong_convexity: float,
    w_min: float = 1.0,
) -> float:
    """The bound on |x_t - x*|^2 under strong convexity: (L/mu) (1 - eta w_min mu)^t |x_0 - x*|^2.

    Steps is t, from 0; squared_distance is |x_0 - x*|^2 >= 0. PL alone is too little here.

    Example:
        >>> distance_bound(1, 4.0, step=0.125, smoothness=2.0, strong_convexity=1.0)
        7.0
    """
    _check(smoothness=smoothness, strong_convexity=strong_convexity)
    _check(squared_distance=squared_distance)
    start = smoothness / strong_convexity * squared_distance
    return gap_bound(steps, start, step=step, strong_convexity=strong_convexity, w_min=w_min)


def steps_to(accuracy: float, *, step: float, strong_convexity: float, w_min: float = 1.0) -> int:
    """After how many steps the bound promises a gap of `accuracy` times the one at the start.

    The accuracy is a share in (0, 1].

    Example:
        >>> steps_to(1e-6, step=0.05, strong_convexity=0.1)
        2757
    """
    _check(accuracy=accuracy)
    decrease = _decrease(step, strong_convexity, w_min)
    if decrease == 1.0:
        return 0 if accuracy == 1.0 else 1
    return math.ceil(math.log(accuracy) / math.log1p(-decrease))


def noise_floor(
    selected_noise: float, strong_convexity: float, *, w_min: float = 1.0, w_max: float = 1.0
) -> float:
    """The gap down to which noisy gradients are sure to lead: (w_max/w_min) s^2 / mu.

    With a step <= `admissible_step` and gradients grad f(x) + xi the mean of f(x_t) - f* is at most
    (1 - eta w_min mu)^t (f(x_0) - f*) plus this. It holds for any noise and any selection, biased
    or not, and does not shrink with the step.

    Selected_noise is s >= 0, the root of the largest mean of |sum_i w_i xi_i / W|^2 over the steps,
    W the total weight, with the noises of the gradients that were *selected*.

    Example:
        >>> noise_floor(2.0, strong_convexity=0.5)
        8.0
    """
    _check(selected_noise=selected_noise, strong_convexity=strong_convexity)
    _check(w_min=w_min, w_max=w_max)
    return w_max / w_min * selected_noise**2 / strong_convexity


def unmet_assumptions(
    *,
    aggregate: str,
    kappa: float,
    capacity: int,
    max_age: int | None,
    momentum: float = 0.0,
    adaptive: bool = False,
    stochastic: bool = False,
    policy: str = "top_norm",
) -> list[str]:
    """Why the theorem does not cover an optimizer with these options: a sentence a reason.

    Args:
        aggregate, kappa, capacity, max_age, momentum, policy: the optimizer's options. A policy
            other than "fifo", "random" and "reservoir" is taken to look at the gradients.
        adaptive: the base divides by a running scale of gradients (Adam, RMSprop).
        stochastic: the gradients are of batches, not of f itself.

    An empty list means that only L, mu and the step remain to be checked.

    Example:
        >>> unmet_assumptions(aggregate="mean", kappa=1.0, capacity=10, max_age=20)
        []
        >>> print(*unmet_assumptions(aggregate="sum", kappa=1.0, capacity=10, max_age=None))
        No age limit: policy='top_norm' can keep a gradient for ever; set max_age.
    """
    w_min, _ = weight_range(aggregate, kappa, capacity)
    _check(max_age=0 if max_age is None else max_age, momentum=momentum)
    remembers = capacity > 0 and kappa != 0
    reasons = {
        f"Momentum ({momentum:g}) is outside the theorem; set momentum=0.": momentum > 0,
        "A preconditioned step (Adam, RMSprop) is outside the theorem; use SGD_C.": adaptive,
        f"kappa={kappa:g} gives stored gradients a negative weight; use kappa >= 0.": (
            remembers and not has_nonnegative_weights(kappa)
        ),
        f"The total weight falls to {w_min:.3g}; it must stay above 0: raise kappa.": w_min <= 0,
        f"No age limit: policy={policy!r} can keep a gradient for ever; set max_age.": (
            remembers and max_age is None and policy != "fifo"
        ),
        "Noisy gradients: the gap is sure to fall only to a floor, see noise_floor.": stochastic,
        f"policy={policy!r} chooses gradients by what is in them, their noise included: that floor "
        "need not shrink with the learning rate; use policy='fifo'.": (
            stochastic and remembers and policy not in NOISE_BLIND_POLICIES
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _total_weights(aggregate: str, kappa: float, capacity: int) -> list[float]:
    """The total weight with 0, 1, ..., capacity gradients held."""
    if aggregate not in list(AGGREGATES):
        raise OptionError(f"aggregate must be one of {list(AGGREGATES)}, got {aggregate!r}")
    _check(kappa=kappa)
    if kappa == 0:
        return [1.0] * (capacity + 1)
    return [aggregates.total_weight(aggregate, n, float(kappa)) for n in range(capacity + 1)]


def _decrease(step: float, strong_convexity: float, w_min: float) -> float:
    _check(step=step, strong_convexity=strong_convexity, w_min=w_min)
    decrease = step * w_min * strong_convexity
    if decrease > 1.0:
        text = "step * w_min * strong_convexity must be at most 1, as for any admissible_step"
        raise OptionError(f"{text}, got {decrease!r}; take a smaller step")
    return decrease


_TINY, _HUGE = math.ulp(0.0), sys.float_info.max
# name: (kind, smallest, largest, the range in words and what to do)
_RANGES: dict[str, tuple[type, float, float, str]] = {
    "kappa": (float, -_HUGE, _HUGE, "a finite number; 1 is the paper's, 0 is no memory"),
    "decay": (float, 0, 1, "a number in [0, 1]; the paper uses 0.7 to 0.99"),
    "norm_ratio": (float, 1, math.inf, "a number of at least 1: largest over smallest norm"),
    "occupied": (int, 0, math.inf, "an integer from 0, the gradients held"),
    "capacity": (int, 0, math.inf, "an integer from 0; 0 switches the memory off"),
    "max_age": (int, 0, math.inf, "an integer from 0; set the optimizer's max_age"),
    "delay": (int, 0, math.inf, "an integer from 0; 0 is plain gradient descent"),
    "steps": (int, 0, math.inf, "an integer from 0, counted from the starting point"),
    "step": (float, _TINY, _HUGE, "a finite number above 0, the learning rate"),
    "momentum": (float, 0, _HUGE, "a finite number of at least 0; 0 switches it off"),
    "smoothness": (float, _TINY, _HUGE, "a finite number above 0: L, the largest curvature"),
    "strong_convexity": (float, _TINY, _HUGE, "a finite number above 0: mu, least curvature"),
    "w_min": (float, _TINY, _HUGE, "a finite number above 0; take it from weight_range"),
    "w_max": (float, _TINY, _HUGE, "a finite number above 0; take it from weight_range"),
    "gap": (float, 0, _HUGE, "a finite number of at least 0: f(x_0) - f*"),
    "squared_distance": (float, 0, _HUGE, "a finite number of at least 0: |x_0 - x*|^2"),
    "selected_noise": (float, 0, _HUGE, "a finite number of at least 0, a root mean square"),
    "accuracy": (float, _TINY, 1, "in (0, 1], a share of the starting gap"),
}


def _check(**values: Any) -> None:
    for name, value in values.items():
        kind, low, high, text = _RANGES[name]
        if isinstance(value, bool) or not isinstance(value, Real if kind is float else Integral):
            raise OptionTypeError(f"{name} must be {text}, got {value!r} ({type(value).__name__})")
        if not low <= values[name] <= high:
            raise OptionError(f"{name} must be {text}, got {value!r}")
    for small, large in (("strong_convexity", "smoothness"), ("w_min", "w_max")):
        if values.get(small, 0) > values.get(large, math.inf):
            got = f"got {values[small]!r} > {values[large]!r}"
            raise OptionError(f"{small} must be at most {large}, {got}; exchange them?")
