"""Tasks of a user's own: `SimpleTask`, where they are loaded from, and the examples."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gradmem.lab.tasks import Batch, Metric, SimpleTask, evaluate, get_task
from gradmem.lab.tasks.simple import as_batch

from .test_tasks import train

EXAMPLES = Path(__file__).parents[2] / "examples"
INPUTS = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS.sum(dim=1) > 0).long()

PLAIN = """
import torch
from torch import nn
from gradmem.lab.tasks import SimpleTask

class Mine(SimpleTask):
    def __init__(self):
        inputs = torch.arange(40.0).reshape(20, 2)
        super().__init__(
            model=lambda: nn.Linear(2, 2), train=(inputs, torch.arange(20) % 2), target=0.9
        )

mine = Mine()
def make(): return Mine()
def needs(what): return Mine()
def fails(): raise KeyError("no such thing")
number = 3
def makes_number(): return 3
class Other: pass
nameless = Mine(); nameless.metric = None
slashed = Mine(); slashed.name = "a/b"
"""


PLACES = ["own_tasks", "package.inner", "own_tasks.py", "sub/own_tasks.py"]


def linear(**changes):
    arguments = {"model": lambda: nn.Linear(3, 2), "train": (INPUTS, LABELS), "target": 0.9}
    return SimpleTask(**(arguments | changes))


pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder of its own, whose modules are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


# SimpleTask --------------------------------------------------------------------------------------


def test_parts_not_given_are_held_out_of_train():
    task = linear()
    parts = task.data()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [60, 20, 20]
    rows = torch.cat([part.inputs for part in (parts.train, parts.validation, parts.test)])
    assert len(rows.unique(dim=0)) == 100
    again = linear().data()
    assert torch.equal(again.test.inputs, parts.test.inputs)


def test_parts_given_are_taken_as_they_are():
    other = (INPUTS[:7], LABELS[:7])
    parts = linear(validation=other).data()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [80, 7, 20]
    parts = linear(validation=other, test=other).data()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [100, 7, 7]
    assert torch.equal(parts.train.inputs, INPUTS)


@pytest.mark.parametrize(
    "examples",
    [
        (INPUTS, LABELS),
        [INPUTS, LABELS],
        (INPUTS.double().numpy(), LABELS.numpy()),
        (INPUTS, LABELS.bool()),
        TensorDataset(INPUTS, LABELS),
        Batch(INPUTS, LABELS),
    ],
    ids=["tensors", "list", "arrays", "bools", "dataset", "batch"],
)
def test_data_as_people_have_it(examples):
    batch = as_batch(examples, "train")
    assert torch.equal(batch.inputs, INPUTS)
    assert batch.inputs.dtype == torch.float32
    assert torch.equal(batch.targets, LABELS)


def test_mappings_are_keywords_and_tuples_arguments():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, left, right):
            return self.layer(left - right)

    by_name = linear(model=Sum, train=({"right": INPUTS, "left": 2 * INPUTS}, LABELS))
    in_order = linear(model=Sum, train=((2 * INPUTS, INPUTS), LABELS))
    plain = linear()
    losses = [train(task, steps=3, seed=4)[0] for task in (by_name, in_order, plain)]
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-5)


def test_it_learns_and_a_metric_of_ones_own_is_used():
    below = Metric("misses", higher_is_better=False, worst=1.0)
    task = linear(
        metric=below, score=lambda outputs, y: (outputs.argmax(1) != y).float().mean(), target=0.1
    )
    before = evaluate(task, task.model(0), task.data().validation)
    _, model = train(task, steps=50, epochs=10)
    after = evaluate(task, model, task.data().validation)
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert task.reaches_target(0.05)
    assert not task.reaches_target(0.15)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": nn.Linear(3, 2)}, TypeError, "makes a fresh model, got Linear.*new weights"),
        ({"model": 3}, TypeError, "makes a fresh model, got 3"),
        ({"metric": Metric("F1", True, 0.0)}, TypeError, "metric 'F1' needs a score"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"train": (INPUTS, LABELS[:-1])}, ValueError, "train has parts of 99, 100 examples"),
        ({"train": ({"a": INPUTS, "b": INPUTS[1:]}, LABELS)}, ValueError, "parts of 99, 100"),
        ({"train": INPUTS}, TypeError, "train has to be .* got Tensor"),
        ({"train": (INPUTS[:4], LABELS[:4])}, ValueError, "4 examples, too few to hold out test"),
        ({"test": (INPUTS[:0], LABELS[:0])}, ValueError, "test has parts of 0 examples"),
        ({"test": TensorDataset(INPUTS[:0])}, ValueError, "test has no examples"),
    ],
)
def test_wrong_arguments_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        linear(**changes)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"has to return a torch.nn.Module, got \[\]"):
        linear(model=list).model(0)


# Where tasks are loaded from ---------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ["mine", "make", "Mine"])
@pytest.mark.parametrize("where", PLACES)
def test_a_module_of_the_current_folder(folder, where, attribute):
    for name in ("own_tasks.py", "package/inner.py", "sub/own_tasks.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(PLAIN)
    task = get_task(f"{where}:{attribute}")
    assert isinstance(task, SimpleTask)
    assert (task.name, task.title) == (attribute, attribute)
    assert task.asked == f"{where}:{attribute}"
    assert len(task.data().train) == 12


def test_runs_expire_with_the_text_of_the_module(folder):
    (folder / "own_tasks.py").write_text(PLAIN)
    before = get_task("own_tasks.py:mine").versions()
    assert get_task("own_tasks.py:mine").versions() == before
    (folder / "own_tasks.py").write_text(PLAIN + "# more\n")
    assert get_task("own_tasks.py:mine").versions() != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digist", r"unknown task 'digist'; did you mean 'digits'\? .*my_package:my_task"),
        ("zzz", "unknown task 'zzz'; choose from: .*digits"),
        (":mine", "has to be MODULE:ATTRIBUTE"),
        ("own_tasks:", "has to be MODULE:ATTRIBUTE"),
        ("own_task:mine", "no module 'own_task', neither in .* nor installed"),
        ("own_tasks.inner:mine", "no module 'own_tasks.inner'"),
        ("own_task.py:mine", "there is no file own_task.py"),
        ("own_tasks:your", r"own_tasks.py has no 'your'; the tasks in it are mine, nameless"),
        ("own_tasks:needs", r"cannot be called without arguments \(.*'what'\)"),
        ("own_tasks:fails", r"own_tasks:fails\(\) raised KeyError: 'no such thing'"),
        ("own_tasks:number", "is a int, not a gradmem Task"),
        ("own_tasks:makes_number", "returns a int, not a gradmem Task"),
        ("own_tasks:Other", "is the class Other, which is not a gradmem Task"),
        ("own_tasks:nameless", "its 'metric' has to be a Metric, not None"),
        ("own_tasks:slashed", "is called 'a/b'; the name becomes part of file names"),
        ("broken:mine", "broken cannot be imported: ZeroDivisionError: division by zero"),
        ("broken.py:mine", "broken.py cannot be imported: ZeroDivisionError"),
        ("wanting:mine", "wanting cannot be imported: ModuleNotFoundError: .*'not_there'"),
    ],
)
def test_what_is_not_a_task_is_a_sentence(folder, name, words):
    (folder / "own_tasks.py").write_text(PLAIN)
    (folder / "broken.py").write_text("1 / 0")
    (folder / "wanting.py").write_text("import not_there")
    with pytest.raises(ValueError, match=words):
        get_task(name)


# Examples ----------------------------------------------------------------------------------------


def example(name, folder):
    shutil.copy(EXAMPLES / name, folder)
    return get_task(f"{name}:my_task")


def test_the_plain_example_learns(folder):
    task = example("plain_task.py", folder)
    before = evaluate(task, task.model(0), task.data().validation)
    _, model = train(task, steps=60, epochs=4)
    after = evaluate(task, model, task.data().validation)
    assert after[0] < before[0] / 2
    assert after[1] > 0.9


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.filterwarnings("ignore")  # what transformers itself warns of
def test_the_transformers_example_learns(folder):
    task = example("transformers_task.py", folder)
    validation = task.data().validation
    model = task.model(0)
    logits = model(**validation[:5].inputs).logits
    assert np.shape(logits.tolist()) == (5, 6)
    before = evaluate(task, model, validation)
    _, trained = train(task, steps=40)
    assert evaluate(task, trained, validation)[0] < before[0]
