"""``gradmem ablate``, called as from the shell: cells, runs, files, resumption, wrong input."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from gradmem.lab.claims import Claims
from gradmem.lab.cli import app
from gradmem.lab.run import train
from gradmem.lab.study import Study
from gradmem.lab.tasks import Batch, Varied, get_task
from gradmem.lab.tasks.digits import Digits
from gradmem.lab.tasks.python_text import PythonText

from .helpers import config, contents, untimed
from .test_kill import stamps, wait_for

FILES = {"report.html", "report.md", "results.csv", "figure.svg", "config.toml"}
TINY = {"trials": 2, "seeds": 2, "epochs": 1}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder to be in."""
    monkeypatch.chdir(tmp_path)


def call(*arguments, **options):
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return CliRunner().invoke(app, [str(each) for each in (*arguments, *given)])


def words(result):
    return " ".join(result.output.split())


def rows(out):
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def tried(out, purpose="tune"):
    """By optimizer and memory: the settings tried, in the order of seeds and settings."""
    found = {}
    for path in sorted((out / "runs").glob("*.json")):
        run = json.loads(path.read_text())["config"]
        if run["purpose"] != purpose:
            continue
        searched = {name: run["options"].pop(name) for name in ("lr", "eps")}
        cell = (run["optimizer"], json.dumps(run["options"], sort_keys=True))
        found.setdefault(cell, []).append((run["seed"], *searched.values()))
    return {cell: sorted(settings) for cell, settings in found.items()}


# From the command to the files --------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablate") / "grid"
    values = ("--values", "capacity=0,2,5", "--values", "kappa=0,-.5")
    result = call("ablate", "digits", "capacity", "kappa", *values, out=out, **TINY)
    assert result.exit_code == 0, result.output
    return out, result


def test_the_files_and_what_is_said(grid):
    out, result = grid
    assert {path.name for path in out.iterdir()} == FILES | {"runs", "claims", "journal.log"}
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "](figure.svg)" in text
    assert "Held fixed: decay=0.7, aggregate=sum, policy=top_norm, scope=model" in text
    assert str(out) not in page + text
    said = words(result)
    assert "of 2 cells" in said
    assert "Report:" in said
    for phrase in ("corrected for 2 comparisons", "by the sign and size of kappa"):
        assert phrase in said
        assert phrase in page
        assert phrase in text


def test_a_cell_without_a_memory_is_the_base_and_has_no_runs_of_its_own(grid):
    out, _ = grid
    ran = tried(out)
    assert [optimizer for optimizer, _ in ran].count("adam") == 1
    assert len(ran) == 3  # of 6 cells 4 are the base
    by_place = {(row["capacity"], row["kappa"]): row for row in rows(out)}
    assert len(by_place) == 1 + 6  # and the base's own row
    for place in (("0", "0"), ("0", "-0.5"), ("2", "0"), ("5", "0")):
        assert by_place[place]["outcome"] == "base"
        assert by_place[place]["test_mean"] == by_place["", ""]["test_mean"]
        assert by_place[place]["difference"] == ""
    for place in (("2", "-0.5"), ("5", "-0.5")):
        mine = json.loads(by_place[place]["options"])
        assert (mine["capacity"], mine["kappa"]) == (int(place[0]), -0.5)
        assert by_place[place]["comparisons"] == "2"


def test_every_cell_has_the_same_trials_at_the_same_settings_and_the_same_seeds(grid):
    out, _ = grid
    settings = list(tried(out).values())
    assert all(each == settings[0] for each in settings)
    assert len(settings[0]) == 2
    for runs in tried(out, "evaluate").values():
        assert [seed for seed, *_ in runs] == [100, 101]
    assert {row["trials"] for row in rows(out)} == {"2"}


def test_differences_follow_from_the_runs(grid):
    out, _ = grid
    runs = [json.loads(path.read_text()) for path in (out / "runs").glob("*evaluate*.json")]
    scores = {}
    for run in runs:
        memory = run["config"]["options"].get("capacity", 0)
        scores[memory, run["config"]["seed"]] = run["test_score"]
    for row in rows(out):
        if row["difference"]:
            own = int(row["capacity"])
            by_seed = [scores[own, seed] - scores[0, seed] for seed in (100, 101)]
            assert float(row["difference"]) == pytest.approx(sum(by_seed) / 2)


def test_the_base_has_the_very_runs_of_a_comparison(grid, tmp_path):
    out, _ = grid
    result = call("compare", "digits", optimizers="adam", out=tmp_path / "compare", **TINY)
    assert result.exit_code == 0, result.output
    mine, theirs = contents(out / "runs"), contents(tmp_path / "compare" / "runs")
    assert len(theirs) == 4
    assert theirs.items() <= mine.items()


@pytest.mark.parametrize("off", [{"capacity": 0}, {"kappa": 0.0}])
def test_a_memory_that_is_off_is_its_base_to_the_bit(off):
    base = train(Digits(), config(options={"lr": 0.01, "eps": 1e-6}))
    memory = {"capacity": 5, "kappa": 1.0, "aggregate": "sum", **off}
    options = {"lr": 0.01, "eps": 1e-6, **memory}
    cell = train(Digits(), config(optimizer="adam_c", options=options))
    own = {"config", "state_bytes", "memory"}
    for name, value in untimed(base).items():
        assert name in own or untimed(cell)[name] == value, name


def test_one_folder_is_gone_on_with_and_reported_on_by_name(grid, tmp_path):
    out, first = grid
    assert call("resume", out).exit_code == 0
    before = stamps(out / "runs")
    again = call("report", out)
    assert again.exit_code == 0, again.output
    assert stamps(out / "runs") == before
    assert words(first).endswith(words(again))  # the same table, verdicts and place
    kept = out / "config.toml"
    repeated = call("ablate", "--config", kept, "--out", tmp_path / "again")
    assert repeated.exit_code == 0, repeated.output
    assert contents(tmp_path / "again" / "runs") == contents(out / "runs")


def test_what_is_missing_is_made_and_nothing_else(grid):
    out, _ = grid
    before = contents(out / "runs")
    gone = next((out / "runs").glob("adam_c-evaluate-seed101-*.json"))
    gone.unlink()
    unfinished = call("report", out)
    assert unfinished.exit_code == 0
    assert "1 runs are yet to be made" in words(unfinished)
    kept = stamps(out / "runs")
    result = call("resume", out)
    assert result.exit_code == 0, result.output
    assert "of them from before" in words(result)
    assert kept.items() <= stamps(out / "runs").items()
    assert contents(out / "runs") == before


def test_another_value_adds_to_what_is_there_and_is_told(tmp_path):
    first = {"out": tmp_path / "out", **TINY}
    assert call("ablate", "digits", "decay", values="decay=0.5", **first).exit_code == 0
    before = stamps(tmp_path / "out" / "runs")
    result = call("ablate", "digits", "decay", values="decay=0.5,1", **first)
    assert "warning: the options in" in words(result)
    after = stamps(tmp_path / "out" / "runs")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 4


def test_interrupted_it_goes_on_where_it_was(tmp_path, monkeypatch, grid):
    begun, whole = [], Study.run

    def run(self, config, watcher):
        begun.append(config)
        if len(begun) == 5:
            raise KeyboardInterrupt
        return whole(self, config, watcher)

    monkeypatch.setattr(Study, "run", run)
    values = ("--values", "capacity=0,2,5", "--values", "kappa=0,-.5")
    broken = call("ablate", "digits", "capacity", "kappa", *values, out=tmp_path / "out", **TINY)
    assert broken.exit_code == 130
    assert f"gradmem resume {tmp_path / 'out'}" in words(broken)
    finished = stamps(tmp_path / "out" / "runs")
    assert len(finished) == 4
    unfinished = call("report", tmp_path / "out")
    assert unfinished.exit_code == 1
    assert "2 of 6 trials" in words(unfinished)
    assert call("resume", tmp_path / "out").exit_code == 0
    assert len(begun) == 5 + 8
    assert finished.items() <= stamps(tmp_path / "out" / "runs").items()
    assert contents(tmp_path / "out" / "runs") == contents(grid[0] / "runs")


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_it_had_not_been(tmp_path):
    command = ["ablate", "digits", "kappa", "--values", "kappa=-.5,0,1", "--epochs", "6"]
    command += ["--trials", "3", "--seeds", "2"]
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "gradmem", *command, "--out", str(folder), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    wait_for(lambda: len(stamps(folder / "runs")) >= 3)
    process.kill()
    process.wait()
    wait_for(lambda: Claims(folder / "claims").living() == 0)
    before = {p: s for p, s in stamps(folder / "runs").items() if "interrupted" not in p.name}
    assert 3 <= len(before) < 15
    assert call("resume", folder).exit_code == 0
    assert before.items() <= stamps(folder / "runs").items()
    assert call(*command, "--out", tmp_path / "calm").exit_code == 0
    assert contents(folder / "runs") == contents(tmp_path / "calm" / "runs")


# Batches, and axes of the task's own ----------------------------------------------------------


def test_a_memory_beside_its_base_on_a_larger_batch(tmp_path):
    out = tmp_path / "out"
    options = {"values": "batch=1,40", "batch-size": 32, "out": out, **TINY}
    result = call("ablate", "digits", "batch", **options)
    assert result.exit_code == 0, result.output
    found = {(row["optimizer"], row["batch"]): row for row in rows(out)}
    sizes = {place: (int(row["batch_size"]), int(row["epochs"])) for place, row in found.items()}
    # 1,077 examples: 34 steps of 32, 17 of 64, 1 of all
    assert sizes == {
        ("Adam", ""): (32, 1),
        ("Adam_C", "1"): (32, 1),
        ("Adam_C", "40"): (32, 1),
        ("Adam, larger batch", "1"): (64, 1),
        ("Adam, larger batch", "40"): (1312, 1),
        ("Adam, larger batch, more epochs", "1"): (64, 2),
        ("Adam, larger batch, more epochs", "40"): (1312, 34),
    }
    assert {row["trials"] for row in found.values()} == {"2"}
    assert found["Adam_C", "40"]["comparisons"] == "6"
    text = (out / "report.md").read_text()
    assert "Adam_C capacity=40 − Adam batch=1312 epochs=34" in text
    assert "A memory of C gradients less its base on a batch (C + 1) times as large" in text
    assert "1 of the larger batches are of more than the 1,077 examples" in text
    steps = {}
    for path in (out / "runs").glob("adam-evaluate-seed100*.json"):
        run = json.loads(path.read_text())
        key = run["config"]["batch_size"], run["config"]["epochs"]
        steps[key] = run["steps_per_epoch"] * run["config"]["epochs"]
    assert steps == {(32, 1): 34, (64, 1): 17, (64, 2): 34, (1312, 1): 1, (1312, 34): 34}


def test_by_depth_every_cell_is_compared_with_the_base_of_its_depth(steep, tmp_path):
    result = call("ablate", steep, "depth", "capacity", values="capacity=0,2", out="out", **TINY)
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "out")
    assert [row["optimizer"] for row in found[:2]] == ["Adam depth=1", "Adam depth=3"]
    against = {row["depth"]: row["against"] for row in found if row["difference"]}
    assert against == {"1": "Adam depth=1", "3": "Adam depth=3"}
    named = {
        json.loads(path.read_text())["config"]["task"]
        for path in (tmp_path / "out" / "runs").glob("*.json")
    }
    assert named == {"steep", "steep-depth3-slope2-straight"}
    assert "warning: the line is a part of the plane" in words(result)
    assert call("report", "out").exit_code == 0


def test_python_text_has_depths_and_at_its_own_it_is_itself():
    task = get_task("python-text")
    assert isinstance(task, Varied)
    assert (task.name, task.title) == ("python-text", PythonText.title)
    same, deep = task.at(depth=1), task.at(depth=2)
    assert (same.name, same.title, same.versions()) == (task.name, task.title, task.versions())
    assert deep.name == "python-text-depth2"
    assert deep.title != task.title
    ours, theirs = (made.model(3).state_dict() for made in (same, task))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    extra = deep.model(3).state_dict().keys() - theirs.keys()
    assert extra == {f"recurrent.{kind}_l1" for kind in _WEIGHTS}
    text = torch.randint(90, (2, 5), generator=torch.Generator().manual_seed(0))
    assert deep.loss(deep.model(0), Batch(text, text)).isfinite()


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
