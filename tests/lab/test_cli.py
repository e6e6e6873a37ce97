import errno
import json
import os
import re
import signal
import sys

import pytest
from typer.testing import CliRunner

import gradmem
from gradmem.lab import study as study_module
from gradmem.lab.cli import app
from gradmem.lab.study import Study

from .helpers import contents, module_here, tiny_plan

TINY = ["--trials", "2", "--seeds", "2", "--epochs", "2"]
REPORT = {"overview.svg", "report.html", "report.md", "results.csv", "summary.csv"}
WRITTEN = REPORT | {"config.toml", "journal.log"}
MINE = """
    import torch
    from gradmem.lab.tasks import Batch, Budget, FixedSplits, Metric, Task


    class Mine(Task):
        name = "mine"
        title = "A line"
        metric = Metric("error", higher_is_better=False, worst=9.0)
        budget = Budget(epochs=2, batch_size=10)
        target = 0.1

        def data(self):
            x = torch.linspace(-1, 1, 60).unsqueeze(1)
            whole = Batch(x, 2 * x)
            return FixedSplits(*(whole[torch.arange(k, 60, 3)] for k in range(3)))

        def model(self, seed):
            torch.manual_seed(seed)
            return torch.nn.Linear(1, 1)

        def loss(self, model, batch):
            return (model(batch.inputs) - batch.targets).square().mean()

        def score(self, model, batch):
            return float(self.loss(model, batch))


    class NoData(Mine):
        def data(self):
            raise KeyError("the column")


    class NoFile(Mine):
        def missing(self):
            return "there is no file mine.csv; put it into the data folder"


    class Broken(Mine):
        def loss(self, model, batch):
            raise RuntimeError("shapes do not fit")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder to work in, with a module of tasks of one's own."""
    with module_here("mine_tasks", MINE, tmp_path, monkeypatch):
        yield "mine_tasks:Mine"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(result):
    return " ".join(result.output.split())


def test_compare_prints_table_verdict_and_report(tmp_path):
    result = call("compare", "digits", *TINY, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for said in ("Adam_C", "accuracy, %", "paired seeds", "one task", "report.html"):
        assert said in words(result)
    assert "recording the memory of Adam_C" in result.output
    (records,) = tmp_path.glob("records-adam_c.*.jsonl")
    written = WRITTEN | {"claims", "runs", records.name}
    assert {p.name for p in tmp_path.iterdir()} == written
    again = call("compare", "digits", *TINY, "--out", tmp_path)
    assert "8 of 8 runs, 8 of them from before" in again.output
    assert "recording" not in again.output


def test_the_run_that_is_recorded_is_the_run_that_was_evaluated(tmp_path):
    call("compare", "digits", *TINY, "--out", tmp_path)
    stored = json.loads(next(tmp_path.glob("runs/adam_c-evaluate-seed100-*")).read_text())
    (path,) = tmp_path.glob("records-adam_c.*.jsonl")
    records = gradmem.Recorder.read(path)
    (scope,) = stored["memory"]
    assert len(records) == scope["steps"] == 2 * stored["steps_per_epoch"]
    held = [records[-1].step + 1 - step for step in records[-1].held]
    assert held == scope["ages"]
    assert "What lay in memory, by step: Adam_C" in (tmp_path / "report.html").read_text()


def test_records_can_be_left_out_and_those_of_another_setting_go(tmp_path):
    call("compare", "digits", *TINY, "--out", tmp_path, "--no-records")
    assert not list(tmp_path.glob("records*"))
    stale = tmp_path / "records-adam_c.0123456789abcdef.jsonl"
    stale.write_text("")
    call("compare", "digits", *TINY, "--out", tmp_path)
    (path,) = tmp_path.glob("records*")
    assert path != stale


def test_the_table_fits_a_terminal(tmp_path):
    result = call("compare", "digits", *TINY, "--out", tmp_path)
    lines = [line for line in result.output.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80


def test_a_config_repeats_a_study_exactly(mine, tmp_path):
    more = [
        "--sampler",
        "tpe",
        "--startup",
        "2",
        "--space",
        "adam.lr=1e-3:1",
        "--tuning-seeds",
        "2",
    ]
    first = call("compare", mine, "--trials", "4", "--seeds", "2", *more, "--out", "one")
    assert first.exit_code == 0, first.output
    second = call("compare", "--config", "one/config.toml", "--out", "two")
    assert second.exit_code == 0, second.output
    assert contents(tmp_path / "one" / "runs") == contents(tmp_path / "two" / "runs")
    assert "from before" not in second.output
    written = [(tmp_path / name / "config.toml").read_text() for name in ("one", "two")]
    assert written[0] == written[1]
    assert "epochs = 2" in written[0]  # the task's own budget, spelt out


def test_resume_goes_on_from_the_folder_alone(mine, tmp_path, monkeypatch):
    begun = interrupt_after(monkeypatch, 3)
    stopped = call("compare", mine, *TINY, "--out", "out")
    assert stopped.exit_code == 130
    assert "Finished runs are kept in out/runs" in words(stopped)
    assert "gradmem resume out" in words(stopped)
    (record,) = (tmp_path / "out" / "runs").glob("*.interrupted.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    resumed = call("resume", "out")
    assert resumed.exit_code == 0, resumed.output
    assert "8 of 8 runs, 3 of them from before" in resumed.output
    assert not record.exists()
    assert len(begun) == 3


def interrupt_after(monkeypatch, count):
    train, begun = study_module.train, []

    def interrupted(task, config, **options):
        if len(begun) == count:
            raise KeyboardInterrupt
        begun.append(config)
        return train(task, config, **options)

    monkeypatch.setattr(study_module, "train", interrupted)
    return begun


def test_report_is_made_from_the_runs_there_are(mine, tmp_path):
    call("compare", mine, "--trials", "2", "--seeds", "3", "--out", "out")
    page = (tmp_path / "out" / "report.md").read_text()
    (tmp_path / "out" / "report.md").unlink()
    again = call("report", "out")
    assert again.exit_code == 0
    assert (tmp_path / "out" / "report.md").read_text() == page
    for run in (tmp_path / "out" / "runs").glob("adam-evaluate-seed102*"):
        run.unlink()
    part = call("report", "out")
    assert "1 runs are yet to be made; this is about the 2 seeds that are finished" in words(part)
    assert "over 2 paired seeds" in words(part)


def test_a_report_without_results_is_a_sentence(mine, tmp_path):
    call("compare", mine, *TINY, "--out", "out")
    for run in (tmp_path / "out" / "runs").iterdir():
        run.unlink()
    result = call("report", "out")
    assert result.exit_code == 1
    assert "4 of 4 trials in out are yet to be made" in words(result)
    nowhere = call("report", "nowhere")
    assert nowhere.exit_code == 2
    assert "no config.toml in nowhere" in words(nowhere)


def test_tune_says_each_best_setting_as_a_command_that_trains(mine, tmp_path):
    result = call("tune", mine, "--trials", "3", "--optimizers", "sgd,sgd_c", "--out", "out")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 6
    commands = [line.split() for line in result.output.splitlines() if "gradmem train" in line]
    assert [command[4] for command in commands] == ["sgd", "sgd_c"]
    for command in commands:
        trained = call(*command[1:], "--out", "train")
        assert trained.exit_code == 0, trained.output
    assert call("report", "out").output in result.output
    # and the trials count for a comparison afterwards
    compared = call("compare", "--config", "out/config.toml", "--seeds", "1", "--out", "out")
    assert "8 of 8 runs, 6 of them from before" in compared.output


def test_the_commands_train_as_long_as_the_search_did(mine):
    usual = call("tune", mine, "--trials", "1", "--epochs", "2", "--batch-size", "10")
    assert "--epochs" not in usual.output
    other = call("tune", mine, "--trials", "1", "--epochs", "3", "--batch-size", "5")
    commands = [line for line in other.output.splitlines() if "gradmem train" in line]
    assert all(line.endswith("--epochs 3 --batch-size 5") for line in commands)
    assert len(commands) == 2


def test_train_prints_every_epoch_and_keeps_the_run(mine, tmp_path):
    settings = ["--optimizer", "adam_c", "--set", "lr=.1", "--set", "capacity=5", "--seed", "1"]
    result = call("train", mine, *settings, "--epochs", "3", "--out", "out")
    assert result.exit_code == 0, result.output
    assert result.output.count("epoch ") == 3 + 1
    assert "Test error" in result.output
    (run,) = (tmp_path / "out" / "runs").glob("*.json")
    kept = json.loads(run.read_text())
    assert kept["config"]["options"] == {"lr": 0.1, "capacity": 5}
    assert kept["memory"][0]["capacity"] == 5
    before = run.stat().st_mtime_ns
    for again in (
        call("train", "--config", "out/config.toml", "--out", "out"),
        call("resume", "out"),
    ):
        assert "This run was made before." in again.output
    assert run.stat().st_mtime_ns == before
    assert call("report", "out").exit_code == 0
    assert call("train", "--config", "out/config.toml", "--out", "new").exit_code == 0
    assert contents(tmp_path / "new" / "runs") == contents(tmp_path / "out" / "runs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "lr=1e38"], "the run diverged"),
        (["--timeout", "1e-9"], "the run ran out of time; with a longer --timeout"),
    ],
)
def test_a_run_without_an_end_is_a_sentence(mine, arguments, said):
    result = call("train", mine, "--optimizer", "sgd", *arguments, "--out", "out")
    assert result.exit_code == 1
    assert said in words(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "digts"], ["unknown task 'digts'; did you mean 'digits'?", "gradmem tasks"]),
        (["compare", "houses.csv"], ["unknown task", "name it: houses.csv:COLUMN"]),
        (["compare", "nowhere:task"], ["no module 'nowhere'"]),
        (["compare"], ["no task is named"]),
        (["compare", "digits", "--optimizers", "adan"], ["unknown optimizer 'adan'", "adam"]),
        (["compare", "digits", "--optimizers", ","], ["no optimizer named"]),
        (["compare", "digits", "--optimizers", "adam,adam"], ["twice"]),
        (["compare", "digits", "--trials", "0"], ["trials must be at least 1, not 0"]),
        (["compare", "digits", "--seeds", "many"], ["--seeds", "integer"]),
        (["compare", "digits", "--sampler", "grid"], ["sampler must be one of", "grid"]),
        (["compare", "digits", "--space", "lr=1"], ["--space takes optimizer.option"]),
        (["compare", "digits", "--space", "adan.lr=1:2"], ["unknown optimizer 'adan'"]),
        (["compare", "digits", "--space", "adam.lrr=1:2"], ["lrr=", "did you mean 'lr'?"]),
        (["compare", "digits", "--optimizers", "muon", "--space", "muon.lrr=1"], ["mean 'lr'?"]),
        (["compare", "digits", "--space", "adam.lr=fast"], ["adam cannot be made with lr='fast'"]),
        (["compare", "digits", "--config", "none.toml"], ["there is no file none.toml"]),
        (["compare", "digits", "--storage", "no://x"], ["the storage 'no://x' cannot be used"]),
        (["tune", "digits", "--timeout", "-1"], ["timeout must be greater than 0"]),
        (["train", "digits", "--set", "lr"], ["--set takes name=value"]),
        (["train", "digits", "--optimizer", "adam_c", "--set", "capacity=-1"], ["capacity"]),
        (["train", "digits", "--set", "lrr=1"], ["adam cannot be made with lrr=1", "'lr'?"]),
    ],
)
def test_bad_input_is_a_sentence_and_trains_nothing(tmp_path, arguments, said):
    out = tmp_path / "out"
    result = call(*arguments, "--out", out)
    assert result.exit_code == 2, result.output
    assert all(word in words(result) for word in said), words(result)
    assert "Traceback" not in result.output
    assert not (out / "runs").exists()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("NoData", "the task mine cannot be used: KeyError: 'the column' (/"),
        ("NoFile", "there is no file mine.csv; put it into the data folder"),
        ("Broken", "every run so far, 5 of them, crashed: RuntimeError: shapes do not fit"),
    ],
)
def test_a_task_that_raises_is_a_sentence(mine, tmp_path, task, said):
    result = call("compare", f"mine_tasks:{task}", "--trials", "4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert said in words(result)
    assert "Traceback (most" not in result.output


def test_a_mended_task_is_tried_again_when_asked_for(mine, tmp_path):
    call("compare", "mine_tasks:Broken", *TINY, "--out", "out")
    text = (
        (tmp_path / "mine_tasks.py")
        .read_text()
        .replace('raise RuntimeError("shapes do not fit")', "return super().loss(model, batch)")
    )
    (tmp_path / "mine_tasks.py").write_text(text)
    sys.modules.pop("mine_tasks")
    again = call("compare", "mine_tasks:Broken", *TINY, "--out", "out", "--retry-crashed")
    assert again.exit_code == 0, again.output


def test_a_full_disk_is_a_sentence_and_loses_nothing(mine, tmp_path, monkeypatch):
    call("compare", mine, *TINY, "--out", "out")
    before = contents(tmp_path / "out" / "runs")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = call("compare", mine, "--trials", "2", "--seeds", "3", "--out", "out")
    assert result.exit_code == 1
    assert "No space left on device. Finished runs are kept" in words(result)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert contents(tmp_path / "out" / "runs") == before
    assert call("compare", mine, "--trials", "2", "--seeds", "3", "--out", "out").exit_code == 0


def test_a_truncated_run_is_warned_of_and_repeated(mine, tmp_path):
    call("compare", mine, *TINY, "--out", "out")
    whole = contents(tmp_path / "out" / "runs")
    victim = sorted((tmp_path / "out" / "runs").glob("*.json"))[0]
    victim.write_text(victim.read_text()[:100])
    result = call("compare", mine, *TINY, "--out", "out")
    assert f"warning: {victim.name} cannot be read" in result.output
    assert "8 of 8 runs, 7 of them from before" in result.output
    assert contents(tmp_path / "out" / "runs") == whole


def test_other_options_in_the_same_folder_are_said(mine):
    call("compare", mine, *TINY, "--out", "out")
    result = call("compare", mine, "--trials", "3", "--seeds", "2", "--out", "out")
    assert "warning: the options in out change: trials 2 -> 3; runs that still fit" in words(result)
    assert re.search("10 of 10 runs, [4-8] of them from before", words(result))


@pytest.mark.parametrize(
    "command",
    [
        ["train", "digits", "--epochs", "1"],
        ["ablate", "digits", "kappa", *TINY],
        ["inspect", "digits", "--epochs", "1"],
        ["surface", "beale", "--lr", "0.1", "--steps", "3"],
        ["bound", "quadratic", "--steps", "9"],
        ["sparsify", "digits"],
        ["summary"],
    ],
)
def test_the_folder_of_another_command_is_left_alone(tmp_path, command):
    kept = tmp_path / "config.toml"
    kept.write_text('command = "compare"\ntask = "digits"\n')
    result = call(*command, "--out", tmp_path)
    assert result.exit_code == 2
    assert "has what `gradmem compare` began" in words(result)
    assert "name another folder with --out" in words(result)
    assert kept.read_text() == 'command = "compare"\ntask = "digits"\n'
    assert list(tmp_path.iterdir()) == [kept]


def test_compare_takes_the_folder_of_a_search(mine):
    call("tune", mine, "--trials", "2", "--epochs", "2", "--out", "out")
    assert call("compare", mine, *TINY, "--out", "out").exit_code == 0
    assert call("tune", mine, "--trials", "2", "--epochs", "2", "--out", "out").exit_code == 0


def test_the_versions_are_said():
    said = call("--version")
    assert said.exit_code == 0
    assert said.output.startswith(f"gradmem {gradmem.__version__}, torch ")


def test_one_trial_is_no_trials(mine):
    result = call("compare", mine, "--trials", "1", "--seeds", "2", "--out", "out")
    assert "chosen in 1 trial. The" in words(result)
    assert "chosen in 1 trials" not in words(result)


def test_quiet_is_quiet_but_for_errors(mine):
    assert call("compare", mine, *TINY, "--out", "out", "--quiet").output == ""
    assert call("tune", mine, "--trials", "2", "--out", "out", "-q").output == ""
    assert call("train", mine, "--out", "train", "--quiet").output == ""
    broken = call("compare", "mine_tasks:Broken", "--out", "broken", "--quiet")
    assert broken.exit_code == 1
    assert broken.output.startswith("Error: every run so far")


def test_curves_go_to_tensorboard(mine, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = call(
        "train", mine, "--set", "lr=.1", "--epochs", "3", "--out", "out", "--tensorboard", "tb"
    )
    assert result.exit_code == 0, result.output
    (log,) = (tmp_path / "tb").iterdir()
    events = EventAccumulator(str(log)).Reload()
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert log.name == run.stem
    losses = json.loads(run.read_text())["curves"]["validation_loss"]
    logged = events.Scalars("loss/validation")
    assert [point.value for point in logged] == pytest.approx(losses)
    assert [point.step for point in logged] == [2, 4, 6]


def test_without_tensorboard_its_name_is_said_before_anything_runs(mine, monkeypatch, tmp_path):
    monkeypatch.setattr("gradmem.lab.tensorboard.find_spec", lambda name: None)
    result = call("compare", mine, *TINY, "--out", "out", "--tensorboard", "tb")
    assert result.exit_code == 2
    assert "pip install tensorboard" in words(result)
    assert not (tmp_path / "out").exists()


def test_the_signal_handler_is_as_it_was(mine):
    before = signal.getsignal(signal.SIGTERM)
    call("train", mine, "--out", "out")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_report_opens_on_request(mine, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    call("compare", mine, *TINY, "--out", tmp_path / "out", "--open")
    assert opened == [(tmp_path / "out" / "report.html").as_uri()]
    call("report", tmp_path / "out", "--open")
    assert len(opened) == 2


def test_study_and_command_agree_on_the_runs(tmp_path):
    call("compare", "digits", *TINY, "--out", tmp_path)
    assert Study(tiny_plan(), tmp_path).comparison().outstanding == 0


def test_missing_data_are_a_sentence_that_says_where_from(tmp_path):
    result = call("compare", "mnist-mlp", "--data", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "'mnist' is not complete" in words(result)
    assert not (tmp_path / "out").exists()
