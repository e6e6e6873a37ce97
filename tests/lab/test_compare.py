from collections import Counter

import pytest

from gradmem.lab import compare as module
from gradmem.lab.compare import Plan, compare
from gradmem.lab.optimizers import OPTIMIZERS, get_optimizers
from gradmem.lab.run import train
from gradmem.lab.score import pairs
from gradmem.lab.store import Store
from gradmem.lab.tasks.digits import Digits
from gradmem.lab.tune import Tuned, trial_options

from .helpers import config, tiny_comparison, tiny_plan


def test_every_optimizer_gets_the_same_number_of_trials_and_seeds(tmp_path):
    events = []
    plan = tiny_plan("sgd", "sgd_c", "adam", trials=3, epochs=1)
    comparison = compare(plan, Store(tmp_path), events.append)
    counts = Counter((e.result.config.optimizer, e.result.config.purpose) for e in events)
    assert set(counts) == {(n, p) for n in ("sgd", "sgd_c", "adam") for p in ("tune", "evaluate")}
    assert {n for (_, purpose), n in counts.items() if purpose == "tune"} == {3}
    assert {n for (_, purpose), n in counts.items() if purpose == "evaluate"} == {2}
    assert len(events) == plan.runs == len(list(tmp_path.iterdir()))
    for each in comparison.results:
        assert each.tuned.best.validation_loss == min(
            trial.validation_loss for trial in each.tuned.trials
        )
        assert all(run.config.options == each.options for run in each.runs)
        tuning = {trial.config.seed for trial in each.tuned.trials}
        assert tuning.isdisjoint(run.config.seed for run in each.runs)


def test_a_second_comparison_runs_nothing(tmp_path, monkeypatch):
    first = tiny_comparison(tmp_path)
    monkeypatch.setattr(module, "train", None)
    events = []
    assert compare(first.plan, Store(tmp_path), events.append) == first
    assert all(event.reused for event in events)


def test_more_seeds_only_add_runs(tmp_path):
    tiny_comparison(tmp_path, "sgd")
    events = []
    compare(tiny_plan("sgd", seeds=3), Store(tmp_path), events.append)
    assert [event.reused for event in events] == [True] * 4 + [False]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_lie_in_the_space_and_make_the_optimizer(name):
    spec = OPTIMIZERS[name]
    rate = spec.learning_rate
    trials = trial_options(spec, 20)
    assert all(rate.low <= options["lr"] <= rate.high for options in trials)
    assert trials == trial_options(spec, 25)[:20]
    for options in trials:
        made = spec.build(Digits().model(0), options)
        assert {key: made.param_groups[0][key] for key in options} == options


@pytest.mark.parametrize("name", [name for name, spec in OPTIMIZERS.items() if spec.base])
def test_a_variant_is_tried_at_its_bases_settings(name):
    spec = OPTIMIZERS[name]
    base = trial_options(OPTIMIZERS[spec.base], 8)
    for ours, theirs in zip(trial_options(spec, 8), base, strict=True):
        assert theirs.items() <= ours.items()
        assert {"capacity", "decay", "aggregate", "kappa"} == ours.keys() - theirs.keys()


def test_a_best_rate_at_the_edge_is_warned_of():
    spec = OPTIMIZERS["adam"]
    at = {
        lr: Tuned(spec, (train(Digits(), config(purpose="tune", options={"lr": lr})),))
        for lr in (1.2e-4, 1e-2, 0.25)
    }
    assert at[1e-2].edge_warning() is None
    assert "edge" in at[1.2e-4].edge_warning()
    assert "edge" in at[0.25].edge_warning()


def test_pairs_are_families_or_else_all_against_the_first(tmp_path):
    def labels(*names):
        comparison = tiny_comparison(tmp_path, *names, trials=1, seeds=1, epochs=1)
        return [(base.spec.name, variant.spec.name) for base, variant in pairs(comparison)]

    assert labels("sgd", "adam_c", "adam") == [("adam", "adam_c")]
    assert labels("sgd", "adam") == [("sgd", "adam")]
    assert labels("adam_c") == []


@pytest.mark.parametrize("bad", [{"trials": 0}, {"seeds": -1}, {"epochs": 0}])
def test_a_plan_of_nothing_is_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        tiny_plan(**bad)


@pytest.mark.parametrize("names", [[], ["adan"], ["adam", "adam"]])
def test_names_are_checked(names):
    with pytest.raises(ValueError):
        get_optimizers(names)


def test_a_plan_counts_its_runs():
    assert Plan(Digits(), get_optimizers(["adam", "sgd"]), 3, 4, 5).runs == 14
