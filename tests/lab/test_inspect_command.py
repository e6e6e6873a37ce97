"""``gradmem inspect``, called as from the shell."""

import re

import pytest
import torch
import typer
from typer.testing import CliRunner

import gradmem
from gradmem import Recorder
from gradmem.lab.memory import cli, command, pages, recording
from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.tasks.base import seeded
from gradmem.lab.tasks.digits import Digits
from gradmem.lab.training import Training

from .helpers import Line

PICTURES = {"map.svg", "ages.svg", "curves.svg"}
PAGES = {"report.html", "report.md", *PICTURES}


@pytest.fixture(scope="module")
def app():
    made = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    made.callback()(lambda: None)
    cli.register(made)
    return made


@pytest.fixture
def run(app, monkeypatch):
    """Call the command; "line" is a task of milliseconds."""
    get = command.get_task
    tasks = {"line": Line()}
    monkeypatch.setattr(command, "get_task", lambda name, folder: tasks.get(name) or get(name))

    def call(*arguments):
        return CliRunner().invoke(app, ["inspect", *(str(argument) for argument in arguments)])

    call.tasks = tasks
    return call


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes most of the time: not where only records are looked at."""
    monkeypatch.setattr(pages, "panels", lambda _: [])
    monkeypatch.setattr(pages, "pictures", lambda _: {})


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_run_on_a_real_task(run, tmp_path):
    result = run("digits", "--epochs", 1, "--lr", 0.01, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert files(tmp_path) == PAGES | {"records.jsonl"}
    records = Recorder.read(tmp_path / "records.jsonl")
    assert [record.call for record in records] == list(range(1, 35))
    assert "finished after 34 steps, validation accuracy" in result.output
    assert f"Report: {tmp_path / 'report.html'}" in result.output
    text = (tmp_path / "report.md").read_text()
    for name in re.findall(r"\]\((.+?)\)", text):
        assert (tmp_path / name).exists()
    assert all((tmp_path / name).stat().st_size < 200_000 for name in PICTURES)


def test_it_trains_as_the_lab_does(tmp_path):
    """The records are of the run that `gradmem train` makes."""
    plan = recording.Plan(Digits(), "adam_c", {"lr": 0.01}, [10], [0.7], epochs=1, seed=3)
    run = recording.record(plan, plan.settings[0], tmp_path / "records.jsonl", lambda _: None)
    training = Training(Digits(), OPTIMIZERS["adam_c"], {"lr": 0.01}, seed=3, batch_size=32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with seeded(3, "training"):
        training.epoch(of=1)
    torch.set_num_threads(threads)
    assert run.scores == tuple(training.history.validation_score)
    report = training.optimizer.memory_report().scopes[0]
    assert [35 - birth for birth in run.records[-1].held] == list(report.ages)


def test_several_runs(run, tmp_path):
    result = run(
        *("line", "--capacity", "2,3", "--decay", ".5,.9", "--out", tmp_path, "--batch-size", 5)
    )
    assert result.exit_code == 0, result.output
    names = {f"records-capacity-{c}-decay-{d}.jsonl" for c in (2, 3) for d in (0.5, 0.9)}
    assert files(tmp_path) == PAGES | names
    assert result.output.count("finished after 12 steps") == 4
    assert (tmp_path / "report.html").read_text().count("<figure>") == 8
    held = {name: len(Recorder.read(tmp_path / name)[0].held) for name in names}
    assert {int(name.split("-")[2]): size for name, size in held.items()} == {2: 2, 3: 3}


@pytest.mark.parametrize("name", gradmem.names())
def test_every_optimizer_with_a_memory(run, undrawn, tmp_path, name):
    result = run("line", "--optimizer", name, "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(Recorder.read(tmp_path / "records.jsonl")) == 3


def test_one_with_a_memory_around_it(run, undrawn, tmp_path):
    settings = [f"--set={name}" for name in ("lr=0.1", "adam_lr=0.1", "momentum=0.9")]
    more = ["--set", "weight_decay=0.01", "--capacity", 2, "--epochs", 1, "--out", tmp_path]
    result = run("line", "--optimizer", "muon_c", *settings, *more)
    assert result.exit_code == 0, result.output
    assert len(Recorder.read(tmp_path / "records.jsonl")[-1].held) == 2


def test_options_are_handed_on(run, undrawn, tmp_path):
    result = run(
        *("line", "--policy", "fifo", "--set", "scope=tensor", "--set", "max_age=3"),
        *("--set", "capacity=4", "--decay", "0.5", "--out", tmp_path),
    )
    assert result.exit_code == 0, result.output
    records = Recorder.read(tmp_path / "records.jsonl")
    assert {record.scope for record in records} == {"group 0, tensor 0", "group 0, tensor 1"}
    assert len(records[0].held) == 4
    assert max(record.left_age or 0 for record in records) == 3
    page = (tmp_path / "report.md").read_text()
    for row in ("| policy | fifo |", "| max_age | 3 |", "| capacity | 4 |", "| decay | 0.5 |"):
        assert row in page


def test_records_of_an_earlier_run_are_replaced(run, undrawn, tmp_path):
    for _ in range(2):
        assert run("line", "--out", tmp_path).exit_code == 0
    assert [r.step for r in Recorder.read(tmp_path / "records.jsonl")] == list(range(1, 10))
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 9


def test_the_seed_decides(run, undrawn, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("line", "--seed", seed, "--out", tmp_path / name).exit_code == 0
    a, b, c = ((tmp_path / name / "records.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


class Interrupted(Line):
    """As if Ctrl-C were pressed at the n-th loss."""

    after = 5
    error: type[BaseException] = KeyboardInterrupt

    def loss(self, model, batch):
        self.after -= 1
        if self.after < 0:
            raise self.error
        return super().loss(model, batch)


def test_after_ctrl_c_what_is_recorded_is_drawn_and_said(run, tmp_path):
    run.tasks["line"] = Interrupted()
    result = run("line", "--decay", "0.5,0.9", "--out", tmp_path)
    assert result.exit_code == 130
    assert "decay 0.5: interrupted after 3 steps, validation error" in result.output
    assert "1 of 2 runs were made." in result.output
    assert f"Report: {tmp_path / 'report.html'}" in result.output
    assert files(tmp_path) == PAGES | {"records-capacity-10-decay-0.5.jsonl"}
    assert "was interrupted" in (tmp_path / "report.html").read_text()


def test_ctrl_c_before_the_first_step(run, tmp_path):
    run.tasks["line"] = task = Interrupted()
    task.after = 0
    result = run("line", "--out", tmp_path)
    assert result.exit_code == 1
    assert "Error: no step was recorded" in result.output
    assert files(tmp_path) <= {"records.jsonl"}


def test_a_run_that_diverges_is_reported_up_to_there(run, undrawn, tmp_path):
    result = run("line", "--optimizer", "sgd_c", "--lr", "1e30", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "diverged after" in result.output
    assert "diverged" in (tmp_path / "report.html").read_text()


def test_a_task_that_raises_ends_in_a_sentence(run, tmp_path):
    run.tasks["line"] = task = Interrupted()
    task.error = KeyError
    result = run("line", "--out", tmp_path)
    assert result.exit_code == 1
    said = r"Error: the run on line broke off: KeyError:  \(.*test_inspect_command.py, line \d+\)\."
    assert re.search(said, result.output), result.output


def test_a_folder_that_cannot_be_written_to(run, tmp_path):
    (tmp_path / "file").touch()
    result = run("line", "--out", tmp_path / "file" / "folder")
    assert result.exit_code == 1
    assert "cannot be written" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dogits"], "unknown task"),
        (["line", "--optimizer", "adam"], "no optimizer with a memory; did you mean 'adam_c'?"),
        (["line", "--capacity", "ten"], "capacity must be a number"),
        (["line", "--capacity", "3,3"], "capacity names a number twice"),
        (["line", "--capacity", "-1"], "capacity must be at least 0"),
        (["line", "--capacity", "5,0"], "no memory to inspect"),
        (["line", "--decay", "1.5"], "decay must be in"),
        (["line", "--policy", "best"], "policy must be one of"),
        (["line", "--set", "momentum=0.9"], "unknown option 'momentum'"),
        (["line", "--set", "lr"], "--set takes name=value"),
        (["line", "--set", "lr=1", "--lr", "2"], "lr is given twice"),
        (["line", "--set", "decay=0.5", "--decay", "0.9"], "decay is given twice"),
        (["line", "--epochs", "0"], "epochs must be at least 1"),
        (["line", "--batch-size", "-3"], "batch size must be at least 1"),
    ],
)
def test_wrong_input_is_a_sentence_before_anything_is_written(run, tmp_path, arguments, said):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_it_opens_the_page_on_request_only(run, undrawn, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(cli, "open_page", opened.append)
    run("line", "--out", tmp_path, "--no-open")
    assert opened == []
    run("line", "--out", tmp_path, "--open")
    assert opened == [tmp_path / "report.html"]


def test_help(app):
    result = CliRunner().invoke(app, ["inspect", "--help"])
    assert result.exit_code == 0
    assert "--capacity" in result.output


def test_many_ledgers_are_cut_in_the_table_and_it_is_said(monkeypatch, run, undrawn, tmp_path):
    monkeypatch.setattr(pages, "SCOPES_SHOWN", 1)
    run("line", "--set", "scope=tensor", "--out", tmp_path)
    assert "The first 1 of 2 ledgers" in (tmp_path / "report.html").read_text()
