"""The theorem of gradmem.convergence: its functions; it holds, it is nearly sharp, its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence_adversaries import (
    ADVERSARIES,
    RATES,
    Array,
    Logistic,
    excess_losses,
    gaps,
    interval,
    oldest,
    spectra,
)
from gradmem import SGD_C, convergence
from gradmem.errors import OptionError, OptionTypeError

SLACK = 1 + 1e-9  # for rounding


def largest_step(mu: float, max_age: int, weight: tuple[float, float] = (1.0, 1.0)) -> float:
    return convergence.largest_admissible_step(
        smoothness=1.0, strong_convexity=mu, max_age=max_age, w_min=weight[0], w_max=weight[1]
    )


# The functions ------------------------------------------------------------------------------------


def test_total_weights_by_hand() -> None:
    assert convergence.total_weight("sum", 0.25, 7) == 1.25
    assert convergence.total_weight("mid", 0.5, 7) == 0.75
    assert convergence.total_weight("mean", 2.0, 3) == 7 / 4
    for aggregate in ("mean", "sum", "mid"):
        assert convergence.total_weight(aggregate, 0.3, 0) == 1.0
        assert convergence.total_weight(aggregate, 0.0, 5) == 1.0
    assert convergence.weight_range("mean", 2.0, 3) == (1.0, 7 / 4)
    assert convergence.weight_range("mean", -1.0, 3) == (-0.5, 1.0)
    assert convergence.weight_range("sum", 1.0, 0) == (1.0, 1.0)


def test_steps_by_hand() -> None:
    assert convergence.admissible_step(4.0, 4, 2.0) == 1 / 80
    # tau = 1, L = mu = 1: h^2 (1 + 1 / (1 - h)) = 1 - h is -h^3 + h^2 + 2 h - 1 = 0.
    roots = np.roots([-1.0, 1.0, 2.0, -1.0])
    root = min(r.real for r in roots if abs(r.imag) < 1e-12 and r.real > 0)
    assert largest_step(1.0, 1) == pytest.approx(root, rel=1e-12)
    assert convergence.divergence_step(2.0, 1) == pytest.approx(0.5, rel=1e-14)
    assert convergence.rate(0.1, 2.0, w_min=0.5) == 0.9
    assert convergence.gap_bound(2, 3.0, step=0.1, strong_convexity=1.0) == pytest.approx(2.43)
    assert convergence.gap_bound(0, 3.0, step=1.0, strong_convexity=1.0) == 3.0
    assert convergence.gap_bound(1, 3.0, step=1.0, strong_convexity=1.0) == 0.0
    assert convergence.noise_floor(3.0, 2.0, w_min=1.0, w_max=2.0) == 9.0


def test_the_largest_admissible_step_is_between_081_and_1() -> None:
    for max_age in (0, 1, 2, 5, 20, 60, 1000, 100_000):
        for condition in (1.0, 3.0, 30.0, 300.0, 1e8):
            scaled = largest_step(1 / condition, max_age) * (max_age + 1)
            assert 0.806 < scaled <= 1.0 + 1e-12, (max_age, condition, scaled)
    assert largest_step(1.0, 10_000) * 10_001 == pytest.approx(0.8065, abs=1e-4)
    assert largest_step(1e-12, 10_000) * 10_001 == pytest.approx(1.0, abs=1e-6)


def test_nothing_overflows() -> None:
    problem = {"smoothness": 1.0, "strong_convexity": 1.0, "max_age": 5000}
    for step in (1e-300, 1e-4, 0.1, 0.999999, 1.0, 1e300):
        assert convergence.is_admissible(step, **problem) == (step < 0.806 / 5001)
    assert convergence.gap_bound(10**9, 1.0, step=1.0, strong_convexity=0.5) == 0.0


sizes = st.floats(1e-6, 1e6)


@given(sizes, st.floats(1, 1e6), st.integers(0, 5000), st.floats(1e-3, 1), sizes, sizes, sizes)
def test_admissibility_is_monotone_and_includes_the_closed_form(
    smoothness: float,
    condition: float,
    age: int,
    share: float,
    w_max: float,
    one: float,
    two: float,
) -> None:
    problem = {
        "smoothness": smoothness,
        "strong_convexity": smoothness / condition,
        "max_age": age,
        "w_min": share * w_max,
        "w_max": w_max,
    }
    closed = convergence.admissible_step(smoothness, age, w_max)
    largest = convergence.largest_admissible_step(**problem)
    assert convergence.is_admissible(closed, **problem)
    assert convergence.is_admissible(largest, **problem)
    assert not convergence.is_admissible(largest * (1 + 1e-9), **problem)
    assert closed <= largest <= 1.0 / (smoothness * w_max)
    small, large = sorted((one * closed, two * closed))
    assert convergence.is_admissible(small, **problem) or not convergence.is_admissible(
        large, **problem
    )


@given(st.floats(1e-12, 1.0), st.floats(1e-6, 0.9))
def test_steps_to_is_the_first_step_within_the_accuracy(accuracy: float, decrease: float) -> None:
    steps = convergence.steps_to(accuracy, step=decrease, strong_convexity=1.0)
    bound = {"step": decrease, "strong_convexity": 1.0}
    assert convergence.gap_bound(steps, 1.0, **bound) <= accuracy * SLACK
    assert steps == 0 or convergence.gap_bound(steps - 1, 1.0, **bound) * SLACK > accuracy


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convergence.admissible_step(0.0, 1), "smoothness must be a finite number above 0"),
        (lambda: convergence.admissible_step(math.nan, 1), "smoothness must be"),
        (lambda: convergence.admissible_step(1.0, -1), "set the optimizer's max_age"),
        (lambda: largest_step(2.0, 1), "strong_convexity must be at most smoothness"),
        (lambda: largest_step(0.5, 1, (2.0, 1.0)), "w_min must be at most w_max"),
        (lambda: largest_step(0.5, 1, (0.0, 1.0)), "take it from weight_range"),
        (lambda: convergence.rate(3.0, 1.0), "must be at most 1"),
        (lambda: convergence.weight_range("maximum", 1.0, 3), "aggregate must be one of"),
        (lambda: convergence.total_weight("sum", math.inf, 3), "kappa must be a finite number"),
        (lambda: convergence.age_bound(3, 1.1, 2.0), "decay must be a number in"),
        (lambda: convergence.age_bound(3, 0.5, 0.5), "norm_ratio must be"),
    ],
)
def test_bad_numbers_are_refused(call, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()


def test_what_is_no_number_is_refused() -> None:
    for call in (
        lambda: convergence.admissible_step("1", 1),  # type: ignore[arg-type]
        lambda: convergence.admissible_step(True, 1),
        lambda: convergence.admissible_step(1.0, 1.5),  # type: ignore[arg-type]
    ):
        with pytest.raises(OptionTypeError, match="must be"):
            call()


def test_unmet_assumptions_are_named() -> None:
    def reasons(**changes) -> str:
        fine = {"aggregate": "mean", "kappa": 1.0, "capacity": 5, "max_age": 9}
        return " ".join(convergence.unmet_assumptions(**{**fine, **changes}))

    assert reasons() == ""
    assert reasons(capacity=0, max_age=None) == reasons(kappa=0.0, max_age=None) == ""
    assert reasons(policy="fifo", max_age=None) == ""
    assert "Momentum (0.9)" in reasons(momentum=0.9)
    assert "Adam" in reasons(adaptive=True)
    assert "negative weight" in reasons(kappa=-0.1)
    assert "falls to -0.667" in reasons(kappa=-1.0)
    assert "negative weight" in reasons(kappa=-0.5, aggregate="sum")
    assert "total weight" not in reasons(kappa=-0.5, aggregate="sum")
    assert "set max_age" in reasons(max_age=None)
    assert "floor" in reasons(stochastic=True, policy="fifo")
    assert "need not shrink" not in reasons(stochastic=True, policy="fifo")
    assert "need not shrink" in reasons(stochastic=True, policy="bottom_norm")


# The theorem --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [(1.0, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("max_age", [0, 1, 2, 5, 20, 60])
def test_the_bound_holds_for_every_adversary(max_age: int, weight: tuple[float, float]) -> None:
    """At the closed form and at the largest admissible step, in every step, L/mu from 1 to 300."""
    steps = 400
    spectrum, mu = spectra((1.0, 3.0, 10.0, 30.0, 100.0, 300.0), size=6, per_condition=2, seed=1)
    closed = np.full(len(mu), convergence.admissible_step(1.0, max_age, weight[1]))
    largest = np.array([largest_step(m, max_age, weight) for m in mu])
    for step in (closed, largest):
        rates = np.array(
            [
                convergence.rate(s, m, weight[0])
                for s, m in zip(step.tolist(), mu.tolist(), strict=True)
            ]
        )
        for name, adversary in ADVERSARIES.items():
            gap = gaps(adversary, spectrum, step, max_age, steps, weight=weight)
            bound = gap[0] * rates ** np.arange(steps + 1)[:, None]
            assert (gap <= SLACK * bound + 1e-290).all(), (
                f"{name}: gap / bound reaches {(gap[1:] / (bound[1:] + 1e-290)).max():.9f}"
            )


def test_the_bound_holds_without_convexity() -> None:
    """f = x^2 + 3 sin(x)^2 has L = 8 and the PL inequality, but f'' < 0 at places."""
    grid = np.linspace(-8.0, 8.0, 100_001)
    grid = grid[grid != 0]
    f, slope = (lambda x: x**2 + 3 * np.sin(x) ** 2), (lambda x: 2 * x + 3 * np.sin(2 * x))
    mu = 0.999 * float((slope(grid) ** 2 / (2 * f(grid))).min())
    assert mu == pytest.approx(0.1754, abs=1e-4)
    starts = np.linspace(0.1, 7.0, 40)
    for max_age in (1, 5, 20):
        step = convergence.largest_admissible_step(
            smoothness=8.0, strong_convexity=mu, max_age=max_age
        )
        for choose in ("oldest", "greedy"):
            x, past = starts, np.empty((0, len(starts)))
            for t in range(600):
                bound = convergence.gap_bound(t, 1.0, step=step, strong_convexity=mu)
                assert (f(x) <= SLACK * bound * f(starts)).all(), (max_age, choose, t)
                past = np.concatenate([slope(x)[None], past[:max_age]])
                age = f(x - step * past).argmax(axis=0) if choose == "greedy" else len(past) - 1
                x = x - step * past[age, np.arange(len(x))]


def test_the_delay_lemma_and_that_its_condition_is_sharp() -> None:
    """V_{k+1} <= a V_k - b w_k + c sum_{j=k-tau..k} w_j; a single w shows it sharp."""
    random = np.random.default_rng(0)

    def run(a: float, b: float, c: float, tau: int, w: Array) -> Array:
        v = [1.0]
        for k in range(len(w)):
            v.append(a * v[-1] - b * w[k] + c * w[max(0, k - tau) : k + 1].sum())
        return np.array(v) / a ** np.arange(len(v))

    for tau in (0, 1, 4, 15):
        a, c = random.uniform(0.7, 1.0), random.uniform(0.1, 2.0)
        least = c * sum(a**-j for j in range(tau + 1))
        for _ in range(20):
            w = random.exponential(size=60) * (random.random(60) < 0.3) * a ** np.arange(60)
            assert run(a, least, c, tau, w).max() <= 1 + 1e-9
        alone = np.zeros(tau + 2)
        alone[0] = 1.0
        assert run(a, least * (1 - 1e-6), c, tau, alone).max() > 1


# How sharp it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 1, 2, 5, 20, 60])
def test_a_fixed_delay_diverges_just_above_the_limit(delay: int) -> None:
    limit = convergence.divergence_step(1.0, delay)
    ones = np.ones((2, 1))
    gap = gaps(oldest, ones, limit * np.array([0.99, 1.01]), delay, 1200 * (delay + 1))
    assert gap[-1, 0] < 1e-3 * gap[0, 0]
    assert gap[-1, 1] > 1e3 * gap[0, 1]
    # What the theorem allows is smaller by 4 to pi, and exactly is smaller by 2 to pi / 2.
    assert math.pi < limit / convergence.admissible_step(1.0, delay) <= 4 * SLACK
    flat = limit / largest_step(1e-9, delay)
    assert math.pi / 2 < flat <= 2 * SLACK


@pytest.mark.parametrize("delay", [1, 2, 5, 20, 60])
def test_at_equal_curvatures_the_exact_condition_is_nearly_the_best_possible(delay: int) -> None:
    """The largest step with which a fixed delay still falls at the theorem's rate, L = mu."""

    def keeps_up(step: float) -> bool:
        # x_{t+1} = x_t - step x_{t-delay}: the gap falls like the largest root, squared.
        roots = np.roots([1.0, -1.0, *[0.0] * (delay - 1), step])
        return bool(abs(roots).max() ** 2 <= 1 - step)

    low, high = largest_step(1.0, delay), convergence.divergence_step(1.0, delay)
    assert keeps_up(low)
    start = low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_up(middle) else (low, middle)
    assert low / start < {1: 1.17, 2: 1.13, 5: 1.10, 20: 1.08, 60: 1.07}[delay], low / start


# The optimizer ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logistic() -> Logistic:
    return Logistic(penalty=0.05)


@pytest.mark.parametrize("policy", ["top_norm", "bottom_norm", "fifo"])
@pytest.mark.parametrize(
    ("aggregate", "kappa", "scope"),
    [("mean", 1.0, "model"), ("sum", 1.0, "model"), ("mid", 0.5, "model"), ("mean", 3.0, "tensor")],
)
def test_sgd_c_stays_inside_the_bound_on_breast_cancer(
    logistic: Logistic, aggregate: str, kappa: float, scope: str, policy: str
) -> None:
    steps, capacity, max_age = 400, 5, 12
    w_min, w_max = convergence.weight_range(aggregate, kappa, capacity)
    step = convergence.largest_admissible_step(
        smoothness=logistic.smoothness,
        strong_convexity=logistic.mu,
        max_age=max_age,
        w_min=w_min,
        w_max=w_max,
    )
    memory = {"aggregate": aggregate, "kappa": kappa, "scope": scope, "policy": policy}
    assert not convergence.unmet_assumptions(
        aggregate=aggregate, kappa=kappa, policy=policy, capacity=capacity, max_age=max_age
    )
    parts = [torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (10, 21)]
    optimizer = SGD_C(parts, lr=step, capacity=capacity, decay=1.0, max_age=max_age, **memory)
    start = logistic.loss(torch.cat(parts)).item() - logistic.least
    for t in range(steps):
        optimizer.zero_grad()
        loss = logistic.loss(torch.cat(parts))
        loss.backward()
        bound = convergence.gap_bound(
            t, start, step=step, strong_convexity=logistic.mu, w_min=w_min
        )
        assert loss.item() - logistic.least <= SLACK * bound + 1e-14, t
        optimizer.step()
    ages = [scope.oldest_used for scope in optimizer.memory_report().scopes]
    # The first gradients are the largest: only top_norm would keep them for ever.
    assert max(ages) == (max_age if policy == "top_norm" else capacity) <= max_age


def scalar_run(steps: int, capacity: int, decay: float, norms=None, **options) -> tuple[Array, int]:
    """The iterates of f = x^2 / 2 from 1, or offered numbers, and the oldest age that was used."""
    x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = SGD_C([x], capacity=capacity, decay=decay, **{"lr": 0.0, **options})
    seen = np.empty(steps)
    for t in range(steps):
        seen[t] = x.item()
        x.grad = x.detach().clone() if norms is None else torch.full_like(x, norms[t])
        optimizer.step()
    return seen, optimizer.memory_report().scopes[0].oldest_used


@pytest.mark.parametrize("policy", ["top_norm", "bottom_norm"])
@pytest.mark.parametrize(("capacity", "decay"), [(1, 0.0), (3, 0.5), (10, 0.7), (4, 0.95)])
def test_the_age_bound_holds_for_bounded_norms(capacity: int, decay: float, policy: str) -> None:
    ratio = 16.0  # 4 halvings: also the case of a tie
    norms = ratio ** (np.random.default_rng(0).random(400).round(1))
    norms[100], norms[101:] = ratio, np.minimum(norms[101:], 2.0)
    norms[102:200] = 1.0
    if policy == "bottom_norm":
        norms = ratio / norms
    _, oldest_used = scalar_run(400, capacity, decay, norms, policy=policy)
    assert oldest_used <= convergence.age_bound(capacity, decay, ratio)


def test_where_the_age_bound_is_infinite() -> None:
    assert convergence.age_bound(3, 1.0, 1.0) == convergence.age_bound(2, 0.0, 1.0) == math.inf
    assert convergence.age_bound(3, 0.5, math.inf) == math.inf
    assert convergence.age_bound(0, 1.0, 2.0) == 0.0
    ones = np.ones(100)
    assert scalar_run(100, 3, 1.0, ones)[1] == 99  # no newcomer is strictly larger
    assert scalar_run(100, 2, 0.0, ones)[1] == 98  # ties at zero: the first slot is replaced


@pytest.mark.parametrize("decay", [0.999, 1.0])
def test_without_an_age_limit_a_noiseless_run_stalls(decay: float) -> None:
    """Gradients shrink, so old ones stay the largest; `max_age` with its step gives the rate."""
    steps, max_age = 4000, 40
    step = convergence.admissible_step(1.0, max_age)
    options = {"lr": step, "aggregate": "mean", "policy": "top_norm"}
    free, oldest_used = scalar_run(steps, 20, decay, **options)
    kept, _ = scalar_run(steps, 20, decay, max_age=max_age, **options)
    bound = [convergence.gap_bound(t, 1.0, step=step, strong_convexity=1.0) for t in range(steps)]
    assert (kept**2 <= SLACK * np.array(bound) + 1e-290).all()
    assert bound[-1] < 1e-20
    assert oldest_used > 500
    assert free[-1] ** 2 > 1e-3  # a promise of 1e-20, and 1e-3 of the start is left
    # And `max_age` does not save a step that is too long for it.
    assert abs(scalar_run(400, 20, decay, max_age=max_age, **{**options, "lr": 0.2})[0][-1]) > 10


# Noise --------------------------------------------------------------------------------------------


def test_selection_by_norm_has_a_floor_that_does_not_shrink() -> None:
    sgd, fifo, top = (excess_losses(policy)[0] for policy in (None, "fifo", "top_norm"))
    shrink = {name: np.log(v[:, 2] / v[:, 0]) for name, v in (("fifo", fifo), ("top", top))}
    # From eta = .1 to .01, seed by seed: FIFO's excess loss falls tenfold, top_norm's stays.
    assert interval(shrink["fifo"])[1] < math.log(0.15)
    assert interval(shrink["top"])[0] > math.log(0.7)
    assert interval(shrink["top"] - shrink["fifo"])[0] > math.log(6.0)
    for i in range(len(RATES)):
        assert interval(top[:, i] - fifo[:, i])[0] > 4.0
        assert interval(fifo[:, i] / sgd[:, i] - 1)[1] < 0.25  # FIFO is about plain SGD


def test_under_symmetric_noise_the_floor_shrinks_but_is_far_higher() -> None:
    fifo, top = (excess_losses(policy, skewed=False)[0] for policy in ("fifo", "top_norm"))
    assert interval(np.log(top[:, 2] / top[:, 0]))[1] < math.log(0.6)
    assert interval(np.log(top[:, 2] / fifo[:, 2]))[0] > math.log(20.0)


@pytest.mark.parametrize("policy", ["fifo", "top_norm"])
def test_the_noise_floor_is_not_exceeded(policy: str) -> None:
    losses, square = excess_losses(policy, max_age=49)
    assert convergence.admissible_step(1.0, 49) == RATES[2]
    floor = convergence.noise_floor(math.sqrt(square), strong_convexity=1 / 3)
    assert losses[:, 2].mean() < floor
