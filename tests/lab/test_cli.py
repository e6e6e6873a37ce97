import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gradmem.lab import compare as compare_module
from gradmem.lab.cli import app
from gradmem.lab.store import Store

from .helpers import tiny_comparison

TINY = ["--trials", "2", "--seeds", "2", "--epochs", "2"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_compare_prints_table_verdict_and_report(tmp_path):
    result = call("compare", "digits", *TINY, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for words in ("Adam_C", "accuracy, %", "paired seeds", "one small task", "report.html"):
        assert words in " ".join(result.output.split())
    assert max(map(len, result.output.splitlines()[:-1])) <= 80
    assert {path.name for path in tmp_path.iterdir()} == {
        "overview.svg",
        "report.html",
        "report.md",
        "results.csv",
        "runs",
    }
    again = call("compare", "digits", *TINY, "--out", tmp_path)
    assert "8 of 8 runs, 8 of them from before" in again.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnist"], ["unknown task 'mnist'", "digits"]),
        (["digits", "--optimizers", "adan"], ["unknown optimizer 'adan'", "adam", "sgd_c"]),
        (["digits", "--optimizers", ","], ["no optimizer named"]),
        (["digits", "--optimizers", "adam,adam"], ["twice"]),
        (["digits", "--trials", "0"], ["trials must be at least 1, not 0"]),
        (["digits", "--seeds", "many"], ["--seeds", "integer"]),
    ],
)
def test_bad_input_is_a_sentence_and_starts_nothing(tmp_path, arguments, words):
    out = tmp_path / "out"
    result = call("compare", *arguments, "--out", out)
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    assert not out.exists()


def test_an_interruption_says_how_to_continue(tmp_path, monkeypatch):
    train, done = compare_module.train, []

    def interrupted(task, config):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(config)
        return train(task, config)

    monkeypatch.setattr(compare_module, "train", interrupted)
    result = call("compare", "digits", *TINY, "--out", tmp_path)
    assert result.exit_code == 130
    assert "Finished runs are kept" in result.output
    assert len(list((tmp_path / "runs").glob("*.json"))) == 3


def test_a_truncated_run_is_warned_of_and_repeated(tmp_path):
    call("compare", "digits", *TINY, "--out", tmp_path)
    victim = sorted((tmp_path / "runs").glob("*.json"))[0]
    whole = json.loads(victim.read_text())
    victim.write_text(victim.read_text()[:100])
    result = call("compare", "digits", *TINY, "--out", tmp_path)
    assert f"warning: {victim.name} cannot be read" in result.output
    assert "8 of 8 runs, 7 of them from before" in result.output
    repeated = json.loads(victim.read_text())
    assert {**repeated, "seconds_per_step": 0} == {**whole, "seconds_per_step": 0}


def test_after_a_kill_the_same_command_goes_on_and_ends_the_same(tmp_path):
    sizes = {"trials": 3, "seeds": 2, "epochs": 15}
    command = ["compare", "digits", "--out", str(tmp_path / "killed")]
    command += [text for name, n in sizes.items() for text in (f"--{name}", str(n))]
    runs = tmp_path / "killed" / "runs"

    process = subprocess.Popen(
        [sys.executable, "-m", "gradmem.lab", *command],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    while len(list(runs.glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat() for path in runs.glob("*.json")}
    assert 3 <= len(before) < 10

    assert call(*command).exit_code == 0
    for path, stat in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)

    undisturbed = tmp_path / "undisturbed"
    tiny_comparison(undisturbed, **sizes)
    assert _contents(runs) == _contents(undisturbed)


def _contents(folder):
    return {
        path.name: {**json.loads(path.read_text()), "seconds_per_step": None}
        for path in folder.glob("*.json")
    }


def test_lists():
    assert "digits" in call("tasks").output
    listed = call("optimizers").output
    assert all(name in listed for name in ("sgd", "adamw_c", "lr", "capacity"))


def test_the_report_opens_on_request(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    call("compare", "digits", *TINY, "--out", tmp_path, "--open")
    assert opened == [(tmp_path / "report.html").as_uri()]


def test_store_and_command_agree_on_the_folder(tmp_path):
    call("compare", "digits", *TINY, "--out", tmp_path)
    comparison = tiny_comparison(tmp_path / "runs")
    assert Store(tmp_path / "runs").load(comparison.results[0].runs[0].config) is not None
