"""Tasks made of tables: a user's own file, and the sets in the data folder."""

import numpy as np
import pytest
import torch

from gradmem.lab.data.table import Table
from gradmem.lab.tasks import CsvTask, Recipe, evaluate, get_task
from gradmem.lab.tasks.tables import infer_kind, prepare
from gradmem.lab.tasks.tabular import linear_score
from gradmem.lab.tasks.tabular_sets import TABLE_SETS

from .test_libsvm import DATA
from .test_tasks import train

COUNT = 300


pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def houses():
    """Columns of text: a number with gaps, a category, an identifier, two targets."""
    rng = np.random.default_rng(0)
    size, town = rng.lognormal(4, 0.5, COUNT), rng.choice(["Ulm", "Bonn", "Kiel"], COUNT)
    price = 1000 * size + 50_000 * (town == "Bonn") + rng.normal(0, 5000, COUNT)
    gaps = rng.random(COUNT) < 0.1
    return {
        "id": [f"h{row}" for row in range(COUNT)],
        "size": ["" if gap else f"{value:.2f}" for value, gap in zip(size, gaps, strict=True)],
        "town": list(town),
        "price": [f"{value:.0f}" for value in price],
        "dear": ["yes" if value > np.median(price) else "no" for value in price],
    }


@pytest.fixture
def path(houses, tmp_path):
    rows = zip(*houses.values(), strict=True)
    path = tmp_path / "my houses.csv"
    path.write_text("\n".join(map(",".join, [tuple(houses), *rows])))
    return path


REGRESSION = Recipe("price", drop=("id", "dear"))
CLASSES = Recipe("dear", drop=("id", "price"))


def test_a_file_of_ones_own_as_a_regression(path):
    task = CsvTask(path, REGRESSION, epochs=3, batch_size=32, widths=(16,))
    assert task.name == "my-houses"
    assert task.title == "my houses.csv, price from 5 features, network 5-16-1 with ReLU"
    parts = task.data()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [192, 48, 60]
    assert (task.metric.name, task.metric.higher_is_better) == ("RMSE", False)
    before = evaluate(task, task.model(0), parts.validation)
    _, model = train(task, steps=100, epochs=10)
    after = evaluate(task, model, parts.validation)
    assert after[0] < before[0] / 2
    assert after[1] < task.metric.worst / 2
    assert 5_000 < task.target < task.metric.worst / 2  # the noise; what is left by a linear model
    assert task.target == pytest.approx(linear_score(task.prepared()), rel=5e-3)


def test_a_file_of_ones_own_as_a_classification(path):
    task = CsvTask(path, CLASSES, name="dear", target=0.9)
    assert (task.name, task.target, task.metric.name) == ("dear", 0.9, "accuracy")
    assert task.prepared().classes == ("no", "yes")
    assert 0.7 < linear_score(task.prepared()) <= 1
    shares = [part.targets.float().mean().item() for part in (task.data().train, task.data().test)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    _, model = train(task, steps=100, epochs=10)
    assert evaluate(task, model, task.data().validation)[1] > 0.8


def test_what_is_fitted_is_fitted_to_the_training_rows(houses):
    """Other values in the rows held out change nothing in the training part."""
    table = Table("here", houses)
    rows = np.arange(COUNT)
    parts = rows[:192], rows[192:240], rows[240:]
    plain = prepare(table, REGRESSION, parts)
    spoilt = table
    for name, value in (("size", "1e6"), ("town", "Rome"), ("price", "1e9")):
        spoilt = spoilt.replaced(name, [*houses[name][:192], *[value] * (COUNT - 192)])
    other = prepare(spoilt, REGRESSION, parts)
    assert torch.equal(plain.splits.train.inputs, other.splits.train.inputs)
    assert torch.equal(plain.splits.train.targets, other.splits.train.targets)
    assert plain.spread == other.spread == np.std([float(text) for text in houses["price"][:192]])
    assert not torch.equal(plain.splits.test.inputs, other.splits.test.inputs)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "classification"),
        (["0", "1"], "classification"),
        (["1.5", "2"], "regression"),
        ([str(number) for number in range(21)], "regression"),
        ([str(number) for number in range(20)], "classification"),
    ],
)
def test_the_kind_is_inferred(values, kind):
    assert infer_kind(Table("here", {"y": values}), "y") == kind


def with_target(*values):
    count = len(values)
    return Table("here.csv", {"x": [str(row) for row in range(count)], "y": list(values)})


@pytest.mark.parametrize(
    ("table", "recipe", "words"),
    [
        (with_target("a", "b"), Recipe("z"), "no column 'z'; it has x, y"),
        (with_target("a", "b"), Recipe("y", drop=("z",)), "no column 'z'"),
        (with_target("a", "", "b"), Recipe("y"), "target 'y' is missing in row 2; leave"),
        (with_target(*"a" * 30), Recipe("y"), "target 'y' is 'a' in all rows"),
        (with_target(*"a" * 30, *"b" * 6), Recipe("y"), "6 of 36 rows have 'b' .* at least 7"),
        (with_target(*["1"] * 30), Recipe("y", "regression"), "same in all training rows"),
        (with_target("a", "1"), Recipe("y", "regression"), "'a' in row 1, which is not a number"),
        (with_target("1.5", "2"), Recipe("y"), "2 rows are too few"),
        (with_target(*"ab" * 9), Recipe("y", drop=("x",)), "no column to learn from"),
    ],
)
def test_what_cannot_be_learnt_is_a_sentence(table, recipe, words):
    with pytest.raises(ValueError, match=words):
        prepare(table, recipe)


def test_runs_expire_with_the_file_and_with_the_recipe(path):
    task = CsvTask(path, REGRESSION)
    before = task.versions()
    assert CsvTask(path, REGRESSION).versions() == before
    assert CsvTask(path, REGRESSION, widths=(8,)).versions() != before
    path.write_text(path.read_text().replace("Ulm", "Bonn", 1))
    assert CsvTask(path, REGRESSION).versions() != before


def test_from_the_command_line_by_file_and_column(path):
    path.write_text("\n".join(line.partition(",")[2] for line in path.read_text().splitlines()))
    task = get_task(f"{path}:price")
    assert task.metric.name == "RMSE"
    with pytest.raises(ValueError, match="no column 'prize'; it has size, town, price, dear"):
        get_task(f"{path}:prize")
    with pytest.raises(ValueError, match="there is no file"):
        get_task(f"{path.parent / 'other.csv'}:price")


def test_a_gap_of_the_decimals_is_chosen_by_the_spread(path):
    assert CsvTask(path, REGRESSION).metric.decimals == 0


LONG = ("otto", "diamonds")


@pytest.mark.parametrize(
    "cls",
    [pytest.param(cls, marks=[pytest.mark.slow] * (cls.name in LONG)) for cls in TABLE_SETS],
    ids=lambda cls: cls.name,
)
def test_titles_say_the_shape_of_the_network(cls):
    task = cls(DATA)
    if sentence := task.missing():
        pytest.skip(sentence)
    prepared = task.prepared()
    assert f"network {prepared.features}-128-128-{prepared.outputs} with" in task.title
    assert task.recipe.kind == prepared.kind
    if prepared.kind == "regression":
        assert prepared.spread == pytest.approx(task.metric.worst, rel=0.01)
    groups = task.parameters(task.model(0))
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]


def test_adult_keeps_the_censuss_own_test_file():
    task = get_task("adult", DATA)
    if sentence := task.missing():
        pytest.skip(sentence)
    assert task.prepared().classes == ("<=50K", ">50K")
    assert int(task.data().test.targets.sum()) == 3846
    assert int(task.data().train.targets.sum() + task.data().validation.targets.sum()) == 7841
