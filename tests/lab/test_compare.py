import math
from collections import Counter
from dataclasses import replace

import pytest

from gradmem.lab import study as module
from gradmem.lab.compare import Plan
from gradmem.lab.errors import CrashedError, NoResultsError
from gradmem.lab.optimizers import get_optimizers
from gradmem.lab.score import pairs
from gradmem.lab.study import Study
from gradmem.lab.tasks.digits import Digits

from .helpers import Line, Told, carried_out, contents, tiny_comparison, tiny_plan


def test_every_optimizer_gets_the_same_number_of_trials_and_seeds(tmp_path):
    plan = tiny_plan("sgd", "sgd_c", "adam", trials=3, epochs=1)
    comparison, told = carried_out(plan, tmp_path)
    counts = Counter((e.result.config.optimizer, e.result.config.purpose) for e in told.events)
    assert set(counts) == {(n, p) for n in ("sgd", "sgd_c", "adam") for p in ("tune", "evaluate")}
    assert {n for (_, purpose), n in counts.items() if purpose == "tune"} == {3}
    assert {n for (_, purpose), n in counts.items() if purpose == "evaluate"} == {2}
    assert len(told.events) == plan.runs == len(list((tmp_path / "runs").iterdir()))
    for each in comparison.results:
        assert each.tuned.best.validation_loss == min(
            trial.validation_loss for trial in each.tuned.trials
        )
        assert all(run.config.options == each.options for run in each.runs)
        tuning = {run.config.seed for trial in each.tuned.trials for run in trial.runs}
        assert tuning.isdisjoint(run.config.seed for run in each.runs)


def test_a_second_comparison_runs_nothing(tmp_path, monkeypatch):
    first = tiny_comparison(tmp_path)
    monkeypatch.setattr(module, "train", None)
    second, told = carried_out(first.plan, tmp_path)
    assert second == first
    assert all(event.reused for event in told.events)


def test_more_seeds_only_add_runs(tmp_path):
    tiny_comparison(tmp_path, "sgd")
    _, told = carried_out(tiny_plan("sgd", seeds=3), tmp_path)
    assert [event.reused for event in told.events] == [True] * 4 + [False]


def test_several_tuning_seeds_are_averaged(tmp_path):
    plan = tiny_plan("adam", task=Line(), tuning_seeds=3, trials=4)
    comparison, told = carried_out(plan, tmp_path)
    assert len(told.begun) == plan.runs == 14
    (tuned,) = [each.tuned for each in comparison.results]
    for trial in tuned.trials:
        assert [run.config.seed for run in trial.runs] == [0, 1, 2]
        assert len({str(run.config.options) for run in trial.runs}) == 1
        losses = [run.validation_loss for run in trial.runs]
        assert trial.validation_loss == pytest.approx(sum(losses) / 3)
    assert tuned.best.validation_loss == min(t.validation_loss for t in tuned.trials)


class Fragile(Line):
    """Crashes where ``breaks`` says so."""

    def __init__(self, breaks):
        self.breaks = breaks

    def loss(self, model, batch):
        if self.breaks(model):
            raise RuntimeError("the loss is broken")
        return super().loss(model, batch)


def test_some_crashes_are_counted_and_do_not_stop_the_study(tmp_path):
    begun = []

    def every_third(model):
        if not model.logged:
            begun.append(model)
        return len(begun) % 3 == 0

    task = Fragile(every_third)
    comparison, told = carried_out(tiny_plan(task=task, trials=4, seeds=3), tmp_path)
    crashed = [e.result for e in told.events if e.result.status == "crashed"]
    assert len(crashed) == 14 // 3
    for run in crashed:
        assert run.reason == "RuntimeError: the loss is broken"
        assert "test_compare.py" in run.error
        assert run.validation_loss == math.inf
        assert run.validation_score == 9.0
        assert run.test_score in (None, 9.0)
    assert all(each.tuned.best.status == "ok" for each in comparison.results)


def test_if_every_run_crashes_the_study_stops_with_a_sentence(tmp_path):
    told = Told()
    plan = tiny_plan(task=Fragile(lambda model: True), trials=8)
    with pytest.raises(CrashedError, match=r"the loss is broken.*--retry-crashed"):
        Study(plan, tmp_path).work(told)
    assert len(told.begun) == 5  # then it is clear enough


def test_crashes_for_many_reasons_are_no_reason_to_stop_early(tmp_path):
    begun = []

    class Fickle(Line):
        def loss(self, model, batch):
            if not model.logged:
                begun.append(model)
            if len(begun) <= 7:
                raise RuntimeError(f"the {len(begun)}th")
            return super().loss(model, batch)

    comparison, _ = carried_out(tiny_plan("adam", task=Fickle(), trials=9), tmp_path)
    assert comparison.results[0].tuned.count("crashed") == 7
    assert comparison.results[0].tuned.best.status == "ok"


def test_crashed_runs_are_made_again_when_asked_for(tmp_path):
    broken = tiny_plan("adam", task=Fragile(lambda model: True))
    with pytest.raises(CrashedError):
        Study(broken, tmp_path).work(Told())
    mended = tiny_plan("adam", task=Line())
    with pytest.raises(CrashedError):
        Study(mended, tmp_path).work(Told())
    comparison, told = carried_out(mended, tmp_path, retry_before=math.inf)
    assert len(told.begun) == mended.runs
    assert all(run.status == "ok" for each in comparison.results for run in each.runs)


def test_a_run_that_timed_out_is_made_again_with_a_longer_limit_only(tmp_path):
    short = tiny_plan("adam", task=Line(), timeout=1e-9)
    comparison, told = carried_out(short, tmp_path)
    assert {event.result.status for event in told.events} == {"timeout"}
    assert comparison.results[0].tuned.warnings() == ["Adam: no trial succeeded (2 timeout)"]
    for limit, again in ((1e-9, 0), (1e-10, 0), (600.0, short.runs), (None, 0)):
        _, told = carried_out(replace(short, timeout=limit), tmp_path)
        assert len(told.begun) == again
    assert {event.result.status for event in told.events} == {"ok"}


def test_a_report_before_its_time_says_what_is_missing(tmp_path):
    study = Study(tiny_plan(task=Line(), trials=3), tmp_path)
    with pytest.raises(NoResultsError, match=r"6 of 6 trials .* gradmem resume"):
        study.comparison()
    Study(tiny_plan(task=Line(), trials=3, seeds=0), tmp_path).work(Told())
    with pytest.raises(NoResultsError, match="no fresh seed is finished"):
        study.comparison()


def test_an_unfinished_study_is_reported_on_the_seeds_all_have_finished(tmp_path):
    plan = tiny_plan(task=Line(), seeds=4)
    whole, _ = carried_out(plan, tmp_path)
    gone = whole.results[1].runs[2].config
    study = Study(plan, tmp_path)
    study.store.path(gone).unlink()
    part = study.comparison()
    assert part.outstanding == 1
    assert part.plan.seeds == 2
    for ours, theirs in zip(part.results, whole.results, strict=True):
        assert ours.runs == theirs.runs[:2]


def test_the_runs_of_one_folder_do_not_depend_on_what_was_run_before(tmp_path):
    carried_out(tiny_plan("adam", task=Line()), tmp_path / "a")
    carried_out(tiny_plan("sgd", "adam", task=Line()), tmp_path / "b")
    alone, beside = (contents(tmp_path / name / "runs") for name in "ab")
    assert alone.items() <= beside.items()


def test_pairs_are_families_or_else_all_against_the_first(tmp_path):
    def labels(*names):
        comparison = tiny_comparison(tmp_path, *names, trials=1, seeds=1, epochs=1, task=Line())
        return [(base.spec.name, variant.spec.name) for base, variant in pairs(comparison)]

    assert labels("sgd", "adam_c", "adam") == [("adam", "adam_c")]
    assert labels("sgd", "adam") == [("sgd", "adam")]
    assert labels("adam_c") == []


@pytest.mark.parametrize(
    "bad", [{"trials": 0}, {"seeds": -1}, {"epochs": 0}, {"tuning_seeds": 0}, {"tuning_seeds": 101}]
)
def test_a_plan_of_nothing_is_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} must be at (least|most) .* not {value}"):
        tiny_plan(**bad)


@pytest.mark.parametrize("names", [[], ["adan"], ["adam", "adam"]])
def test_names_are_checked(names):
    with pytest.raises(ValueError):
        get_optimizers(names)


def test_a_plan_counts_its_runs():
    assert Plan(Digits(), get_optimizers(["adam", "sgd"]), 3, 4, 5).runs == 14
