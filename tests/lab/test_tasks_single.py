"""What is particular to single tasks, and what they say when files are missing or wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from gradmem.lab.data.catalogue import DATA_SETS
from gradmem.lab.tasks import TASKS, get_task, python_text, surface_points
from gradmem.lab.tasks.sparse import SparseLinear, SparseRows, rows_of
from gradmem.lab.tasks.splitting import balanced
from gradmem.lab.tasks.supervised import accuracy, decay_weights_only, perceptron

from .test_tasks import SIZES, task_called, task_or_skip

pytestmark = pytest.mark.usefixtures("single_thread")


def test_weights_decay_and_the_rest_does_not():
    weights, rest = decay_weights_only(perceptron((3, 4, 2)))
    assert [tuple(each.shape) for each in weights["params"]] == [(4, 3), (2, 4)]
    assert [tuple(each.shape) for each in rest["params"]] == [(4,), (2,)]
    assert rest["weight_decay"] == 0.0
    assert "weight_decay" not in weights


@pytest.mark.parametrize("name", TASKS)
def test_the_documentation_has_its_sizes_budget_and_target(name):
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    _, _, _, parts, _, budget, target, _, _ = (cell.strip() for cell in row.split("|"))
    task = TASKS[name]
    steps = task.budget.epochs * SIZES[name][0]
    known = f"{task.budget.epochs} x {task.budget.batch_size}", f"{steps} steps"
    assert budget in known
    assert float(re.sub(r"[^\d.-]", "", target)) == pytest.approx(task.target * task.metric.scale)
    if parts:
        numbers = re.findall(r"[\d,]+", parts)[:3]
        assert tuple(int(number.replace(",", "")) for number in numbers) == SIZES[name]


def test_accuracy_and_dropout_of_the_network():
    assert accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75
    kinds = [type(layer).__name__ for layer in perceptron((3, 4, 5, 2), dropout=0.1)]
    assert kinds == ["Linear", *("ReLU", "Dropout", "Linear") * 2]


def test_a_sparse_linear_layer_is_the_dense_one():
    dense = np.random.default_rng(0).normal(size=(6, 5)) * (np.arange(30).reshape(6, 5) % 3 == 0)
    dense[2] = 0
    sparse_rows, layer = SparseRows(sparse.csr_matrix(dense)), SparseLinear(5, 3)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    nn.init.constant_(layer.bias, 0.5)
    for rows in (slice(None), slice(1, 4), torch.tensor([5, 2, 2])):
        inputs = torch.from_numpy(dense).float()[rows]
        expected = inputs @ layer.weight + layer.bias
        found = layer(sparse_rows[rows])
        torch.testing.assert_close(found, expected)
        (got,) = torch.autograd.grad(found.square().sum(), [layer.weight])
        (wanted,) = torch.autograd.grad(expected.square().sum(), [layer.weight])
        torch.testing.assert_close(got, wanted)


def test_a_matrix_is_kept_sparse_only_where_it_is_large(monkeypatch):
    matrix = sparse.csr_matrix(np.eye(3))
    assert torch.equal(rows_of(matrix), torch.eye(3))
    monkeypatch.setattr("gradmem.lab.tasks.sparse.LARGEST_DENSE", 8)
    assert isinstance(rows_of(matrix), SparseRows)


def test_mnist_is_divided_within_each_digit():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [6000] * 9 + [5421]))
    train, validation = balanced(labels, 500, 5000)
    assert np.bincount(labels[train]).tolist() == [5000] * 9 + [4921]
    assert np.bincount(labels[validation]).tolist() == [500] * 10
    assert not set(train) & set(validation)
    assert len(set(train)) == len(train)


def test_mnist_pixels_are_normalised():
    task = task_or_skip("mnist-logreg")
    inputs = task.data().test.inputs
    assert inputs.min().item() == pytest.approx(-0.1307 / 0.3081)
    assert inputs.max().item() == pytest.approx((1 - 0.1307) / 0.3081)
    assert task.data().train.inputs.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.needs])
def test_without_its_files_a_task_says_what_is_missing(name, tmp_path):
    task = get_task(name, tmp_path)
    said = task.missing()
    assert str(tmp_path) in said
    assert (f"`gradmem data {task.needs}`" in said) == DATA_SETS[task.needs].can_be_fetched
    with pytest.raises(FileNotFoundError, match="is not complete in the data folder"):
        task.data()


@pytest.mark.parametrize(
    "name", ["mnist-mlp", "fashion-mnist-convnet", "cifar10-convnet", "libsvm-a9a", "adult"]
)
def test_other_files_of_the_same_names_are_refused(name, tmp_path):
    task = get_task(name, tmp_path)
    for file in DATA_SETS[task.needs].files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(b"something else")
    assert task.missing() is None
    with pytest.raises(ValueError, match=r"is not the file it should be: .* get it again"):
        task.data()


def test_a_logistic_loss_has_its_penalty_while_training_only():
    task = task_called("breast-cancer")
    model, batch = task.model(0), task.data().validation
    nn.init.constant_(model.weight, 0.5)
    penalised = task.loss(model.train(), batch)
    plain = task.loss(model.eval(), batch)
    assert (penalised - plain).item() == pytest.approx(task.penalty() / 2 * 30 * 0.25, rel=1e-3)


def test_texts_come_from_different_modules_and_targets_are_the_next_symbol():
    modules = [*python_text.TRAIN, *python_text.VALIDATION, *python_text.TEST]
    assert len(set(modules)) == len(modules)
    batch = python_text.windows("ab\nüc" * 40)
    assert batch.inputs.shape == batch.targets.shape == (3, 64)
    assert torch.equal(batch.inputs.flatten()[1:], batch.targets.flatten()[:-1])
    alphabet = python_text.encode("ab\nü")
    assert alphabet.tolist() == [65, 66, python_text.NEW_LINE, python_text.OTHER]
    assert batch.inputs.max() < python_text.SYMBOLS


def test_the_text_is_part_of_what_a_run_depends_on(monkeypatch):
    versions = python_text.PythonText().versions()
    assert versions["python"] in python_text.PythonText.title
    assert len(versions["text"]) == 12
    monkeypatch.setattr(python_text, "TEST", ("shutil", "optparse"))
    python_text._digest.cache_clear()
    assert python_text.PythonText().versions()["text"] != versions["text"]
    python_text._digest.cache_clear()


def test_a_python_without_its_sources_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(python_text.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"comes without the sources.*take another"):
        python_text.beginning("argparse", 10)
    (tmp_path / "argparse.py").write_text("short")
    with pytest.raises(ValueError, match=r"has 5 characters.*needs 10"):
        python_text.beginning("argparse", 10)


@pytest.mark.parametrize("name", ["beale", "goldstein-price", "six-hump-camel"])
def test_a_seed_moves_the_start_of_a_surface_a_little(name):
    task = task_called(name)
    starts = torch.stack([task.model(seed).place.detach() for seed in range(20)])
    far = (starts - torch.tensor(task.start)).abs()
    assert far.max() <= surface_points.MOVED
    assert len(starts.unique(dim=0)) == 20
    place = surface_points.Point(torch.tensor(task.start))
    rows = task.data().validation
    assert task.loss(place, rows).item() == pytest.approx(1)
    assert task.score(place, rows) == pytest.approx(0)
    best = surface_points.Point(task.surface.minimisers(2)[0])
    assert task.score(best, rows) == -12.0
