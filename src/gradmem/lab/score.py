"""From runs to statements: pure functions, no files, no printing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.optimizers import Spec
from gradmem.lab.tasks.base import Metric

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval; the interval is None where the values allow none."""

    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Score:
    """One optimizer over its evaluation seeds."""

    evaluated: Evaluated
    test: Estimate
    validation: Estimate
    validation_loss: Estimate
    steps_to_target: float  # median; infinite when most seeds miss the target
    reached: int
    diverged: int
    seconds_per_step: float
    state_bytes: int

    @property
    def spec(self) -> Spec:
        """The optimizer."""
        return self.evaluated.spec


@dataclass(frozen=True)
class Difference:
    """Test scores of ``variant`` less those of ``base``, seed by seed."""

    base: Spec
    variant: Spec
    by_seed: tuple[float, ...]
    estimate: Estimate


def student_interval(values: Sequence[float]) -> Estimate:
    """The mean with Student's 95% interval.

    >>> student_interval([1.0, 2.0, 3.0])
    Estimate(mean=2.0, interval=(-0.484..., 4.484...))
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return Estimate(mean, None)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * (
        statistics.stdev(values) / math.sqrt(len(values))
    )
    return Estimate(mean, (float(mean - half), float(mean + half)))


def bootstrap_interval(differences: Sequence[float]) -> Estimate:
    """The mean of paired differences with a percentile bootstrap 95% interval over the pairs."""
    mean = math.fsum(differences) / len(differences)
    if len(differences) < 2:
        return Estimate(mean, None)
    low, high = stats.bootstrap(
        (np.asarray(differences),),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=0,
    ).confidence_interval
    return Estimate(mean, (float(low), float(high)))


def median_steps(steps: Sequence[int | None]) -> float:
    """The median of steps to the target, where None, a missed target, is infinite.

    >>> median_steps([100, None, 300])
    300
    >>> median_steps([100, None])
    inf
    """
    return statistics.median(math.inf if step is None else step for step in steps)


def score(evaluated: Evaluated) -> Score:
    """Sum up one optimizer."""
    runs = evaluated.runs
    return Score(
        evaluated=evaluated,
        test=student_interval(test_scores(evaluated)),
        validation=student_interval([run.validation_score for run in runs]),
        validation_loss=student_interval([run.validation_loss for run in runs]),
        steps_to_target=median_steps([run.steps_to_target for run in runs]),
        reached=sum(run.steps_to_target is not None for run in runs),
        diverged=sum(run.status == "diverged" for run in runs),
        seconds_per_step=statistics.median(run.seconds_per_step for run in runs),
        state_bytes=max(run.state_bytes for run in runs),
    )


def test_scores(evaluated: Evaluated) -> list[float]:
    """The test score of every evaluation run."""
    return [run.test_score for run in evaluated.runs if run.test_score is not None]


def pairs(comparison: Comparison) -> list[tuple[Evaluated, Evaluated]]:
    """Who is set against whom: a memory variant against its base, where both took part.

    Without such a pair, all others against the first named.
    """
    by_name = {each.spec.name: each for each in comparison.results}
    families = [
        (by_name[each.spec.base], each)
        for each in comparison.results
        if each.spec.base is not None and each.spec.base in by_name
    ]
    first, *others = comparison.results
    return families or [(first, other) for other in others]


def difference(base: Evaluated, variant: Evaluated) -> Difference:
    """The paired differences of the test scores of two optimizers."""
    by_seed = tuple(
        ours - theirs for ours, theirs in zip(test_scores(variant), test_scores(base), strict=True)
    )
    return Difference(base.spec, variant.spec, by_seed, bootstrap_interval(by_seed))


def verdict(found: Difference, metric: Metric) -> str:
    """What the paired differences allow one to say, in a sentence."""
    base, variant = found.base.label, found.variant.label
    show = metric.show_difference
    unit = "points of " if metric.unit == "%" else ""
    mean = f"{show(found.estimate.mean)} {unit}test {metric.name}"
    if found.estimate.interval is None:
        return f"{variant} against {base}: {mean} on a single seed, which allows no conclusion."
    low, high = found.estimate.interval
    measured = (
        f"{mean} over {len(found.by_seed)} paired seeds (95% interval {show(low)} to {show(high)})"
    )
    if low <= 0 <= high:
        return (
            f"{variant} against {base}: {measured}; the interval contains zero, so no difference "
            "can be concluded."
        )
    better = (low > 0) == metric.higher_is_better
    return (
        f"{variant} is {'better' if better else 'worse'} than {base} here: {measured}; "
        "the interval excludes zero."
    )


def expected_best(losses: Sequence[float]) -> list[float]:
    """The median over orders of the best of the first 1, 2, ... trials.

    All orders are equally likely, so this needs no resampling: the best of k of n trials is at
    worst the i-th smallest with probability 1 - C(n - i, k) / C(n, k).

    >>> expected_best([3.0, 1.0, 2.0])
    [2.0, 1.0, 1.0]
    """
    ordered = sorted(losses)
    n = len(ordered)
    return [
        next(
            loss
            for i, loss in enumerate(ordered, start=1)
            if 2 * math.comb(n - i, k) <= math.comb(n, k)
        )
        for k in range(1, n + 1)
    ]


def caveat(comparison: Comparison) -> str:
    """What nothing in these runs can tell."""
    test_size = len(comparison.plan.task.data().test)
    several = len(pairs(comparison)) > 1
    return (
        "This is one small task with one network, one split and one setting per optimizer, chosen "
        f"in {comparison.plan.trials} trials. The intervals cover initial weights and batch order "
        f"only: not the choice of the {test_size:,} test examples, not the luck of the search, "
        "not other tasks."
        + (" Nor are they widened for several pairs being looked at." if several else "")
    )
