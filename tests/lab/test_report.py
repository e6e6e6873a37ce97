import csv
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.findings import findings, show_estimate
from gradmem.lab.report import csv_page, html_page, markdown_page
from gradmem.lab.score import Estimate

from .helpers import tiny_comparison

NAMES = ("sgd", "sgd_c", "adam", "adam_c")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return tiny_comparison(tmp_path_factory.mktemp("runs"), *NAMES)


class Links(HTMLParser):
    """Everything in a page that a browser would fetch or follow, and any tag left open."""

    def __init__(self, page):
        super().__init__()
        self.links = []
        self.open = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_fetches_nothing_and_is_well_formed(comparison):
    page = html_page(findings(comparison))
    parsed = Links(page)
    assert all(link.startswith("#") for link in parsed.links)
    assert parsed.open == []
    assert "<script" not in page
    assert "@import" not in page
    assert all(address.startswith("url(#") for address in re.findall(r"url\([^)]*\)", page))


@pytest.mark.parametrize("write", [html_page, markdown_page])
def test_every_optimizer_its_setting_and_the_verdict_are_on_the_page(comparison, write):
    found = findings(comparison)
    page = write(found)
    for each in found.scores:
        assert each.spec.label in page
        assert f"lr={each.evaluated.options['lr']}" in page
    for sentence in found.verdicts:
        assert sentence in page
    assert "one small task" in page
    assert "What the memory held" in page


def test_the_same_runs_make_the_same_page(comparison):
    assert html_page(findings(comparison)) == html_page(findings(comparison))


def test_names_are_escaped(comparison):
    def rename(each):
        spec = replace(each.spec, label="<b>&\"A'")
        return Evaluated(replace(each.tuned, spec=spec), each.runs)

    page = html_page(findings(Comparison(comparison.plan, tuple(map(rename, comparison.results)))))
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert Links(page).open == []


def test_pages_survive_runs_that_all_diverged(comparison):
    def spoil(run):
        return replace(
            run,
            status="diverged",
            curves=replace(run.curves, train_loss=(), validation_loss=(), validation_score=()),
            best_epoch=None,
            validation_loss=math.inf,
            validation_score=0.0,
            test_score=None if run.test_score is None else 0.0,
            steps_to_target=None,
        )

    def spoil_all(each):
        trials = tuple(map(spoil, each.tuned.trials))
        return Evaluated(replace(each.tuned, trials=trials), tuple(map(spoil, each.runs)))

    spoiled = Comparison(
        comparison.plan, (spoil_all(comparison.results[0]), *comparison.results[1:])
    )
    found = findings(spoiled)
    assert any("2 of 2 evaluation runs diverged" in line for line in found.warnings)
    assert "2 of 2 evaluation runs diverged" in html_page(found)
    assert "inf" in markdown_page(found)
    everything = Comparison(comparison.plan, tuple(map(spoil_all, comparison.results)))
    assert "diverged" in html_page(findings(everything))


def test_one_optimizer_and_one_seed_make_a_report(tmp_path):
    found = findings(tiny_comparison(tmp_path, "adam", trials=1, seeds=1, epochs=1))
    assert "nothing to compare" in html_page(found)


def test_the_csv_has_a_row_per_evaluation_run(comparison):
    rows = list(csv.DictReader(io.StringIO(csv_page(findings(comparison)))))
    assert [(row["optimizer"], row["seed"]) for row in rows] == [
        (name, seed) for name in NAMES for seed in ("100", "101")
    ]
    assert float(rows[0]["test_score"]) == comparison.results[0].runs[0].test_score


def test_an_estimate_without_interval_is_shown_bare():
    assert show_estimate(Estimate(0.5, None), 100, 1) == "50.0"
