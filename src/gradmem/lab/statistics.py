"""Statistics of a comparison: pure functions of plain numbers, which know no run and no file.

A score may be infinite, and a run that is missing may be NaN or None; what cannot be computed then
is NaN or None, never an error and never a number that looks like a finding.
"""

import math
import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
RESAMPLES = 10_000
TAU = 4.0  # performance profiles end at this multiple of the best

Outcome = Literal["win", "tie", "loss"]


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval, which is None where the values allow none."""

    mean: float
    interval: tuple[float, float] | None


def mean(values: Sequence[float]) -> float:
    """The mean: NaN of nothing, and where infinities of both signs meet.

    >>> mean([1.0, 2.0]), mean([]), mean([math.inf, -math.inf])
    (1.5, nan, nan)
    """
    if not values or {math.inf, -math.inf} <= set(values):
        return math.nan
    return math.fsum(values) / len(values)


def student_interval(values: Sequence[float], comparisons: int = 1) -> Estimate:
    """The mean with Student's 95% interval.

    Args:
        values: to be averaged.
        comparisons: how many such intervals are to hold together with 95% (Bonferroni).

    >>> student_interval([1.0, 2.0, 3.0])
    Estimate(mean=2.0, interval=(-0.484..., 4.484...))
    """
    middle = mean(values)
    if len(values) < 2 or not math.isfinite(middle):
        return Estimate(middle, None)
    half = _student_point(len(values), comparisons) * (
        statistics.stdev(values) / math.sqrt(len(values))
    )
    return Estimate(middle, (float(middle - half), float(middle + half)))


def _student_point(n: int, comparisons: int) -> float:
    """Half an interval's width in standard errors."""
    return float(stats.t.ppf(1 - (1 - CONFIDENCE) / comparisons / 2, n - 1))


def paired_differences(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """``ours`` less ``theirs``, pair by pair, of the pairs that are whole.

    Two infinities of one sign are equal. Pairs with a NaN are left out.

    >>> paired_differences([1.0, math.inf, math.nan], [3.0, math.inf, 1.0])
    (-2.0, 0.0)
    """
    whole = [
        (a, b) for a, b in zip(ours, theirs, strict=True) if not (math.isnan(a) or math.isnan(b))
    ]
    return tuple(0.0 if a == b else a - b for a, b in whole)


def bootstrap_interval(differences: Sequence[float], comparisons: int = 1) -> Estimate:
    """The mean of paired differences with a percentile bootstrap interval over the pairs.

    A plain one is too narrow where pairs are few. So it is taken at the level that would make it as
    wide as Student's if the differences were normal (Hesterberg 2015, the expanded percentile
    interval); and where even all of the differences' range would not hold the mean often enough,
    which is below 6 pairs and 8 for 4 comparisons, it is Student's.

    Args:
        differences: one for each pair.
        comparisons: how many such intervals are to hold together with 95% (Bonferroni).
    """
    middle, n = mean(differences), len(differences)
    if n < 2 or not all(map(math.isfinite, differences)):
        return Estimate(middle, None)
    if 2.0 ** (1 - n) > (1 - CONFIDENCE) / comparisons:
        return student_interval(differences, comparisons)
    reach = math.sqrt(n / (n - 1)) * _student_point(n, comparisons)
    low, high = stats.bootstrap(
        (np.asarray(differences),),
        np.mean,
        confidence_level=1 - 2 * float(stats.norm.sf(reach)),
        n_resamples=RESAMPLES,
        method="percentile",
        rng=0,
    ).confidence_interval
    return Estimate(middle, (float(low), float(high)))


def welch(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p of Welch's t test; NaN without two finite values a side, or without any spread.

    >>> round(welch([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 4)
    0.2879
    >>> welch([1.0, 1.0], [2.0, 2.0])
    nan
    """
    if min(len(ours), len(theirs)) < 2 or not all(map(math.isfinite, (*ours, *theirs))):
        return math.nan
    if len(set(ours)) == len(set(theirs)) == 1:
        return math.nan
    with warnings.catch_warnings():
        # It warns of values so close that a rounding error could be their spread.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; pairs without a difference are left out.

    Infinite differences are the largest there are. The p is exact up to 50 pairs without ties; it
    is 1 if no pair differs, and NaN without pairs. With n of them it is at least 2 / 2^n: five
    cannot reach .05.

    >>> wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]), wilcoxon([0.0, 0.0]), wilcoxon([])
    (0.0625, 1.0, nan)
    """
    given = [each for each in differences if not math.isnan(each)]
    if not given:
        return math.nan
    moved = [each for each in given if each]
    if not moved:
        return 1.0
    sizes = stats.rankdata([abs(each) for each in moved])
    ranked = np.copysign(sizes, moved)  # ranks are all the test looks at, and they are finite
    return float(stats.wilcoxon(ranked, method=_method(sizes.tolist())).pvalue)


def sign_test(ahead: int, behind: int) -> float:
    """Two-sided p of so many signs of either kind, if both are as likely; NaN of none.

    >>> sign_test(8, 1), sign_test(0, 0)
    (0.0390625, nan)
    """
    if not ahead + behind:
        return math.nan
    return float(stats.binomtest(ahead, ahead + behind).pvalue)


def friedman(scores: Sequence[Sequence[float]]) -> float:
    """p of Friedman's test that all contestants are equal; NaN of fewer than three, or two tasks.

    Args:
        scores: a row for each contestant, with one score a problem.

    >>> round(friedman([[1, 1, 1, 2], [2, 2, 2, 1], [3, 3, 3, 3]]), 4)
    0.0388
    """
    if len(scores) < 3 or len(scores[0]) < 2 or np.isnan(np.array(scores, dtype=float)).any():
        return math.nan
    ranks = stats.rankdata(scores, axis=0)  # all that it looks at, and they are finite
    if (ranks == ranks[0]).all():
        return 1.0
    return float(stats.friedmanchisquare(*ranks).pvalue)


def _method(sizes: Sequence[float]) -> Literal["exact", "approx"] | stats.PermutationMethod:
    """Exact where that is a matter of counting: all signs of up to 13 values, tied or not."""
    tied = len(set(sizes)) < len(sizes)
    if tied and len(sizes) <= 13:
        return stats.PermutationMethod()
    return "approx" if tied or len(sizes) > 50 else "exact"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number as Holm does; NaN stays, and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[i] = highest
    return corrected


def outcome(found: Estimate, p: float, *, higher_is_better: bool) -> Outcome:
    """Whether a difference is won, lost or open: p below .05, and no interval with zero in it."""
    if not p < SIGNIFICANCE or not found.mean:
        return "tie"
    if found.interval is not None and found.interval[0] <= 0 <= found.interval[1]:
        return "tie"
    return "win" if (found.mean > 0) == higher_is_better else "loss"


def mean_ranks(scores: Sequence[Sequence[float]], *, higher_is_better: bool) -> list[float]:
    """Each contestant's rank, 1 for the best, as the mean over the problems.

    Args:
        scores: a row for each contestant, with one score a problem (a seed, a task). Equal scores
            share their rank; NaN is worse than any other.
        higher_is_better: which end is first.

    >>> mean_ranks([[0.9, 0.8], [0.7, 0.8]], higher_is_better=True)
    [1.25, 1.75]
    """
    table = np.array(scores, dtype=float)
    if not table.size:
        return [math.nan] * len(scores)
    costs = np.where(np.isnan(table), math.inf, -table if higher_is_better else table)
    # NaN behind an infinite score, too
    costs = stats.rankdata(costs, axis=0) + np.where(np.isnan(table), len(scores), 0)
    ranks: list[float] = stats.rankdata(costs, axis=0).mean(axis=1).tolist()
    return ranks


def median_reached(amounts: Iterable[float | None]) -> float:
    """The median of what it took to reach a target, where None, a missed target, is infinite.

    >>> median_reached([100, None, 300]), median_reached([100, None]), median_reached([])
    (300.0, inf, inf)
    """
    known = [math.inf if each is None else float(each) for each in amounts]
    return statistics.median(known) if known else math.inf


def ratios_to_best(costs: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Each contestant's cost on each problem, as a multiple of the least that any had there.

    Args:
        costs: a row for each contestant. None, a missed target, is infinite, and so is its ratio,
            also where nobody reached it.

    >>> ratios_to_best([[10, None], [20, None]])
    [[1.0, inf], [2.0, inf]]
    """
    rows = [[math.inf if cost is None else float(cost) for cost in row] for row in costs]
    least = [min(column) for column in zip(*rows, strict=True)]
    return [
        [
            _ratio(cost, best) if math.isfinite(cost) else math.inf
            for cost, best in zip(row, least, strict=True)
        ]
        for row in rows
    ]


def _ratio(cost: float, best: float) -> float:
    return 1.0 if cost == best else cost / best if best else math.inf


def profile(ratios: Sequence[float], tau: float) -> float:
    """The share of problems on which a contestant is within a factor ``tau`` of the best.

    >>> profile([1.0, 2.0, math.inf], 1.5)
    0.3333333333333333
    """
    return sum(ratio <= tau for ratio in ratios) / len(ratios) if ratios else math.nan


def profile_area(ratios: Sequence[float], end: float = TAU) -> float:
    """The mean of `profile` over tau from 1 to ``end``: 1 if always the best, 0 if never within.

    >>> profile_area([1.0, 2.5, math.inf])
    0.5
    """
    if not ratios:
        return math.nan
    return mean([max(0.0, end - ratio) / (end - 1) for ratio in ratios])


def best_after(losses: Sequence[float], share: float = 0.5) -> list[float]:
    """A quantile of the best of 1, 2, ... trials drawn with replacement from those made.

    What a bootstrap over trials approaches, without drawing: the best of k is no worse than the
    i-th smallest of n with probability 1 - (1 - i / n)^k.

    Args:
        losses: of the trials; NaN counts as infinite.
        share: which quantile; .5 is the median.

    >>> best_after([3.0, 1.0, 2.0])
    [2.0, 1.0, 1.0]
    """
    ordered = sorted(math.inf if math.isnan(loss) else loss for loss in losses)
    n = len(ordered)
    # a hair below the share, which a sum of shares like 1/3 may miss by rounding
    return [
        next(
            loss for i, loss in enumerate(ordered, start=1) if 1 - (1 - i / n) ** k >= share - 1e-12
        )
        for k in range(1, n + 1)
    ]
