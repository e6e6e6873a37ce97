"""gradmem surface: the paths, the search for learning rates, what is said and drawn."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from gradmem.lab import drawing
from gradmem.lab.surfaces import command, figures, findings, landscape, pages, search
from gradmem.lab.surfaces.cli import register
from gradmem.lab.surfaces.findings import Findings
from gradmem.lab.surfaces.landscape import View
from gradmem.lab.surfaces.plan import RATES, parse_rates, parse_start
from gradmem.lab.surfaces.table import SURFACES

from .test_report import Links
from .test_surface_paths import drawn_path, found, setting

app = typer.Typer()
register(app)


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split()), result.output


# What is typed -----------------------------------------------------------------------------------


def test_rates_as_typed():
    beale, names = SURFACES["beale"], ("sgd", "adam")
    assert parse_rates(None, names, beale) is None
    assert parse_rates("0.5", names, beale) == {"sgd": 0.5, "adam": 0.5}
    assert parse_rates("adam=1e-2, sgd = 3", names, beale) == {"sgd": 3, "adam": 0.01}
    assert parse_rates("authors", names, beale) == {"sgd": 1e-3, "adam": 1e-3}


def test_a_start_as_typed():
    sphere, camel = SURFACES["sphere"], SURFACES["six-hump-camel"]
    assert parse_start(" 1, -2e1,3", sphere, None) == (1.0, -20.0, 3.0)
    assert parse_start(None, camel, None) == (3.0, 2.5)
    assert parse_start(None, sphere, 5) == sphere.default_start(5)
    assert len(parse_start(None, sphere, None)) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bale"], ["unknown surface 'bale'", "beale"]),
        (["beale", "--optimizers", "adan"], ["unknown optimizer 'adan'"]),
        (["beale", "--optimizers", "sgd,sgd"], ["named twice"]),
        (["beale", "--lr", "fast"], ["learning rate must be numbers", "'fast'"]),
        (["beale", "--lr", "0"], ["learning rate must be above 0"]),
        (["beale", "--lr", "inf"], ["learning rate must be finite"]),
        (["beale", "--lr", "sgd=1"], ["--lr names no rate for sgd_c"]),
        (["beale", "--lr", "adamw=1"], ["--lr names 'adamw'"]),
        (["booth", "--lr", "authors"], ["did not draw booth"]),
        (["beale", "--start", "1"], ["beale has 2 coordinates, not 1"]),
        (["beale", "--start", "1,x"], ["start must be numbers", "'x'"]),
        (["beale", "--start", "1e200,2"], ["not finite at the start"]),
        (["beale", "--dimension", 3], ["beale has 2 coordinates, not 3"]),
        (["sphere", "--dimension", 0], ["at least 1, got 0"]),
        (["sphere", "--dimension", 3, "--start", "1,2"], ["--start has 2", "--dimension is 3"]),
        (["sphere", "--dimension", 1000, "--steps", 100000], ["at most 20,000,000"]),
        (["beale", "--steps", 0], ["steps must be from 1"]),
        (["beale", "--noise", -1], ["noise must be"]),
        (["beale", "--noise", "nan"], ["noise must be"]),
        (["beale", "--tolerance", 1], ["tolerance must be between"]),
        (["beale", "--seed", -1], ["seed"]),
        (["beale", "--capacity", -1], ["SGD_C", "capacity must be at least"]),
        (["beale", "--decay", 2], ["decay must be in [0, 1]"]),
        (["beale", "--policy", "best"], ["policy must be"]),
        (["beale", "--optimizers", "sgd,adam", "--kappa", 1], ["--kappa means nothing"]),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, arguments, words):
    code, said, _ = call("surface", *arguments, "--out", tmp_path / "out")
    assert code == 2, said
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


# Figures -----------------------------------------------------------------------------------------


def test_a_path_is_drawn_with_few_finite_numbers():
    view = View((0.0, 1.0), (0.0, 2.0))
    wild = np.array([(0.5, 0.5), (0.5, 0.5), (0.5, 1e250), (np.nan, 1), (0.6, 0.6)])
    kept = figures.drawable(wild, view)
    assert kept.tolist() == [[0.5, 0.5], [0.5, 8.0], [0.6, 0.6]]
    trembling = np.random.default_rng(0).random((100_000, 2))
    kept = figures.drawable(trembling, view)
    assert len(kept) == figures.LONGEST
    np.testing.assert_array_equal(kept[:100], trembling[:100])
    assert kept[-1].tolist() == trembling[-1].tolist()


def test_heights_are_values_and_levels_ascend():
    surface = SURFACES["beale"]
    view = View((2.0, 4.0), (0.0, 1.0))
    x, y, values = landscape.heights(surface, view)
    assert values.shape == (len(y), len(x))
    expected = surface.function(torch.tensor([x[20], y[100]])).item()
    assert values[100, 20] == pytest.approx(expected, rel=0.1)
    for name in ("beale", "easom", "de-jong-5", "xin-she-yang-3", "de-jong-3"):
        _, _, values = landscape.heights(
            SURFACES[name], landscape.whole(SURFACES[name], (0.0, 0.0))
        )
        lines = landscape.levels(values)
        assert len(lines) >= 4
        assert (np.diff(lines) > 0).all()
    assert landscape.levels(np.ones((3, 3))).size == 0


def test_lines_too_many_to_see_make_larger_cells_of_the_lowest_values(monkeypatch):
    surface = SURFACES["rastrigin"]
    whole = landscape.whole(surface, (0.0, 0.0))
    _, _, fine = landscape.heights.__wrapped__(surface, whole)
    monkeypatch.setattr(landscape, "BUSIEST", 10_000)
    x, y, coarse = landscape.heights.__wrapped__(surface, whole)
    assert len(x) == len(y) == len(coarse) == 40
    np.testing.assert_array_equal(coarse, fine.reshape(40, 4, 40, 4).min((1, 3)))
    assert x[0] == pytest.approx(-5.12 + 5.12 / 40)


def test_the_whole_box_holds_a_start_outside_it():
    whole = landscape.whole(SURFACES["booth"], (-12.0, 3.0))
    assert whole == View((-12.0, 10.0), (-10.0, 10.0))


def test_the_close_up_holds_the_paths_and_a_minimiser_that_is_near():
    def view(points, name="sphere"):
        path = drawn_path(points, np.zeros(len(points)), name=name)
        return landscape.close_up(path.plan.surface, (path,))

    near = view([(1, 1), (0.5, 0.5)])
    assert near.x[0] < 0 < 1 < near.x[1]
    assert near.y[0] < 0 < 1 < near.y[1]
    far = view([(4, 4), (4.1, 4.1), (np.nan, 0)])
    assert 3.5 < far.x[0] < 4 < 4.1 < far.x[1] < 4.5
    assert view([(-5, -5), (5, 5)]) is None  # most of the box
    still = drawn_path([(0, 0), (0, 0)], [0, 0])
    assert landscape.close_up(still.plan.surface, (still,)) is None


def test_families_share_a_hue_and_more_families_than_hues_are_told_apart():
    names = ("sgd", "sgd_c", "adam", "nadam", "radam", "adagrad", "adagrad_c")
    looks = figures.looks(Findings(setting(optimizers=names), ()))
    assert looks["sgd"].colour == looks["sgd_c"].colour != looks["adam"].colour
    assert not looks["sgd"].filled
    assert looks["sgd_c"].filled
    styles = {(look.colour, str(look.dashes)) for look in looks.values()}
    assert len(styles) == len(names)


def test_the_png_is_in_printed_colours():
    shown = figures.png(pages.figures.panels(found(setting("beale")), drawing.printed)[:1])
    assert shown.startswith(b"\x89PNG")
    with pytest.raises(KeyError):
        drawing.printed("#123456")


def test_slim_keeps_the_picture_and_shortens_its_numbers():
    assert (
        drawing.slim('<path d="M 1.23456 -0.04\nL 3.999 12345.67"/>')
        == '<path d="M 1.2 0 L 4 12345.7"/>'
    )


# The command -------------------------------------------------------------------------------------


def test_the_command_writes_a_report_pictures_and_numbers(tmp_path):
    code, said, output = call("surface", "beale", "--steps", 12, "--out", tmp_path)
    assert code == 0, said
    assert max(map(len, output.splitlines()[:-1])) <= 80
    for words in ("SGD_C", "Adam_C", "Learning rates: 21 tried for each", "report.html"):
        assert words in said
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "figure.svg", "figure.png", "results.csv")
    }
    page = (tmp_path / "report.html").read_text()
    parsed = Links(page)
    assert parsed.open == []
    assert all(link.startswith("#") for link in parsed.links)
    assert "<script" not in page
    assert all(address.startswith("url(#") for address in re.findall(r"url\([^)]*\)", page))
    assert "#0" not in re.sub(r'"#\w+"|url\(#\w+\)', "", page.split("<h2>Curves</h2>")[1])
    for words in ("Where the paths went", "The whole box", "Gap by step", "learning rate"):
        assert words in page
    assert len((tmp_path / "figure.svg").read_text()) < 60_000
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == 4 * len(RATES)
    assert [row["optimizer"] for row in rows if row["shown"] == "yes"] == [
        *("sgd", "sgd_c", "adam", "adam_c")
    ]
    before = page
    assert call("surface", "beale", "--steps", 12, "--out", tmp_path)[0] == 0
    assert (tmp_path / "report.html").read_text() == before


def test_more_than_two_coordinates_are_compared_without_contours(tmp_path):
    arguments = ("--dimension", 10, "--optimizers", "adam", "--lr", 0.01, "--steps", 20)
    code, said, _ = call("surface", "rosenbrock", *arguments, "--out", tmp_path)
    assert code == 0, said
    page = (tmp_path / "report.html").read_text()
    assert "Gap by step" in page
    assert "The whole box" not in page
    assert "not searched for" in page
    assert "10 in all" in page


def test_paths_that_diverge_or_leave_the_box_are_reported_and_drawn(tmp_path):
    rates = ("--lr", "sgd=1,adam=1000", "--optimizers", "sgd,adam", "--steps", 30)
    code, said, _ = call("surface", "goldstein-price", *rates, "--out", tmp_path)
    assert code == 0, said
    assert "No path ended in the box" in said
    assert "SGD diverged: not finite at step" in said
    assert "Adam left the box at step 1 and ended outside" in said
    assert "None came within 0.1%" in said
    assert "SGD, diverged" in (tmp_path / "figure.svg").read_text()
    (sgd, _) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert sgd["diverged"] == "yes"
    assert sgd["final_loss"] == "inf"


@pytest.mark.parametrize("name", ["de-jong-3", "eggholder", "easom"])
def test_surfaces_of_steps_edges_and_plains_are_drawn(tmp_path, name):
    code, said, _ = call("surface", name, "--lr", 0.1, "--steps", 20, "--out", tmp_path)
    assert code == 0, said
    assert "</html>" in (tmp_path / "report.html").read_text()


def test_those_at_the_minimum_to_rounding_are_named_together():
    ends = found(
        setting("sphere", ("sgd", "adam"), (1.0, 1.0), rates={"sgd": 0.5, "adam": 1.0}, steps=1)
    )
    assert findings.verdicts(ends)[:2] == [
        *(
            "At the minimum, to rounding: SGD and Adam.",
            "First within 0.1% of the gap at the start: SGD and Adam, at step 1.",
        )
    ]


def test_the_report_opens_on_request(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    arguments = ("--lr", 0.1, "--steps", 3, "--optimizers", "sgd", "--out", tmp_path, "--open")
    assert call("surface", "sphere", *arguments)[0] == 0
    assert opened == [(tmp_path / "report.html").as_uri()]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    arguments = ("--lr", 0.1, "--steps", 3, "--out", tmp_path / "file" / "below")
    code, said, _ = call("surface", "sphere", *arguments)
    assert code == 1
    assert "Error: " in said
    assert "cannot be written" in said
    assert "Traceback" not in said


def test_the_default_folder_is_named_after_the_surface(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("surface", "booth", "--lr", 0.1, "--steps", 3)[0] == 0
    assert (tmp_path / "gradmem-results" / "surface-booth" / "report.html").exists()


def test_every_surface_is_listed():
    code, _, output = call("surfaces")
    assert code == 0
    *listed, last = output.splitlines()
    assert [line.split()[0] for line in listed] == list(SURFACES)
    assert last == "Of a surface for any n, box and minimum are those for n = 2."
    assert max(map(len, output.splitlines())) <= 80


def test_the_documentation_has_every_surface_and_its_minimum():
    page = (Path(__file__).parents[2] / "docs" / "surfaces.md").read_text()
    for name, surface in SURFACES.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f" {surface.minimum(surface.dimension or 2):.7g} |" in row
    assert f"one of {len(SURFACES)} standard" in page


def test_registering_the_commands_imports_no_drawing():
    code = (
        "import sys, typer; from gradmem.lab.surfaces.cli import register; register(typer.Typer());"
        "assert not {'matplotlib', 'scipy', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_search_of_a_prepared_plan_is_counted():
    given = command.prepare(
        *("sphere", "sgd,adam"),
        rates=None,
        start=None,
        dimension=None,
        memory={},
        steps=2,
        noise=0.0,
        tolerance=0.5,
        seed=0,
    )
    notes = []
    search.carry_out(given, notes.append)
    assert len(notes) == 2 * len(RATES)
