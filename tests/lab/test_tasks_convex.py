"""Any LIBSVM file as a task, the paper's two, and the function that their runs minimise."""

import bz2
import gzip

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import approx_fprime
from typer.testing import CliRunner

from gradmem.lab.bound import problems
from gradmem.lab.bound.problems import FreeIntercept, Logistic
from gradmem.lab.cli import app
from gradmem.lab.errors import TaskError
from gradmem.lab.session import check_task
from gradmem.lab.tasks import convex, evaluate, get_task, logistic
from gradmem.lab.tasks import sparse as rows_kept
from gradmem.lab.tasks.convex import Covtype, Rcv1
from gradmem.lab.tasks.sparse import SparseLinear, SparseRows

from .test_libsvm import DATA
from .test_tasks import digest, train

pytestmark = pytest.mark.usefixtures("single_thread")


def lines(features, labels):
    """A file's text, with indices from 1."""
    return "\n".join(
        f"{label:g} " + " ".join(f"{i}:{x:.6g}" for i, x in enumerate(row, 1) if x)
        for row, label in zip(features, labels, strict=True)
    )


def separable(count=400, kinds=(-1, 1), seed=0):
    """Points far from the boundaries, ordered by class as some files are."""
    rng = np.random.default_rng(seed)
    labels = np.sort(np.array(kinds)[np.arange(count) % len(kinds)])
    centres = 4 * np.eye(len(kinds), 3)[np.searchsorted(kinds, labels)]
    return centres + 0.5 * rng.standard_normal((count, 3)), labels


@pytest.fixture
def written(tmp_path):
    """Writes a file of this text and gives what names it as a task."""

    def write(text, name="mine"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"libsvm:{path}"

    return write


def sizes(task):
    parts = task.data()
    return len(parts.train), len(parts.validation), len(parts.test)


# What is read ------------------------------------------------------------------------------------


def test_a_file_is_a_task_in_the_papers_setting(written):
    task = get_task(written(lines(*separable(200))))
    assert task.name == "mine"
    assert task.title == (
        "LIBSVM file mine (200 examples, 3 features, standardised), logistic regression with "
        "L2 0.01"
    )
    assert (task.budget.epochs, task.budget.batch_size) == (25, 25)
    assert (task.penalty(), task.clip_norm) == (0.01, None)
    assert sizes(task) == (160, 20, 20)
    inputs = task.data().train.inputs
    assert inputs.mean(dim=0).abs().max() < 1e-5
    assert (inputs.std(dim=0, correction=0) - 1).abs().max() < 1e-4


def test_of_a_larger_file_5000_rows_are_drawn_of_every_class_and_always_the_same(written):
    name = written(lines(*separable(12_000)))  # the first 5,000 are of one class
    task, again = get_task(name), get_task(name)
    assert "(5,000 of 12,000 examples," in task.title
    assert sizes(task) == (4000, 500, 500)
    assert digest(task) == digest(again)
    for part in (task.data().train, task.data().validation, task.data().test):
        assert part.targets.double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_rows_are_drawn_by_a_fixed_seed():
    """Raise the version of the tasks if this has to change."""
    rows = convex.drawn(12_000)
    assert len(set(rows.tolist())) == 5000
    assert rows[:5].tolist() == [4954, 11999, 11041, 7532, 11966]
    assert convex.drawn(5000).tolist() == list(range(5000))


@pytest.mark.parametrize("kinds", [(-1, 1), (0, 1), (1, 2), (3, 7)])
def test_every_row_keeps_its_own_label(written, kinds):
    labels = np.array(kinds)[np.random.default_rng(1).integers(2, size=6000)]
    features = np.column_stack([np.arange(6000), labels])
    task = get_task(written(lines(features, labels)))
    for part in (task.data().train, task.data().validation, task.data().test):
        assert torch.equal(part.inputs[:, 1] > 0, part.targets == 1)


def learnt(task):
    _, model = train(task, steps=1000, epochs=10)
    return [evaluate(task, model, part)[1] for part in (task.data().validation, task.data().test)]


def test_labels_are_the_files_so_what_can_be_separated_is_learnt(written):
    features, labels = separable()
    assert min(learnt(get_task(written(lines(features, labels))))) > 0.95
    shuffled = np.random.default_rng(0).permutation(labels)  # as the authors' were, by mistake
    assert max(learnt(get_task(written(lines(features, shuffled), "shuffled")))) < 0.8


def test_more_than_two_classes_make_a_softmax_regression(written):
    task = get_task(written(lines(*separable(600, kinds=(-1, 2, 9)))))
    assert "3 classes, softmax regression with L2 0.01" in task.title
    assert task.model(0).out_features == 3
    assert min(learnt(task)) > 0.95
    assert task.convex_problem() is None


def test_too_many_features_stay_sparse_and_as_they_are(written, monkeypatch):
    monkeypatch.setattr(convex, "LARGEST_STANDARDISED", 1000)
    monkeypatch.setattr(rows_kept, "LARGEST_DENSE", 1000)
    features, labels = separable()
    wide = np.zeros((400, 50))
    wide[:, [0, 20, 49]] = features
    task = get_task(written(lines(wide, labels)))
    assert "50 features, as they are)" in task.title
    inputs = task.data().train.inputs
    assert isinstance(inputs, SparseRows)
    assert inputs.matrix.shape == (320, 50)
    assert inputs.matrix.nnz == 3 * 320
    assert inputs.matrix.data.max() == pytest.approx(features[features > 0].max(), abs=0.5)
    assert isinstance(task.model(0), SparseLinear)
    assert sparse.issparse(task.convex_problem().matrix)
    assert min(learnt(task)) > 0.95


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_name_is_looked_for_in_the_data_folder_and_packed_files_are_the_same_task(tmp_path, pack):
    text = lines(*separable(200)).encode()
    home = tmp_path / "libsvm"
    home.mkdir()
    (home / "plain.t").write_bytes(text)
    ending = {gzip.compress: ".gz", bz2.compress: ".bz2"}[pack]
    (home / f"packed.scale{ending}").write_bytes(pack(text))
    plain, packed = (get_task(f"libsvm:{name}", tmp_path) for name in ("plain.t", "packed.scale"))
    assert (plain.name, packed.name) == ("plain.t", "packed.scale")
    assert plain.versions() == packed.versions()
    assert digest(plain) == digest(packed)


def test_runs_of_an_earlier_text_are_not_taken_for_this_ones(written):
    first = get_task(written(lines(*separable(200)))).versions()
    second = get_task(written(lines(*separable(200, seed=1)))).versions()
    assert first != second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n1,2\n", ["mine, line 1", "is not 'label index:value ...'"]),
        ("", ["holds no examples"]),
        ("\n".join(["1 1:1"] * 40), ["one label alone (1)", "two classes"]),
        ("\n".join(f"{i / 8} 1:{i}" for i in range(1, 60)), ["labels such as 0.125", "to predict"]),
        (
            "\n".join(f"{i} 1:{i}" for i in range(60)),
            ["60 labels, and 0 on 1 of the 60 rows", "needs 10", "no task of this kind"],
        ),
        ("\n".join(f"{i % 2} 1:0" for i in range(40)), ["no features other than zero"]),
        ("\n".join(f"{i % 2}" for i in range(40)), ["no features other than zero"]),
        (b"BZh9 no such thing", ["truncated or damaged"]),
    ],
)
def test_what_is_no_classification_is_refused_in_a_sentence(written, tmp_path, text, words):
    name = written(text)
    with pytest.raises(ValueError) as raised:
        get_task(name)
    assert all(word in str(raised.value) for word in (*words, str(tmp_path / "mine")))
    result = CliRunner().invoke(app, ["compare", name, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("libsvm:", "has to be followed by a LIBSVM file"),
        ("libsvm:nothing", "nothing, nothing.gz, nothing.bz2"),
        ("libsvm:/no/such/file", "there is no file /no/such/file"),
    ],
)
def test_a_file_that_is_not_there_is_told_of(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        get_task(name, tmp_path)


# The paper's -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with made-up files of the form of covtype and rcv1."""
    home = tmp_path / "libsvm"
    home.mkdir()
    for task, file, kinds in (
        (Covtype, "covtype.libsvm.binary.scale", (1, 2)),
        (Rcv1, "rcv1_train.binary", (-1, 1)),
    ):
        monkeypatch.setattr(task, "shape", (6000, 3))
        (home / f"{file}.bz2").write_bytes(bz2.compress(lines(*separable(6000, kinds)).encode()))
    return tmp_path


@pytest.mark.parametrize("name", ["libsvm-covtype", "libsvm-rcv1"])
def test_the_papers_sets_are_read_from_the_data_folder(folder, name):
    task = get_task(name, folder)
    assert task.missing() is None
    assert sizes(task) == (4000, 500, 500)
    assert (task.budget.epochs, task.budget.batch_size, task.penalty()) == (25, 25, 0.01)
    assert min(learnt(task)) > 0.95
    assert isinstance(task.convex_problem(), Logistic)


def test_the_unscaled_covtype_does_as_well(folder):
    home = folder / "libsvm"
    before = digest(get_task("libsvm-covtype", folder))
    (home / "covtype.libsvm.binary.scale.bz2").rename(home / "covtype.libsvm.binary.bz2")
    assert digest(get_task("libsvm-covtype", folder)) == before


def test_a_truncated_file_is_counted(folder):
    file = folder / "libsvm" / "covtype.libsvm.binary.scale.bz2"
    file.write_bytes(bz2.compress(lines(*separable(5990, (1, 2))).encode()))
    words = "5,990 examples of 3 features, where that of libsvm-covtype has 6,000 examples of 3"
    with pytest.raises(TaskError, match=words):
        check_task(get_task("libsvm-covtype", folder))


@pytest.mark.parametrize(
    ("name", "file"),
    [("libsvm-covtype", "covtype.libsvm.binary.scale"), ("libsvm-rcv1", "rcv1_train.binary")],
)
def test_without_the_file_it_is_said_how_to_get_it(tmp_path, name, file):
    said = get_task(name, tmp_path).missing()
    assert f"libsvm/{file}" in said
    assert f"gradmem data {name}" in said


# The function that is minimised ------------------------------------------------------------------


def of_weights(task, x):
    """The task's model with these weights, and the intercept last."""
    model = task.model(0).train()
    weight, bias = x[:-1], x[-1:]
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weight).reshape(model.weight.shape))
        model.bias.copy_(torch.from_numpy(bias))
    return model


@pytest.mark.parametrize("kind", ["dense", "sparse", "mostly zero", "breast-cancer"])
def test_the_problem_is_what_the_runs_minimise(written, monkeypatch, kind):
    if kind == "sparse":
        monkeypatch.setattr(rows_kept, "LARGEST_DENSE", 100)
    if kind in ("sparse", "mostly zero"):
        monkeypatch.setattr(convex, "LARGEST_STANDARDISED", 100)
    features, labels = separable(200)
    features[np.random.default_rng(0).random(features.shape) < 0.8] = 0
    task = get_task(kind if kind == "breast-cancer" else written(lines(features, labels)))
    problem = task.convex_problem()
    assert sparse.issparse(problem.matrix) is (kind in ("sparse", "mostly zero"))
    x = np.random.default_rng(2).standard_normal(problem.start.size)
    model = of_weights(task, x)
    loss = task.loss(model, task.data().train)
    loss.backward()
    value, gradient = problem.value_and_gradient(x)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    found = np.append(model.weight.grad.numpy().ravel(), model.bias.grad.numpy())
    np.testing.assert_allclose(found, gradient, atol=1e-5)
    assert (problem.start == 0).all()
    assert all((each == 0).all() for each in task.model(0).parameters())


def test_the_penalty_acts_on_the_intercept_of_a_file_and_on_no_other(written):
    for name, included in ((written(lines(*separable(200))), True), ("breast-cancer", False)):
        task = get_task(name)
        width = task.data().train.inputs.shape[1]
        model = of_weights(task, np.append(np.zeros(width), 3.0))
        with torch.no_grad():
            trained = task.loss(model, task.data().train).item()
            told = task.loss(model.eval(), task.data().train).item()
        assert trained - told == pytest.approx(9 * task.penalty() / 2 * included, abs=1e-6)
        assert isinstance(task.convex_problem(), FreeIntercept) is not included


def test_there_is_no_problem_without_a_penalty_or_of_too_many_features(written, monkeypatch):
    task = get_task(written(lines(*separable(200))))
    monkeypatch.setattr(logistic, "LARGEST_DIMENSION", 3)
    assert task.convex_problem() is None
    monkeypatch.undo()
    monkeypatch.setattr(task, "penalty", lambda: 0.0)
    assert task.convex_problem() is None


def test_a_free_intercept_leaves_the_penalty_out_everywhere():
    problem = get_task("breast-cancer").convex_problem()
    x = np.random.default_rng(0).standard_normal(problem.start.size)
    value, gradient = problem.value_and_gradient(x)
    np.testing.assert_allclose(gradient, approx_fprime(x, problem.value, 1e-7), atol=1e-5)
    v = np.ones_like(x)
    slope = (problem.value_and_gradient(x + 1e-6 * v)[1] - gradient) / 1e-6
    np.testing.assert_allclose(problem.curvature_times(x, v), slope, atol=1e-4)
    together = problem.values(np.stack([x, 2 * x]), np.stack([problem.image(x)] * 2))
    assert together[0] == pytest.approx(value, rel=1e-14)
    assert problem.strong_convexity == 0.0


def test_the_minimum_with_a_free_intercept_is_one_and_says_how_exact_it_is(monkeypatch):
    problem = get_task("breast-cancer").convex_problem()
    least = problem.minimum
    assert np.linalg.norm(problem.value_and_gradient(least.point)[1]) < 1e-14
    assert 0 < least.accuracy < 1e-25
    columns = [problem.curvature_times(least.point, e) for e in np.eye(least.point.size)]
    exact = problem._curved_at_least(least.point)
    assert exact == pytest.approx(np.linalg.eigvalsh(columns)[0] / 2)
    monkeypatch.setattr(problems, "DENSE_EIGENVALUES", 2)  # by products alone
    assert problem._curved_at_least(least.point) == pytest.approx(exact, rel=1e-6)
    nearby = least.point + 1e-6 * np.random.default_rng(0).standard_normal(least.point.size)
    assert problem.value(nearby) > least.value


# gradmem bound -----------------------------------------------------------------------------------


def bound(*arguments):
    result = CliRunner().invoke(app, ["bound", *(str(argument) for argument in arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_bound_takes_the_same_names(folder, written):
    name = written(lines(*separable(200)))
    code, said = bound(name, "--steps", 50, "--out", folder / "out")
    assert code == 0, said
    assert "mu = 0.01" in said
    assert "All 5 runs kept within the bound" in said
    assert "its 160 training examples" in (folder / "out" / "report.md").read_text()
    code, said = bound("libsvm-rcv1", "--data", folder, "--steps", 20, "--out", folder / "out")
    assert code == 0, said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["wine"], "'wine' has no mu that is known beforehand"),
        (["libsvm-covtype", "--data", "nowhere"], "gradmem data libsvm-covtype"),
        (["libsvm:nothing", "--data", "nowhere"], "nothing.gz"),
        (["libsvm-rcv1", "--l2", "0.1"], "--l2 means nothing"),
    ],
)
def test_bound_refuses_what_has_no_bound(tmp_path, arguments, words):
    code, said = bound(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert words in said


def test_bound_refuses_a_free_intercept():
    if not DATA.exists():
        pytest.skip(f"the LIBSVM files are not beside the repository, in {DATA.name}")
    code, said = bound("libsvm-a1a", "--data", DATA)
    assert code == 2
    assert "acts on the intercept too" in said
