"""Checks that random numbers are what they are said to be.

Seeds are fixed, so a test either always passes or always fails. ALARM is how likely a call of one
of these would fail for a right implementation at another seed. All look at both tails: numbers that
are too even are not random either.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

ALARM = 1e-6


def check_p(p_value):
    """A number that would be uniform in [0, 1] is not at an end."""
    assert ALARM / 2 < p_value < 1 - ALARM / 2, p_value


def check_uniform(numbers):
    """Independent numbers are uniform in [0, 1)."""
    check_p(stats.kstest(np.ravel(numbers), "uniform").pvalue)


def check_counts(counts, shares=None):
    """Independent draws fell into cells with these shares, or into all alike."""
    counts = np.asarray(counts)
    shares = np.ones(len(counts)) if shares is None else np.asarray(shares)
    check_p(stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue)


def check_pairs(one, other, kinds):
    """Two whole numbers below `kinds`, many times, are uniform and independent."""
    pairs = np.ravel(one).astype(int) * kinds + np.ravel(other).astype(int)
    check_counts(np.bincount(pairs, minlength=kinds**2))


def check_hits(hits, probability, cells=5):
    """Each of these independent yes or no came with a probability of its own, not 0 or 1."""
    hits, probability = np.ravel(hits), np.ravel(probability)
    square = 0.0
    for some in np.array_split(np.argsort(probability, kind="stable"), cells):
        variance = (probability[some] * (1 - probability[some])).sum()
        square += (hits[some].sum() - probability[some].sum()) ** 2 / variance
    check_p(stats.chi2.sf(square, cells))


def check_correlation(one, other):
    """Two series of independent numbers are not correlated."""
    one, other = np.ravel(one), np.ravel(other)
    check_p(stats.norm.cdf(np.corrcoef(one, other)[0, 1] * math.sqrt(len(one))))
