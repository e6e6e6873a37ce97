import csv
import html
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from typer.testing import CliRunner

import gradmem
from gradmem.lab import origin
from gradmem.lab.cli import app
from gradmem.lab.config import CompareConfig, as_toml
from gradmem.lab.errors import StoreError
from gradmem.lab.figures import looks
from gradmem.lab.findings import findings, score_table, show_estimate
from gradmem.lab.markup import markdown_table
from gradmem.lab.optimizers import available
from gradmem.lab.origin import Origin
from gradmem.lab.report import csv_page, html_page, markdown_page, picture, summary_csv
from gradmem.lab.report.commands import inspect_commands
from gradmem.lab.report.page import SECTIONS
from gradmem.lab.report.panels import search_panels
from gradmem.lab.report.tables import cost_table
from gradmem.lab.statistics import Estimate

from .helpers import tiny_comparison
from .synthetic import Made, change_runs, change_trials, comparison, failed

NAMES = ("sgd", "sgd_c", "adam", "adam_c")
SCORES = {name: [0.85 + 0.02 * i + 0.001 * k for i in range(6)] for k, name in enumerate(NAMES)}
EVIL = "$a_$<script>alert('x')</script><img src=http://example.org/x.png>|& \"q\""


@pytest.fixture(scope="module")
def whole():
    return comparison(SCORES)


@pytest.fixture(scope="module")
def pages(whole):
    """The page and the Markdown, for tests that only look."""
    return {write: write(findings(whole)) for write in (html_page, markdown_page)}


class Links(HTMLParser):
    """Everything in a page that a browser would fetch or follow, what can be linked to, and any tag
    left open.
    """

    def __init__(self, page):
        super().__init__()
        self.links = []
        self.identities = []
        self.tags = set()
        self.open = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        self.identities += [v for k, v in attrs if k == "id"]
        self.tags.add(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_real_runs_make_a_report(tmp_path):
    found = findings(tiny_comparison(tmp_path, "adam", "adam_c"))
    page = html_page(found)
    assert Links(page).open == []
    for each in found.scores:
        assert f"lr={each.evaluated.options['lr']}" in page
    assert "the 360 test examples" in markdown_page(found)


def test_the_page_fetches_nothing_and_is_well_formed(pages):
    page = pages[html_page]
    parsed = Links(page)
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} - set(parsed.identities) == set()
    assert parsed.open == []
    assert not {"script", "link", "img", "iframe", "object"} & parsed.tags
    assert "@import" not in page
    assert all(address.startswith("url(#") for address in re.findall(r"url\([^)]*\)", page))


def test_code_in_a_note_is_code_in_either_page(pages):
    assert "<code>sum</code> adds stored gradients" in pages[html_page]
    assert "`sum` adds stored gradients" in pages[markdown_page]


def test_every_section_is_there(pages):
    parsed = Links(pages[html_page])
    for name in ("verdict", *SECTIONS):
        # the theorem has nothing to say of this task: test_report_theorem.py
        assert parsed.identities.count(name) == (0 if name == "theorem" else 1)


@pytest.mark.parametrize("write", [html_page, markdown_page])
def test_every_optimizer_its_setting_and_the_verdict_are_on_the_page(whole, pages, write):
    found = findings(whole)
    page = html.unescape(pages[write])
    for each in found.scores:
        assert each.spec.label in page
        assert f"lr={each.evaluated.options['lr']}" in page
    for sentence in (found.headline, *found.verdicts):
        assert sentence in page
    assert "This is one task with one network" in page
    assert "What the memory held" in page
    assert "Win / tie / loss against the base: 0 / 2 / 0." in page
    assert "reach to twice the learning rate" in page


def test_the_same_runs_make_the_same_page(whole, pages):
    assert html_page(findings(whole)) == pages[html_page]


def test_what_users_name_is_escaped_everywhere(whole):
    class Evil(Made):
        name = title = EVIL
        metric = replace(Made.metric, name=EVIL, unit=EVIL)
        partial = EVIL

    def rename(each):
        return replace(each, tuned=replace(each.tuned, spec=replace(each.tuned.spec, label=EVIL)))

    def crash(run):
        return failed(run, "crashed", f'File "x.py", line 1\n{EVIL}\nValueError: {EVIL}')

    spoilt = change_runs(whole, "sgd_c", lambda runs: [crash(runs[0]), *runs[1:]])
    results = tuple(map(rename, spoilt.results))
    spoilt = replace(spoilt, plan=replace(spoilt.plan, task=Evil()), results=results)
    found = findings(spoilt, Origin(toml=f'task = "{EVIL}"'))
    page = html_page(found)
    parsed = Links(page)
    assert parsed.open == []
    assert not {"script", "img"} & parsed.tags
    assert page.count(html.escape(EVIL)) > 10
    assert "<script" not in picture(found)
    text = markdown_page(found)
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<script" not in outside
    assert "<img" not in outside
    header, *lines = markdown_table(score_table(found)).splitlines()
    bars = re.compile(r"(?<!\\)\|")
    assert {len(bars.findall(line)) for line in lines} == {len(bars.findall(header))}
    assert rows_of(csv_page(found))[6]["reason"].startswith("ValueError: $a_$<script>")  # as it is


def test_a_crash_is_warned_of_with_its_traceback(whole):
    error = "Traceback:\n  File 'model.py', line 3\nRuntimeError: shapes do not fit"
    spoilt = change_runs(
        whole, "adam_c", lambda runs: [failed(run, "crashed", error) for run in runs[:2]] + runs[2:]
    )
    found = findings(spoilt)
    (line,) = found.warnings
    assert line == (
        "Adam_C: 2 of 6 evaluation runs crashed; they are left out of the scores: RuntimeError: "
        "shapes do not fit"
    )
    page = html_page(found)
    assert "Adam_C, seed 100: RuntimeError: shapes do not fit" in page
    assert page.count("model.py") == 1  # the same reason is shown once
    assert f"**{line}.**" in markdown_page(found)


def test_trials_that_crashed_or_were_late_are_warned_of(whole):
    victims = {0: ("crashed", "KeyError: 'lr'"), 1: ("timeout", None), 2: ("diverged", None)}
    trials = list(whole.results[2].tuned.trials)
    spoilt = change_trials(
        whole,
        "adam",
        lambda run: next(
            (
                failed(run, status, error)
                for i, (status, error) in victims.items()
                if trials[i].runs[0] == run
            ),
            run,
        ),
    )
    found = findings(spoilt)
    assert "Adam: 1 of 6 trials crashed: KeyError: 'lr'" in found.warnings
    assert any("1 of 6 trials ran out of time" in line for line in found.warnings)
    assert "6 (1 diverged)" in markdown_page(found)


def test_the_edge_of_a_space_is_warned_of(whole):
    tuned = whole.results[0].tuned
    edge = min(tuned.trials, key=lambda trial: trial.options["lr"])
    runs = tuple(replace(run, validation_loss=0.01) for run in edge.runs)
    trials = tuple(replace(t, runs=runs) if t is edge else t for t in tuned.trials)
    rate = replace(tuned.spec.space[0], low=edge.options["lr"] * 0.999)
    changed = replace(tuned, trials=trials, spec=replace(tuned.spec, space=(rate,)))
    results = (replace(whole.results[0], tuned=changed), *whole.results[1:])
    found = findings(replace(whole, results=results))
    assert any("lies at the edge of the space" in line for line in found.warnings)
    assert "lies at the edge of the space" in markdown_page(found)


def test_a_study_half_done_says_so(whole):
    part = change_runs(replace(whole, outstanding=5), "adam_c", lambda runs: runs[:3])
    found = findings(part)
    assert found.warnings[0].startswith("5 runs are yet to be made; this is about the 6 seeds")
    assert "5 runs are yet to be made" in markdown_page(found)
    assert [len(each.by_seed) for each in found.differences] == [6, 3]


def test_pages_survive_an_optimizer_without_runs(whole):
    found = findings(change_runs(whole, "adam_c", lambda runs: []))
    for write in (html_page, markdown_page, csv_page, summary_csv, picture):
        assert write(found)
    assert "no seed is finished for both" in html_page(found)


@pytest.mark.parametrize("names", [["adam_c"], list(NAMES)])
def test_pages_survive_runs_that_all_diverged(whole, names):
    spoilt = whole
    for name in names:
        spoilt = change_runs(spoilt, name, lambda runs: [failed(run, "diverged") for run in runs])
        spoilt = change_trials(spoilt, name, lambda run: failed(run, "diverged"))
    found = findings(spoilt)
    assert "Adam_C: 6 of 6 evaluation runs diverged; they count with the worst score" in (
        found.warnings
    )
    assert "6 of 6 evaluation runs diverged" in html_page(found)
    assert "no trial succeeded (6 diverged)" in markdown_page(found)
    assert "inf" in markdown_page(found)
    assert len(rows_of(summary_csv(found))) == 4
    if len(names) == 4:
        assert "No run reached the target." in html_page(found)
    assert "<svg" in picture(found)


def test_pages_survive_one_seed_one_optimizer_and_one_trial():
    found = findings(comparison({"adam": [0.9]}, trials=1))
    page = html_page(found)
    assert "nothing to compare" in page
    assert 'id="comparisons"' not in page
    single = findings(comparison({"adam": [0.9], "adam_c": [0.8]}, trials=1))
    assert "allows no conclusion" in html_page(single)
    assert "one seed says nothing" in markdown_page(single)


def test_pages_survive_losses_that_are_not_positive(whole):
    lower = change_trials(whole, "sgd", lambda run: replace(run, validation_loss=-1.0))
    assert "<svg" in search_panels(findings(lower))[0]


def test_pages_survive_infinite_and_missing_scores(whole):
    values = (math.inf, math.nan, None)
    spoilt = change_runs(
        whole,
        "sgd_c",
        lambda runs: [
            *(replace(r, test_score=v) for r, v in zip(runs, values, strict=False)),
            *runs[3:],
        ],
    )
    for write in (html_page, markdown_page, csv_page, summary_csv, picture):
        assert write(findings(spoilt))


def test_equal_scores_of_all_seeds_are_warned_of():
    found = findings(comparison({"adam": [0.9] * 5, "adam_c": [0.8, 0.9, 0.9, 0.9, 0.9]}))
    (line,) = [line for line in found.warnings if "equal" in line]
    assert line.startswith("Adam: the test scores of all 5 seeds are equal")


def test_many_optimizers_are_told_apart():
    names = [spec.name for spec in available()]
    found = findings(comparison(dict.fromkeys(names, (0.9, 0.91)), trials=2))
    styles = [(look.colour, str(look.dashes)) for look in looks(found.comparison).values()]
    assert len(set(styles)) == len(styles) > 12
    assert Links(html_page(found)).open == []


def test_the_page_says_how_to_repeat_it(whole, pages):
    toml = as_toml(CompareConfig(task="digits", trials=6))
    for write in (html_page, markdown_page):
        page = html.unescape(write(findings(whole, Origin(toml=toml))))
        assert "gradmem compare --config config.toml" in page
        assert 'task = "digits"' in page
        assert f"torch {torch.__version__}" in page
        assert "not at hand" in pages[write]


def test_cost_is_a_ratio_to_the_base_and_bytes(whole):
    _, second, *_ = cost_table(findings(whole)).rows
    assert second == ("SGD_C", "2.0", "2.0", "32", "24")
    (alone,) = cost_table(findings(comparison({"sgd_c": [0.9, 0.8]}))).rows
    assert alone == ("SGD_C", "-", "-", "32", "24")


def test_the_csv_has_a_row_per_run(whole):
    rows = rows_of(csv_page(findings(whole)))
    evaluated, tried = rows[:24], rows[24:]
    assert [(row["optimizer"], row["seed"]) for row in evaluated] == [
        (name, str(seed)) for name in NAMES for seed in range(100, 106)
    ]
    assert float(evaluated[0]["test_score"]) == whole.results[0].runs[0].test_score
    assert [row["optimizer"] for row in tried] == [name for name in NAMES for _ in range(6)]
    assert {row["purpose"] for row in tried} == {"tune"}
    assert {row["test_score"] for row in tried} == {""}
    assert json.loads(tried[0]["options"]) == whole.results[0].tuned.trials[0].options


def test_the_summary_has_a_row_per_optimizer(whole):
    found = findings(whole)
    rows = rows_of(summary_csv(found))
    assert [row["optimizer"] for row in rows] == list(NAMES)
    assert [row["against"] for row in rows] == ["", "sgd", "", "adam"]
    assert float(rows[1]["difference"]) == pytest.approx(0.001)
    assert float(rows[1]["p_corrected"]) == found.differences[0].p
    assert float(rows[0]["test_mean"]) == found.scores[0].test.mean
    assert rows[1]["outcome"] == "tie"


def recorded(path):
    model = torch.nn.Linear(3, 1)
    optimizer = gradmem.Adam_C(model.parameters(), capacity=2)
    with gradmem.Recorder(optimizer, path):
        for _ in range(12):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()


def test_records_in_the_folder_become_a_map(whole, tmp_path):
    recorded(tmp_path / "records-<b>.jsonl")
    (tmp_path / "config.toml").write_text('command = "compare"\ntask = "made"\n')
    found = origin.read(tmp_path)
    assert found.toml == 'command = "compare"\ntask = "made"\n'
    page = html_page(findings(whole, found))
    assert "What lay in memory, by step: &lt;b&gt;" in page
    assert "gradmem inspect" not in page


def test_without_records_the_page_says_how_to_get_them(whole, pages, tmp_path):
    assert origin.read(tmp_path) == Origin()
    page = pages[html_page]
    options = whole.results[1].options
    assert f"gradmem inspect made-up --optimizer sgd_c --capacity {options['capacity']}" in page
    assert "What lay in memory at the end" in page


def test_a_suggested_command_names_a_task_from_elsewhere_as_it_was_asked_for():
    task = Made()
    task.asked = "my tasks.py:made"
    found = comparison({"sgd": [0.9, 0.8], "sgd_c": [0.9, 0.8]}, task=task)
    assert inspect_commands(findings(found)).startswith("gradmem inspect 'my tasks.py:made' --opt")


def test_records_that_are_none_are_a_sentence(tmp_path):
    (tmp_path / "records.jsonl").write_text("hello\n")
    with pytest.raises(StoreError, match=r"line 1 of .*records\.jsonl is no record"):
        origin.read(tmp_path)


def test_a_report_without_results_is_a_sentence(tmp_path):
    (tmp_path / "config.toml").write_text('command = "compare"\ntask = "digits"\ntrials = 2\n')
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "nothing to report" in " ".join(result.output.split())
    assert not (tmp_path / "report.html").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(app, ["report", str(empty)])
    assert result.exit_code == 2


def test_an_estimate_without_interval_is_shown_bare():
    assert show_estimate(Estimate(0.5, None), 100, 1) == "50.0"
