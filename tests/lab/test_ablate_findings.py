"""What an ablation says of runs made up from numbers: sentences, tables, figures, pages."""

import csv
import io
import math
from dataclasses import replace
from itertools import pairwise

import matplotlib.colors
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gradmem.lab.ablate import curves, figures, maps, pages, tables
from gradmem.lab.ablate.axis import check, parse_values
from gradmem.lab.ablate.config import AblateConfig
from gradmem.lab.ablate.findings import caveat, findings, verdicts, warnings
from gradmem.lab.ablate.plan import prepare
from gradmem.lab.ablate.runs import Outcomes
from gradmem.lab.compare import Evaluated
from gradmem.lab.errors import ConfigError
from gradmem.lab.tune import Trial, Tuned, trial_options

from .synthetic import failed, run
from .test_report import Links

NOISE = (0.001, -0.002, 0.0015, -0.001, 0.0005, 0.002, -0.0015, -0.0005)
BASE = 0.9


def ablation(*axes, **options):
    values = options.pop("values", {})
    made = AblateConfig(task="digits", axes=axes, values=values, trials=3, seeds=8, **options)
    return prepare(made)


def outcomes(made, shifts, best=0, outstanding=0, change=None):
    """Every cell at the base's score and noise of its own, moved by what its name has in shifts."""
    by_name = {}
    for i, spec in enumerate(spec for part in made.parts for spec in part.plan.optimizers):
        plan = made.plan
        settings = trial_options(spec, plan.trials)
        trials = tuple(
            Trial(tuple(run(each, 0.9, 1.0 + (k != best)) for each in plan.trial_configs(spec, o)))
            for k, o in enumerate(settings)
        )
        tuned = Tuned(spec, trials)
        shift = next((by for name, by in shifts.items() if spec.name.endswith(name)), 0.0)
        scores = [BASE + shift + NOISE[(k + i) % 8] for k in range(8)]
        configs = [
            plan.config("evaluate", spec, tuned.best.options, 100 + k) for k in range(len(scores))
        ]
        runs = tuple(run(*each, 0.5) for each in zip(configs, scores, strict=True))
        by_name[spec.name] = Evaluated(tuned, runs)
    if change is not None:
        by_name = {name: change(name, each) for name, each in by_name.items()}
    return Outcomes(by_name, 8, outstanding)


CAPACITIES = {"capacity": [0, 2, 5, 10]}
SHIFTS = {"capacity=2": 0.05, "capacity=10": -0.04}


@pytest.fixture(scope="module")
def curve():
    made = ablation("capacity", values=CAPACITIES)
    return findings(made, outcomes(made, SHIFTS), 'task = "digits"\n')


@pytest.fixture(scope="module")
def grid():
    made = ablation("capacity", "policy", values={**CAPACITIES, "policy": ["fifo", "random"]})
    shifts = {"capacity=2,policy=fifo": 0.05, "capacity=10,policy=random": -0.04}
    return findings(made, outcomes(made, shifts), None)


# Sentences ----------------------------------------------------------------------------------------


def test_wins_and_losses_are_counted_and_named(curve):
    (said,) = verdicts(curve)
    assert said.startswith(
        "Adam_C: 2 of 3 cells differ from Adam beyond noise, corrected for 3 comparisons: 1 "
        "better, 1 worse; 1 undecided. Adam_C capacity=2: +5.00 points ("
    )
    assert "better; Adam_C capacity=10: -4.00 points (" in said
    assert said.endswith("worse.")
    assert "3 trials" in caveat(curve)


def test_nothing_found_is_said_with_its_size():
    made = ablation("capacity", values=CAPACITIES)
    (said,) = verdicts(findings(made, outcomes(made, {})))
    assert said.startswith(
        "Adam_C: none of 3 cells differs from Adam beyond noise, corrected for 3"
    )
    assert "The largest difference: Adam_C capacity=" in said


def test_more_cells_widen_the_interval(curve):
    made = ablation("capacity", values={"capacity": [0, 2]})
    alone = findings(made, outcomes(made, SHIFTS))
    name = "adam_c,capacity=2"
    few, many = (each.differences[name].estimate for each in (alone, curve))
    assert few.mean == many.mean
    assert few.interval[1] - few.interval[0] < many.interval[1] - many.interval[0]
    assert "corrected" not in verdicts(alone)[0]


def test_a_metric_of_which_less_is_better_turns_the_verdict(curve):
    made = curve.ablation
    task = made.plan.task
    less = replace(task.metric, higher_is_better=False)
    task.metric = less
    (said,) = verdicts(findings(made, curve.outcomes))
    del task.metric
    assert "capacity=2: +5.00" in said.partition("better; Adam_C")[2]
    assert "Adam_C capacity=10: -4.00" in said.partition("worse")[2]


def test_kappa_is_summed_up_by_its_sign():
    made = ablation("kappa")
    shifts = {"kappa=-0.5": 0.05, "kappa=0.5": -0.04, "kappa=1": -0.04}
    said = verdicts(findings(made, outcomes(made, shifts)))
    assert said[1] == (
        "Adam_C by the sign and size of kappa, beyond noise: below 0: 1 better, 0 worse of 3; "
        "between 0 and 1: 0 better, 1 worse of 3; 1 and above: 0 better, 1 worse of 1."
    )


def test_a_larger_batch_is_set_against_the_memory():
    made = ablation("batch", values={"batch": [1, 4]})
    found = findings(made, outcomes(made, {"capacity=4": 0.05}))
    said = verdicts(found)
    assert [line.partition(":")[0] for line in said[:3]] == [
        "Adam_C",
        "Adam, larger batch",
        "Adam, larger batch, more epochs",
    ]
    assert said[3] == (
        "A memory of C gradients less its base on a batch (C + 1) times as large: 2 better, 0 "
        "worse, 2 undecided of 4, corrected for 4 comparisons."
    )
    pairs = [(each.base.label, each.variant.label) for each in found.controls]
    assert pairs[1] == ("Adam batch=160", "Adam_C capacity=4")
    assert found.differences["adam_c,capacity=4"].base.label == "Adam"


def test_several_optimizers_have_a_verdict_each_and_one_correction():
    made = ablation("decay", values={"decay": [0.5, 0.9]}, optimizer=("adam_c", "sgd_c"))
    found = findings(made, outcomes(made, {"sgd_c,decay=0.5": 0.05}))
    said = verdicts(found)
    assert said[0].startswith("Adam_C: none of 2 cells differs from Adam beyond noise, corrected")
    assert said[1].startswith("SGD_C: 1 of 2 cells differs from SGD beyond noise, corrected for 4")
    assert len(figures.panels(found)) == 2


def test_one_seed_concludes_nothing():
    made = ablation("decay", values={"decay": [0.5]})
    whole = outcomes(made, {})
    one = {name: replace(each, runs=each.runs[:1]) for name, each in whole.by_name.items()}
    found = findings(made, Outcomes(one, 1, 0))
    assert verdicts(found) == ["Adam_C: a single seed allows no conclusion about any of 1 cell."]
    assert "one seed" in pages.as_markdown(found)


def test_what_makes_numbers_less_than_they_seem_is_warned_of():
    made = ablation("decay", values={"decay": [0.5, 0.9]}, held={"aggregate": "sum"})

    def change(name, each):
        if name != "adam_c,decay=0.9":
            return each
        spoilt = [failed(each.runs[0], "diverged"), failed(each.runs[1], "crashed", "E: no")]
        trial = Trial((failed(each.tuned.trials[2].runs[0], "crashed", "ValueError: odd."),))
        tuned = replace(each.tuned, trials=(*each.tuned.trials[:2], trial))
        return Evaluated(tuned, (*spoilt, *each.runs[2:]))

    made.plan.task.partial = "only a half of the digits."
    found = findings(made, outcomes(made, {}, outstanding=4, change=change))
    said = warnings(found)
    assert said[0].startswith("4 runs are yet to be made; this is about the 8 seeds")
    assert said[1] == "only a half of the digits"
    assert "1 of 9 runs of the search crashed: ValueError: odd" in said
    assert (
        "Adam_C decay=0.9: 1 of 8 evaluation runs diverged; they count with the worst"
        in "".join(said)
    )
    assert "Adam_C decay=0.9: 1 of 8 evaluation runs crashed; they are left out" in "".join(said)


def test_an_optimum_at_an_edge_is_warned_of_once_and_starred():
    made = ablation("decay", values={"decay": [0.5, 0.9]})
    spec = made.parts[0].plan.optimizers[0]
    at_edge = [spec.learning_rate.at_edge(options) for options in trial_options(spec, 3)]
    inside, outside = at_edge.index(False), None
    narrow = {"adam": {"lr": {"low": 1e-3, "high": 1.1e-3}, "eps": 1e-8}}
    made = ablation("decay", values={"decay": [0.5, 0.9]}, space=narrow)
    spec = made.parts[0].plan.optimizers[0]
    rates = [options["lr"] for options in trial_options(spec, 3)]
    outside = max(range(3), key=lambda k: abs(math.log(rates[k] / 1.05e-3)))
    assert spec.learning_rate.at_edge({"lr": rates[outside]})
    found = findings(made, outcomes(made, {}, best=outside))
    (said,) = warnings(found)
    assert said.startswith("the best setting of 3 of 3 lies at the edge of what was searched")
    assert "Adam, Adam_C decay=0.5, Adam_C decay=0.9" in said
    assert said.endswith("Widen it: --space adam.lr=LOW:HIGH")
    assert {row[2][-1] for row in tables.cell_table(found).rows} == {"*"}
    assert {row[2] for row in tables.settings_table(found).rows} == {"lr"}
    wide = ablation("decay", values={"decay": [0.5, 0.9]}, space={"adam": {"eps": 1e-8}})
    assert warnings(findings(wide, outcomes(wide, {}, best=inside))) == []


# Tables and pages ---------------------------------------------------------------------------------


def test_the_table_has_the_base_and_every_cell_with_its_learning_rate(curve):
    table = tables.cell_table(curve)
    assert [row[:2] for row in table.rows] == [
        ("Adam", "-"),
        *(("Adam_C", str(capacity)) for capacity in CAPACITIES["capacity"]),
    ]
    assert [row[-1] for row in table.rows] == [
        *("the base", "= the base", "▲ better", "undecided", "▼ worse")
    ]
    assert len({row[2] for row in table.rows}) == 1
    short = tables.short_table(curve)
    assert [row[0] for row in short.rows] == ["Adam", *(f"capacity={n}" for n in (2, 5, 10))]
    assert [row[-1] for row in short.rows] == ["", "▲", "", "▼"]


def test_a_map_in_numbers(grid):
    (heading, table), (_, rates) = tables.maps(grid)
    assert heading == "Adam_C: difference in test accuracy, points"
    assert table.heading == (r"policy \ capacity", "0", "2", "5", "10")
    first, second = table.rows
    assert first[:3] == ("fifo", "base", "+5.00 ▲")
    assert second[0] == "random"
    assert second[4] == "-4.00 ▼"
    assert {cell for row in rates.rows for cell in row[1:]} == {tables.cell_table(grid).rows[0][3]}


def test_pages_stand_alone_and_say_the_same(curve, grid):
    for found in (curve, grid):
        page, text = pages.as_html(found), pages.as_markdown(found)
        links = Links(page)
        assert all(link.startswith("#") for link in links.links)
        assert "script" not in links.tags
        assert links.open == []
        for line in verdicts(found):
            assert line in page
            assert line in text
        assert f"]({pages.PICTURE})" in text
        assert pages.as_svg(found).startswith("<svg")
        assert pages.as_html(found) == page  # the same findings are the same bytes
    assert "task = &quot;digits&quot;" in pages.as_html(curve)


def test_rows_for_programs(curve):
    rows = list(csv.DictReader(io.StringIO(pages.as_csv(curve))))
    assert [row["outcome"] for row in rows] == ["", "base", "win", "tie", "loss"]
    assert [row["capacity"] for row in rows] == ["", "0", "2", "5", "10"]
    win = curve.differences["adam_c,capacity=2"]
    assert float(rows[2]["difference"]) == win.estimate.mean
    assert float(rows[2]["difference_low"]) == win.estimate.interval[0]
    assert rows[2]["comparisons"] == "3"
    assert {row["trials"] for row in rows} == {"3"}


# Figures ------------------------------------------------------------------------------------------


def drawn(panel):
    axes = Figure().subplots()
    panel[1](axes)
    return axes


def markers(axes):
    """Of single points: marker, whether it is filled, and where it is."""
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    return [
        (line.get_marker(), line.get_markerfacecolor() != "none", float(line.get_ydata()[0]))
        for line in points
        if line.get_marker() not in (None, "None")
    ]


def test_a_curve_marks_what_differs_from_the_base(curve):
    first, rates = figures.panels(curve)
    assert first[0] == "test accuracy, Adam_C less Adam"
    found = markers(drawn(first))
    assert [(marker, filled) for marker, filled, _ in found] == [
        *(("x", True), ("^", True), ("o", False), ("v", True))
    ]
    assert [round(height, 1) for *_, height in found] == [0.0, 5.0, 0.0, -4.0]
    rate = curve.outcomes.by_name["adam"].options["lr"]
    assert [height for *_, height in markers(drawn(rates))] == [rate] * 4


def test_names_without_an_order_are_dots_beside_each_other():
    made = ablation("policy", values={"policy": ["fifo", "random"]})
    axes = drawn(figures.panels(findings(made, outcomes(made, {"policy=fifo": 0.05})))[0])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["fifo", "random"]
    assert [marker for marker, *_ in markers(axes)] == ["^", "o"]
    assert not any(len(line.get_xdata()) == 2 and line.get_alpha() == 0.75 for line in axes.lines)


def test_what_lies_far_off_is_named_at_the_edge():
    made = ablation("capacity", values={"capacity": [1, 2, 5, 10]})
    shifts = {"capacity=10": -0.6, "capacity=5": 0.004, "capacity=2": 0.01}
    axes = drawn(figures.panels(findings(made, outcomes(made, shifts)))[0])
    assert max(axes.get_ylim()) < 30
    (named,) = axes.texts
    assert named.get_text() == "-60.00"
    assert min(axes.get_ylim()) < named.get_position()[1] < 0


def test_a_map_frames_what_differs_and_writes_every_number(grid):
    axes = drawn(figures.panels(grid)[0])
    texts = sorted(text.get_text() for text in axes.texts)
    assert texts.count("base") == 2
    assert {"+5.00", "-4.00"} <= set(texts)
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert sorted(bold) == ["+5.00", "-4.00"]
    rectangles = [each for each in axes.patches if isinstance(each, Rectangle)]
    assert len([each for each in rectangles if each.get_fill()]) == 8
    assert len([each for each in rectangles if not each.get_fill()]) == 2
    assert sorted(marker for marker, *_ in markers(axes)) == ["^", "v"]


def test_the_colours_are_symmetric_about_zero_and_keep_their_order_in_grey(grid):
    low, high = maps.SCALE(0.0), maps.SCALE(1.0)
    assert low != high
    grey = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b, _ in (maps.SCALE(k / 40) for k in range(41))]
    assert all(later < earlier for earlier, later in pairwise(grey))
    axes = drawn(figures.panels(grid)[0])
    ends = axes.figure.axes[1].get_ylim()
    assert ends[0] == -ends[1]
    fills = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(
            axes.texts, [each for each in axes.patches if each.get_fill()], strict=True
        )
    }
    assert fills["+5.00"] == pytest.approx(maps.SCALE(1.0), abs=0.01)
    assert fills["-4.00"] == pytest.approx(maps.SCALE(0.1), abs=0.02)
    assert fills["base"] == matplotlib.colors.to_rgba(maps.BLANK)


def test_one_collapsed_cell_does_not_take_all_colours():
    made = ablation("capacity", "decay", values={"capacity": [1, 2, 5], "decay": [0.5, 0.9]})
    shifts = {"capacity=5,decay=0.9": -0.8, "decay=0.5": 0.01, "decay=0.9": -0.005}
    found = findings(made, outcomes(made, shifts))
    assert maps.reach(list(found.differences.values())) < 0.05
    assert maps.reach([]) == 1.0
    texts = [text.get_text() for text in drawn(figures.panels(found)[0]).texts]
    assert "-80.00" in texts


def test_every_series_has_a_look_of_its_own():
    made = ablation("batch", values={"batch": [1]}, optimizer=("adam_c", "adam_cm"))
    found = findings(made, outcomes(made, {}))
    looks = curves.looks(found)
    assert list(looks) == [
        *("Adam_C", "Adam_CM", "Adam, larger batch", "Adam, larger batch, more epochs")
    ]
    assert len({look.colour for look in looks.values()}) == 4
    assert [look.solid for look in looks.values()] == [True, True, False, False]


# Values -------------------------------------------------------------------------------------------


def test_values_as_typed():
    assert parse_values(None) is None
    assert parse_values(["kappa=-.5, 1", "policy=fifo"]) == {"kappa": [-0.5, 1], "policy": ["fifo"]}
    assert check("kappa", 1) == 1.0
    with pytest.raises(ConfigError, match="the value yes of capacity is refused: capacity must be"):
        check("capacity", "yes")
