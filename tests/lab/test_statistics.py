import math
from itertools import product
from statistics import median_low

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradmem.lab.statistics import (
    Estimate,
    best_after,
    bootstrap_interval,
    holm,
    mean,
    mean_ranks,
    median_reached,
    outcome,
    paired_differences,
    profile,
    profile_area,
    ratios_to_best,
    student_interval,
    welch,
    wilcoxon,
)

INF, NAN = math.inf, math.nan


def test_student_interval_against_the_table_of_t():
    found = student_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)  # t(.975, 4 degrees of freedom)
    assert found.mean == 3.0
    assert found.interval == pytest.approx((3 - half, 3 + half), rel=1e-6)


@pytest.mark.parametrize("estimate", [student_interval, bootstrap_interval])
def test_no_interval_where_the_values_allow_none(estimate):
    assert estimate([0.9]) == Estimate(0.9, None)
    assert estimate([0.1, INF]) == Estimate(INF, None)
    assert estimate([0.5, 0.5, 0.5]) == Estimate(0.5, (0.5, 0.5))
    for values in ([], [INF, -INF], [0.1, NAN]):
        found = estimate(values)
        assert math.isnan(found.mean)
        assert found.interval is None


def test_few_pairs_have_students_interval():
    # all of n values lie on one side of the middle with probability 2 / 2^n: .0625 for 5
    five = [0.1, 0.5, 0.2, 0.9, 0.3]
    assert bootstrap_interval(five) == student_interval(five)
    six = [*five, 0.4]
    assert bootstrap_interval(six) != student_interval(six)
    assert bootstrap_interval(six, comparisons=2) == student_interval(six, comparisons=2)
    half = 3.163382 * np.std(six, ddof=1) / math.sqrt(6)  # t(.9875, 5 degrees of freedom)
    middle = sum(six) / 6
    found = student_interval(six, comparisons=2).interval
    assert found == pytest.approx((middle - half, middle + half), rel=1e-5)


def test_a_bootstrap_interval_lies_within_the_range():
    low, high = bootstrap_interval([0.0] * 5 + [1.0]).interval
    assert 0.0 <= low < 1 / 6 < high <= 1.0


@pytest.mark.parametrize("pairs", [5, 8, 20])
def test_the_interval_holds_the_mean_as_often_as_it_says(pairs, monkeypatch):
    """False-alarm rate: 500 tries of 5% give 25 +- 5; outside 10..41 once in a thousand."""
    monkeypatch.setattr("gradmem.lab.statistics.RESAMPLES", 1000)
    draws = np.random.default_rng(pairs).normal(size=(500, pairs)).tolist()
    intervals = [bootstrap_interval(values).interval for values in draws]
    missed = sum(not low <= 0 <= high for low, high in intervals)
    assert 10 <= missed <= 41


def test_bootstrap_interval_is_close_to_the_normal_one_for_many_values():
    values = [math.sin(i) for i in range(400)]
    low, high = bootstrap_interval(values).interval
    expected_low, expected_high = student_interval(values).interval
    assert low == pytest.approx(expected_low, abs=0.01)
    assert high == pytest.approx(expected_high, abs=0.01)


def test_intervals_that_hold_together_are_wider():
    values = [math.sin(i) for i in range(400)]
    low, high = bootstrap_interval(values, comparisons=10).interval
    # 99.5% instead of 95%: 2.807 standard errors instead of 1.960
    error = np.std(values, ddof=1) / 20
    assert (high - low) / 2 == pytest.approx(2.807 * error, rel=0.06)


def test_paired_differences_of_what_cannot_be_subtracted():
    assert paired_differences([INF, INF, -INF, NAN, 1.0], [INF, 1.0, -INF, 1.0, NAN]) == (0, INF, 0)
    with pytest.raises(ValueError):
        paired_differences([1.0], [])


def test_welch_against_the_formula():
    ours, theirs = [1.0, 2.0, 4.0], [2.0, 5.0, 7.0, 9.0]
    a, b = np.var(ours, ddof=1) / 3, np.var(theirs, ddof=1) / 4
    t = (np.mean(ours) - np.mean(theirs)) / math.sqrt(a + b)
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    assert welch(ours, theirs) == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    # the classical example of unequal variances that a pooled test gets wrong
    assert welch(ours, theirs) != pytest.approx(stats.ttest_ind(ours, theirs).pvalue, rel=1e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([1.0], [2.0, 3.0]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [2.0, 2.0]),
        ([INF, 1.0], [1.0, 2.0]),
        ([NAN, 1.0], [1.0, 2.0]),
    ],
)
def test_welch_is_undefined_without_spread_or_numbers(ours, theirs):
    assert math.isnan(welch(ours, theirs))


def test_welch_where_one_side_alone_varies():
    assert welch([0.0, 0.0, 0.0], [1.0, 1.1, 0.9]) == pytest.approx(
        2 * stats.t.sf(1 / (0.1 / math.sqrt(3)), 2)
    )
    assert welch([0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]) == pytest.approx(1.0)  # spread of one bit


def by_all_signs(values):
    """Wilcoxon's p by going through every sign of every rank."""
    moved = [value for value in values if value]
    ranks = stats.rankdata(np.abs(moved))
    seen = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    middle = sum(ranks) / 2
    sums = [sum(np.array(signs) * ranks) for signs in product((0, 1), repeat=len(moved))]
    return sum(abs(each - middle) >= abs(seen - middle) - 1e-9 for each in sums) / len(sums)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [0.5, -1.0, 2.0, 3.5, -0.1],
        [0.5, 0.5, -0.5, 2.0, 2.0, 1.0],
        [0.0, 1.0, 0.0, -2.0, 3.0],
    ],
)
def test_wilcoxon_against_all_signs(values):
    assert wilcoxon(values) == pytest.approx(by_all_signs(values))


def test_wilcoxon_of_degenerate_pairs():
    assert wilcoxon([0.0, 0.0, 0.0]) == 1.0
    assert wilcoxon([0.3]) == 1.0
    assert math.isnan(wilcoxon([]))
    assert math.isnan(wilcoxon([NAN]))
    # an infinite difference is the largest, no more
    assert wilcoxon([1.0, -2.0, INF, 3.0]) == wilcoxon([1.0, -2.0, 9.0, 3.0])
    assert wilcoxon([1.0, NAN, 2.0]) == wilcoxon([1.0, 2.0])


def test_wilcoxon_of_many_pairs_with_ties():
    values = [round(math.sin(i) + 0.4, 1) for i in range(60)]
    expected = stats.wilcoxon([value for value in values if value], method="approx").pvalue
    assert wilcoxon(values) == pytest.approx(expected)


def test_holm_by_hand():
    # smallest times 4, next times 3, then 2, then 1; never below the one before
    assert holm([0.02, 0.01, 0.5, 0.03]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_leaves_out_what_could_not_be_tested():
    first, missing, second = holm([0.01, NAN, 0.04])
    assert (first, second) == pytest.approx((0.02, 0.04))
    assert math.isnan(missing)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_plain_and_bonferroni(p_values):
    corrected = holm(p_values)
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= min(1.0, p * len(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)


@pytest.mark.parametrize(
    ("difference", "interval", "p", "higher_is_better", "expected"),
    [
        (0.1, (0.05, 0.2), 0.01, True, "win"),
        (0.1, (0.05, 0.2), 0.01, False, "loss"),
        (-0.1, (-0.2, -0.05), 0.01, True, "loss"),
        (0.1, (-0.05, 0.2), 0.01, True, "tie"),
        (0.1, (0.05, 0.2), 0.05, True, "tie"),
        (0.1, (0.05, 0.2), NAN, True, "tie"),
        (-INF, None, 0.01, True, "loss"),
        (NAN, None, NAN, True, "tie"),
    ],
)
def test_outcome(difference, interval, p, higher_is_better, expected):
    found = outcome(Estimate(difference, interval), p, higher_is_better=higher_is_better)
    assert found == expected


def test_mean_ranks_by_hand():
    scores = [[0.9, 0.5, 0.7], [0.8, 0.5, NAN], [0.7, 0.5, 0.8]]
    # first seed 1, 2, 3; second all equal: 2; third 2, 3 (missing), 1
    assert mean_ranks(scores, higher_is_better=True) == pytest.approx([5 / 3, 7 / 3, 2.0])
    losses = [[INF], [NAN], [1.0]]
    assert mean_ranks(losses, higher_is_better=False) == [2.0, 3.0, 1.0]
    assert mean_ranks([[INF], [INF]], higher_is_better=False) == [1.5, 1.5]
    assert mean_ranks([[0.5]], higher_is_better=True) == [1.0]


def test_mean_ranks_of_nothing():
    assert mean_ranks([], higher_is_better=True) == []
    assert all(map(math.isnan, mean_ranks([[], []], higher_is_better=True)))


@pytest.mark.parametrize(
    ("steps", "median"),
    [
        ([3, 1, 2], 2),
        ([1, None, 3], 3),
        ([None, None, 3], INF),
        ([1, 2, 3, None], 2.5),
        ([1, None], INF),
        ([], INF),
    ],
)
def test_a_missed_target_is_infinite(steps, median):
    assert median_reached(steps) == median


def test_ratios_to_the_best_by_hand():
    assert ratios_to_best([[10, 30, None], [20, 15, None]]) == [[1.0, 2.0, INF], [2.0, 1.0, INF]]
    assert ratios_to_best([[0.0], [1.0]]) == [[1.0], [INF]]
    assert ratios_to_best([[], []]) == [[], []]


def test_a_profile_and_its_area_by_hand():
    ratios = [1.0, 2.0, 4.0, INF]
    assert [profile(ratios, tau) for tau in (1.0, 1.9, 2.0, 4.0)] == [0.25, 0.25, 0.5, 0.75]
    # the steps: .25 from 1 to 2, .5 from 2 to 4
    assert profile_area(ratios) == pytest.approx((0.25 * 1 + 0.5 * 2) / 3)
    assert profile_area([1.0, 1.0]) == 1.0
    assert profile_area([INF]) == 0.0
    assert math.isnan(profile_area([]))
    assert math.isnan(profile([], 2.0))


def test_the_area_is_the_integral_of_the_profile():
    ratios = [1.0, 1.3, 2.2, 3.9, 5.0, INF]
    taus = np.linspace(1, 4, 30001)
    integral = np.mean([profile(ratios, tau) for tau in taus[:-1] + 5e-5])
    assert profile_area(ratios) == pytest.approx(integral, abs=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_best_after_against_all_draws(share):
    losses = [3.0, 1.0, 2.0, INF]
    for k, found in enumerate(best_after(losses, share), start=1):
        bests = sorted(min(draw) for draw in product(losses, repeat=k))
        assert found == bests[math.ceil(share * len(bests) - 1e-9) - 1]


def test_the_median_best_after_of_three():
    draws = [min(draw) for draw in product([3.0, 1.0, 2.0], repeat=2)]
    assert best_after([3.0, 1.0, 2.0])[1] == median_low(draws) == 1.0


def test_best_after_of_degenerate_losses():
    assert best_after([INF, INF]) == [INF, INF]
    assert best_after([NAN, 1.0])[-1] == 1.0
    assert best_after([0.5]) == [0.5]
    assert best_after([]) == []


def test_mean_of_degenerate_values():
    assert mean([INF, 1.0]) == INF
    assert math.isnan(mean([]))
    assert math.isnan(mean([INF, -INF]))
