"""``gradmem sparsify``, called as from the shell: runs, files, resumption, wrong input."""

import csv
import json
import statistics

import pytest
import torch
from typer.testing import CliRunner

from gradmem.lab.cli import app
from gradmem.lab.sparsify import problem as networks
from gradmem.lab.sparsify import runs, speed, work
from gradmem.lab.sparsify.problem import get_problem

FILES = {"runs", "report.md", "results.json", "results.csv", "figure.svg"}
ALL = "adamw-diagonal,adamw-plain,adamw-subgradient"
# Penalties at which a few steps make some channels zero, and one at which they make none.
PENALTIES = ("diagonal=1e-9:0.2:2", "plain=1e-9:20:2", "subgradient=1e-9:0.2:2")


@pytest.fixture(autouse=True)
def brief(monkeypatch, tmp_path):
    """Fewer rounds of the timing, and a folder to be in."""
    monkeypatch.setattr(speed, "ROUNDS", 6)
    monkeypatch.setattr(speed, "LEAST_SECONDS", 1e-6)
    monkeypatch.chdir(tmp_path)


def call(out, *more, methods=ALL, penalties=PENALTIES, **changes):
    options = {
        "lr": 0.02,
        "seeds": 2,
        "epochs": 2,
        "examples": 96,
        "threshold": 2.5,
        "within": 100,
        "workers": 1,
        "methods": methods,
        "out": out,
        **changes,
    }
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    spans = [text for span in penalties for text in ("--penalties", span)]
    task, *rest = more or ("digits",)
    return CliRunner().invoke(app, ["sparsify", task, *given, *spans, *map(str, rest)])


def words(result):
    return " ".join(result.output.split())


def found(out):
    return json.loads((out / "results.json").read_text())


def untimed(out):
    whole = found(out)
    for each in whole["speeds"].values():
        del each["ratios"]
    return whole


def run_files(out):
    return {path.name: path.read_bytes() for path in (out / "runs").glob("*.json")}


# From the command to the files --------------------------------------------------------------------


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    out = tmp_path_factory.mktemp("sparsify") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(speed, "ROUNDS", 6)
        result = call(out)
    assert result.exit_code == 0, result.output
    return out, result


def test_the_files(carried_out):
    out, result = carried_out
    assert {path.name for path in out.iterdir()} == FILES
    assert "Report:" in result.output
    page = (out / "report.md").read_text()
    assert "](figure.svg)" in page
    assert str(out) not in page + (out / "results.json").read_text()
    assert "diagonal metric" in (out / "figure.svg").read_text()
    for line in found(out)["verdicts"]:
        assert " ".join(line.split()) in words(result)
        assert f"- {line}" in page
    # One of the base, two of each method, by two seeds; weights of the first seed alone.
    assert len(run_files(out)) == (1 + 3 * 2) * 2
    assert len(list((out / "runs").glob("*.pt"))) == 1 + 3 * 2


def test_proximal_steps_make_exact_zeros_and_the_subgradient_none(carried_out):
    out, _ = carried_out
    for point in found(out)["points"]:
        zero = [sum(run["zero"]) for run in point["runs"]]
        small = [sum(run["small"]) for run in point["runs"]]
        weak = point["penalty"] < 1e-6
        if point["method"] in ("adamw-diagonal", "adamw-plain") and not weak:
            assert min(zero) > 0, point
        else:
            assert max(zero) == 0, point
        if point["method"] == "adamw-subgradient" and not weak:
            assert min(small) > 0
            assert point["exact"]["mean"] == 0 < point["share"]["mean"]


def test_the_tables_follow_from_the_run_files(carried_out):
    out, _ = carried_out
    written = [json.loads(text) for text in run_files(out).values()]
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    for row in rows:
        mine = [
            run
            for run in written
            if run["setting"]["method"] == row["method"]
            and f"{run['setting']['penalty']:g}" == row["penalty"]
        ]
        zeroed = row["kind"] == "subgradient"
        counted = "small" if zeroed else "zero"
        scored = "zero_test_score" if zeroed else "test_score"
        shares = [sum(run[counted]) / sum(run["channels"]) for run in mine]
        by_seed = {run["setting"]["seed"]: run[scored] for run in mine}
        base = {
            run["setting"]["seed"]: run["test_score"]
            for run in written
            if run["setting"]["method"] == "adamw"
        }
        assert set(by_seed) == set(base) == {100, 101}
        assert float(row["zero_share"]) == pytest.approx(statistics.mean(shares), abs=1e-6)
        assert float(row["score"]) == pytest.approx(statistics.mean(by_seed.values()), abs=1e-6)
        changes = [by_seed[seed] - base[seed] for seed in base]
        assert float(row["change"]) == pytest.approx(statistics.mean(changes), abs=1e-6)
        assert float(row["change_low"]) <= float(row["change"]) <= float(row["change_high"])
    chosen = [row["method"] for row in rows if row["chosen"] == "1"]
    assert chosen == ALL.split(",")


def test_the_smaller_models_are_told_of(carried_out):
    out, result = carried_out
    speeds = found(out)["speeds"]
    assert set(speeds) == set(ALL.split(","))
    points = {(p["method"], p["chosen"]): p for p in found(out)["points"]}
    for name, each in speeds.items():
        assert set(each["ratios"]) == {"1", "256"}
        assert each["difference"] <= speed.CLOSE
        assert each["channels_left"] < each["channels"] == 224
        elements = sum(p.numel() for p in get_problem("digits", None, None).model(0).parameters())
        assert each["parameters_left"] < each["parameters"] == elements
        first = points[name, True]["runs"][0]
        counted = "small" if name.endswith("subgradient") else "zero"
        # What is zero goes, but one channel of each of the three layers stays.
        assert each["channels_left"] <= each["channels"] - sum(first[counted]) + 3
        assert f"{each['parameters_left']:,} (" in words(result)


def test_learning_rates_are_chosen_without_the_test_split(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(work, "train", lambda *given: asked.append(given[1]) or runs.train(*given))
    result = call(
        tmp_path / "out",
        methods="adamw-plain",
        penalties=["1:1:1"],
        lr="1e-3,2e-2",
        seeds=1,
        epochs=1,
    )
    assert result.exit_code == 0, result.output
    purposes = [(each.purpose, each.method, each.seed) for each in asked]
    tuning = [("tune", "adamw", seed) for _ in range(2) for seed in (0, 1)]
    assert purposes == [*tuning, *(("evaluate", m, 100) for m in ("adamw", "adamw-plain"))]
    tried = {each["lr"]: each["loss"] for each in found(tmp_path / "out")["tried"]}
    best = min(tried, key=tried.get)
    assert found(tmp_path / "out")["learning_rates"] == {"adamw": best}
    assert {each.lr for each in asked if each.purpose == "evaluate"} == {best}
    tuned = [json.loads(t) for n, t in run_files(tmp_path / "out").items() if "-tune-" in n]
    assert len(tuned) == 4
    assert all(run["test_score"] is run["zero_test_score"] is None for run in tuned)
    assert "is an end of those tried" in words(result)


def test_a_run_that_diverges_counts_as_it_is(tmp_path):
    result = call(
        tmp_path / "out", methods="adamw-diagonal", penalties=["1:1:1"], lr="1e20", seeds=1
    )
    assert result.exit_code == 0, result.output
    assert "1 of 1 runs diverged: AdamW, no penalty" in words(result)
    (point, *_) = found(tmp_path / "out")["points"]
    assert point["score"]["mean"] == 0.0


def test_a_task_with_a_model_of_its_own(tmp_path):
    result = call(tmp_path / "out", "wine", methods="adam-plain", penalties=["1:30:2"], examples=64)
    assert result.exit_code == 0, result.output
    assert found(tmp_path / "out")["points"][0]["method"] == "adam"


# Interruption -------------------------------------------------------------------------------------


def interrupted_after(monkeypatch, count):
    asked = []

    def train(*given):
        asked.append(given[1])
        if len(asked) > count:
            raise KeyboardInterrupt
        return runs.train(*given)

    monkeypatch.setattr(work, "train", train)
    return asked


def test_what_was_interrupted_goes_on_and_gives_the_same(tmp_path, monkeypatch, carried_out):
    whole, _ = carried_out
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        interrupted_after(patched, 5)
        first = call(out)
    assert first.exit_code == 130
    assert "Interrupted. Finished runs are kept" in words(first)
    assert {path.name for path in out.iterdir()} == {"runs"}
    assert len(run_files(out)) == 5
    asked = interrupted_after(monkeypatch, 99)
    assert call(out).exit_code == 0
    assert len(asked) == 14 - 5
    assert run_files(out) == run_files(whole)
    assert untimed(out) == untimed(whole)
    for name in ("results.csv", "figure.svg"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert call(out).exit_code == 0
    assert len(asked) == 14 - 5  # nothing was run again


@pytest.mark.slow
def test_several_processes_give_the_same(tmp_path, carried_out):
    whole, _ = carried_out
    result = call(tmp_path / "out", workers=2)
    assert result.exit_code == 0, result.output
    assert run_files(tmp_path / "out") == run_files(whole)
    assert untimed(tmp_path / "out") == untimed(whole)


# Wrong input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": "adamw-diagnal"}, "unknown method 'adamw-diagnal'; did you mean"),
        ({"methods": "xyz"}, "choose from: adamw, adamw-diagonal,"),
        ({"methods": "adamw"}, "no method with a penalty is named"),
        ({"methods": "adam-plain,adam-plain"}, "a method is named twice"),
        ({"regularizer": "lasso"}, "unknown regularizer 'lasso'; did you mean 'group_lasso'?"),
        ({"regularizer": "group_mcp"}, "adamw-diagonal cannot be made: param group 0: gamma"),
        ({"penalties": ["1e-3"]}, "--penalties must be LOW:HIGH or LOW:HIGH:COUNT"),
        ({"penalties": ["1:0.1"]}, "--penalties must be LOW:HIGH"),
        ({"penalties": ["0:1"]}, "of numbers above 0"),
        ({"penalties": ["1:nan"]}, "of numbers above 0"),
        ({"penalties": ["1:1:2"]}, "one penalty needs LOW equal to HIGH"),
        ({"penalties": ["none=1:2"]}, "'none' is none of diagonal, plain, subgradient"),
        ({"lr": "fast"}, "--lr must be finite numbers above 0 with commas, got 'fast'"),
        ({"lr": "1e-3,0"}, "--lr must be finite numbers above 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"tuning-seeds": 0}, "tuning seeds must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch-size": 0}, "batch size must be at least 1, got 0"),
        ({"examples": 0}, "examples must be from 1 to the 1,077 there are to train on, got 0"),
        ({"examples": 1078}, "examples must be from 1 to the 1,077"),
        ({"threshold": -1}, "threshold must be a finite number from 0, got -1"),
        ({"within": "nan"}, "within must be a finite number from 0, got nan"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
    ids=str,
)
def test_wrong_input_is_a_sentence_before_anything_is_run(tmp_path, monkeypatch, changes, said):
    interrupted_after(monkeypatch, 0)
    result = call(tmp_path / "out", **changes)
    assert result.exit_code == 2, result.output
    assert said in words(result).replace("│ ", "").replace(" │", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("digit", "unknown task 'digit'"),
        ("diabetes", "the score of diabetes is RMSE; sparsify compares accuracies alone"),
        ("breast-cancer", "the model of breast-cancer cannot lose channels: model must be"),
        ("nowhere:at_all", "nowhere"),
    ],
)
def test_a_task_that_will_not_do(tmp_path, task, said):
    result = call(tmp_path / "out", task, examples=50)
    assert result.exit_code == 2, result.output
    assert said in words(result).replace("│ ", "").replace(" │", "")


def test_a_model_of_one_layer_has_nothing_to_lose(tmp_path, monkeypatch):
    single = networks.Network(
        "digits", "a layer", lambda: torch.nn.Sequential(torch.nn.Linear(64, 10))
    )
    monkeypatch.setitem(networks.NETWORKS, "single", single)
    result = call(tmp_path / "out", "single")
    assert result.exit_code == 2
    assert "the model of single has no hidden layer" in words(result)


def test_data_that_are_missing_are_a_sentence(tmp_path):
    result = call(tmp_path / "out", "mnist", data=tmp_path / "nothing")
    assert result.exit_code == 1
    assert "Error:" in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    result = call(tmp_path / "file" / "out", methods="adamw-plain")
    assert result.exit_code == 1
    assert "Not a directory" in words(result)
