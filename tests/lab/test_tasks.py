"""What holds for every task: splits, models, losses, scores. The table is ``TASKS``."""

import hashlib
import json
import math
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradmem.lab.data.catalogue import DATA_SETS
from gradmem.lab.tasks import (
    TASKS,
    Task,
    evaluate,
    get_task,
    seeded,
)
from gradmem.lab.tasks.sparse import SparseRows
from gradmem.lab.tasks.splitting import standardised, three_parts

from .test_libsvm import DATA

OFFLINE = [name for name, task in TASKS.items() if task.needs is None]
SMALL = ["libsvm-a1a", "libsvm-svmguide1", "churn", "cpu-act"]  # quickly read
# A learning rate at which each gets better within a few steps.
RATES = {"libsvm-news20": 1e-3} | dict.fromkeys(("beale", "goldstein-price", "six-hump-camel"), 0.1)
RATES |= {name: 1e-3 for name in TASKS if name.startswith(("mnist", "fashion-mnist", "cifar"))}
STEPS = {"generated-mlp": 300}  # of one example each; 40 for others
SIZES = {  # train, validation, test: pinned, so that they cannot change unnoticed
    "digits": (1077, 360, 360),
    "breast-cancer": (341, 114, 114),
    "wine": (106, 36, 36),
    "diabetes": (266, 88, 88),
    **dict.fromkeys(("generated-logreg", "generated-mlp"), (300, 100, 100)),
    "python-text": (2240, 384, 384),
    "beale": (10, 1, 1),
    "goldstein-price": (10, 1, 1),
    "six-hump-camel": (10, 1, 1),
    **dict.fromkeys(("mnist-logreg", "mnist-mlp", "mnist-convnet"), (49921, 5000, 10000)),
    **dict.fromkeys(
        ("fashion-mnist-logreg", "fashion-mnist-mlp", "fashion-mnist-convnet"), (50000, 5000, 10000)
    ),
    **dict.fromkeys(
        ("cifar10-convnet", "cifar10-resnet110", "cifar10-resnet18"), (45000, 5000, 10000)
    ),
    **dict.fromkeys(
        ("cifar100-convnet", "cifar100-resnet110", "cifar100-resnet18"), (45000, 5000, 10000)
    ),
    "cifar10-convnet-part": (3000, 500, 500),
    "libsvm-a1a": (963, 321, 321),
    "libsvm-a9a": (26049, 6512, 16281),
    "libsvm-w8a": (29851, 9949, 9949),
    "libsvm-mushrooms": (4876, 1624, 1624),
    "libsvm-phishing": (6633, 2211, 2211),
    "libsvm-splice": (1905, 635, 635),
    "libsvm-svmguide1": (1855, 617, 617),
    "libsvm-news20": (9561, 3187, 3187),
    **dict.fromkeys(("libsvm-covtype", "libsvm-rcv1"), (4000, 500, 500)),
    "adult": (26049, 6512, 16281),
    "california": (13210, 3302, 4128),
    "churn": (6400, 1600, 2000),
    "diamonds": (34522, 8630, 10788),
    "house": (14582, 3645, 4557),
    "otto": (39602, 9900, 12376),
    "magic": (12173, 3043, 3804),
    "letter": (12800, 3200, 4000),
    "pol": (9600, 2400, 3000),
    "cpu-act": (5243, 1311, 1638),
    "ptb-lstm": (1328, 106, 118),
    "ptb-lstm-part": (253, 106, 118),
    "wikitext2-lstm": (2984, 311, 351),
    "ptb-transformer": (14525, 1153, 1288),
    "tiny-shakespeare": (15686, 872, 872),
    **{name: (549367, 9842, 9824) for name in TASKS if name.startswith("snli-")},
    **{name: (392702, 9815, 9832) for name in TASKS if name.startswith("multinli-")},
    **{name: (4500, 500, 4927) for name in TASKS if name.startswith("sick-")},
    # turns of the parts that could be had; nobody counted those of MultiWOZ 2.2
    **dict.fromkeys(("multiwoz-lstm", "multiwoz-roberta"), (5928, 1437, 7372)),
    "multiwoz22-lstm": (0, 0, 0),
    "sgd-lstm": (38811, 9203, 12028),
}
# Too large to be trained on here, or not there as a whole: test_tasks_text.py, test_tasks_nli.py
# and test_tasks_dialogue.py.
TEXTS = ("ptb-", "wikitext2-", "tiny-shakespeare", "snli-", "multinli-", "sick-")
TEXTS += ("multiwoz", "sgd-")
# Of the targets, for each kind of split: a library that draws otherwise is noticed.
DIGESTS = {
    "digits": "23beffc904e55b46",
    "wine": "b57046554f2c16e8",
    "generated-mlp": "0656514554331e0a",
    "libsvm-a1a": "92ff9a5d1cb0f1ae",
    "churn": "5daf4f14f8fa00f7",
}


pytestmark = pytest.mark.usefixtures("single_thread")


@lru_cache(maxsize=8)
def task_called(name: str) -> Task:
    return get_task(name, DATA)


def task_or_skip(name):
    found = task_called(name)
    if sentence := found.missing():
        pytest.skip(sentence)
    return found


@pytest.fixture
def task(name):
    return task_or_skip(name)


LONG = ["libsvm-news20", "otto"] + [
    name for name in TASKS if name.startswith("cifar") and name != "cifar10-convnet-part"
]
# Of scope "module", so that the tests of a task follow each other and its data is read once.
every_task = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
        for name in TASKS
        if not name.startswith(TEXTS)
    ],
    scope="module",
)
some_tasks = pytest.mark.parametrize("name", [*OFFLINE, *SMALL], scope="module")


def parts_of(task):
    parts = task.data()
    return parts.train, parts.validation, parts.test


def matrix(batch):
    return batch.inputs.matrix if isinstance(batch.inputs, SparseRows) else batch[:].inputs.numpy()


def values(batch):
    return batch.inputs.matrix.data if isinstance(batch.inputs, SparseRows) else matrix(batch)


def train(task, steps, seed=0, epochs=1):
    """Adam for a while: the training losses, and the model."""
    model = task.model(seed)
    optimizer = torch.optim.Adam(task.parameters(model), lr=RATES.get(task.name, 1e-2))
    order = torch.Generator().manual_seed(seed)
    examples, losses = task.data().train, []
    with seeded(seed, "training"):
        model.train()
        for _ in range(epochs):
            shuffled = torch.randperm(len(examples), generator=order)
            for rows in torch.split(shuffled, task.budget.batch_size)[:steps]:
                optimizer.zero_grad()
                loss = task.loss(model, examples[rows])
                loss.backward()
                if task.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
                optimizer.step()
                losses.append(loss.item())
    return losses, model


def digest(task, inputs=True):
    found = hashlib.sha256()
    for part in parts_of(task):
        found.update(part.targets.numpy().tobytes())
        found.update(values(part).tobytes() if inputs else b"")
    return found.hexdigest()[:16]


def test_every_task_is_in_the_table_of_sizes():
    assert set(SIZES) == set(TASKS)
    assert all(task.needs in DATA_SETS for task in TASKS.values() if task.needs)


@every_task
def test_the_parts_have_their_sizes_and_shapes(task, name):
    parts = parts_of(task)
    assert tuple(map(len, parts)) == SIZES[name]
    for part in parts:
        assert matrix(part).shape[1:] == matrix(parts[0]).shape[1:]
        assert matrix(part).dtype == matrix(parts[0]).dtype
        assert part.targets.dtype == parts[0].targets.dtype
        assert np.isfinite(values(part)).all()
        assert torch.isfinite(part.targets).all()


@every_task
def test_it_says_what_it_is(task):
    assert task.title
    assert task.version == 1
    assert task.budget.epochs > 1
    assert math.isfinite(task.metric.worst)
    better = task.metric.worst + (1 if task.metric.higher_is_better else -1) * 1e9
    assert task.reaches_target(better)
    assert not task.reaches_target(task.metric.worst)


@every_task
def test_a_few_steps_bring_the_loss_down_and_the_score_up(task):
    validation = task.data().validation
    before, untrained = evaluate(task, task.model(0), validation)
    _, model = train(task, steps=STEPS.get(task.name, 40), epochs=2)
    after, trained = evaluate(task, model, validation)
    assert after < before
    sign = 1 if task.metric.higher_is_better else -1
    assert sign * (trained - untrained) > 0
    assert sign * (trained - task.metric.worst) > 0


@every_task
def test_evaluation_in_chunks_is_that_of_the_whole(task):
    _, model = train(task, steps=5)
    part = task.data().validation
    whole = evaluate(task, model, part, len(part))
    for size in (1000, 97):
        if task.metric.name == "F1" and size < len(part):  # test_tasks_generated.py
            continue
        assert evaluate(task, model, part, size) == pytest.approx(whole, rel=1e-5)


@some_tasks
def test_a_seed_decides_a_run_whatever_was_drawn_before(task):
    torch.manual_seed(1)
    losses, model = train(task, steps=6)
    torch.manual_seed(2)
    again, same = train(task, steps=6)
    assert losses == again
    for one, other in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)
    assert train(task, steps=6, seed=1)[0] != losses


@some_tasks
def test_making_and_training_leave_the_global_generator_alone(task):
    before = torch.get_rng_state()
    train(task, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_splits_are_the_same_in_another_process():
    names = [name for name in (*OFFLINE, *SMALL) if task_called(name).missing() is None]
    code = (
        "import json, sys; from tests.lab import test_tasks as t; "
        "print(json.dumps({name: t.digest(t.task_called(name)) for name in sys.argv[1:]}))"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
    ).stdout
    found = {name: digest(task_called(name)) for name in names}
    assert json.loads(told) == found


@pytest.mark.parametrize("name", DIGESTS)
def test_the_split_is_the_known_one(task, name):
    """Raise the task's version if it has to change."""
    assert digest(task, inputs=False) == DIGESTS[name]


# Splits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
def test_parts_are_disjoint_and_all_there(stratified):
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    parts = three_parts(100, 16, 20, labels if stratified else None)
    assert [len(part) for part in parts] == [64, 16, 20]
    assert sorted(np.concatenate(parts)) == list(range(100))
    if stratified:
        assert [np.bincount(labels[part]).tolist() for part in parts[1:]] == [[8, 5, 3], [10, 6, 4]]


def test_standardising_looks_at_the_training_rows_alone():
    values = np.random.default_rng(0).normal(5, 3, (20, 3))
    values[:, 2] = 4.0
    train = np.arange(10)
    scaled = standardised(values, train)
    assert scaled[train, :2].mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert scaled[train, :2].std(axis=0) == pytest.approx(1)
    assert (scaled[:, 2] == 0).all()
    values[15:] *= 100
    assert (standardised(values, train)[:15] == scaled[:15]).all()


@pytest.mark.parametrize("name", ["wine", "breast-cancer", "diabetes", "libsvm-svmguide1"])
def test_features_are_standardised_on_the_training_rows(task):
    inputs = task.data().train.inputs
    assert inputs.mean(dim=0).abs().max() < 1e-5
    assert (inputs.std(dim=0, correction=0) - 1).abs().max() < 1e-4
    assert task.data().test.inputs.mean(dim=0).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["diabetes", "california", "cpu-act", "pol"])
def test_regression_targets_are_standardised_and_scores_are_in_their_unit(task):
    targets = task.data().train.targets
    assert targets.mean().item() == pytest.approx(0, abs=1e-5)
    assert targets.std(correction=0).item() == pytest.approx(1, abs=1e-4)

    class Mean(nn.Module):
        def forward(self, inputs):
            return torch.zeros(len(inputs), 1)

    # What a diverged run scores is what always guessing the mean scores.
    assert task.score(Mean(), task.data().train) == pytest.approx(task.metric.worst, rel=1e-2)
