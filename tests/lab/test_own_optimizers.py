"""Optimizers of a user's own, from their files to the report."""

import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

import gradmem
from gradmem.lab import study as study_module
from gradmem.lab.claims import Claims
from gradmem.lab.cli import app
from gradmem.lab.compare import Plan
from gradmem.lab.errors import ConfigError
from gradmem.lab.optimizers import find, get_optimizers
from gradmem.lab.run import broken_off
from gradmem.lab.spaces import Choice, LogUniform
from gradmem.lab.specs import MEMORY_SPACE
from gradmem.lab.tasks.digits import Digits
from gradmem.lab.tune import Trial, Tuned, trial_options

from .helpers import config, contents

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_optimizer.py"
TINY = ["--trials", "2", "--epochs", "1"]
MINE = """
import functools
import gradmem
import torch
from gradmem.lab.optimizers import LogUniform, SimpleOptimizer

class Mine(torch.optim.SGD):
    pass

def late(params, lr=0.1, rho=0.9, betas=(0.0, 0.0)):
    assert isinstance(betas, tuple)
    return torch.optim.SGD(params, lr=lr, momentum=rho)

late.search_space = {
    "lr": {"low": 0.001, "high": 1},
    "rho": [0.5, 0.9],
    "betas": [(0.1, 0.2), (0.3, 0.4)],
}

marked = SimpleOptimizer(
    functools.partial(torch.optim.Adam, amsgrad=True),
    space={"lr": {"low": 1e-3, "high": 0.1}},
    label="<b>A</b> | $x_1$",
    base="adam",
)
finer = SimpleOptimizer(
    late,
    space=(LogUniform("lr", 1e-3, 0.1), LogUniform("rho", 0.5, 0.99, below_one=True)),
    proportional=True,
)
class Adam(torch.optim.Adam): pass
class Mine_C(torch.optim.Adam): pass

# What cannot be used.
class Other: pass
class Remembers(gradmem.Adam_C): pass
class Raises(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        raise KeyError("no such thing")
number = 3
made = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
def nothing(params, lr=0.1): pass
def needs(params, lr, rho): return torch.optim.SGD(params, lr=lr, momentum=rho)
def rateless(params, rate=0.1): return torch.optim.SGD(params, lr=rate)
def decays(params, lr=0.1, decay=0.9): return torch.optim.SGD(params, lr=lr)
decays.search_space = {"lr": 0.1, "decay": [0.1, 0.2]}
half = SimpleOptimizer(torch.optim.SGD, space={"lr": {"low": 1.0}})
empty = SimpleOptimizer(torch.optim.SGD, space={"lr": []})
downward = SimpleOptimizer(torch.optim.SGD, space={"lr": {"low": 1.0, "high": 0.1}})
typed = SimpleOptimizer(torch.optim.SGD, space={"lr": [0.1], "dtype": [torch.float32]})
unset = SimpleOptimizer(torch.optim.SGD, space={"lr": [0.1, None]})
nested = SimpleOptimizer(torch.optim.SGD, space={"lr": [{"low": 1}]})
spaced = SimpleOptimizer(torch.optim.SGD, space={"the rate": [0.1]})
listed = SimpleOptimizer(torch.optim.SGD, space=["lr"])
numbered = SimpleOptimizer(torch.optim.SGD, label=3)
baseless = SimpleOptimizer(torch.optim.SGD, base="adan")
itself = SimpleOptimizer(torch.optim.SGD, base="own.py:itself")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with these optimizers in own.py; its modules are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(MINE)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(result):
    return " ".join(result.output.replace("│", " ").split())


def runs(folder):
    return [each["config"] for _, each in sorted(contents(folder / "runs").items())]


# Finding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["own", "own.py", "sub/own.py", "package.inner"])
def test_it_is_found_as_a_task_is(here, place):
    for other in ("sub/own.py", "package/inner.py"):
        (here / other).parent.mkdir()
        (here / other).write_text(MINE)
    (spec,) = get_optimizers([f"{place}:Mine"])
    module = "package.inner" if place == "package.inner" else "own"
    assert (spec.name, spec.typed, spec.label) == (f"{module}:Mine", f"{place}:Mine", "Mine")
    assert spec.base is None
    assert spec.space == (LogUniform("lr", 1e-5, 1.0),)
    assert find(spec.name) == spec
    built = spec.build(nn.Linear(2, 1), {"lr": 0.5})
    assert type(built).__name__ == "Mine"
    assert built.defaults["lr"] == 0.5


def test_what_it_declares_is_searched(here):
    late, finer, marked = get_optimizers(["own:late", "own:finer", "own:marked"])
    lists = Choice(({"betas": [0.1, 0.2]}, {"betas": [0.3, 0.4]}))
    assert late.space == (LogUniform("lr", 1e-3, 1), Choice(({"rho": 0.5}, {"rho": 0.9})), lists)
    assert finer.space[1] == LogUniform("rho", 0.5, 0.99, below_one=True)
    assert (marked.label, marked.base) == ("<b>A</b> | $x_1$", "adam")
    assert [each.proportional for each in (late, finer, find("own:finer+memory"))] == [0, 1, 1]
    assert trial_options(late, 1)[0].keys() == {"lr", "rho", "betas"}
    assert late.build(nn.Linear(2, 1), trial_options(late, 1)[0]).defaults["momentum"] in (0.5, 0.9)


def test_a_memory_around_it_is_tried_at_the_same_settings(here):
    spaces = {"own.py:late": {"nesterov": [0, 1]}, "own:late+memory": {"policy": "random"}}
    base, around = get_optimizers(["own.py:late", "own.py:late+memory"], spaces)
    assert (around.name, around.label, around.base) == ("own:late+memory", "late_C", base.name)
    names = [name for dimension in around.space for name in dimension.names]
    assert names[:4] == ["lr", "rho", "betas", "nesterov"]
    assert {"capacity", "decay", "kappa", "policy"} < set(names)
    for alone, both in zip(trial_options(base, 6), trial_options(around, 6), strict=True):
        assert alone.items() <= both.items()
        assert both["policy"] == "random"
    wrapped = find("own:late+memory").build(nn.Linear(2, 1), {"lr": 0.1, "capacity": 3})
    assert isinstance(wrapped, gradmem.MemoryAugmented)
    assert wrapped.memory_groups[0]["capacity"] == 3


def test_a_declared_base_shares_what_both_search(here):
    spaces = {"adam": {"lr": 0.1, "eps": 1e-8}}
    _, marked, around = get_optimizers(["adam", "own:marked", "own:marked+memory"], spaces)
    assert marked.space == (Choice(({"lr": 0.1},)),)
    assert around.space == marked.space + MEMORY_SPACE
    assert (around.base, around.label) == ("own:marked", "<b>A</b> | $x_1$_C")
    with pytest.raises(ConfigError, match="decay is an option of both"):
        get_optimizers(["own:marked+memory"], {"own:marked": {"decay": 0.5}})


@pytest.mark.parametrize(
    ("name", "widened"), [("own:marked", "own:marked"), ("own:marked+memory", "own:marked")]
)
def test_a_best_rate_at_the_edge_names_the_space_to_widen(here, name, widened):
    run = broken_off(Digits(), config(optimizer=name, options={"lr": 0.1}), "ok", None)
    (spec,) = get_optimizers([name])
    (warning,) = Tuned(spec, (Trial((replace(run, validation_loss=1.0),)),)).warnings()
    assert warning.endswith(f"--space {widened}.lr=LOW:HIGH")


def test_one_that_is_called_as_another_is_with_a_memory(here):
    names = ["own:Mine", "own:Mine+memory", "own:Mine_C"]
    assert [spec.label for spec in get_optimizers(names)] == ["Mine", "Mine_C", "own:Mine_C"]


def test_equal_labels_are_told_apart(here):
    shutil.copy("own.py", "twin.py")
    names = ["own:Mine", "twin:Mine", "adam", "own:Adam+memory"]
    labels = [spec.label for spec in get_optimizers(names)]
    assert labels == ["own:Mine", "twin:Mine", "Adam", "own:Adam_C"]


def test_its_runs_expire_with_its_text(here):
    def name_of_a_run(name):
        (spec,) = get_optimizers([name])
        plan = Plan(Digits(), (spec,), 1, 1, 1)
        return plan.config("tune", spec, {}, 0).versions, plan.search_name(spec)

    (here / "bundle").mkdir()
    (here / "bundle" / "__init__.py").write_text("from own import Mine")
    names = ("own.py:Mine+memory", "bundle:Mine", "own:marked")
    before = {name: name_of_a_run(name) for name in names}
    assert name_of_a_run("own.py:Mine+memory") == before["own.py:Mine+memory"]
    (here / "own.py").write_text(MINE + "# more\n")
    assert all(name_of_a_run(name)[0] != old[0] for name, old in before.items())
    assert all(name_of_a_run(name)[1] != old[1] for name, old in before.items())
    assert (
        "own:Mine"
        not in Plan(Digits(), get_optimizers(["adam"]), 1, 1, 1)
        .config("tune", find("adam"), {}, 0)
        .versions
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("nowhere.py:Mine", "there is no file nowhere.py"),
        ("nowhere:Mine", "there is no module 'nowhere', neither in"),
        ("own:Your", "own.py has no 'Your'; the optimizers in it are Mine, marked, finer"),
        (":Mine", "':Mine' has to be MODULE:ATTRIBUTE"),
        ("broken.py:Mine", "broken.py cannot be imported: ZeroDivisionError"),
        ("own:Other", "own:Other is the class Other; it has to be a class of torch.optim"),
        ("own:number", "own:number is a int; it has to be"),
        ("own:made", "own:made is a SGD that was made already"),
        ("own:nothing", "own:nothing cannot be made with lr=.*: it makes a NoneType, not a torch"),
        ("own:needs", r"missing 1 required .*: 'rho'; give it a default, or a value with --space"),
        ("own:Raises", r"own:Raises cannot be made with .*: KeyError: 'no such thing' \(.*own.py"),
        ("own:rateless", r"own:rateless has no option lr .* --space own:rateless.OPTION=LOW:HIGH"),
        ("own:rateless+memory", "own:rateless has no option lr"),
        ("own:Remembers+memory", "Remembers, has a memory already; wrap one without"),
        ("own:decays+memory", "decay is an option of both the optimizer and the memory"),
        ("torch.optim:LBFGS", "its step needs closure, and the lab calls"),
        ("own:half", "in its search space 'lr' needs low and high and nothing else"),
        ("own:empty", "in its search space 'lr' needs a value at least"),
        ("own:downward", "the range of lr must have 0 < low < high, not 1 to 0.1"),
        ("own:typed", "'dtype' needs finite numbers, texts, .* not .torch.float32."),
        ("own:spaced", "'the rate' is no name of an option"),
        ("own:listed", r"its search space has to be a mapping, such as .* not .'lr'."),
        ("own:unset", r"'lr' needs finite numbers, texts, true or false, or lists of them"),
        ("own:nested", r"'lr' needs finite numbers, texts, true or false, or lists of them"),
        ("own:numbered", "its label has to be a text, not 3"),
        ("own:baseless", "unknown optimizer 'adan'"),
        ("own:itself", "own:itself names itself as its base"),
        ("own:Mine,own.py:Mine+memory", "own:Mine and own.py:Mine are both known as own:Mine"),
        ("own:Mine,own:Mine", "named twice"),
        ("adam+memory", "with a memory it is called adam_c"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_and_trains_nothing(here, names, said):
    (here / "broken.py").write_text("1 / 0")
    result = call("tune", "digits", *TINY, "--optimizers", names, "--out", "out")
    assert result.exit_code == 2, result.output
    assert re.search(said, words(result)), words(result)
    assert "Traceback" not in result.output
    assert not (here / "out").exists()


def test_a_value_that_nobody_gives_can_be_given(here):
    given = ["--space", "own:needs.rho=0.5,0.9", "--space", "own:rateless.rate=0.1:1"]
    names = ["--optimizers", "own:needs,own:rateless"]
    assert call("tune", "digits", *TINY, *names, *given, "--out", "out").exit_code == 0
    tried = {each["optimizer"]: each["options"] for each in runs(here / "out")}
    assert tried["own:needs"].keys() == {"lr", "rho"}
    assert 0.1 <= tried["own:rateless"]["rate"] <= 1
    other = call("tune", "digits", *TINY, "--space", "own:needs.lr=1", "--out", "other")
    assert "there is a search space for own:needs, which takes no part" in words(other)
    one = ["--optimizer", "own:rateless", "--epochs", "1", "--out", "one"]
    assert call("train", "digits", *one, "--set", "rate=0.3").exit_code == 0


# Commands ----------------------------------------------------------------------------------------


@pytest.fixture
def claimed(monkeypatch):
    """The names of what is claimed, which are files while it is worked on."""
    take, names = Claims.take, []

    def noted(claims, name):
        names.append(name)
        return take(claims, name)

    monkeypatch.setattr(Claims, "take", noted)
    return names


@pytest.fixture
def compared(here, claimed):
    """A comparison with the module in a folder of its own, named by its file."""
    (here / "sub").mkdir()
    (here / "own.py").rename(here / "sub" / "own.py")
    names = "sub/own.py:late,sub/own.py:late+memory,adam,sub/own.py:marked"
    result = call(
        *("compare", "digits", *TINY, "--seeds", "2", "--optimizers", names, "--out", "out"),
        *("--space", "sub/own.py:late.rho=0.5"),
    )
    assert result.exit_code == 0, result.output
    return here / "out", result


def test_a_comparison_and_what_is_made_of_it(compared, claimed):
    out, result = compared
    assert "late_C against late:" in words(result)
    assert "<b>A</b> | $x_1$ against Adam:" in words(result)
    files = {path.name for path in out.rglob("*") if path.is_file()}
    assert not any(set(name) & set(':/\\*?"<>|') for name in (*files, *claimed))
    assert len(claimed) == 16
    assert sum(name.startswith("own-late+memory-evaluate-seed10") for name in files) == 2
    assert sum(name.startswith("records-own-late+memory.") for name in files) == 1
    assert {each["options"]["rho"] for each in runs(out) if "late" in each["optimizer"]} == {0.5}
    page, text = ((out / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "&lt;b&gt;A&lt;/b&gt; | $x_1$" in page
    assert "What lay in memory, by step: late_C" in page
    assert "<b>A" not in page
    assert "<b>A" not in text
    assert re.search(r"Versions: .*own:late [0-9a-f]{12}, own:marked [0-9a-f]{12}", text)
    (records,) = out.glob("records*")
    records.unlink()  # without them the page says how to make some
    call("report", out)
    assert "--optimizer sub/own.py:late+memory" in (out / "report.html").read_text()
    # by another name of the same module
    toml = (out / "config.toml").read_text()
    (out / "config.toml").write_text(toml.replace("sub/own.py", "own"))
    again = call("report", out)
    assert again.exit_code == 0, again.output
    assert "yet to be made" not in again.output
    summed = call("summary", out, "--field", "adam,own.py:late", "--out", "sum")
    assert summed.exit_code == 0, summed.output
    assert "late_C - late" in words(summed)
    assert "Among 2 optimizers on 1 task" in words(summed)
    assert "&lt;b&gt;A" in Path("sum/report.html").read_text()


def test_without_its_module_a_report_is_a_sentence_as_without_a_tasks(compared):
    out, _ = compared
    Path("sub/own.py").unlink()
    for command in (["report", out], ["resume", out], ["summary", out, "--out", "sum"]):
        result = call(*command)
        assert result.exit_code == 2
        assert "there is no file sub/own.py" in words(result)


def test_the_commands_that_are_printed_train(here):
    names = "own.py:late,own.py:late+memory"
    result = call("tune", "digits", *TINY, "--optimizers", names, "--out", "out")
    assert result.exit_code == 0, result.output
    commands = [line for line in result.output.splitlines() if "gradmem train" in line]
    assert [shlex.split(line)[4] for line in commands] == names.split(",")
    for line in commands:
        trained = call(*shlex.split(line)[1:], "--out", "one")
        assert trained.exit_code == 0, trained.output
    assert {each["optimizer"] for each in runs(here / "one")} == {"own:late", "own:late+memory"}
    assert "This run was made before." in call("resume", "one").output


def test_an_interrupted_study_goes_on_and_a_changed_source_does_not(here, monkeypatch):
    command = ["tune", "digits", *TINY, "--optimizers", "own.py:Mine+memory", "--out", "out"]
    train, begun = study_module.train, []

    def interrupted(task, config, **options):
        if begun:
            raise KeyboardInterrupt
        begun.append(config)
        return train(task, config, **options)

    monkeypatch.setattr(study_module, "train", interrupted)
    assert call(*command).exit_code == 130
    monkeypatch.setattr(study_module, "train", train)
    resumed = call("resume", "out")
    assert "2 of 2 runs, 1 of them from before" in resumed.output
    (here / "own.py").write_text(MINE + "# more\n")
    assert "from before" not in call(*command).output
    (here / "own.py").write_text(MINE)
    assert "2 of 2 runs, 2 of them from before" in call(*command).output


def test_several_processes_make_the_same_runs(here):
    names = ["--optimizers", "own.py:late,own.py:late+memory"]
    alone = call("tune", "digits", *TINY, *names, "--out", "one")
    together = call("tune", "digits", *TINY, *names, "--workers", "2", "--out", "two")
    assert together.exit_code == 0, together.output
    assert contents(here / "two" / "runs") == contents(here / "one" / "runs")
    assert alone.output.partition("\n\n")[2] == together.output.partition("\n\n")[2]


def test_it_is_listed_with_its_space():
    listed = call("optimizers", "torch.optim:Adamax,adam")
    assert listed.output.startswith("torch.optim:Adamax: Adamax\n    lr from 1e-05 to 1, uniform")
    assert "\nadam: Adam\n" in listed.output
    assert "sgd" not in listed.output
    assert "my_module:MyOptimizer+memory" in call("optimizers").output
    assert "there is no module 'nowhere'" in words(call("optimizers", "nowhere:Mine"))


def test_its_memory_is_varied_and_inspected(here):
    cells = ["--values", "capacity=0,5", "--optimizer", "own.py:late+memory"]
    sizes = ["--trials", "1", "--seeds", "1", "--epochs", "1", "--space", "own.py:late.rho=0.5"]
    varied = call("ablate", "digits", "capacity", *cells, *sizes, "--out", "out")
    assert varied.exit_code == 0, varied.output
    tried = [(each["optimizer"], each["options"].get("capacity")) for each in runs(here / "out")]
    assert set(tried) == {("own:late", None), ("own:late+memory", 5)}
    assert all(each["versions"]["own:late"] for each in runs(here / "out"))
    for name in ("own.py:late", "own.py:marked"):  # the second has a base
        for command in (["ablate", "digits", "capacity"], ["inspect", "digits"]):
            refused = call(*command, "--optimizer", name, "--out", "other")
            assert refused.exit_code == 2
            assert f"{name}+memory" in words(refused)
    seen = call(
        *("inspect", "digits", "--optimizer", "own.py:late+memory", "--capacity", "3"),
        *("--lr", "0.1", "--epochs", "1", "--out", "seen"),
    )
    assert seen.exit_code == 0, seen.output
    assert len(gradmem.Recorder.read(here / "seen" / "records.jsonl")) == 34
    assert "own:late+memory" in (here / "seen" / "report.html").read_text()


def test_the_example_is_that_of_the_page_and_learns(here):
    code = EXAMPLE.read_text().partition('"""\n\n')[2]
    assert code in (ROOT / "docs" / "lab.md").read_text()
    shutil.copy(EXAMPLE, here)
    names = "own_optimizer.py:Signum,own_optimizer.py:Signum+memory"
    result = call("tune", "digits", "--trials", "3", "--optimizers", names, "--out", "out")
    assert result.exit_code == 0, result.output
    best = re.findall(r"validation loss ([\d.]+)", result.output)
    assert len(best) == 2
    assert max(map(float, best)) < 0.5
