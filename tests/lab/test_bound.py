"""gradmem bound: the problems' constants, the runs, what is claimed of them, and the command."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import approx_fprime
from typer.testing import CliRunner

from gradmem.lab.bound import findings, noise, pages, problems, simulate, sources
from gradmem.lab.bound.findings import Findings
from gradmem.lab.bound.noise import METHODS, RATES, NoisePlan
from gradmem.lab.bound.plan import Plan, guarantee
from gradmem.lab.bound.sources import Source, logistic, make, quadratic
from gradmem.lab.cli import app
from gradmem.lab.drawing import spread

from .test_libsvm import DATA
from .test_report import Links


def small_logistic(*, dense=True, l2=0.05):
    rng = np.random.default_rng(1)
    features = rng.standard_normal((40, 6)) * (rng.random((40, 6)) < 0.5)
    labels = np.where(rng.random(40) < 0.4, 1.0, -1.0)
    given = features if dense else sparse.csr_matrix(features)
    return logistic("small", "small", given, labels, l2, standardise=False)


def found(problem, plan=None, steps=300):
    plan = plan or Plan()
    promise = guarantee(problem, plan)
    return Findings(
        problem, plan, promise, tuple(simulate.everything(problem, plan, promise, steps))
    )


def call(*arguments):
    result = CliRunner().invoke(app, ["bound", *(str(argument) for argument in arguments)])
    return result.exit_code, " ".join(result.output.split())


# Problems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [quadratic(7, 20.0, 3), small_logistic()], ids=lambda p: p.name)
def test_gradient_and_curvature_are_the_derivatives(problem):
    x = np.random.default_rng(0).standard_normal(problem.start.size)
    value, gradient = problem.value_and_gradient(x)
    assert value == pytest.approx(problem.value(x), rel=1e-14)
    np.testing.assert_allclose(gradient, approx_fprime(x, problem.value, 1e-7), atol=1e-5)
    v = np.ones_like(x)
    slope = (problem.value_and_gradient(x + 1e-6 * v)[1] - gradient) / 1e-6
    np.testing.assert_allclose(problem.curvature_times(x, v), slope, atol=1e-5)


def test_values_of_several_points_are_those_of_each():
    problem = small_logistic()
    points = np.random.default_rng(0).standard_normal((5, 6))
    together = problem.values(points, points @ problem.matrix.T)
    np.testing.assert_allclose(together, [problem.value(x) for x in points], rtol=1e-14)


def test_dense_and_sparse_are_the_same_function():
    dense, thin = small_logistic(), small_logistic(dense=False)
    assert sparse.issparse(thin.matrix)
    assert thin.constants == pytest.approx(dense.constants, rel=1e-12)
    np.testing.assert_allclose(thin.minimum.point, dense.minimum.point, atol=1e-12)


def test_eigenvalues_by_iteration_agree_with_the_exact_ones(monkeypatch):
    for matrix in (quadratic(40, 300.0, 0).matrix, small_logistic(dense=False).matrix):
        exact = problems.extreme_eigenvalues(matrix)
        monkeypatch.setattr(problems, "DENSE_EIGENVALUES", 2)
        iterated = problems.extreme_eigenvalues(matrix)
        monkeypatch.undo()
        assert iterated == pytest.approx(exact, rel=1e-9)
        assert iterated[0] >= exact[0] * (1 - 1e-14)  # errs outwards
        assert iterated[1] <= exact[1] * (1 + 1e-12)


def test_a_quadratic_has_the_condition_asked_for():
    problem = quadratic(12, 80.0, 5)
    assert problem.smoothness == pytest.approx(1.0)
    assert problem.smoothness / problem.strong_convexity == pytest.approx(80.0)
    assert problem.value(problem.minimum.point) < 1e-28
    assert quadratic(1, 1.0, 0).constants == pytest.approx((1.0, 1.0))


def test_the_smoothness_of_a_logistic_regression_bounds_its_curvature_and_is_met_at_zero():
    problem = small_logistic()
    columns = [problem.curvature_times(np.zeros(6), e) for e in np.eye(6)]
    assert np.linalg.eigvalsh(columns)[-1] == pytest.approx(problem.smoothness, rel=1e-12)
    assert problem.strong_convexity == problem.l2


@pytest.mark.parametrize("name", ["breast-cancer", "digits"])
def test_the_minimum_has_no_gradient_and_says_how_exact_it_is(name, monkeypatch):
    problem = make(Source(name))
    least = problem.minimum
    monkeypatch.setattr(problems, "DENSE_EIGENVALUES", 2)  # by products alone
    np.testing.assert_allclose(make(Source(name)).minimum.point, least.point, atol=1e-12)
    assert np.linalg.norm(problem.value_and_gradient(least.point)[1]) < 1e-14
    assert least.accuracy < 1e-25
    assert 0 < problem.resolution < 1e-13
    nearby = least.point + 1e-6 * np.random.default_rng(0).standard_normal(least.point.size)
    assert problem.value(nearby) > least.value


def test_features_of_every_size_leave_the_minimum_exact_and_the_bound_true():
    result = found(make(Source("breast-cancer", standardise=False)), steps=50)  # L / mu is 4e6
    assert result.problem.minimum.accuracy < 1e-20
    assert all(result.holds(run) for run in result.runs)
    assert "</svg>" in pages.as_html(pages.bound_page(result))


def test_standardised_features_have_mean_zero_and_variance_one_and_constants_vanish():
    rng = np.random.default_rng(0)
    given = np.column_stack([5 + 3 * rng.standard_normal(50), np.full(50, 7.1)])
    problem = logistic("x", "x", given, np.ones(50), 0.1, standardise=True)
    np.testing.assert_allclose(problem.matrix.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(problem.matrix.std(axis=0), (1, 0), atol=1e-12)


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fifo", "top_norm"])
def test_the_memory_run_is_the_hand_loop(policy):
    problem, capacity, limit = quadratic(5, 10.0, 0), 3, 4
    plan = Plan(policy=policy, capacity=capacity, max_age=limit, decay=0.9)
    step = 0.2
    run = simulate.memory(problem, plan, step, 60)
    x, held = problem.start.copy(), []  # of [gradient, birth, priority]
    for t in range(60):
        value, g = problem.value_and_gradient(x)
        assert run.gaps[t] == pytest.approx(value, rel=1e-9)
        x = x - step * (g + sum((old for old, *_ in held), np.zeros(5))) / (len(held) + 1)
        expired = [i for i, (_, birth, _) in enumerate(held) if t + 1 - birth > limit]
        new = [g, t, np.linalg.norm(g)]
        if expired:
            held[expired[0]] = new
        elif len(held) < capacity:
            held.append(new)
        else:
            key = 1 if policy == "fifo" else 2
            worst = min(range(capacity), key=lambda i: held[i][key])
            if policy == "fifo" or new[2] > held[worst][2]:
                held[worst] = new
        for slot in held:
            slot[2] *= 0.9
    assert run.oldest == (capacity if policy == "fifo" else limit)


def test_the_adversaries_are_what_they_say():
    problem, plan, steps = quadratic(4, 5.0, 0), Plan(max_age=3, aggregate="sum"), 40
    promise = guarantee(problem, plan)
    assert (promise.w_min, promise.w_max) == (1.0, 2.0)
    run = simulate.adversary(problem, "oldest", promise, steps)
    points = [problem.start]
    for t in range(steps):
        gradient = problem.value_and_gradient(points[max(0, t - 3)])[1]
        points.append(points[-1] - promise.step * gradient)
    np.testing.assert_allclose(run.gaps, [problem.value(x) for x in points], rtol=1e-9)
    assert run.oldest == 3
    greedy = simulate.adversary(problem, "greedy", promise, steps)
    assert greedy.gaps[1] >= run.gaps[1] * (1 - 1e-12)


def test_a_greedy_adversary_does_harm_where_the_step_is_too_long():
    problem = quadratic(10, 20.0, 0)
    promise = guarantee(problem, Plan(step="0.2"))
    assert not promise.applies
    greedy = simulate.adversary(problem, "greedy", promise, 1000)
    assert np.isinf(greedy.gaps[-1])
    assert np.isfinite(simulate.descent(problem, Plan(), 0.2, 1000).gaps).all()


# What is claimed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["closed", "exact"])
@pytest.mark.parametrize("aggregate", ["mean", "sum", "mid"])
@pytest.mark.parametrize("name", ["quadratic", "breast-cancer"])
def test_the_bound_holds(name, aggregate, step):
    result = found(make(Source(name)), Plan(aggregate=aggregate, step=step), steps=400)
    assert result.promise.applies
    assert [run.kind for run in result.runs] == [
        *("memory", "oldest", "largest", "greedy"),
        "descent",
    ]
    for run in result.runs:
        assert result.holds(run)
        assert 0 < result.largest_ratio(run) < 1
        assert run.oldest <= 20


def test_the_table_has_the_ratios():
    result = found(quadratic(6, 10.0, 0), steps=50)
    table = findings.run_table(result)
    promise, gaps = result.promise, result.runs[0].gaps
    a = 1 - promise.step * promise.strong_convexity
    by_hand = max(gaps[t] / (a**t * gaps[0]) for t in range(1, 51))
    assert result.largest_ratio(result.runs[0]) == pytest.approx(by_hand, rel=1e-12)
    assert table.rows[0][:2] == ("SGD_C", f"{by_hand:.4f}")
    assert table.rows[-1][0] == "bound"
    assert float(table.rows[-1][2]) == pytest.approx(a**50 * gaps[0], rel=1e-2)
    assert {row[-1] for row in table.rows[:-1]} == {"yes"}


def test_a_run_above_the_bound_is_said_to_be_above_it():
    result = found(quadratic(6, 10.0, 0), steps=50)
    bad = replace(result.runs[0], gaps=result.runs[0].gaps * np.linspace(1, 9, 51))
    wrong = Findings(result.problem, result.plan, result.promise, (bad, *result.runs[1:]))
    assert wrong.holds(bad) is False
    assert "EXCEEDED" in findings.verdicts(wrong)[1]
    assert findings.run_table(wrong).rows[0][-1] == "NO"


def test_below_the_resolution_nothing_is_compared():
    result = found(small_logistic(l2=1.0), Plan(capacity=0), steps=200)
    assert result.bound[-1] < result.problem.resolution
    assert all(result.holds(run) and result.largest_ratio(run) < 1 for run in result.runs)
    assert findings.run_table(result).rows[0][2] == "below resolution"


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(momentum=0.5), "Momentum"),
        (Plan(kappa=-0.2, aggregate="sum"), "kappa=-0.2"),
        (Plan(max_age=None), "No age limit"),
        (Plan(optimizer="adam_c"), "Adam"),
        (Plan(optimizer="rmsprop_c"), "RMSprop"),
        (Plan(batch_size=8), "policy='top_norm'"),
        (Plan(batch_size=8, policy="fifo"), "Noisy gradients"),
        (Plan(step="0.5"), "longer than the proof covers"),
    ],
)
def test_where_the_theorem_does_not_apply_it_says_why_and_claims_nothing(plan, words):
    result = found(small_logistic(), plan, steps=30)
    said = " ".join(findings.verdicts(result))
    assert said.startswith("Nothing is guaranteed")
    assert words in said
    assert "Guaranteed" not in said
    assert all(result.holds(run) is None for run in result.runs)
    page = pages.as_html(pages.bound_page(result))
    assert ">bound<" not in page
    assert ("bound, not covered" in page) is result.promise.drawable


def test_fifo_needs_no_age_limit_and_capacity_zero_has_age_zero():
    assert guarantee(quadratic(4, 5.0, 0), Plan(policy="fifo", max_age=None)).age_limit == 10
    assert guarantee(quadratic(4, 5.0, 0), Plan(capacity=0)).age_limit == 0


# Noise -------------------------------------------------------------------------------------------


def test_the_noise_has_mean_zero():
    problem = quadratic(4, 10.0, 0)
    drawn = noise.noise(problem, np.random.default_rng(0), 400_000)
    assert np.abs(drawn.mean(axis=0)).max() < 0.005


def test_norm_based_selection_keeps_a_level_that_fifo_and_sgd_do_not():
    problem, plan = quadratic(4, 5.0, 0), NoisePlan(seeds=6, steps=1500)
    level = {method: noise.levels(problem, plan, method) for method in METHODS}
    for sgd, rate in zip(level["SGD"], RATES, strict=True):
        assert sgd.low < noise.sgd_level(problem, rate) < sgd.high
    assert level["SGD_C fifo"][-1].high < level["SGD_C fifo"][0].low
    assert level["SGD_C top_norm"][-1].low > 100 * level["SGD_C fifo"][-1].high
    assert level["SGD_C top_norm"][-1].mean > 0.5 * level["SGD_C top_norm"][0].mean


# Pages and command -------------------------------------------------------------------------------


def test_the_page_has_every_run_fetches_nothing_and_is_well_formed():
    result = found(quadratic(5, 10.0, 0), steps=100)
    page = pages.bound_page(result)
    text, drawn = pages.as_html(page), pages.as_picture(page)
    parsed = Links(text)
    assert parsed.open == []
    assert all(link.startswith("#") for link in parsed.links)
    assert "<script" not in text
    assert "@import" not in text
    assert "var(--" not in drawn
    assert not re.findall(r'(?:href|src)="(?!#)', drawn)
    for run in result.runs:
        assert text.count(f">{run.label}<") >= 3  # table and both figures
        assert drawn.count(f">{run.label}<") == 2
        assert run.label in pages.as_markdown(page)


def test_names_at_the_lines_are_apart():
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6, 0.7])
    assert spread([1.0, 1.0, 2.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])


@pytest.mark.parametrize("name", ["quadratic", "breast-cancer", "digits"])
def test_the_command_end_to_end(tmp_path, name):
    code, said = call(name, "--steps", 100, "--out", tmp_path)
    assert code == 0, said
    for words in ("Guaranteed (L = ", "All 5 runs kept within the bound", "SGD_C", "report.html"):
        assert words in said
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "figure.svg"}


def test_the_command_on_a_file_and_on_a_name(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{i % 2} 1:{rng.normal():.3f} 3:{rng.normal() + i % 2:.3f}" for i in range(30)]
    home = tmp_path / "libsvm"
    home.mkdir()
    (home / "mine").write_text("\n".join(rows))
    by_path = call(home / "mine", "--steps", 50, "--out", tmp_path / "a")
    by_name = call("mine", "--data", tmp_path, "--steps", 50, "--out", tmp_path / "b")
    assert by_path[0] == by_name[0] == 0, by_path
    first, second = ((tmp_path / x / "report.md").read_text() for x in "ab")
    assert first == second
    assert "logistic regression on mine, 30 examples, 3 features, l2 0.1" in first


def test_the_command_on_a_real_file(tmp_path):
    if not DATA.exists():
        pytest.skip(f"the LIBSVM files are not beside the repository, in {DATA.name}")
    code, said = call("a1a", "--data", DATA, "--steps", 100, "--out", tmp_path)
    assert code == 0
    assert "All 5 runs kept within the bound" in said


def test_the_noise_command(tmp_path):
    code, said = call("noise", "--seeds", 3, "--steps", 300, "--out", tmp_path)
    assert code == 0, said
    picture = (tmp_path / "figure.svg").read_text()
    assert all(f">{method}<" in picture and method in said for method in METHODS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a1a", "--data", "nowhere"], ["a1a.gz", "nowhere", "GRADMEM_DATA"]),
        (["quadratic", "--l2", 1], ["--l2 means nothing"]),
        (["digits", "--condition", 9], ["--condition means nothing"]),
        (["digits", "--l2", 0], ["l2 must be a finite number above 0"]),
        (["quadratic", "--condition", 0.5], ["at least 1, got 0.5"]),
        (["quadratic", "--step", "long"], ["step must be closed, exact or", "'long'"]),
        (["quadratic", "--step", "-1"], ["step must be closed, exact or"]),
        (["quadratic", "--steps", 0], ["steps must be from 1"]),
        (["quadratic", "--max-age", "old"], ["max age must be"]),
        (["quadratic", "--max-age", 0], ["max_age must be at least 1"]),
        (["quadratic", "--policy", "best"], ["policy must be one of"]),
        (["quadratic", "--optimizer", "adan"], ["unknown optimizer", "adam_c"]),
        (["quadratic", "--optimizer", "adam_c", "--momentum", 0.9], ["no momentum option"]),
        (["quadratic", "--batch-size", 8], ["--batch-size means nothing"]),
        (["quadratic", "--seeds", 3], ["--seeds is for"]),
        (["quadratic", "--seed", -1], ["seed must be at least 0"]),
        (["noise", "--policy", "fifo"], ["--policy means nothing"]),
        (["noise", "--seeds", 1], ["seeds must be at least 2"]),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, arguments, words):
    code, said = call(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_an_interruption_promises_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradmem.lab.bound.command.carry_out", interrupted)
    assert call("quadratic", "--out", tmp_path) == (130, "Interrupted; nothing is written.")


def test_a_matrix_too_large_to_standardise_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_DENSE", 100)
    with pytest.raises(ValueError, match="too large to standardise"):
        logistic("x", "x", sparse.csr_matrix((40, 6)), np.ones(40), 0.1, standardise=True)
