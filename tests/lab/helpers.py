"""Small runs for the lab's tests."""

import json
import os
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gradmem.lab.compare import Comparison, Plan, Progress
from gradmem.lab.optimizers import get_optimizers
from gradmem.lab.run import RunConfig, RunResult
from gradmem.lab.study import Study
from gradmem.lab.tasks import get_task
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task
from gradmem.lab.tasks.digits import Digits


@contextmanager
def module_here(name, text, folder, monkeypatch):
    """While it lasts, the folder is the one to be in, with a module of this text to be imported."""
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop(name, None)


class Told:
    """Keeps what a study tells."""

    def __init__(self) -> None:
        self.begun: list[RunConfig] = []
        self.epochs: list[Any] = []
        self.events: list[Progress] = []

    def begin(self, config):
        self.begun.append(config)

    def epoch(self, config, epoch):
        self.epochs.append(epoch)

    def done(self, progress):
        self.events.append(progress)


class Line(Task):
    """A straight line through 60 points: a run takes milliseconds.

    If there is a file to log to, every run that begins to train writes a line there.
    """

    log: str | None = None
    pause = 0.0  # seconds for every evaluation

    name = "line"
    title = "A line"
    metric = Metric("error", higher_is_better=False, worst=9.0)
    budget = Budget(epochs=3, batch_size=8)
    target = 0.05

    def data(self):
        everything = torch.linspace(-1, 1, 60).unsqueeze(1)
        whole = Batch(everything, 2 * everything + 0.5)
        return FixedSplits(*(whole[torch.arange(k, 60, 3)] for k in range(3)))

    def model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = torch.nn.Linear(1, 1)
        made.logged = False
        return made

    def loss(self, model, batch):
        if model.training and not model.logged:
            model.logged = True
            self.note(f"{os.getpid()}")
        if not model.training and self.pause:
            time.sleep(self.pause)
        return (model(batch.inputs) - batch.targets).square().mean()

    def score(self, model, batch):
        return float(self.loss(model, batch))

    def note(self, text):
        """One line in the log, whole whoever else writes to it."""
        if self.log:
            descriptor = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, f"{text}\n".encode())
            os.close(descriptor)


def config(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "task": "digits",
        "task_version": 1,
        "purpose": "evaluate",
        "optimizer": "adam",
        "options": {"lr": 0.01},
        "seed": 100,
        "epochs": 2,
        "batch_size": 32,
    }
    return RunConfig(**(values | changes))


def tiny_plan(
    *names: str, trials: int = 2, seeds: int = 2, epochs: int = 2, task=None, **more: Any
) -> Plan:
    specs = get_optimizers(names or ("adam", "adam_c"))
    return Plan(task or Digits(), specs, trials, seeds, epochs, **more)


def carried_out(plan: Plan, folder: Path, **options: Any) -> tuple[Comparison, Told]:
    study, told = Study(plan, folder, **options), Told()
    study.work(told)
    return study.comparison(), told


def tiny_comparison(folder: Path, *names: str, **sizes: Any) -> Comparison:
    return carried_out(tiny_plan(*names, **sizes), folder)[0]


def untimed(result: RunResult) -> dict[str, Any]:
    """All of a result but what the clock decides."""
    return {key: value for key, value in result.to_json().items() if "seconds" not in key}


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """All run files, without what the clock decides."""
    return {
        path.name: {
            key: value
            for key, value in json.loads(path.read_text(encoding="utf-8")).items()
            if "seconds" not in key
        }
        for path in folder.glob("*.json")
    }


def real_task(name, folder):
    """The task on its real files; the test is skipped if they are not there."""
    task = get_task(name, folder)
    if sentence := task.missing():
        pytest.skip(sentence)
    return task
