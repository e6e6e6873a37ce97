"""Killed at any moment and started again: nothing finished is lost or made twice."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from typer.testing import CliRunner

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.claims import Claims
from gradmem.lab.cli import app
from gradmem.lab.run import train
from gradmem.lab.search import SearchPlan
from gradmem.lab.study import Study

from .helpers import Line, Told, carried_out, config, contents, tiny_comparison, tiny_plan, untimed

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["gradmem.lab.session"])


def work(plan, folder):
    Study(plan, folder, checkpoint_seconds=0.0).work(Told())


def start(plan, folder):
    process = SERVER.Process(target=work, args=(plan, folder))
    process.start()
    return process


def stamps(folder):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.json")}


@pytest.mark.parametrize("search", [SearchPlan(), SearchPlan("tpe", startup=2)])
@pytest.mark.parametrize("together", [1, 2])
def test_a_study_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path, search, together):
    task = Line()
    task.log = str(tmp_path / "log")
    task.pause = 0.005
    plan = tiny_plan(task=task, trials=6, seeds=4, search=search)
    folder, dice, kills = tmp_path / "killed", random.Random(together), 0
    seen = {}
    for _ in range(6):
        processes = [start(plan, folder) for _ in range(together)]
        wait_for(partial(has_more_than, folder / "runs", len(seen), processes[0]))
        time.sleep(dice.uniform(0.0, 0.1))
        kills += sum(kill(process) for process in processes)
        now = stamps(folder / "runs")
        assert seen.items() <= now.items()  # what was finished stays as it is
        seen = now
    assert kills >= 2
    study, told = Study(plan, folder), Told()
    study.work(told)
    assert seen.items() <= stamps(folder / "runs").items()
    assert len(told.events) == plan.runs
    begun = (tmp_path / "log").read_text().split()
    assert plan.runs <= len(begun) <= plan.runs + kills
    assert [path.name for path in (folder / "claims").iterdir()] in ([], ["lock"])
    if together == 1 or search.sampler == "halton":
        task.log = None
        _, undisturbed = carried_out(plan, tmp_path / "calm")
        assert contents(folder / "runs") == contents(tmp_path / "calm" / "runs")
        assert [e.result.config for e in undisturbed.events] == [
            e.result.config for e in told.events
        ]


def has_more_than(folder, count, process):
    return len(stamps(folder)) > count or not process.is_alive()


def kill(process):
    """Whether it had not ended before."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def epochs_kept(folder):
    state = Checkpoints(folder, 0.0, warn=pytest.fail).of("run").load()
    return len(state["history"]["validation_loss"]) if state else 0


def train_alone(task, run, folder):
    train(task, run, checkpoint=Checkpoints(folder, 0.0, warn=print).of("run"))


def test_a_long_run_killed_at_random_moments_goes_on_from_its_epoch(tmp_path):
    task = Line()
    task.pause = 0.01  # two an epoch
    run = config(task="line", options={"lr": 0.01}, epochs=40, batch_size=7, optimizer="adam_c")
    dice, reached = random.Random(0), [0]
    for _ in range(5):
        process = SERVER.Process(target=train_alone, args=(task, run, tmp_path))
        process.start()
        wait_for(lambda: epochs_kept(tmp_path) > reached[-1])
        time.sleep(dice.uniform(0.0, 0.1))
        assert kill(process)
        reached.append(epochs_kept(tmp_path))
    assert 5 <= reached[-1] < 40
    task.pause = 0.0
    epochs = []
    keep = Checkpoints(tmp_path, 0.0, warn=pytest.fail).of("run")
    last = train(task, run, checkpoint=keep, onlooker=epochs.append)
    assert epochs[0].number == reached[-1] + 1
    assert untimed(last) == untimed(train(Line(), run))


def test_after_a_kill_of_the_command_its_workers_stop_and_the_same_command_goes_on(tmp_path):
    sizes = {"trials": 4, "seeds": 3, "epochs": 10}
    folder = tmp_path / "killed"
    command = ["compare", "digits", "--out", str(folder)]
    command += [text for name, n in sizes.items() for text in (f"--{name}", str(n))]

    process = subprocess.Popen(
        [sys.executable, "-m", "gradmem", *command, "--workers", "2"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    wait_for(lambda: len(stamps(folder / "runs")) >= 3)
    assert process.poll() is None
    process.kill()
    process.wait()
    wait_for(lambda: Claims(folder / "claims").living() == 0)
    before = {p: s for p, s in stamps(folder / "runs").items() if "interrupted" not in p.name}
    assert 3 <= len(before) < 14

    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert before.items() <= stamps(folder / "runs").items()
    tiny_comparison(tmp_path / "calm", **sizes)
    assert contents(folder / "runs") == contents(tmp_path / "calm" / "runs")


def test_a_polite_kill_notes_the_run_at_hand_and_says_how_to_go_on(tmp_path):
    command = ["train", "digits", "--epochs", "100000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gradmem", *command, "--checkpoint-seconds", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    wait_for(lambda: list((tmp_path / "checkpoints").glob("*.pt")))
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"gradmem resume {tmp_path}" in said
    (record,) = (tmp_path / "runs").iterdir()
    assert json.loads(record.read_text())["status"] == "interrupted"


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
