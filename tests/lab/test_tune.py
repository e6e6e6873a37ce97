import math
from dataclasses import replace

import optuna
import pytest
import torch

from gradmem.lab.claims import Claims
from gradmem.lab.errors import ConfigError, StoreError
from gradmem.lab.optimizers import OPTIMIZERS, available, get_optimizers
from gradmem.lab.run import broken_off, train
from gradmem.lab.search import Search, SearchPlan, Storage
from gradmem.lab.spaces import Choice, LogUniform, one_of, overridden
from gradmem.lab.study import Study
from gradmem.lab.tune import Trial, Tuned, trial_options

from .helpers import Line, Told, carried_out, config, contents, tiny_plan

NAMES = [spec.name for spec in available()]
TPE = SearchPlan("tpe", startup=2)


@pytest.mark.parametrize("name", NAMES)
def test_settings_lie_in_the_space_and_make_the_optimizer(name):
    spec = OPTIMIZERS[name]
    rate = spec.learning_rate
    trials = trial_options(spec, 20)
    assert all(rate.low <= options["lr"] <= rate.high for options in trials)
    assert trials == trial_options(spec, 25)[:20]
    for options in trials:
        layers = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(2)))
        made = spec.build(layers, options)
        group = made.param_groups[0]
        for key, value in options.items():
            assert key not in group or group[key] in (value, tuple_of(value))
        assert "lr" in group
        assert hasattr(made, "memory_report") == (spec.base is not None)


def tuple_of(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIMIZERS[name].base])
def test_a_variant_is_tried_at_its_bases_settings(name):
    spec = OPTIMIZERS[name]
    base = trial_options(OPTIMIZERS[spec.base], 8)
    for ours, theirs in zip(trial_options(spec, 8), base, strict=True):
        shared = {key: value for key, value in theirs.items() if key in ours}
        assert shared.items() <= ours.items()
        assert theirs.keys() - shared.keys() <= {"nesterov"}  # critical momenta have none
        assert {"capacity", "decay", "kappa", "policy"} <= ours.keys() - theirs.keys()


def test_the_memory_space_has_kappa_of_both_signs_and_several_policies():
    tried = trial_options(OPTIMIZERS["adam_c"], 64)
    assert {options["kappa"] for options in tried} >= {1.0, 0.25, -0.25}
    assert {options["policy"] for options in tried} == {"top_norm", "fifo"}
    assert {options["capacity"] for options in tried} == {5, 10, 20}
    assert not any(o["aggregate"] == "mean" and o["kappa"] < 0 for o in tried)


@pytest.mark.parametrize("name", NAMES)
def test_optuna_gives_back_the_setting_it_was_given(name):
    spec = OPTIMIZERS[name]
    for options in trial_options(spec, 16):
        again = {}
        for dimension in spec.space:
            value = dimension.value(options)
            assert dimension.distribution()._contains(
                dimension.distribution().to_internal_repr(value)
            )
            again |= dimension.options(value)
        assert again == options


def test_a_momentum_is_uniform_on_its_distance_to_one():
    momentum = LogUniform("momentum", 0.5, 0.995, below_one=True)
    middle = momentum.at(0.5)["momentum"]
    assert 1 - middle == pytest.approx(math.sqrt(0.5 * 0.005), rel=1e-3)
    assert momentum.at(0.0) == {"momentum": 0.5}
    assert [momentum.at_edge({"momentum": m}) for m in (0.52, middle, 0.994)] == [True, False, True]


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (-1.0, 1.0)])
def test_an_empty_range_is_refused(low, high):
    with pytest.raises(ConfigError, match="the range of lr must have 0 < low < high"):
        LogUniform("lr", low, high)


def test_a_momentum_of_one_is_refused():
    with pytest.raises(ConfigError, match="0 <= low < high < 1"):
        LogUniform("momentum", 0.5, 1.0, below_one=True)


def tuned_at(name, loss=1.0, **changes):
    spec = OPTIMIZERS[name]
    options = {**spec.options_at([0.5] * len(spec.space)), **changes}
    run = train(Line(), config(task="line", purpose="tune", optimizer="adam", options={"lr": 0.01}))
    run = replace(run, config=replace(run.config, options=options), validation_loss=loss)
    return Tuned(spec, (Trial((run,)),))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("adam", {}, None),
        ("adam", {"lr": 3.5e-5}, "best learning rate, 3.5e-05, lies at the edge"),
        ("adam", {"lr": 0.28}, "edge"),
        ("adam", {"eps": 9e-4}, "best eps, 0.0009, lies at the edge"),
        ("adam", {"eps": 1.1e-8}, None),  # as good as nothing
        ("sgdm", {"momentum": 0.989}, "--space sgdm.momentum=LOW:HIGH"),
        ("adam_c", {"lr": 0.28}, "--space adam.lr=LOW:HIGH"),
    ],
)
def test_a_best_point_at_the_edge_is_warned_of(name, changes, words):
    warnings = tuned_at(name, **changes).warnings()
    assert len(warnings) == (words is not None)
    assert words is None or words in warnings[0]


@pytest.mark.parametrize(
    ("name", "rate", "kappa", "warned"),
    [
        ("sgd_c", 30.0, 1.0, False),
        ("sgd_c", 60.0, 1.0, True),
        ("sgd_c", 60.0, -0.25, False),
        ("adam_c", 0.2, 1.0, False),  # scales its gradient away
    ],
)
def test_a_base_must_have_been_tried_at_what_sum_makes_of_the_rate(name, rate, kappa, warned):
    tuned = tuned_at(name, lr=rate, aggregate="sum", kappa=kappa)
    said = [line for line in tuned.warnings() if "beyond what its base was tried at" in line]
    assert bool(said) == warned


def test_if_no_trial_succeeded_that_is_the_warning():
    run = config(task="line", purpose="tune", options={"lr": 0.01})
    failed = broken_off(Line(), run, "crashed", "Traceback\nValueError: no")
    tuned = Tuned(OPTIMIZERS["adam"], (Trial((failed,)),))
    assert tuned.warnings() == ["Adam: no trial succeeded (1 crashed): ValueError: no"]


def test_a_trial_of_which_a_run_failed_has_failed():
    run = config(task="line", purpose="tune", options={"lr": 0.01})
    good = train(Line(), run)
    bad = broken_off(Line(), run, "diverged", None)
    trial = Trial((good, bad))
    assert (trial.status, trial.validation_loss) == ("diverged", math.inf)


# What the user wants searched instead


def test_spaces_are_overridden():
    space = OPTIMIZERS["adam_c"].space
    assert overridden(space, "lr", {"low": 1e-6, "high": 1.0})[0] == LogUniform("lr", 1e-6, 1.0)
    assert one_of("policy", "random") in overridden(space, "policy", "random")
    assert one_of("capacity", 1, 2) in overridden(space, "capacity", [1, 2])
    kappa = overridden(space, "kappa", [-1.0, 2.0])
    assert kappa[-1] == one_of("kappa", -1.0, 2.0)
    assert Choice(({"aggregate": "mean"}, {"aggregate": "sum"})) in kappa
    assert overridden(space, "max_age", 50)[-1] == one_of("max_age", 50)


def test_a_bases_space_is_its_variants_too():
    wanted = {"adam": {"lr": {"low": 1e-2, "high": 1e-1}}, "adam_c": {"capacity": [3]}}
    base, variant = get_optimizers(["adam", "adam_c"], wanted)
    assert base.learning_rate == variant.learning_rate == LogUniform("lr", 1e-2, 1e-1)
    assert {o["capacity"] for o in trial_options(variant, 9)} == {3}
    for ours, theirs in zip(trial_options(variant, 4), trial_options(base, 4), strict=True):
        assert theirs.items() <= ours.items()


def test_a_rate_held_fixed_is_no_dimension_to_search():
    (spec,) = get_optimizers(["adam"], {"adam": {"lr": 0.01}})
    assert spec.learning_rate is None
    assert {options["lr"] for options in trial_options(spec, 5)} == {0.01}


@pytest.mark.parametrize("spaces", [{"adan": {"lr": 1}}, {"adam": {"lr": {"low": 2, "high": 1}}}])
def test_a_wrong_space_is_refused(spaces):
    with pytest.raises(ConfigError):
        get_optimizers(["adam"], spaces)


# TPE, and the studies that Optuna keeps


def open_search(folder, plan=TPE, trials=8, url=None):
    claims = Claims(folder / "claims")
    return Search(OPTIMIZERS["adam"], plan, trials, Storage(folder, url, claims.deciding), "study")


def trial_at(options):
    """As if the best learning rate were 0.01."""
    run = config(task="line", purpose="tune", options=options)
    loss = abs(math.log(options["lr"] / 0.01))
    return Trial((replace(broken_off(Line(), run, "ok", None), validation_loss=loss),))


def searched(folder, trials, reopen=False, **options):
    search, tried = open_search(folder, trials=trials, **options), []
    for slot in range(trials):
        if reopen:
            search = open_search(folder, trials=trials, **options)
        tried.append(search.decide(slot))
        assert not search.is_told(slot)
        search.finish(slot, trial_at(tried[-1]))
        assert search.is_told(slot)
    return tried


def test_tpe_begins_with_the_quasi_random_points_and_then_comes_closer(tmp_path):
    tried = searched(tmp_path, 30, plan=SearchPlan("tpe", startup=10))
    points = trial_options(OPTIMIZERS["adam"], 30)
    assert tried[:10] == points[:10]

    def distance(options):
        return sum(abs(math.log(each["lr"] / 0.01)) for each in options)

    assert distance(tried[20:]) < 0.7 * distance(points[20:])


@pytest.mark.parametrize("url", [None, "sqlite:///{}/study.db"])
def test_tpe_chooses_the_same_however_often_it_is_started(tmp_path, url):
    once, again = tmp_path / "once", tmp_path / "again"
    again.mkdir()
    assert searched(once, 8) == searched(again, 8, reopen=True, url=url and url.format(again))


def test_a_setting_is_decided_once(tmp_path):
    search = open_search(tmp_path)
    for slot in range(4):
        search.finish(slot, trial_at(search.decide(slot)))
    pending = search.decide(4)
    search.finish(5, trial_at(search.decide(5)))
    # More is known by now, but the trial that was begun stays the same.
    other = open_search(tmp_path)
    assert other.known(4) == other.decide(4) == pending
    assert other.known(6) is None


def test_the_study_is_one_that_optuna_reads(tmp_path):
    plan = tiny_plan("adam", "sgd", task=Line(), trials=3, seeds=0)
    study = Study(plan, tmp_path)
    study.work(Told())
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    for spec, tuned in zip(plan.optimizers, study.tuned(), strict=True):
        read = optuna.load_study(study_name=plan.search_name(spec), storage=storage)
        assert [trial.value for trial in read.trials] == [
            trial.validation_loss for trial in tuned.trials
        ]
        assert read.best_params["lr"] == tuned.best.options["lr"]


def test_what_was_run_under_another_search_is_told_to_this_one(tmp_path):
    carried_out(tiny_plan("adam", task=Line(), trials=4, seeds=1), tmp_path)
    _, told = carried_out(tiny_plan("adam", task=Line(), trials=4, seeds=1, search=TPE), tmp_path)
    fresh, _ = carried_out(
        tiny_plan("adam", task=Line(), trials=4, seeds=1, search=TPE), tmp_path / "fresh"
    )
    assert [event.reused for event in told.events[:4]] == [True, True, False, False]
    ours, theirs = contents(tmp_path / "runs"), contents(tmp_path / "fresh" / "runs")
    assert theirs.items() <= ours.items()
    assert fresh.results[0].tuned.trials


def test_a_lost_journal_is_made_again_from_the_runs(tmp_path):
    plan = tiny_plan("adam", task=Line(), trials=6, seeds=1, search=TPE)
    first, _ = carried_out(plan, tmp_path)
    (tmp_path / "journal.log").unlink()
    again, told = carried_out(plan, tmp_path)
    assert again == first
    assert told.begun == []


def test_half_a_line_in_the_journal_is_cut_off(tmp_path):
    plan = tiny_plan("adam", task=Line(), trials=3, seeds=1)
    first, _ = carried_out(plan, tmp_path)
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code":4,"worker')
    more = tiny_plan("adam", task=Line(), trials=4, seeds=1)
    second, told = carried_out(more, tmp_path)
    assert second.results[0].tuned.trials[:3] == first.results[0].tuned.trials
    assert open_study(tmp_path, more).trials[3].state == optuna.trial.TrialState.COMPLETE
    assert len(told.begun) <= 2


def open_study(folder, plan):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=plan.search_name(plan.optimizers[0]), storage=storage)


def test_a_damaged_journal_is_a_sentence(tmp_path):
    (tmp_path / "journal.log").write_text('nonsense\n{"op_code":0}\n')
    with pytest.raises(StoreError, match=r"journal.log is damaged .* finished runs are kept"):
        open_search(tmp_path).decide(0)


def test_a_data_base_that_cannot_be_used_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="the storage 'nonsense://x' cannot be used"):
        open_search(tmp_path, url="nonsense://x").decide(0)


def test_quasi_random_settings_need_no_study(tmp_path):
    search = open_search(tmp_path, SearchPlan("halton"))
    assert search.known(3) == trial_options(OPTIMIZERS["adam"], 8)[3]
    assert list(tmp_path.iterdir()) == []


def test_diverged_trials_count_as_infinite_and_crashed_ones_not_at_all(tmp_path):
    search = open_search(tmp_path)
    for slot, status in enumerate(("diverged", "crashed", "timeout")):
        run = config(task="line", purpose="tune", options=search.decide(slot))
        search.finish(slot, Trial((broken_off(Line(), run, status, None),)))
    states = [(t.state.name, t.values) for t in search._study.trials]
    assert states == [("COMPLETE", [math.inf]), ("FAIL", None), ("FAIL", None)]
    assert search.decide(3)
