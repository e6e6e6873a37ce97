"""``gradmem tasks``, ``optimizers`` and ``data``."""

from typer.testing import CliRunner

from gradmem.lab.cli import app


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_lists():
    assert "digits" in call("tasks").output
    listed = call("optimizers").output
    for name in ("sgd", "adamw_c", "muon", "lr", "capacity", "on top of adam"):
        assert name in listed


def test_the_list_says_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("gradmem.lab.specs.find_spec", lambda name: None)
    assert "not installed; lion needs" in call("optimizers").output


def test_tasks_whose_data_are_not_here_are_marked(tmp_path):
    listed = call("tasks", "--data", tmp_path).output.splitlines()
    marked = {line.split()[0] for line in listed if "not here" in line}
    assert "mnist-mlp" in marked
    assert "digits" not in marked


def test_data_sets_are_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADMEM_DATA", str(tmp_path))
    listed = call("data")
    assert listed.exit_code == 0
    assert "mnist" in listed.output
    wrong = call("data", "nonsense")
    assert wrong.exit_code == 1
    assert wrong.output.startswith("Error: unknown data set 'nonsense'")


def test_data_sets_are_looked_for_where_it_is_said(tmp_path):
    assert f"data folder: {tmp_path}" in call("data", "--data", tmp_path).output
