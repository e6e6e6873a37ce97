"""What `gradmem sparsify` says of runs: pure functions of made-up results."""

import csv
import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gradmem.lab.errors import ConfigError
from gradmem.lab.sparsify import figure, findings, pages
from gradmem.lab.sparsify.findings import Findings
from gradmem.lab.sparsify.methods import METHODS, Method, get_methods
from gradmem.lab.sparsify.plan import RANGES, RATES, Plan, parse_penalties, parse_rates
from gradmem.lab.sparsify.problem import get_problem
from gradmem.lab.sparsify.runs import Result, name_of

CHANNELS = (10, 10)


def a_plan(*names, penalties=(0.1, 0.2, 0.4), **changes):
    values = {
        "problem": get_problem("digits", None, None),
        "methods": get_methods(names or ("adamw-plain",)),
        "regularizer": "group_lasso",
        "penalties": dict.fromkeys(RANGES, penalties),
        "rates": (0.01,),
        "seeds": 2,
        "tuning_seeds": 1,
        "epochs": 1,
        "batch_size": 32,
        "threshold": 1.0,
        "within": 1.0,
    }
    return Plan(**{**values, **changes})


def a_result(plan, name, penalty, seed, *, test=0.9, validation=0.9, zero=0, small=None, **more):
    small = zero if small is None else small
    values = {
        "setting": plan.setting(METHODS[name], penalty, 0.01, seed, "evaluate"),
        "status": "ok",
        "validation_loss": 0.1,
        "validation_score": validation,
        "test_score": test,
        "zero_validation_score": validation,
        "zero_test_score": test,
        "channels": CHANNELS,
        "zero": (zero, 0),
        "small": (small, 0),
    }
    return Result(**{**values, **more})


def found(plan, *runs):
    """The findings of runs given as (name, penalty, one dict of changes for each seed)."""
    results = [
        a_result(plan, name, penalty, seed, **changes)
        for name, penalty, by_seed in runs
        for seed, changes in zip(plan.seed_range, by_seed, strict=True)
    ]
    return Findings(
        plan, dict.fromkeys(plan.bases, 0.01), (), findings.points(plan, results[::-1]), {}
    )


def three_penalties(plan, **of_the_second):
    second = {"zero": 8, "validation": 0.895, "test": 0.85, **of_the_second}
    return found(
        plan,
        ("adamw", 0.0, [{"test": 0.9}, {"test": 0.92}]),
        ("adamw-plain", 0.1, [{"zero": 4}] * 2),
        ("adamw-plain", 0.2, [second, {**second, "zero": 10}]),
        ("adamw-plain", 0.4, [{"zero": 10, "validation": 0.5, "test": 0.99}] * 2),
    )


def test_the_penalty_is_chosen_on_the_validation_split_and_its_test_score_told():
    whole = three_penalties(a_plan())
    point = whole.chosen(METHODS["adamw-plain"])
    assert point.penalty == 0.2  # though its test score is worst, and the next has the best
    assert point.share.mean == pytest.approx((8 + 10) / 2 / 20)
    assert point.change.mean == pytest.approx(0.85 - 0.91)
    assert point.validation == pytest.approx(-0.005)
    (said,) = findings.verdicts(whole)
    assert said.startswith(
        "AdamW, plain metric: 45% (0 to 100) of the channels zero within 1 point"
    )
    assert "(penalty 0.2); test accuracy 85.00 (85.00 to 85.00), -6.00 (" in said


@pytest.mark.parametrize(("loss", "chosen"), [(0.01, 0.2), (0.0101, 0.1)])
def test_just_within_counts(loss, chosen):
    whole = three_penalties(a_plan(), validation=0.9 - loss)
    assert whole.chosen(METHODS["adamw-plain"]).penalty == chosen


def test_no_penalty_near_enough_or_no_channel_is_said():
    plan = a_plan(penalties=(0.1, 0.2))
    base = ("adamw", 0.0, [{}] * 2)
    bad = [("adamw-plain", p, [{"validation": 0.2, "zero": 5}] * 2) for p in (0.1, 0.2)]
    whole = found(plan, base, *bad)
    assert (
        "no penalty tried keeps the validation accuracy within 1 point"
        in (findings.verdicts(whole)[0])
    )
    assert any("smallest penalty tried" in line for line in findings.warnings(whole))
    assert findings.summary_table(whole).rows == (("AdamW, plain metric", "-", "-", "-", "-"),)
    none = found(plan, base, *((name, p, [{}] * 2) for name, p, _ in bad))
    assert "no channel is zero within 1 point" in findings.verdicts(none)[0]


def test_a_subgradient_is_judged_after_its_small_channels_were_set_to_zero():
    plan = a_plan("adamw-subgradient", penalties=(0.1,))
    run = {"small": 6, "zero_test_score": 0.7, "zero_validation_score": 0.8}
    whole = found(plan, ("adamw", 0.0, [{}] * 2), ("adamw-subgradient", 0.1, [run] * 2))
    (point,) = whole.points["adamw-subgradient"]
    assert (point.share.mean, point.exact.mean) == (0.3, 0.0)
    assert point.score.mean == pytest.approx(0.7)
    assert point.validation == pytest.approx(-0.1)


def test_differences_are_paired_by_seed():
    plan = a_plan(penalties=(0.1,))
    whole = found(
        plan,
        ("adamw", 0.0, [{"test": 0.5}, {"test": 0.9}]),
        ("adamw-plain", 0.1, [{"test": 0.6}, {"test": 1.0}]),
    )
    change = whole.points["adamw-plain"][0].change
    assert change.mean == pytest.approx(0.1)
    assert change.interval == pytest.approx((0.1, 0.1))  # no spread, as the pairs have none


def test_ends_of_the_ranges_are_warned_of():
    plan = a_plan(rates=(0.01, 0.1), penalties=(0.1, 0.2))
    runs = [("adamw", 0.0, [{}] * 2)]
    runs += [("adamw-plain", p, [{"zero": int(20 * p)}] * 2) for p in (0.1, 0.2)]
    whole = replace(found(plan, *runs), tried=(findings.Tried("adamw", 0.01, 0.3),))
    said = findings.warnings(whole)
    assert "The learning rate of AdamW, 0.01, is an end of those tried" in said
    assert "The penalty chosen for AdamW, plain metric is the largest tried" in said


def test_the_best_rate_is_that_of_lowest_mean_loss_and_a_diverged_one_is_none():
    plan = a_plan(rates=(0.1, 0.2, 0.3), tuning_seeds=2)
    losses = {0.1: (0.5, 0.1), 0.2: (0.25, 0.25), 0.3: (0.0, None)}
    results = [
        a_result(plan, "adamw", 0.0, 0, validation_loss=loss)
        for two in losses.values()
        for loss in two
    ]
    rates = [rate for rate in losses for _ in range(2)]
    results = [
        replace(result, setting=replace(result.setting, lr=rate))
        for result, rate in zip(results, rates, strict=True)
    ]
    tried = findings.tried_rates(results)
    assert [(each.lr, each.loss) for each in tried] == [(0.1, 0.3), (0.2, 0.25), (0.3, None)]
    assert findings.best_rates(plan, tried) == {"adamw": 0.2}
    assert findings.best_rates(plan, ()) == {"adamw": 0.1}


def test_the_page_the_table_and_the_json_say_the_same():
    whole = three_penalties(a_plan())
    rows = list(csv.DictReader(io.StringIO(pages.as_csv(whole))))
    assert [row["chosen"] for row in rows] == ["0", "0", "1", "0"]
    assert [float(row["zero_share"]) for row in rows] == [0.0, 0.2, 0.45, 0.5]
    told = json.loads(pages.as_json(whole, "gradmem sparsify digits"))
    assert [point["share"]["mean"] for point in told["points"]] == [0.0, 0.2, 0.45, 0.5]
    assert [point["chosen"] for point in told["points"]] == [False, False, True, False]
    assert [run["seed"] for run in told["points"][0]["runs"]] == [100, 101]
    page = pages.markdown(whole, "gradmem sparsify digits")
    assert "| AdamW, plain metric | 0.2 | 45% (0 to 100) | 45% (0 to 100) | 85.00" in page
    assert "    gradmem sparsify digits\n" in page


def test_the_figure_has_every_point_but_those_far_below():
    whole = three_penalties(a_plan())
    svg = figure.draw(whole)
    assert svg == figure.draw(whole)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    for text in ("AdamW", "plain metric", "no penalty", "zero channels, % of the hidden ones"):
        assert f">{text}</text>" in svg


# Methods, penalties, rates ------------------------------------------------------------------------


def test_a_base_comes_once_and_before_its_methods():
    names = [each.name for each in get_methods(["adam-plain", "adamw-plain", "adam-diagonal"])]
    assert names == ["adam", "adam-plain", "adamw", "adamw-plain", "adam-diagonal"]
    assert len(get_methods(None)) == 8
    assert all(METHODS[name].name == name for name in METHODS)


def test_ranges_are_even_on_the_logarithm_and_of_three_digits():
    assert parse_penalties(["1:100:5"])["plain"] == (1.0, 3.16, 10.0, 31.6, 100.0)
    ranges = parse_penalties(["plain=0.5:0.5:1", "diagonal=1e-4:1e-2"])
    assert ranges["plain"] == (0.5,)
    assert len(ranges["diagonal"]) == 6
    assert ranges["subgradient"] == parse_penalties([])["subgradient"]


def test_rates():
    assert parse_rates(None) == RATES
    assert parse_rates("0.1,1e-3,0.1") == (0.001, 0.1)
    with pytest.raises(ConfigError, match="finite numbers above 0"):
        parse_rates("inf")


def test_every_part_of_a_setting_makes_it_another_run():
    plan = a_plan()
    setting = plan.setting(Method("adamw", "plain"), 0.1, 0.01, 100, "evaluate")
    changes = {
        "task": "mnist",
        "task_version": 9,
        "examples": 5,
        "purpose": "tune",
        "method": "adamw",
        "regularizer": "group_linf",
        "penalty": 0.2,
        "lr": 0.02,
        "seed": 3,
        "epochs": 7,
        "batch_size": 1,
        "threshold": 0.5,
        "versions": {},
        "format": 0,
    }
    assert set(changes) == set(vars(setting))
    names = {name_of(replace(setting, **{key: value})) for key, value in changes.items()}
    assert len(names | {name_of(setting)}) == len(changes) + 1


def test_the_threshold_is_in_learning_rates_and_of_subgradients_alone():
    plan = a_plan(threshold=2.0)
    thresholds = {
        kind: plan.setting(Method("adamw", kind), 0.1, 0.01, 100, "evaluate").threshold
        for kind in ("none", "diagonal", "plain", "subgradient")
    }
    assert thresholds == {"none": 0.0, "diagonal": 0.0, "plain": 0.0, "subgradient": 0.02}
