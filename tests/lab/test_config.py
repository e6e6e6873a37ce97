from pathlib import Path

import pytest

from gradmem.lab.config import (
    COMMANDS,
    NAME,
    CompareConfig,
    TrainConfig,
    TuneConfig,
    as_toml,
    assemble,
    changes,
    parse_settings,
    parse_spaces,
    read,
)
from gradmem.lab.errors import ConfigError

FULL = {
    "task": "digits",
    "optimizers": ("sgd", "sgd_c"),
    "epochs": 3,
    "batch_size": 16,
    "timeout": 60.0,
    "records": False,
    "checkpoint_seconds": 0.0,
    "tensorboard": Path("logs"),
    "data": Path("data"),
    "trials": 5,
    "tuning_seeds": 2,
    "sampler": "tpe",
    "sampler_seed": 7,
    "startup": 3,
    "space": {
        "sgd": {"lr": {"low": 1e-4, "high": 2.0}, "momentum": 0.9},
        "sgd_c": {"policy": ["fifo"]},
    },
    "storage": "sqlite:///x.db",
    "workers": 3,
    "seeds": 4,
}


def write(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path):
    made = assemble(CompareConfig, None, FULL)
    again = assemble(CompareConfig, write(tmp_path, as_toml(made)), {})
    assert again == made
    assert set(FULL) == CompareConfig.model_fields.keys() - {
        "out",
        "open",
        "quiet",
        "retry_crashed",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_least_there_is_to_say_is_the_task(tmp_path, command):
    made = assemble(COMMANDS[command], None, {"task": "digits"})
    assert assemble(COMMANDS[command], write(tmp_path, as_toml(made)), {}) == made


def test_the_command_line_comes_before_the_file(tmp_path):
    path = write(tmp_path, 'task = "digits"\ntrials = 5\nseeds = 6\n')
    made = assemble(CompareConfig, path, {"trials": 7, "seeds": None})
    assert (made.trials, made.seeds) == (7, 6)


def test_a_folder_knows_its_config_and_nothing_of_where_it_lies(tmp_path):
    made = assemble(CompareConfig, None, {**FULL, "out": tmp_path, "quiet": True})
    write(tmp_path, as_toml(made)).rename(tmp_path / NAME)
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / NAME).rename(moved / NAME)
    found = read(moved)
    assert found.folder == moved
    assert not found.quiet
    assert type(found) is CompareConfig


def test_compare_goes_on_from_what_tune_wrote_and_the_other_way_round(tmp_path):
    path = write(tmp_path, as_toml(assemble(TuneConfig, None, {"task": "digits", "trials": 5})))
    assert assemble(CompareConfig, path, {}).trials == 5
    path = write(tmp_path, as_toml(assemble(CompareConfig, None, {"task": "digits", "seeds": 5})))
    assert assemble(TuneConfig, path, {}).task == "digits"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trails = 5", "unknown key 'trails' in .*study.toml; did you mean 'trials'?"),
        ("trials = 0", "trials must be at least 1, not 0 in"),
        ("trials = 'many'", "trials must be a whole number, not 'many'"),
        ("trials = 2.5", "trials must be a whole number, not 2.5"),
        ("trials = '3'", "trials must be a whole number, not '3'"),
        ("trials = true", "trials must be a whole number, not True"),
        ("timeout = '9'", "timeout must be a number, not '9'"),
        ("records = 1", "records must be true or false, not 1"),
        ("tuning_seeds = 101", "tuning_seeds must be at most 100, not 101"),
        ("timeout = 0", "timeout must be greater than 0"),
        ("timeout = 'soon'", "timeout must be a number, not 'soon'"),
        ("sampler = 'grid'", "sampler must be one of 'halton' or 'tpe', not 'grid'"),
        ("[space.adam]\nlr = {low = 1}", "space.adam.lr needs low and high and nothing else"),
        ("[space.adam]\nlr = {low = 1, high = 'a'}", "space.adam.lr needs two numbers"),
        ("[space.adam]\nlr = []", "space.adam.lr needs a value at least"),
        ("command = 'fly'", "command in .* must be one of tune, compare, train, not 'fly'"),
        ("trials 5", "study.toml is not TOML: .* line 2"),
    ],
)
def test_a_wrong_file_is_a_sentence_with_name_value_and_range(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        assemble(CompareConfig, write(tmp_path, f"task = 'digits'\n{text}\n"), {})


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"trials .*; seeds "):
        assemble(CompareConfig, write(tmp_path, "task = 'digits'\ntrials = 0\nseeds = 0\n"), {})


def test_files_that_are_not_there_or_no_text_are_sentences(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        assemble(CompareConfig, tmp_path / "none.toml", {})
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        assemble(CompareConfig, tmp_path / "bytes.toml", {})
    with pytest.raises(ConfigError, match=r"no config.toml in .* so no study was started there"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no task is named; `gradmem tasks` lists them"):
        assemble(CompareConfig, None, {})


def test_changes_are_named():
    before = assemble(CompareConfig, None, {"task": "digits", "trials": 5})
    after = assemble(CompareConfig, None, {"task": "digits", "seeds": 3, "out": Path("x")})
    assert changes(before, after) == ["trials 5 -> 32", "seeds 20 -> 3"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("5", 5),
        ("fifo", "fifo"),
        ("True", True),
        ("[0.9, 0.99]", [0.9, 0.99]),
    ],
)
def test_settings_are_read_as_they_are_typed(text, value):
    parsed = parse_settings([f"option={text}"], "--set")
    assert parsed == {"option": value}
    assert type(parsed["option"]) is type(value)


@pytest.mark.parametrize("bad", ["lr", "lr=", "=3", ""])
def test_a_setting_without_a_value_is_refused(bad):
    with pytest.raises(ConfigError, match="--set takes name=value"):
        parse_settings([bad], "--set")


@pytest.mark.parametrize("bad", ["adam.lr", "lr=1:2", "adam.=1", "adam.lr="])
def test_a_space_without_a_place_is_refused(bad):
    with pytest.raises(ConfigError, match="--space takes"):
        parse_spaces([bad])


@pytest.mark.parametrize("bad", ["adam.lr=1:2:3", "adam.lr=a:b"])
def test_a_range_is_two_numbers(bad):
    with pytest.raises(ConfigError, match="low:high"):
        parse_spaces([bad])


def test_names_with_commas_are_a_list():
    assert assemble(TuneConfig, None, {"task": "x", "optimizers": "a, b,"}).optimizers == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "task", "folder"),
    [
        (CompareConfig, "digits", "digits"),
        (TuneConfig, "my_package.tasks:mine", "my_package.tasks-mine"),
        (TrainConfig, "data/houses.csv:price", "train-data-houses.csv-price"),
    ],
)
def test_results_go_to_a_folder_of_the_tasks_name(kind, task, folder):
    assert assemble(kind, None, {"task": task}).folder == Path("gradmem-results") / folder
