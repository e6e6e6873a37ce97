"""Many comparisons together, from the two files each leaves."""

import csv
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradmem.lab.cli import app
from gradmem.lab.config import CompareConfig, TuneConfig, as_toml
from gradmem.lab.errors import ConfigError, NoResultsError, StoreError
from gradmem.lab.findings import findings as single
from gradmem.lab.report.rows import SUMMARY_COLUMNS, summary_csv
from gradmem.lab.statistics import friedman, holm, profile_area, sign_test
from gradmem.lab.summary import findings, pages
from gradmem.lab.summary.command import prepare
from gradmem.lab.summary.reading import read, read_all
from gradmem.lab.summary.tally import field, in_all, tallies

from .synthetic import comparison

RESULTS = Path(__file__).parents[2] / "docs" / "results"
BASES = {"sgd_c": "sgd", "adam_c": "adam"}


def keep(folder, task, scores, outcomes=None, steps=None, config=CompareConfig, **options):
    """A folder as `gradmem compare` leaves it, with these mean scores by optimizer."""
    folder.mkdir(parents=True)
    made = config(task=task, optimizers=tuple(scores), trials=4, **options)
    (folder / "config.toml").write_text(as_toml(made))
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, SUMMARY_COLUMNS, restval="")
        writer.writeheader()
        for name, score in scores.items():
            row = {"optimizer": name, "runs": 3, "test_mean": score}
            row["steps_to_target"] = (steps or {}).get(name, math.inf)
            if base := scores.keys() & {BASES.get(name)}:
                by = score - scores[base.pop()]
                row |= {"against": BASES[name], "difference": by}
                row |= {"difference_low": by - 0.1, "difference_high": by + 0.1}
                row["outcome"] = (outcomes or {}).get(name, "tie")
            writer.writerow(row)
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two tasks of accuracy, where more is better, and one of error, where less is."""
    return [
        keep(
            *(tmp_path / "one", "digits", {"sgd": 0.8, "sgd_c": 0.9, "adam": 0.7, "adam_c": 0.6}),
            outcomes={"sgd_c": "win", "adam_c": "loss"},
            steps={"sgd": 100, "sgd_c": 200, "adam": 400},
        ),
        keep(
            *(tmp_path / "two", "wine", {"sgd": 0.9, "sgd_c": 0.9, "adam": 0.8, "adam_c": 0.95}),
            steps={"sgd": 300, "adam_c": 200, "adam": 200},
        ),
        keep(
            *(tmp_path / "three", "diabetes", {"sgd": 60.0, "sgd_c": 55.0, "adam": 50.0}),
            outcomes={"sgd_c": "win"},
        ),
    ]


def test_pairs_are_counted_with_the_sign_of_the_metric(folders):
    compared = read_all(folders)
    sgd, adam = tallies(compared)
    assert (sgd.variant.name, sgd.base.name, sgd.tasks) == ("sgd_c", "sgd", 3)
    assert (sgd.wins, sgd.ties, sgd.losses) == (2, 1, 0)
    assert (sgd.ahead, sgd.behind) == (2, 0)  # one is equal; an error of 55 is better than of 60
    assert (adam.wins, adam.ties, adam.losses, adam.ahead, adam.behind) == (0, 1, 1, 1, 1)
    assert [sgd.p, adam.p] == holm([sign_test(2, 0), sign_test(1, 1)]) == [1.0, 1.0]


def test_a_sign_test_that_chance_does_not_explain_is_a_verdict(tmp_path):
    folders = [
        keep(tmp_path / f"{i}", "digits", {"sgd": 0.8, "sgd_c": 0.8 - 0.01 * (i + 1)})
        for i in range(8)
    ]
    said = list(findings.verdicts(prepare(folders, [])))
    assert said[0] == (
        "8 pairs of a memory variant and its base on 8 tasks: 0 better, 0 worse, 8 undecided."
    )
    assert said[1].startswith("SGD_C - SGD: behind on 8 tasks against 0, more than chance allows")
    assert "p = 0.0078" in said[1]


def test_ranks_and_profiles_are_those_of_the_tasks_that_have_the_whole_field(folders):
    compared = read_all(folders)
    found = field(["sgd", "sgd_c", "adam", "adam_c"], compared)
    assert [each.name for each in found.tasks] == ["one", "two"]
    assert [each.rank for each in found.entries] == [(2 + 2.5) / 2, (1 + 2.5) / 2, 3.5, 2.5]
    assert [each.first for each in found.entries] == [0, 1, 0, 1]
    assert [each.reached for each in found.entries] == [2, 1, 2, 1]
    assert found.entries[0].ratios == (1.0, 1.5)
    assert found.entries[1].ratios == (2.0, math.inf)
    assert found.entries[0].area == profile_area([1.0, 1.5])
    costs = [[-0.8, -0.9], [-0.9, -0.9], [-0.7, -0.8], [-0.6, -0.95]]
    assert found.p == friedman(costs)
    errors = field(["sgd", "adam"], compared)
    assert [each.rank for each in errors.entries] == [4 / 3, 5 / 3]
    assert math.isnan(errors.p)


def test_without_a_field_those_are_ranked_whom_all_tasks_have(folders):
    assert in_all(read_all(folders)) == ("sgd", "sgd_c", "adam")
    found = prepare(folders, [])
    assert [[e.spec.name for e in each.entries] for each in found.fields] == [
        ["sgd", "sgd_c", "adam"]
    ]
    alone = prepare([keep(folders[0].parent / "four", "wine", {"lion": 0.5})], [])
    assert alone.fields == alone.tallies == ()
    assert "## Tasks" in pages.as_markdown(alone)


def test_a_folder_of_folders_stands_for_those_within(folders):
    assert [each.name for each in read_all([folders[0].parent])] == ["one", "three", "two"]


def test_what_compare_writes_is_read(tmp_path):
    scores = {"sgd": [0.8, 0.82, 0.81], "sgd_c": [0.9, 0.93, 0.91], "lion": [0.5, 0.95, 0.9]}
    made = single(comparison(scores))
    keep(tmp_path / "made", "digits", {"sgd": 0})
    (tmp_path / "made" / "summary.csv").write_text(summary_csv(made))
    found = read(tmp_path / "made")
    for score in made.scores:
        kept = found.standings[score.spec.name]
        assert (kept.test, kept.seeds, kept.steps) == (score.test.mean, 3, score.steps_to_target)
    (pair,), (difference,) = found.pairs, made.differences
    assert (pair.difference, pair.interval, pair.outcome) == (
        *(difference.estimate.mean, difference.estimate.interval, difference.outcome),
    )


def test_pages_have_every_pair_and_every_budget(folders, tmp_path):
    part = keep(tmp_path / "part", "ptb-lstm-part", {"sgd": 300.0, "sgd_c": 290.0}, epochs=2)
    found = prepare([*folders, part], [["sgd", "sgd_c"], ["sgd", "adam"]])
    text = pages.as_markdown(found)
    assert "| one | SGD_C - SGD | 80.00 % | 90.00 % | +10.00 (0.00 to +20.00) | better |" in text
    assert "| three | SGD_C - SGD | 60.00 | 55.00 | -5.00 (-5.10 to -4.90) | better |" in text
    assert "| 4 | 3 | 2 of 10 | 2 |" in text
    assert "**part: Of the Penn Treebank's training text the first 8,000" in text
    assert "## Ranks, 2 optimizers on 4 tasks" in text
    assert "## Ranks, 2 optimizers on 3 tasks" in text
    assert "On one, two, three. The rank" in text
    shown = pages.as_html(found)
    assert shown.count("<svg") == 3
    names = re.findall(r'id="(table-\d)"', shown)
    assert len(names) == len(set(names)) == 5
    assert "<script" not in shown
    assert "http" not in shown.replace("http://www.w3.org", "")
    rows = list(csv.DictReader(pages.as_csv(found).splitlines()))
    assert [(row["folder"], row["optimizer"], row["improves"]) for row in rows] == [
        *(("one", "sgd_c", "1"), ("one", "adam_c", "0"), ("two", "sgd_c", "0")),
        *(("two", "adam_c", "1"), ("three", "sgd_c", "1"), ("part", "sgd_c", "1")),
    ]
    assert pages.as_svg(found) == pages.as_svg(found)


def test_a_pair_without_an_interval_is_shown_and_not_drawn(tmp_path):
    folder = keep(tmp_path / "one", "digits", {"sgd": 0.8, "sgd_c": 0.9})
    path = folder / "summary.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    rows[1] |= {"difference_low": "", "difference_high": ""}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, SUMMARY_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    found = prepare([folder], [])
    assert "| +10.00 |" in pages.as_markdown(found)
    assert pages.as_html(found).count("<svg") == 1


# Bad input ----------------------------------------------------------------------------------------


def test_folders_that_cannot_be_used_are_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    tuned = keep(tmp_path / "tuned", "digits", {"sgd": 0.5}, config=TuneConfig)
    bare = keep(tmp_path / "bare", "digits", {"sgd": 0.5})
    (bare / "config.toml").unlink()
    for given, error, words in (
        ([tmp_path / "none"], ConfigError, "there is no folder .*none"),
        ([tmp_path / "empty"], NoResultsError, "no summary.csv in .*empty, nor in a folder within"),
        ([tuned], ConfigError, "a folder of `gradmem tune`, not of `compare`"),
        ([bare], ConfigError, "there is no config.toml in .*bare"),
        ([folders[0], folders[0]], ConfigError, "two of the folders are called 'one'"),
    ):
        with pytest.raises(error, match=words):
            read_all(given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("adam_c", "adam_x"), "unknown optimizer 'adam_x'"),
        (lambda text: text.replace("0.7", "much"), "ValueError: .*much"),
        (lambda text: text.replace("test_mean", "mean"), "KeyError: 'test_mean'"),
        (lambda text: text[:-20], "the row of adam_c is too short"),
        (lambda text: text.encode() + b"\xff", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_table_is_refused_with_what_to_do(folders, change, words):
    path = folders[0] / "summary.csv"
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(StoreError, match=f"{words}.*gradmem report .*one` makes it anew"):
        read(folders[0])


def test_an_empty_table_is_refused(folders):
    path = folders[0] / "summary.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(NoResultsError, match="no optimizer"):
        read(folders[0])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["sgd"], "takes two optimizers or more, each once, not sgd"),
        (["sgd", "sgd"], "each once, not sgd,sgd"),
        (["sgd", "adamm"], "no optimizer 'adamm'; did you mean 'adam"),
        (["sgd", "lion"], "no comparison has all of sgd, lion"),
    ],
)
def test_fields_that_cannot_be_are_refused(folders, names, words):
    with pytest.raises(ConfigError, match=words):
        prepare(folders, [names])


def test_the_command_writes_four_files_and_says_what_they_say(folders, tmp_path):
    out = tmp_path / "out"
    given = ["summary", *map(str, folders), "--field", "sgd, sgd_c", "--out", str(out)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        *("figure.svg", "report.html", "report.md", "results.csv"),
    ]
    said = " ".join(result.output.split())
    assert "5 pairs of a memory variant and its base on 3 tasks: 2 better, 1 worse" in said
    for file in ("report.html", "report.md"):
        assert "2 better, 1 worse, 2 undecided" in (out / file).read_text()
    wrong = CliRunner().invoke(app, ["summary", str(tmp_path / "none")])
    assert wrong.exit_code == 2
    assert "there is no folder" in wrong.output


# The project's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["summary", "summary-data"])
def test_the_committed_summary_is_that_of_the_committed_results(name):
    text = (RESULTS / name / "report.md").read_text(encoding="utf-8")
    kept = csv.DictReader((RESULTS / name / "results.csv").read_text().splitlines())
    met = {row["folder"] for row in kept}
    everything = sorted(path.parent for path in RESULTS.glob("*/summary.csv"))
    compared = [folder for folder in everything if folder.name in met]
    if name == "summary":
        assert compared == everything
    found = prepare(compared, [["sgd", "sgd_c", "adam", "adam_c"], PEERS])
    assert pages.as_csv(found).splitlines() == (
        (RESULTS / name / "results.csv").read_text(encoding="utf-8").splitlines()
    )
    assert pages.as_markdown(found) == text


PEERS = ["sgd", "sgd_c", "adam", "adam_c", "ademamix", "muon", "schedulefree"]
