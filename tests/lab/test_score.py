import math
from itertools import permutations
from statistics import median_low

import pytest

from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.score import (
    Difference,
    Estimate,
    bootstrap_interval,
    expected_best,
    median_steps,
    student_interval,
    verdict,
)
from gradmem.lab.tasks.digits import Digits


def test_student_interval_against_the_table_of_t():
    found = student_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)  # t(.975, 4 degrees of freedom)
    assert found.mean == 3.0
    assert found.interval == pytest.approx((3 - half, 3 + half), rel=1e-6)


def test_no_interval_from_one_value_nor_around_infinity():
    assert student_interval([0.9]) == Estimate(0.9, None)
    assert student_interval([0.1, math.inf]) == Estimate(math.inf, None)
    assert bootstrap_interval([0.2]) == Estimate(0.2, None)


def test_bootstrap_interval_of_two_values_spans_them():
    # Of four equally likely resamples one is all low and one all high: both ends are reached.
    assert bootstrap_interval([0.0, 1.0]) == Estimate(0.5, (0.0, 1.0))


def test_bootstrap_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([0.5, 0.5, 0.5]) == Estimate(0.5, (0.5, 0.5))


def test_bootstrap_interval_is_close_to_the_normal_one_for_many_values():
    values = [math.sin(i) for i in range(400)]
    low, high = bootstrap_interval(values).interval
    expected_low, expected_high = student_interval(values).interval
    assert low == pytest.approx(expected_low, abs=0.01)
    assert high == pytest.approx(expected_high, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "median"),
    [([3, 1, 2], 2), ([1, None, 3], 3), ([None, None, 3], math.inf), ([1, 2, 3, None], 2.5)],
)
def test_a_missed_target_is_infinite(steps, median):
    assert median_steps(steps) == median


def test_expected_best_against_all_orders():
    losses = [3.0, 1.0, 2.0, 5.0, math.inf]
    orders = list(permutations(losses))
    by_hand = [median_low(min(order[:k]) for order in orders) for k in range(1, 6)]
    assert expected_best(losses) == by_hand


@pytest.mark.parametrize(
    ("mean", "interval", "words"),
    [
        (0.010, (0.004, 0.016), "Adam_C is better than Adam here: +1.00 points"),
        (-0.010, (-0.016, -0.004), "Adam_C is worse than Adam here: -1.00 points"),
        (0.001, (-0.004, 0.006), "no difference can be concluded"),
        (0.010, None, "allows no conclusion"),
    ],
)
def test_verdict_says_what_the_interval_allows(mean, interval, words):
    found = Difference(
        OPTIMIZERS["adam"], OPTIMIZERS["adam_c"], (mean, mean), Estimate(mean, interval)
    )
    assert words in verdict(found, Digits.metric)


def test_a_difference_of_nothing_has_no_sign():
    assert Digits.metric.show_difference(-1e-9) == "0.00"
