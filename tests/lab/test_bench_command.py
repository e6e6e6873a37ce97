"""``gradmem bench``, called as from the shell."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import gradmem
from gradmem.lab.bench import command, contestants, measure, sets
from gradmem.lab.bench.contestants import CONTESTANTS
from gradmem.lab.cli import app

FILES = {"bench.json", "bench.md", "bench.svg"}
MODEL = """
import torch

def two_layers():
    half = torch.nn.Linear(20, 5, dtype=torch.bfloat16)
    return torch.nn.Sequential(torch.nn.Linear(30, 20), half)

def parameters():
    return iter([torch.nn.Parameter(torch.zeros(3, 4, device="meta"))])

def nothing():
    return torch.nn.ReLU()

def broken():
    raise KeyError("a layer")

number = 3
whole = [torch.nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)]
mixed = [torch.nn.Parameter(torch.zeros(2)), "two"]
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A folder with a package of models, and a set of milliseconds."""
    (tmp_path / "my_bench_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_bench_models", raising=False)
    tiny = sets.ParameterSet("tiny", "a tiny one", tuple(((n, 3), torch.float32) for n in (5, 2)))
    monkeypatch.setattr(sets, "SETS", {**sets.SETS, "tiny": tiny})


def call(*arguments, rounds=6):
    given = ["bench", *map(str, arguments)]
    for name, value in (("--rounds", rounds), ("--threads", 1), ("--device", "cpu")):
        if name not in given:
            given += [name, str(value)]
    return CliRunner().invoke(app, given)


def words(result):
    return " ".join(result.output.replace("│", " ").split())


def book(folder):
    return json.loads((folder / "bench.json").read_text())


def test_a_set_from_the_command_to_the_files(tmp_path):
    out = tmp_path / "out"
    result = call("tiny", "--optimizers", "adam-fused,sgd,sgd_c", "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == FILES
    found = book(out)
    assert found["settings"] == {"device": "cpu", "threads": 1, "rounds": 6, "clip": False}
    assert found["machine"]["torch"] == torch.__version__
    assert found["sets"]["tiny"]["elements"] == 21
    named = [(m["entry"]["optimizer"], m["entry"]["condition"]) for m in found["measurements"]]
    assert named == [("adam-fused", ""), ("sgd", ""), ("sgd_c", "keeps"), ("sgd_c", "replaces")]
    keeps, replaces = found["measurements"][2:]
    assert set(keeps["seconds"]) == {"reference", "base", "own"}
    assert all(len(times) == 6 for times in keeps["seconds"].values())
    assert all(len(both) == 2 for times in keeps["seconds"].values() for both in times)
    assert (keeps["replaced"], replaces["replaced"]) == (0.0, 1.0)
    slots_and_sum = gradmem.memory_bytes(sets.SETS["tiny"].make(torch.device("cpu")), 10)
    assert keeps["state_bytes"] == slots_and_sum.total
    ratio = keeps["ratio_to_base"]
    assert ratio["low"] <= ratio["median"] <= ratio["high"]


def test_steps_after_clipping(tmp_path, monkeypatch):
    """Everybody clips, and has to multiply; torch's function for torch's, and ours for ours."""
    clipped = {"torch": [], "own": []}
    theirs, ours = torch.nn.utils.clip_grad_norm_, gradmem.MemoryOptimizer.clip_grad_norm_

    def by_torch(params, limit):
        clipped["torch"].append(float(theirs(params, limit)) / limit)

    def by_ours(optimizer, limit):
        clipped["own"].append(float(ours(optimizer, limit)) / limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", by_torch)
    monkeypatch.setattr(gradmem.MemoryOptimizer, "clip_grad_norm_", by_ours)
    result = call("tiny", "--optimizers", "adam,adam_c", "--clip", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for each in clipped.values():
        assert len(each) > 12
        assert min(each) > 1.0005
    said = "A step begins by clipping the gradients"
    assert said in words(result)
    assert said in (tmp_path / "bench.md").read_text()
    found = book(tmp_path)
    assert found["settings"]["clip"] is True
    assert [m["replaced"] for m in found["measurements"]] == [None, 0.0, 1.0]
    refused = call("tiny", "--optimizers", "adam", "--out", tmp_path)
    assert "clip True -> False" in words(refused)


def test_a_file_from_before_there_was_clipping_is_gone_on_with(tmp_path):
    call("tiny", "--optimizers", "adam", "--out", tmp_path)
    found = book(tmp_path)
    del found["settings"]["clip"]
    (tmp_path / "bench.json").write_text(json.dumps(found))
    result = call("tiny", "--optimizers", "adam", "--out", tmp_path)
    assert "1 of 1 are there from before" in words(result)


def test_the_table_and_the_page_say_the_same(tmp_path):
    result = call("tiny", "--optimizers", "adam,adam_c", "--out", tmp_path)
    page = (tmp_path / "bench.md").read_text()
    rows = re.findall(r"^\| (Adam.*?) \|(.*)\|$", page, re.MULTILINE)
    assert [label for label, _ in rows] == ["Adam", "Adam_C", "Adam_C"]
    for label, cells in rows:
        assert " ".join([label, *cells.replace("|", " ").split()]) in words(result)
    assert "tiny: 21 float32 parameters in 2 tensors, a tiny one" in words(result)
    assert "µs" not in result.output  # absolute times are not for a processor's table
    for name in re.findall(r"\]\((.+?)\)", page):
        assert (tmp_path / name).exists()
    picture = (tmp_path / "bench.svg").read_text()
    assert "Adam_C replaces 10" in picture
    assert "tiny" in picture


def test_no_name_of_the_machine_or_a_folder_is_written_down(tmp_path):
    import getpass
    import platform

    call("tiny", "--optimizers", "adam", "--out", tmp_path)
    text = (tmp_path / "bench.json").read_text() + (tmp_path / "bench.md").read_text()
    assert str(tmp_path) not in text
    assert f'"{platform.node()}"' not in text
    assert f'"{getpass.getuser()}"' not in text


def test_a_busy_machine_is_warned_of(monkeypatch):
    monkeypatch.setattr(command, "busy_with", lambda: 3.21)
    assert "warning: this machine was busy a moment ago (load 3.2 on" in words(
        call("tiny", "--optimizers", "sgd")
    )
    monkeypatch.setattr(command, "busy_with", lambda: None)
    assert "warning" not in call("tiny", "--optimizers", "sgd").output


def test_without_a_folder_nothing_is_written(tmp_path):
    assert call("tiny", "--optimizers", "sgd").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["my_bench_models.py"]


def test_capacities_and_options_of_the_memory(tmp_path):
    result = call(
        *("tiny", "--optimizers", "sgd,sgd_c", "--capacity", 2, "--capacity", 5, "--out", tmp_path)
    )
    assert result.exit_code == 0, result.output
    found = [m for m in book(tmp_path)["measurements"] if m["entry"]["options"]]
    assert [m["entry"]["options"] for m in found] == [{"capacity": c} for c in (2, 2, 5, 5)]
    assert [m["entry"]["smaller"] for m in found] == [None, None, 2, 2]
    assert [set(m["seconds"]) - {"reference", "base", "own"} for m in found[1:3]] == [
        set(),
        {"lesser"},
    ]
    sizes = [m["state_bytes"] for m in found]
    assert sizes[2] - sizes[0] >= 3 * 21 * 4


@pytest.mark.parametrize("option", ["memory_dtype", "memory_device"])
def test_where_and_how_a_memory_is_stored_is_handed_to_the_library(tmp_path, option):
    value = {"memory_dtype": "bfloat16", "memory_device": "cpu"}[option]
    given = f"--{option.replace('_', '-')}"
    result = call("tiny", "--optimizers", "sgd_c", given, value, "--out", tmp_path)
    if option in gradmem.options("sgd_c"):
        assert result.exit_code == 0, result.output
        entry = book(tmp_path)["measurements"][0]["entry"]
        assert entry["options"] == {"capacity": 10, option: value}
    else:
        assert result.exit_code == 2
        assert f"unknown option '{option}' for 'sgd_c'" in words(result)


def interrupted_after(monkeypatch, count):
    """As if Ctrl-C were pressed in the measurement after so many; returns whom it came to."""
    asked = []

    def interrupted(entry, on, settings):
        asked.append(entry.key)
        if len(asked) > count:
            raise KeyboardInterrupt
        return measure.measure(entry, on, settings)

    monkeypatch.setattr(command, "measure", interrupted)
    return asked


def test_an_interruption_keeps_what_was_measured_and_the_same_command_goes_on(
    tmp_path, monkeypatch
):
    given = "tiny", "--optimizers", "adam,sgd_c", "--out", tmp_path
    interrupted_after(monkeypatch, 2)
    first = call(*given)
    assert first.exit_code == 130
    assert "Interrupted; the same command goes on" in words(first)
    assert "keeps 10" in first.output
    kept = book(tmp_path)["measurements"]
    assert [m["entry"]["optimizer"] for m in kept] == ["adam", "sgd_c"]
    assert (tmp_path / "bench.svg").exists()
    asked = interrupted_after(monkeypatch, 99)
    second = call(*given)
    assert second.exit_code == 0, second.output
    assert asked == ["sgd_c replaces capacity=10"]
    assert "2 of 3 are there from before." in second.output
    assert book(tmp_path)["measurements"][:2] == kept
    assert len(book(tmp_path)["measurements"]) == 3
    assert call(*given).exit_code == 0
    assert len(asked) == 1


def test_interrupted_at_once(tmp_path, monkeypatch):
    interrupted_after(monkeypatch, 0)
    result = call("tiny", "--optimizers", "adam")
    assert result.exit_code == 130
    assert "Interrupted; nothing is kept." in result.output


def test_other_options_do_not_go_into_the_same_folder(tmp_path):
    call("tiny", "--optimizers", "sgd", "--out", tmp_path)
    before = (tmp_path / "bench.json").read_bytes()
    result = call("tiny", "--optimizers", "adam", "--out", tmp_path, rounds=7)
    assert result.exit_code == 1
    assert "of another kind: rounds 6 -> 7. Name another folder" in words(result)
    assert (tmp_path / "bench.json").read_bytes() == before


def test_nor_do_other_parameters_of_the_same_name(tmp_path, monkeypatch):
    call("tiny", "--optimizers", "sgd", "--out", tmp_path)
    other = replace(sets.SETS["tiny"], tensors=(((3, 7), torch.float32),))
    monkeypatch.setitem(sets.SETS, "tiny", other)
    result = call("tiny", "--optimizers", "adam", "--out", tmp_path)
    assert result.exit_code == 1
    assert "the parameters of tiny" in words(result)


@pytest.mark.parametrize("text", ["{", '{"format": 99}', "[]", '{"format": 1, "sets": {}}'])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, text):
    (tmp_path / "bench.json").write_text(text)
    result = call("tiny", "--optimizers", "sgd", "--out", tmp_path)
    assert result.exit_code == 1
    assert "is not what gradmem bench writes" in words(result)
    assert (tmp_path / "bench.json").read_text() == text


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    result = call("tiny", "--optimizers", "sgd", "--out", tmp_path / "file" / "folder")
    assert result.exit_code == 1
    assert "cannot be written" in words(result)


def test_a_package_that_is_not_installed_is_said_in_the_table_and_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(
        contestants, "find_spec", lambda name: None if name == "schedulefree" else 1
    )
    result = call("tiny", "--optimizers", "schedulefree,sgd", "--out", tmp_path)
    assert result.exit_code == 0
    line = "ScheduleFree: not installed: pip install schedulefree"
    assert line in words(result)
    assert f"- {line}" in (tmp_path / "bench.md").read_text()
    assert [m["status"] for m in book(tmp_path)["measurements"]] == ["not installed", "measured"]


def failing(monkeypatch, error):
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise error

    monkeypatch.setattr(torch.optim, "RMSprop", Failing)


def test_a_contestant_that_raises_is_reported_and_the_others_are_measured(tmp_path, monkeypatch):
    failing(monkeypatch, TypeError("no kernel in /some/where/lib.so\nfor this"))
    result = call("tiny", "--optimizers", "rmsprop,sgd", "--out", tmp_path)
    assert result.exit_code == 1
    assert "RMSprop: failed: TypeError: no kernel in lib.so (tiny)" in words(result)
    assert [m["status"] for m in book(tmp_path)["measurements"]] == ["failed", "measured"]


def test_a_memory_that_does_not_what_its_condition_says_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(contestants, "CONDITIONS", {"keeps": {"policy": "fifo"}})
    result = call("tiny", "--optimizers", "sgd_c", "--out", tmp_path)
    assert result.exit_code == 1
    assert "SGD_C keeps 10: failed: RuntimeError: SGD_C keeps 10 changed" in words(result)


def test_the_parts_of_what_an_optimizer_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(measure.memory, "held_bytes", lambda optimizer: 21_000)
    monkeypatch.setattr(measure.memory, "step_bytes", lambda optimizer, device: 42_000)
    monkeypatch.setattr(measure, "available_bytes", lambda device: None)
    result = call("tiny", "--optimizers", "adam", "--out", tmp_path)
    (found,) = book(tmp_path)["measurements"]
    assert found["state_bytes"] == 2 * (21 * 4 + 4)
    assert found["buffer_bytes"] == 21_000 - found["state_bytes"]
    assert "8.4 2991.6" in words(result)


def test_what_failed_is_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        failing(patched, TypeError("not yet"))
        call("tiny", "--optimizers", "rmsprop", "--out", tmp_path)
    result = call("tiny", "--optimizers", "rmsprop", "--out", tmp_path)
    assert result.exit_code == 0
    (only,) = book(tmp_path)["measurements"]
    assert only["status"] == "measured"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("9 GiB"),
    ],
)
def test_memory_that_is_used_up_is_said_of_the_contestant(tmp_path, monkeypatch, error):
    failing(monkeypatch, error)
    result = call("tiny", "--optimizers", "rmsprop,sgd", "--out", tmp_path)
    assert result.exit_code == 0
    assert "RMSprop: out of memory:" in words(result)
    assert [m["status"] for m in book(tmp_path)["measurements"]] == ["out of memory", "measured"]


def test_what_cannot_fit_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "available_bytes", lambda device: 2000)
    result = call("tiny", "--optimizers", "sgd,sgd_c", "--capacity", 40, "--out", tmp_path)
    assert result.exit_code == 0
    assert "SGD_C keeps 40: out of memory: it needs about 0.0 GB" in words(result)
    statuses = [m["status"] for m in book(tmp_path)["measurements"]]
    assert statuses == ["measured", "out of memory", "out of memory"]


def test_a_model_of_the_users_own(tmp_path):
    result = call(
        *("--model", "my_bench_models:two_layers", "--optimizers", "adam_c", "--out", tmp_path)
    )
    assert result.exit_code == 0, result.output
    (facts,) = book(tmp_path)["sets"].values()
    assert (facts["tensors"], facts["elements"]) == (4, 725)
    assert facts["bytes"] == 620 * 4 + 105 * 2
    assert facts["dtypes"] == "float32, bfloat16"
    assert "my_bench_models:two_layers: 725 float32, bfloat16 parameters in 4" in words(result)


def test_parameters_one_by_one_beside_a_set(tmp_path):
    given = "--model", "my_bench_models:parameters", "--optimizers", "sgd", "--out", tmp_path
    assert call("tiny", *given).exit_code == 0
    found = book(tmp_path)["sets"]
    assert list(found) == ["tiny", "my_bench_models:parameters"]
    assert found["my_bench_models:parameters"]["elements"] == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mpl"], "unknown set 'mpl'; did you mean 'mlp'? Your own: --model"),
        (["huge"], "choose from: mlp, 11m, 25m, 100m, 1b, tiny"),
        (["tiny", "tiny"], "a set is named twice"),
        (["1b", "--device", "cpu"], "the set 1b is for an accelerator"),
        (["tiny", "--optimizers", "adan_c"], "unknown optimizer 'adan_c'; did you mean 'adam_c'?"),
        (["tiny", "--optimizers", "xyz"], f"choose from: {', '.join(CONTESTANTS)}"),
        (["tiny", "--optimizers", ","], "no optimizer named"),
        (["tiny", "--optimizers", "sgd,sgd"], "the optimizer 'sgd' is named twice"),
        (["tiny", "--capacity", 0], "capacity must be at least 1, got 0"),
        (["tiny", "--capacity", 3, "--capacity", 3], "the capacity 3 is named twice"),
        (["tiny", "--rounds", 5], "rounds must be at least 6, got 5"),
        (["tiny", "--threads", 0], "threads must be at least 1, got 0"),
        (["tiny", "--device", "tpu"], "device must be one of cpu, cuda, got 'tpu'"),
        (["--model", "nowhere"], "--model must be PACKAGE:FUNCTION, got 'nowhere'"),
        (["--model", "nowhere:at_all"], "there is no module 'nowhere'"),
        (["--model", "my_bench_models:other"], "my_bench_models:other is not there"),
        (["--model", "my_bench_models:nothing"], "has no parameter that requires a gradient"),
        (["--model", "my_bench_models:broken"], "raised KeyError: 'a layer'"),
        (["--model", "my_bench_models:number"], "returns a int; it must return a torch.nn.Module"),
        (["--model", "my_bench_models:whole"], "has a parameter of type torch.int64"),
        (["--model", "my_bench_models:mixed"], "an iterable with a str in it"),
    ],
)
def test_wrong_input_is_a_sentence_before_anything_is_measured(
    tmp_path, monkeypatch, arguments, said
):
    interrupted_after(monkeypatch, 0)
    result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert said in words(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_device_that_is_not_there():
    result = call("tiny", "--device", "cuda")
    assert result.exit_code == 2
    assert "torch sees no CUDA device here" in words(result)


def test_help_names_the_sets_and_the_optimizers():
    result = CliRunner().invoke(app, ["bench", "--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("mlp", "11m", "25m", "100m", "1b", "--capacity"))
    (listed,) = re.findall(r"Names with commas: (.*?)\. ", words(result))
    assert listed.replace("- ", "-").split(", ") == list(CONTESTANTS)  # wrapped at a hyphen


def test_the_number_of_threads_is_as_it_was():
    before = torch.get_num_threads()
    call("tiny", "--optimizers", "sgd", "--threads", before + 1)
    assert torch.get_num_threads() == before
