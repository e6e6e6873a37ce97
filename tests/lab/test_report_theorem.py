"""The theorem beside a comparison: what is covered, what is not and why, and the figure."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradmem.lab import figures
from gradmem.lab.bound import beside as besides
from gradmem.lab.bound import simulate
from gradmem.lab.bound.beside import beside
from gradmem.lab.bound.plan import Plan, guarantee
from gradmem.lab.bound.sources import quadratic
from gradmem.lab.errors import TaskError
from gradmem.lab.findings import findings
from gradmem.lab.report import html_page, markdown_page, picture, theorem
from gradmem.lab.tasks import get_task
from gradmem.lab.tune import Trial

from .synthetic import Made, comparison
from .test_libsvm import DATA
from .test_report import Links
from .test_tasks_convex import lines, separable

FIFO = {"policy": "fifo", "aggregate": "mean", "kappa": 1.0, "capacity": 5, "decay": 0.9}


pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """400 examples, so that a run of the made-up comparisons has 6 epochs of 13 steps."""
    path = tmp_path_factory.mktemp("file") / "mine"
    path.write_text(lines(*separable(400)))
    return get_task(f"libsvm:{path}")


def chosen(task, batch_size=None, **settings):
    """A comparison in which these optimizers' best settings are these."""
    made = comparison({name: [0.9] * 3 for name in settings}, task=task, batch_size=batch_size)

    def having(each):
        best = each.tuned.best.runs[0]
        options = best.config.options | settings[each.spec.name]
        run = replace(best, config=replace(best.config, options=options))
        return replace(each, tuned=replace(each.tuned, trials=(Trial((run,)),)))

    return replace(made, results=tuple(map(having, made.results)))


def rates(task, capacity=5):
    """Half the limits of the proof: without a memory, and with gradients so old."""
    smoothness = task.convex_problem().smoothness
    return 0.5 / smoothness, 0.5 / (smoothness * (capacity + 1))


def covered(task, **more):
    plain, old = rates(task)
    return chosen(task, sgd={"lr": plain}, sgd_c={"lr": old, **FIFO}, adam={"lr": 0.01}, **more)


def drawn(found):
    """The section's figures alone, which take less time than the page."""
    return "".join(theorem.panels(found))


def said(made):
    return " ".join(theorem.sentences(findings(made)))


# What is covered ---------------------------------------------------------------------------------


def test_where_the_assumptions_hold_the_bound_is_drawn_and_no_gap_is_above_it(task):
    found = findings(covered(task))
    about = found.theorem
    assert [each.covered for each in about.settings] == [True, True]
    for each in about.settings:
        result = each.found
        (run,) = result.runs
        assert result.steps == 6 * 13
        assert (run.gaps <= result.bound + result.problem.resolution).all()
        # the bound by hand
        steps = np.arange(result.steps + 1)
        by_hand = (1 - each.rate * 0.01) ** steps * run.gaps[0]
        np.testing.assert_allclose(result.bound, by_hand, rtol=1e-12)
        assert 0 < result.largest_ratio(run) < 1
    page = html_page(found)
    for name in ("SGD", "SGD_C"):
        assert f">{name}: bound<" in page
        assert f">{name}: bound<" in picture(found)
    assert "Full gradients: gap f(x) − f* by step" in page
    assert "Batches of 25: training loss less its minimum f*" in page
    assert Links(page).open == []
    assert Links(page).identities.count("theorem") == 1
    assert drawn(findings(covered(task))) == drawn(found)


def test_the_numbers_are_in_the_sentences(task):
    text, problem = said(covered(task)), task.convex_problem()
    plain, old = rates(task)
    for words in (
        "batches of 25 of the 320 training examples",
        f"L = {problem.smoothness:.4g}, mu = 0.01 and f* = {problem.minimum.value:.6g}",
        f"SGD is covered: its learning rate {plain:.4g} is at most {2 * plain:.4g}, "
        "the proof's limit without a memory",
        f"SGD_C is covered: its learning rate {old:.4g} is at most ",
        "with gradients up to 5 steps old and a total weight up to 1. Its gap",
        "for momentum or a scale of their own: Adam.",
    ):
        assert words in text
    assert text in " ".join(markdown_page(findings(covered(task))).split())


def test_the_batches_training_loss_is_drawn_above_the_minimum(task, monkeypatch):
    made = covered(task)
    least = task.convex_problem().minimum.value
    asked, curves = [], figures.curves
    monkeypatch.setattr(
        figures, "curves", lambda *given, less: asked.append((given[1], less)) or curves(*given)
    )
    theorem.panels(findings(made))
    monkeypatch.undo()
    assert asked == [("train_loss", least)]
    heights = []
    for less in (0.0, least):
        axes = Figure().add_subplot()
        figures.curves(made, "train_loss", less)(axes)
        heights.append(np.array([line.get_ydata() for line in axes.lines]))
    assert heights[0].shape == (3, 6)
    np.testing.assert_allclose(heights[0] - least, heights[1], rtol=1e-12)
    median = np.median([run.curves.train_loss for run in made.results[0].runs], axis=0)
    np.testing.assert_allclose(heights[0][0], median, rtol=1e-12)


def test_the_runs_are_the_settings_on_full_gradients(task):
    setting = beside(covered(task)).settings[0]
    problem, rate = setting.found.problem, rates(task)[0]
    x = problem.start.copy()
    for gap in setting.found.runs[0].gaps:
        assert gap == pytest.approx(problem.value(x) - problem.minimum.value, abs=1e-12)
        x = x - rate * problem.value_and_gradient(x)[1]


def test_a_run_above_its_bound_is_said_to_be_above_it(task):
    found = findings(covered(task))
    first, *rest = found.theorem.settings
    (run,) = first.found.runs
    bad = replace(run, gaps=run.gaps * np.linspace(1, 999, run.gaps.size))
    wrong = replace(first, found=replace(first.found, runs=(bad,)))
    found.__dict__["theorem"] = replace(found.theorem, settings=(wrong, *rest))
    text = " ".join(theorem.sentences(found))
    assert text.count("DID NOT: the theorem or this program is wrong") == 1


def test_a_batch_of_all_examples_is_what_the_theorem_is_about(task):
    text = said(covered(task, batch_size=500))
    assert "took all 320 training examples in every step" in text
    assert "batches of" not in text


# What is not -------------------------------------------------------------------------------------


BEYOND_REPAIR = [
    ("sgd", {"lr": 0.1, "momentum": 0.9}, ["Momentum (0.9)", "learning rate 0.1 would be short"]),
    ("sgd_c", {"lr": 0.01, **FIFO, "aggregate": "sum", "kappa": -0.25}, ["kappa=-0.25"]),
    ("sgd_c", {"lr": 0.01, **FIFO, "kappa": -1.0}, ["The total weight falls to -0.667"]),
]
TOP_NORM = {**FIFO, "policy": "top_norm"}
REPAIRED = [
    ("sgd", {"lr": 3.0}, ["The step 3 is longer than the proof covers, ", "without a memory"]),
    ("sgd_c", {"lr": 3.0, **FIFO}, ["The step 3 is longer", "gradients up to 5 steps old"]),
    (
        "sgd_c",
        {"lr": 0.01, **TOP_NORM},
        [
            "No age limit: policy='top_norm'",
            "learning rate 0.01 would be short enough, the proof's limit being 0.3337",
            "and max_age=5, it is covered",
        ],
    ),
    (
        "sgd_c",
        {"lr": 9.0, **TOP_NORM, "aggregate": "sum"},
        ["No age limit", "rate 9 would be too long", "weight up to 2."],
    ),
]
LABELS = {"sgd": "SGD", "sgd_c": "SGD_C"}


@pytest.mark.parametrize(("name", "options", "words"), [*BEYOND_REPAIR, *REPAIRED])
def test_where_an_assumption_fails_it_is_named_with_its_numbers(task, name, options, words):
    found = findings(chosen(task, **{name: options}))
    text = " ".join(theorem.sentences(found))
    assert f"{LABELS[name]} is not covered." in text
    assert all(word in text for word in words), text
    assert "With full gradients" in text
    assert f">{LABELS[name]}: bound<" not in drawn(found)


@pytest.mark.parametrize(("name", "options", "words"), BEYOND_REPAIR)
def test_where_another_step_would_not_do_there_is_no_bound(task, name, options, words):
    found = findings(chosen(task, **{name: options}))
    shown = drawn(found)
    assert ": bound<" not in shown
    assert "No setting is covered by the theorem" in shown


@pytest.mark.parametrize(("name", "options", "words"), REPAIRED)
def test_where_it_would_do_the_same_memory_is_run_at_the_theorems_step(task, name, options, words):
    found = findings(chosen(task, **{name: options}))
    (setting,) = found.theorem.settings
    inside = setting.inside
    (run,) = inside.runs
    assert inside.promise.applies
    weight, age = inside.promise.w_max, 5 if name == "sgd_c" else 0
    expected = 1 / (2 * weight * found.theorem.problem.smoothness * (age + 1))
    assert inside.promise.step == pytest.approx(expected)
    assert run.oldest <= age
    assert (run.gaps <= inside.bound + inside.problem.resolution).all()
    assert f">{LABELS[name]}, covered: bound<" in drawn(found)
    assert f"At the theorem's own step, lr={expected:.4g}" in " ".join(theorem.sentences(found))


def test_a_setting_that_diverges_is_said_to(task):
    text = said(chosen(task, sgd={"lr": 0.1, "momentum": 0.9}, sgd_c={"lr": 1e4, **FIFO}))
    assert text.count("it diverged.") == 1


def test_an_option_that_nobody_follows_is_not_run(task):
    found = findings(chosen(task, sgd={"lr": 0.1, "weight_decay": 0.1}))
    assert "SGD is not looked at. weight_decay=0.1 is none of the options" in said(found.comparison)
    assert theorem.drawings(found) == []
    assert len(theorem.panels(found)) == 1
    assert beside(chosen(task, sgd={"lr": 0.1, "weight_decay": 0})).settings[0].covered


def test_only_as_many_steps_as_time_allows(task, monkeypatch):
    monkeypatch.setattr(besides, "affordable", lambda problem: 7)
    found = findings(covered(task))
    assert "The first 7 of 78 steps" in drawn(found)
    assert "in 7 steps." in markdown_page(found)


def test_steps_are_fewer_for_a_larger_problem(task):
    problem = task.convex_problem()
    assert besides.affordable(problem) == besides.STEPS
    large = replace(problem, matrix=np.zeros((40_000, 100)))
    assert besides.affordable(large) == 500
    wide = replace(problem, start=np.zeros(50_000))
    assert besides.affordable(wide) < 1000


# Tasks -------------------------------------------------------------------------------------------


def test_other_tasks_and_other_optimizers_have_no_such_section(task, tmp_path):
    of_three = tmp_path / "three"
    of_three.write_text(lines(*separable(600, kinds=(1, 2, 3))))
    for made in (
        chosen(Made(), sgd={"lr": 0.1}),
        chosen(task, adam={"lr": 0.1}),
        chosen(get_task(f"libsvm:{of_three}"), sgd={"lr": 0.1}),
    ):
        found = findings(made)
        assert found.theorem is None
        assert theorem.sentences(found) == theorem.panels(found) == theorem.drawings(found) == []
        assert theorem.HEADING not in html_page(found) + markdown_page(found)


def test_a_report_without_the_data_at_hand_leaves_it_out(tmp_path):
    task = get_task("libsvm-a1a", tmp_path)  # whose runs are known by a checksum
    made = comparison({"sgd": [0.9] * 3}, task=task)
    assert beside(made) is None


def test_a_damaged_file_is_a_sentence(tmp_path):
    (tmp_path / "libsvm").mkdir()
    (tmp_path / "libsvm" / "a1a").write_text("1 1:1\n")
    made = comparison({"sgd": [0.9] * 3}, task=get_task("libsvm-a1a", tmp_path))
    with pytest.raises(TaskError, match="a1a is not the file it should be"):
        beside(made)


def test_with_a_free_intercept_mu_is_measured_along_the_run():
    task = get_task("breast-cancer")
    found = findings(covered(task))
    problem = found.theorem.problem
    for each in found.theorem.settings:
        result, (run,) = each.found, each.found.runs
        assert each.covered
        assert 0 < run.pl == result.promise.strong_convexity < problem.smoothness
        assert result.holds(run)
        assert 0 < result.largest_ratio(run) < 1
    # plain gradient descent by hand: the least ratio of the PL inequality
    x, ratios = problem.start.copy(), []
    first = found.theorem.settings[0]
    for _ in range(first.found.steps):
        value, gradient = problem.value_and_gradient(x)
        ratios.append(gradient @ gradient / (2 * (value - problem.minimum.value)))
        x = x - first.rate * gradient
    assert first.found.runs[0].pl == pytest.approx(min(ratios), rel=1e-6)
    text = " ".join(theorem.sentences(found))
    assert "no mu that is known beforehand, for the penalty leaves the intercept out" in text
    assert f"mu = {first.found.runs[0].pl:.4g} along the run" in text


def test_nobody_looks_for_mu_on_batches(task):
    problem = task.convex_problem()
    run = simulate.memory(problem, Plan(batch_size=5), 0.01, 20)
    assert math.isnan(run.pl)
    assert simulate.memory(problem, Plan(), 0.01, 20).pl >= problem.strong_convexity


@pytest.mark.parametrize("name", ["libsvm:a1a", "libsvm-a1a"])
def test_no_gap_is_above_the_bound_on_real_data(name):
    if not DATA.exists():
        pytest.skip(f"the LIBSVM files are not beside the repository, in {DATA.name}")
    made = covered(get_task(name, DATA))
    for each in beside(made).settings:
        result = each.found
        assert each.covered
        assert (result.runs[0].gaps <= result.bound + result.problem.resolution).all()
        assert result.runs[0].gaps[-1] < result.runs[0].gaps[0]


def test_a_step_beyond_one_over_mu_has_no_formula_to_draw():
    promise = guarantee(quadratic(3, 1.0, 0), Plan(step="1.5", capacity=0))
    assert not promise.applies
    assert not promise.drawable
