"""Ratios of times that were taken side by side: medians and intervals, of plain numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
FEWEST = 6  # rounds; the range of fewer holds the median less often than that


@dataclass(frozen=True)
class Ratio:
    """A median of paired ratios, and its interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 2 if self.median < 9.995 else 1
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median of ``ours / theirs`` round by round, with its 95% interval.

    >>> str(paired([2.0, 4.0, 6.0, 2.0, 2.0, 2.0], [1.0, 2.0, 2.0, 1.0, 1.0, 1.0]))
    '2.00 (2.00-3.00)'
    """
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    rank = interval_rank(len(ratios))
    return Ratio(statistics.median(ratios), ratios[rank - 1], ratios[-rank])


def interval_rank(n: int) -> int:
    """The rank from either end of n values at which a 95% interval of their median begins.

    The median lies between the k-th smallest and the k-th largest of n independent values unless
    fewer than k fall on one side of it, which has the probability ``2 P(B < k)``, B binomial with
    n and 1/2. This is the largest k that leaves at most 5%, whatever the values' distribution.

    >>> interval_rank(6), interval_rank(15), interval_rank(100)
    (1, 4, 40)

    Raises:
        ValueError: n is so small that even the range of the values does not do.
    """
    if n < FEWEST:
        raise ValueError(f"an interval of the median needs at least {FEWEST} values, got {n}")
    below, rank = 0, 0
    while 2 * (below + math.comb(n, rank)) <= (1 - CONFIDENCE) * 2**n:
        below += math.comb(n, rank)
        rank += 1
    return rank
