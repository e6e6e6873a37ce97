"""What a memory in another number format does to training: nothing that seeds do not do as well.

`python tests/test_storage_training.py` prints the tables of docs/storage.md.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import pytest

from gradmem.lab.run import RunConfig, train
from gradmem.lab.statistics import paired_differences, student_interval
from gradmem.lab.tasks import get_task
from test_storage_formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GRADMEM_DATA") or ROOT.parent / "shared" / "data")
SEEDS = range(20)
EPOCHS = {"digits": 20, "mnist-mlp": 1}
OPTIONS = {"adam_c": {"lr": 0.001}, "sgd_c": {"lr": 0.01, "momentum": 0.9}}
CAPACITY = 10
COMPARISONS = len(EPOCHS) * len(OPTIONS) * len(FORMATS)


@cache
def task_called(task):
    return get_task(task, DATA)


@cache
def scores(task, optimizer, name):
    """Test accuracies in percent, one a seed; equal seeds have equal weights and batches."""
    found = task_called(task)
    results = [
        train(
            found,
            RunConfig(
                task=task,
                task_version=found.version,
                purpose="evaluate",
                optimizer=optimizer,
                options={**OPTIONS[optimizer], "capacity": CAPACITY, "memory_dtype": name},
                seed=seed,
                epochs=EPOCHS[task],
                batch_size=found.budget.batch_size,
            ),
        )
        for seed in SEEDS
    ]
    assert [result.status for result in results] == ["ok"] * len(SEEDS)
    return tuple(100 * result.test_score for result in results)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("task", EPOCHS)
def test_the_accuracy_is_that_of_slots_as_wide_as_the_parameters(task, optimizer, name):
    """Student's interval of the paired differences, 95% for all 16 together, holds zero."""
    if sentence := task_called(task).missing():
        pytest.skip(sentence)
    ours, exact = scores(task, optimizer, name), scores(task, optimizer, None)
    apart = student_interval(paired_differences(ours, exact), comparisons=COMPARISONS)
    assert apart.interval[0] <= 0 <= apart.interval[1]
    assert abs(apart.mean) < 1
    if name == "float32":
        assert ours == exact


def told(found, form):
    return "{} ({} to {})".format(*(format(x, form) for x in (found.mean, *found.interval)))


def table(task):
    """Rows of Markdown: means with Student's 95% interval, paired differences to the first."""
    for optimizer in OPTIONS:
        exact = scores(task, optimizer, None)
        pairs = [paired_differences(scores(task, optimizer, name), exact) for name in FORMATS[1:]]
        cells = [told(student_interval(exact), ".2f")]
        cells += [told(student_interval(each), "+.2f") for each in pairs]
        yield f"| {task}, {optimizer} | {' | '.join(cells)} |\n"


if __name__ == "__main__":
    for each in EPOCHS:
        sys.stdout.writelines(table(each))
