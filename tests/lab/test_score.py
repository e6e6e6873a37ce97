import math
from dataclasses import replace

import pytest
from scipy import stats

from gradmem.lab.score import (
    caveat,
    differences,
    headline,
    pairs,
    scores,
    show_p,
    verdict,
)
from gradmem.lab.sensitivity import sensitivities
from gradmem.lab.spaces import overridden
from gradmem.lab.statistics import Estimate, bootstrap_interval
from gradmem.lab.tasks.digits import Digits

from .synthetic import Made, change_runs, change_trials, comparison, failed

CLOSE = [0.90, 0.91, 0.92, 0.93, 0.94, 0.95]
BETTER = [value + 0.03 + 0.002 * i for i, value in enumerate(CLOSE)]
FOUR = {"sgd": CLOSE, "sgd_c": BETTER, "adam": CLOSE, "adam_c": [0.95, 0.9, 0.91, 0.94, 0.92, 0.93]}


def test_a_difference_that_is_there():
    found, other = differences(comparison(FOUR))
    assert found.by_seed == pytest.approx([0.03 + 0.002 * i for i in range(6)])
    assert found.estimate == bootstrap_interval(found.by_seed, comparisons=2)
    expected = stats.ttest_ind(BETTER, CLOSE, equal_var=False).pvalue
    assert found.welch == pytest.approx(expected)
    assert found.wilcoxon == pytest.approx(2 / 2**6)
    assert found.p == pytest.approx(2 * expected)  # Holm: the smaller of two
    assert (found.outcome, other.outcome) == ("win", "tie")
    assert found.pairs == 2


def test_the_correction_decides():
    """Welch's p lies between .05 / 3 and .05: a win alone, not among three."""
    better = [value + 0.029 for value in CLOSE]
    assert 0.05 / 3 < stats.ttest_ind(better, CLOSE, equal_var=False).pvalue < 0.05
    alone = {"sgd": CLOSE, "sgd_c": better}
    others = {"adam": CLOSE, "adam_c": CLOSE, "adamw": CLOSE, "adamw_c": CLOSE}
    (found,) = differences(comparison(alone))
    assert found.outcome == "win"
    first, *_ = differences(comparison(alone | others))
    assert first.outcome == "tie"
    said = verdict(first, Made.metric)
    assert "the interval excludes zero, but the test does not confirm it" in said


def test_lower_is_better_turns_a_win_into_a_loss():
    class Error(Made):
        metric = replace(Made.metric, higher_is_better=False, worst=9.0)
        target = 0.1

    (found,) = differences(comparison({"sgd": CLOSE, "sgd_c": BETTER}, task=Error()))
    assert found.outcome == "loss"
    assert "SGD_C is worse than SGD here: +3.50 points" in verdict(found, Error.metric)
    ranks = [
        each.rank for each in scores(comparison({"sgd": CLOSE, "sgd_c": BETTER}, task=Error()))
    ]
    assert ranks == [1.0, 2.0]


def test_scores_without_spread_are_left_to_the_signs():
    (found,) = differences(comparison({"sgd": [0.8] * 8, "sgd_c": [0.9] * 8}))
    assert math.isnan(found.welch)
    assert found.p == found.wilcoxon == pytest.approx(2 / 2**8)
    assert found.outcome == "win"
    (found,) = differences(comparison({"sgd": [0.8] * 8, "sgd_c": [0.8] * 8}))
    assert (found.p, found.outcome) == (1.0, "tie")
    (found,) = differences(comparison({"sgd": [0.8] * 2, "sgd_c": [0.9] * 2}))
    assert found.outcome == "tie"  # two seeds cannot tell


def test_one_seed_allows_no_conclusion():
    (found,) = differences(comparison({"sgd": [0.8], "sgd_c": [0.9]}))
    assert (found.outcome, found.estimate.interval) == ("tie", None)
    assert "on a single seed, which allows no conclusion" in verdict(found, Made.metric)


def test_pairs_are_made_by_seed_where_runs_are_missing():
    whole = comparison({"sgd": CLOSE, "sgd_c": BETTER})
    part = change_runs(whole, "sgd_c", lambda runs: [runs[5], runs[0], runs[2]])
    (found,) = differences(part)
    assert sorted(found.by_seed) == pytest.approx([0.03, 0.034, 0.04])
    first, second = scores(part)
    assert first.rank == pytest.approx((2 * 3 + 1 * 3) / 6)  # alone on three seeds
    assert len(second.step_ratios) == 6
    assert sum(map(math.isinf, second.step_ratios)) == 3
    none = change_runs(whole, "sgd_c", lambda runs: [])
    (found,) = differences(none)
    assert "no seed is finished for both" in verdict(found, Made.metric)
    assert math.isnan(scores(none)[1].test.mean)


def test_infinite_and_missing_scores():
    def spoil(runs):
        values = (math.inf, math.nan, None)
        spoilt = (replace(run, test_score=value) for run, value in zip(runs, values, strict=False))
        return [*spoilt, *runs[3:]]

    (found,) = differences(change_runs(comparison(dict(list(FOUR.items())[:2])), "sgd_c", spoil))
    assert len(found.by_seed) == 4
    assert found.estimate == Estimate(math.inf, None)
    assert math.isnan(found.welch)
    assert found.p == pytest.approx(2 / 2**4)
    assert "no difference can be concluded" in verdict(found, Made.metric)


def test_everything_diverged():
    whole = comparison({"sgd": CLOSE, "sgd_c": BETTER})
    for name in ("sgd", "sgd_c"):
        whole = change_runs(whole, name, lambda runs: [failed(run, "diverged") for run in runs])
        whole = change_trials(whole, name, lambda run: failed(run, "diverged"))
    (found,) = differences(whole)
    assert (found.estimate.mean, found.p, found.outcome) == (0.0, 1.0, "tie")
    first, second = scores(whole)
    assert first.failed == {"diverged": 6}
    assert (first.rank, second.rank) == (1.5, 1.5)
    assert first.areas == (0.0, 0.0)
    assert first.steps_to_target == math.inf
    assert all(group.best == math.inf for each in sensitivities(whole) for group in each.groups)


def test_time_and_steps_to_the_target():
    slow, fast = scores(comparison({"sgd": [0.95, 0.8, 0.8], "sgd_c": [0.95, 0.95, 0.8]}))
    assert (slow.steps_to_target, slow.reached) == (math.inf, 1)
    assert (fast.steps_to_target, fast.reached) == (60, 2)
    assert slow.step_ratios == (1.0, math.inf, math.inf)
    assert fast.step_ratios == (1.0, 1.0, math.inf)
    assert fast.areas[0] == pytest.approx(2 / 3)


def test_failed_runs_do_not_count_as_fast():
    whole = comparison({"sgd": CLOSE})
    part = change_runs(
        whole, "sgd", lambda runs: [failed(run, "crashed") for run in runs[:4]] + runs[4:]
    )
    assert scores(part)[0].seconds_per_step == 0.01


@pytest.mark.parametrize("crashes", [3, 5, 6])
def test_crashes_decide_nothing(crashes):
    def spoil(runs):
        return [failed(run, "crashed") for run in runs[:crashes]] + runs[crashes:]

    (found,) = differences(change_runs(comparison({"sgd": CLOSE, "sgd_c": CLOSE}), "sgd_c", spoil))
    assert len(found.by_seed) == 6 - crashes
    assert found.outcome not in ("win", "loss")
    assert " is worse " not in verdict(found, Made.metric)


def test_a_diverged_run_counts_as_the_worst():
    part = change_runs(
        comparison({"sgd": CLOSE, "sgd_c": CLOSE}),
        "sgd_c",
        lambda runs: [failed(run, "diverged") for run in runs],
    )
    (found,) = differences(part)
    assert found.outcome == "loss"


def test_pairs_without_a_family_are_all_against_the_first():
    found = comparison({"adam": CLOSE, "sgd": CLOSE, "adamw": CLOSE})
    assert [(a.spec.name, b.spec.name) for a, b in pairs(found)] == [
        ("adam", "sgd"),
        ("adam", "adamw"),
    ]


def test_the_headline_names_what_is_decided_with_numbers():
    said = headline(differences(comparison(FOUR)), Made.metric)
    assert said.startswith("Test accuracy, at .05 and corrected for 2 comparisons: 1 better, 0 ")
    assert (
        "worse, 1 undecided. SGD_C is better than SGD: +3.50 points of test accuracy (95% " in said
    )
    level = comparison(dict.fromkeys(FOUR, CLOSE))
    said = headline(differences(level), Made.metric)
    assert "no difference can be concluded for any pair" in said
    assert said.endswith("SGD_C 0.00 (0.00 to 0.00), Adam_C 0.00 (0.00 to 0.00).")


def test_the_headline_of_next_to_nothing():
    assert "nothing to compare" in headline((), Made.metric)
    single = differences(comparison(dict.fromkeys(FOUR, (0.9,))))
    assert headline(single, Made.metric) == "A single seed allows no conclusion about any pair."
    (pair,) = differences(comparison({"sgd": CLOSE, "sgd_c": BETTER}))
    assert headline([pair], Made.metric) == verdict(pair, Made.metric)


def test_the_verdict_has_interval_and_corrected_p():
    found, _ = differences(comparison(FOUR))
    low, high = map(Made.metric.show_difference, found.estimate.interval)
    assert verdict(found, Made.metric) == (
        "SGD_C is better than SGD here: +3.50 points of test accuracy over 6 paired seeds (95% "
        f"interval {low} to {high}, p = {found.p:.2g}, corrected for 2 comparisons)."
    )


def test_the_caveat_says_what_would_have_stayed_unseen():
    whole = comparison(FOUR)
    _, tie = differences(whole)
    low, high = tie.estimate.interval
    assert f"one of up to about {Made.metric.show((high - low) / 2)} points" in caveat(whole)
    assert "the 20 test examples" in caveat(whole)


def test_the_caveat_gives_no_number_that_says_nothing():
    wide = comparison({"adam": [0.0, 1.0], "adam_c": [1.0, 0.0]})
    assert caveat(wide).endswith("means nothing: any could have stayed unseen.")
    narrow = comparison({"adam": [0.9, 0.9, 0.9], "adam_c": [0.9, 0.9, 0.90001]})
    assert "stayed unseen" not in caveat(narrow)


def test_the_caveat_does_without_data():
    class Gone(Made):
        def data(self):
            raise OSError("gone")

    assert "the choice of the test examples" in caveat(comparison(FOUR, task=Gone()))


def test_sensitivity_by_value():
    whole = comparison({"adam": CLOSE, "adam_c": CLOSE}, trials=12)
    found = {(each.spec.name, each.option): each for each in sensitivities(whole)}
    assert ("adam", "capacity") not in found
    assert {"lr", "eps", "capacity", "decay", "policy", "aggregate, kappa"} == {
        option for name, option in found if name == "adam_c"
    }
    trials = whole.results[1].tuned.trials
    for group in found["adam_c", "capacity"].groups:
        losses = [t.validation_loss for t in trials if str(t.options["capacity"]) == group.value]
        assert list(group.losses) == losses
        assert group.best == min(losses)
    rates = found["adam_c", "lr"].groups
    assert sum(len(group.losses) for group in rates) == 12
    assert rates[0].value == "3e-05 to 0.00065"  # a third of the way up, on the logarithm


def test_sensitivity_only_of_what_was_searched():
    whole = comparison({"adam_c": CLOSE})
    spec = whole.results[0].spec
    fixed = overridden(spec.space, "decay", 0.7)  # a choice of one value
    narrow = replace(spec, space=tuple(d for d in fixed if "capacity" not in d.names))
    tuned = replace(whole.results[0].tuned, spec=narrow)
    found = sensitivities(replace(whole, results=(replace(whole.results[0], tuned=tuned),)))
    assert not {"capacity", "decay"} & {each.option for each in found}


def test_p_values_as_they_are_read():
    assert [show_p(p) for p in (0.5, 0.001, 0.00099, math.nan)] == ["0.5", "0.001", "< 0.001", "-"]


def test_a_difference_of_nothing_has_no_sign():
    assert Digits.metric.show_difference(-1e-9) == "0.00"
