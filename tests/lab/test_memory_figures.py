"""Summaries and figures of records: values by hand, and what is drawn where."""

import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.path import Path

from gradmem.lab.drawing import panel
from gradmem.lab.memory import figures, pages
from gradmem.lab.memory.figures import Evictions
from gradmem.lab.memory.recording import Plan, Run
from gradmem.lab.memory.summary import eviction_ages, of_scope, summarise, used_ages
from gradmem.lab.tasks import get_task

from .records import simulated, unseen


def by_hand():
    """Capacity 2, five steps: in at 1, 2 and 4; out of slot 0 at 4, at the age of 3."""
    enters, held = {1: (1, 0), 2: (1, 2), 4: (4, 2)}, (0, 0)
    for step, record in enumerate(simulated(5, capacity=2), start=1):
        held = enters.get(step, held)
        gone = step == 4
        values = {
            "norm": 2.0,
            "stored_norm": math.nan if step == 1 else 4.0,
            "cosine": [math.nan, 1.0, 0.5, -0.5, 0.0][step - 1],
            "entered": step in enters,
            "slot": {1: 0, 2: 1, 4: 0}.get(step),
            "left": 1 if gone else None,
            "left_age": 3 if gone else None,
            "held": held,
        }
        yield type(record)(**{**vars(record), **values})


def test_a_summary_by_hand():
    (found,) = summarise([unseen(1, 2), *by_hand()])
    assert (found.scope, found.capacity) == ("model", 2)
    assert (found.steps, found.entered, found.left, found.accepted_share) == (5, 3, 1, 0.6)
    assert (found.early, found.median, found.late) == (3, 3, 3)
    # ages used: 1; 2 1; 3 2; 1 3; 2 4
    assert found.oldest == 4
    assert found.recent == pytest.approx(6 / 9)
    assert found.cosine == pytest.approx(0.25)
    assert found.lowest_cosine == -0.5
    assert found.ratio == pytest.approx(0.5)


def test_a_summary_of_nothing_seen():
    (found,) = summarise([unseen(1), unseen(2)])
    assert (found.steps, found.entered, found.oldest) == (0, 0, 0)
    for name in ("accepted_share", "early", "recent", "cosine", "lowest_cosine", "ratio"):
        assert math.isnan(getattr(found, name)), name
    assert summarise([]) == ()


def test_a_summary_for_each_ledger():
    one, other = simulated(20, scope="group 0"), simulated(30, capacity=5, scope="group 1")
    found = summarise([*one[:10], *other, *one[10:]])
    assert found == (*summarise(one), *summarise(other))
    assert of_scope([*one, *other]) == one
    assert of_scope([*one, *other], "group 1") == other
    with pytest.raises(ValueError, match=r"no ledger 'group 2'; there are: group 0, group 1"):
        of_scope([*one, *other], "group 2")


def test_ages():
    records = list(by_hand())
    assert [used_ages(record) for record in records] == [[1], [2, 1], [3, 2], [1, 3], [2, 4]]
    assert eviction_ages(records) == [3]


def inked(axes):
    """By column and row of data, the ink of the map at these places."""
    rows = []
    for patch in axes.patches:
        alpha = patch.get_facecolor()[3]
        corners = patch.get_path().vertices.reshape(-1, 5, 2)
        rows += [(*box.min(axis=0), *box.max(axis=0), alpha) for box in corners]

    def ink(step, age):
        found = [a for x0, y0, x1, y1, a in rows if x0 < step < x1 and y0 < age < y1]
        assert len(found) <= 1
        return found[0] if found else 0.0

    return ink


def test_a_short_map_shows_every_age_of_every_step():
    records = list(by_hand())
    (axes,) = figures.memory_map(records).axes
    ink = inked(axes)
    for record in records:
        for age in range(1, 6):
            assert ink(record.step, age) == (age in used_ages(record)), (record.step, age)


def test_a_map_of_five_steps_and_of_one():
    for steps in (1, 5):
        (axes,) = figures.memory_map(simulated(steps)).axes
        assert axes.get_xlim() == (0.5, steps + 0.5)


@pytest.mark.parametrize(
    ("steps", "capacity", "decay"), [(300, 3, 0.7), (1500, 20, 0.99), (10_000, 10, 0.9)]
)
def test_a_long_map_has_shares_for_ink_and_few_cells(steps, capacity, decay):
    records = simulated(steps, capacity, decay)
    sides, ages, shares = figures._cells(records)
    assert len(sides) - 1 <= figures.COLUMNS
    assert len(ages) - 1 <= 50
    assert shares.min() >= 0
    assert shares.max() <= 1
    # All gradients held are in some cell.
    widths, taken = np.diff(np.ceil(ages)), np.diff(np.clip(sides, 0.5, steps + 0.5))
    held = sum(len(used_ages(record)) for record in records)
    assert float((shares * widths[:, None] * taken[None, :]).sum()) == pytest.approx(held)
    assert ages[-1] > max(age for record in records for age in used_ages(record))
    assert len(panel(figures.map_drawing(records))) < 400_000


def test_of_fifo_a_map_is_full_up_to_the_capacity_and_empty_beyond():
    capacity, records = 4, []
    for record in simulated(200, 4):
        held = [0] * capacity
        for birth in range(max(1, record.step - 3), record.step + 1):
            held[birth % capacity] = birth
        records.append(type(record)(**{**vars(record), "held": tuple(held)}))
    (axes,) = figures.memory_map(records).axes
    ink = inked(axes)
    assert [ink(100.2, age) for age in (1, 2, 3, 4, 4.7, 6)] == [1, 1, 1, 1, 0, 0]


def test_stretches():
    cells = np.array([True, True, False, True, False, False, True])
    assert list(figures._runs(cells)) == [(0, 2), (3, 4), (6, 7)]
    assert list(figures._runs(np.array([False, False]))) == []


def test_ink_grows_with_the_share():
    shares = np.array([[0.0, 0.001, 0.3, 1.0]])
    sides, ages = np.arange(5.0), np.array([0.5, 1.5])
    drawn = dict(figures._shapes(sides, ages, shares))
    assert sorted(drawn) == [figures.INKS[0], figures.INKS[2], figures.INKS[4]]
    box = drawn[1.0]
    assert box.vertices[:4].tolist() == [[3, 0.5], [4, 0.5], [4, 1.5], [3, 1.5]]
    assert box.codes.tolist() == [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]


def test_norms_and_cosines_are_drawn_where_they_are():
    records = [unseen(1), *simulated(50)]
    (axes,) = figures.norms_figure(records).axes
    gradient, stored = axes.get_lines()
    np.testing.assert_allclose(gradient.get_ydata(), [r.norm for r in records[1:]])
    np.testing.assert_allclose(stored.get_ydata(), [r.stored_norm for r in records[2:]])
    (axes,) = figures.cosine_figure(records).axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_xdata(), range(1, 51))
    np.testing.assert_allclose(line.get_ydata(), [r.cosine for r in records[1:]])


def test_of_many_steps_a_point_is_the_median_of_some():
    records = simulated(900)
    (axes,) = figures.norms_figure(records).axes
    x, y = axes.get_lines()[0].get_data()
    assert len(x) == 150
    assert y[3] == pytest.approx(np.median([r.norm for r in records[18:24]]))
    assert x[3] == pytest.approx(21.5)


def test_a_band_says_how_far_the_steps_of_a_point_lie_apart():
    (axes,) = figures.norms_figure(simulated(150)).axes
    assert len(axes.collections) == 0
    records = simulated(900)
    (axes,) = figures.norms_figure(records).axes
    gradient, _ = axes.collections
    corners = gradient.get_paths()[0].vertices
    heights = corners[corners[:, 0] == 21.5, 1]
    bounds = np.quantile([record.norm for record in records[18:24]], (0.1, 0.9))
    assert sorted(set(heights)) == pytest.approx(bounds.tolist())


def test_the_accepted_share_by_stretch():
    records = simulated(400)
    (axes,) = figures.acceptance_figure(records).axes
    values, edges, _ = axes.patches[0].get_data()
    assert edges[0] == 0.5
    assert edges[-1] == 400.5
    assert float(np.mean(values)) == pytest.approx(np.mean([r.entered for r in records]))


def test_ages_at_eviction_stand_at_their_median():
    runs = [Evictions(d, c, simulated(300, c, d)) for d in (0.7, 0.99) for c in (3, 10)]
    runs.append(Evictions(0.99, 40, simulated(20, 40)))  # nothing had to go
    (axes,) = figures.eviction_figure(runs).axes
    dots = [float(line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "o"]
    assert sorted(dots) == sorted(np.median(eviction_ages(run.records)) for run in runs[:4])
    assert len(axes.collections) == 3  # fifo's, at every capacity


@pytest.mark.parametrize("records", [[], [unseen(1), unseen(2)]], ids=["none", "unseen"])
def test_nothing_recorded_is_said(records):
    drawn = (
        *(figures.memory_map(records), figures.norms_figure(records)),
        *(figures.acceptance_figure(records), figures.cosine_figure(records)),
    )
    for figure in drawn:
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.texts] == ["nothing recorded"]
    assert isinstance(figures.eviction_figure([Evictions(0.7, 3, records)]), Figure)


# Pages -------------------------------------------------------------------------------------------


def runs_of(*pairs, **more):
    return [Run(c, d, simulated(80, c, d), "finished", **more) for c, d in pairs]


def plan_of(pairs=((3, 0.9),)):
    capacities, decays = ({pair[i] for pair in pairs} for i in (0, 1))
    return Plan(get_task("digits"), "adam_c", {"lr": 0.01}, sorted(capacities), sorted(decays))


PAIRS = [(3, 0.7), (3, 0.99), (8, 0.7), (8, 0.99)]


@pytest.mark.parametrize("pairs", [PAIRS[:1], PAIRS])
def test_the_page_is_one_file_in_both_colour_schemes(pairs):
    page = pages.as_html(plan_of(pairs), runs_of(*pairs))
    assert page.count("<figure>") == len(pairs) + 4
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|<link|(?:src|href)=[\"']https?:|url\((?!#)", page)
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", page)  # a stand-in no style sheet knows
    assert "adam_c on digits" in page


def test_the_same_page_twice():
    runs = runs_of(*PAIRS[:1])
    assert pages.as_html(plan_of(), runs) == pages.as_html(plan_of(), runs)


def test_what_the_sentences_say():
    (said,) = pages.verdicts([Run(2, 0.9, list(by_hand()), "finished")])
    assert said == (
        "capacity 2, decay 0.9: 60% of the gradients entered the memory; half of those that left "
        "it did so by age 3, nine in ten by 3 (fifo: 2). 67% of what was used, fifo would have "
        "held too; the cosine of gradient and update was 0.25 on average."
    )
    first, shares, _ = pages.verdicts(runs_of(*PAIRS))
    assert first.startswith("capacity 3, decay 0.7: ")
    assert re.fullmatch(
        r"Gradients that entered: from \d+% \(capacity 3, decay 0.99\) to [\d.]+% "
        r"\(capacity 8, decay 0.7\)\.",
        shares,
    )


def test_nearly_all_is_not_all():
    assert [pages._share(x) for x in (1.0, 0.9999, 0.0, 0.0001, 0.5)] == [
        *("100%", "99.99%", "0%", "0.01%", "50%")
    ]


def test_a_table_names_ledgers_if_there_are_several():
    runs = runs_of((3, 0.9))
    assert "ledger" not in pages.table(runs).heading
    both = [*simulated(20, scope="group 0"), *simulated(20, scope="group 1")]
    table = pages.table([Run(3, 0.9, both, "finished")])
    assert [row[1] for row in table.rows] == ["group 0", "group 1"]
    assert {len(row) for row in (table.heading, *table.rows)} == {10}


def test_how_runs_ended_is_a_warning():
    runs = [Run(3, 0.9, simulated(9), "interrupted"), Run(3, 0.7, simulated(9), "diverged")]
    assert [line.split(": ", 1)[0] for line in pages.warnings(runs)] == [r.label for r in runs]
    assert pages.as_html(plan_of(), runs).count('class="warning"') == 2
    assert pages.warnings(runs_of((3, 0.9))) == []


def test_a_run_without_anything_seen_has_a_page():
    runs = [Run(3, 0.9, [unseen(1)], "diverged")]
    assert "nothing recorded" in pages.as_html(plan_of(), runs)
    assert pages.as_markdown(plan_of(), runs)
