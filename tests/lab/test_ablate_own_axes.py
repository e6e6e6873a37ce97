"""Axes of a task's own, label noise say: their values, points, names, figures and wrong input."""

import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from gradmem.lab.ablate import figures, pages, tables
from gradmem.lab.ablate.axis import AXES
from gradmem.lab.ablate.config import AblateConfig
from gradmem.lab.ablate.findings import findings, title, verdicts
from gradmem.lab.ablate.plan import prepare
from gradmem.lab.errors import ConfigError
from gradmem.lab.tasks import TASKS
from gradmem.lab.tasks.varied import Range

from .helpers import contents
from .test_ablate import TINY, call, rows, words
from .test_ablate_findings import drawn, markers, outcomes

pytestmark = pytest.mark.usefixtures("steep")


def plan(*axes, task="generated-logreg", **options):
    return prepare(AblateConfig(task=task, axes=axes, **options))


def found_at(made, shifts):
    return findings(made, outcomes(made, shifts), 'task = "generated-logreg"\n')


# Points -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name, task in TASKS.items() if hasattr(task, "variations")]
)
def test_every_axis_of_every_task_has_its_values_and_names_that_tell_them_apart(name):
    for axis, variation in TASKS[name].variations.items():
        made = plan(axis, task=name)
        usual = variation.values if isinstance(variation, Range) else variation
        assert [cell.at[axis] for cell in made.cells] == list(usual)
        assert made.axes[0].ordered
        names = [part.plan.task.name for part in made.parts]
        assert len(set(names)) == len(usual)
        assert all(each.startswith(name) for each in names)
        assert (made.task.name, made.task.title) == (name, TASKS[name].title)


def test_each_point_has_a_base_of_its_own_and_the_trials_of_all():
    made = plan("label-noise", "minority", values={"label-noise": [0, 0.35], "minority": [0.5]})
    assert [part.name for part in made.parts] == [
        "label-noise 0, minority 0.5",
        "label-noise 0.35, minority 0.5",
    ]
    assert [part.plan.task.name for part in made.parts] == [
        "generated-logreg-label-noise0",
        "generated-logreg-label-noise0.35",
    ]
    for part, cell in zip(made.parts, made.cells, strict=True):
        base, own = part.plan.optimizers
        assert (cell.against, cell.entrant) == (base.name, own.name)
        where = f"label-noise={cell.at['label-noise']:g},minority=0.5"
        assert (base.name, own.name) == (f"adam,{where}", f"adam_c,{where}")
        assert part.plan.task.where == {"separation": 1.0, **cell.at}
        assert part.plan.trials == made.plan.trials
        settings = [spec.options_at([0.3] * len(spec.space)) for spec in (base, own)]
        assert settings[1].items() >= settings[0].items()


def test_one_of_the_task_s_and_one_of_the_memory_s():
    made = plan("capacity", "separation", values={"capacity": [0, 2, 5], "separation": [0, 2]})
    assert len(made.parts) == 2
    assert [len(part.plan.optimizers) for part in made.parts] == [3, 3]
    off = [cell for cell in made.cells if cell.is_base]
    assert [dict(cell.at) for cell in off] == [
        {"capacity": 0, "separation": 0.0},
        {"capacity": 0, "separation": 2.0},
    ]


def test_a_range_takes_any_number_and_a_list_its_own():
    made = plan("slope", "kind", task="steep_tasks:Steep", values={"slope": [0.123]})
    assert [axis.values for axis in made.axes] == [(0.123,), ("straight", "bent")]
    assert [axis.ordered for axis in made.axes] == [True, False]
    assert made.parts[1].plan.task.name == "steep-depth1-slope0.123-bent"


def test_runs_at_the_usual_values_are_those_of_a_comparison(tmp_path):
    options = {**TINY, "epochs": 1, "batch-size": 100}
    values = "label-noise=0.01,1"
    result = call("ablate", "generated-logreg", "label-noise", values=values, out="out", **options)
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "out")
    assert [row["optimizer"] for row in found] == [
        *("Adam label-noise=0.01", "Adam label-noise=1", "Adam_C", "Adam_C")
    ]
    assert {row["trials"] for row in found} == {"2"}
    assert [row["label-noise"] for row in found] == ["0.01", "1", "0.01", "1"]
    against = {row["label-noise"]: row["against"] for row in found if row["difference"]}
    assert against == {"0.01": "Adam label-noise=0.01", "1": "Adam label-noise=1"}
    ran = contents(tmp_path / "out" / "runs")
    tasks = [run["config"]["task"] for run in ran.values()]
    assert tasks.count("generated-logreg") == tasks.count("generated-logreg-label-noise1") == 8
    compared = call("compare", "generated-logreg", optimizers="adam", out="compare", **options)
    assert compared.exit_code == 0, compared.output
    assert contents(tmp_path / "compare" / "runs").items() <= ran.items()
    repeated = call("ablate", "--config", tmp_path / "out" / "config.toml", "--out", "again")
    assert repeated.exit_code == 0, repeated.output
    assert contents(tmp_path / "again" / "runs") == ran
    for run in ran.values():
        if run["config"]["purpose"] == "evaluate":
            assert set(json.loads(json.dumps(run["details"]))) == {"F1 before the noise"}


# What is said -------------------------------------------------------------------------------------


def test_the_report_is_about_the_task_whatever_its_first_value():
    found = found_at(plan("label-noise", values={"label-noise": [1, 0]}, trials=3, seeds=8), {})
    assert title(found) == "Adam_C on generated-logreg, by label-noise"
    page, text = pages.as_html(found), pages.as_markdown(found)
    for each in (page, text):
        assert TASKS["generated-logreg"].title in each
        assert f"{TASKS['generated-logreg'].title}, label-noise" not in each


def test_one_axis_is_a_curve_of_differences_one_of_scores_and_one_of_learning_rates():
    made = plan("separation", values={"separation": [0, 1, 2]}, trials=3, seeds=8)
    shifts = {"adam_c,separation=1": 0.05, "adam,separation=2": -0.2, "adam_c,separation=2": -0.25}
    found = found_at(made, shifts)
    differences, scores, rates = figures.panels(found)
    assert [heading for heading, *_ in (differences, scores, rates)] == [
        *("test F1, Adam_C less Adam", "test F1", "learning rate chosen")
    ]
    marks = markers(drawn(differences))
    assert [round(height, 2) for *_, height in marks] == [0.0, 0.05, -0.05]
    assert [marker for marker, *_ in marks] == ["o", "^", "v"]
    dots = markers(drawn(scores))
    assert [round(height, 1) for _, filled, height in dots if not filled] == [0.9, 0.9, 0.7]
    assert [round(height, 2) for _, filled, height in dots if filled] == [0.9, 0.95, 0.65]
    dashed = [line for line in drawn(rates).lines if line.get_linestyle() == "--"]
    assert [len(line.get_xdata()) for line in dashed] == [3]
    (said,) = verdicts(found)
    assert "2 of 3 cells differ from Adam beyond noise" in said


def test_the_base_of_one_value_alone_has_no_panel_of_scores():
    made = plan("decay", values={"decay": [0.5, 0.9]}, trials=3, seeds=8)
    assert len(figures.panels(found_at(made, {}))) == 2


def test_names_without_an_order_are_dots_with_scores_beside_each_other():
    made = plan("kind", task="steep_tasks:Steep", trials=3, seeds=8)
    found = found_at(made, {})
    for panel in figures.panels(found):
        axes = drawn(panel)
        assert [text.get_text() for text in axes.get_yticklabels()] == ["straight", "bent"]


def test_a_score_that_is_no_number_is_left_out_of_the_figure():
    made = plan("separation", values={"separation": [0, 1]}, trials=3, seeds=8)
    found = found_at(made, {})
    test = replace(found.scores["adam,separation=0"].test, mean=float("inf"), interval=None)
    scores = dict(found.scores)
    scores["adam,separation=0"] = replace(scores["adam,separation=0"], test=test)
    axes = Figure().subplots()
    figures.panels(replace(found, scores=scores))[1][1](axes)
    assert len(markers(axes)) == 3


def test_two_axes_are_a_map_of_differences_to_the_base_at_the_same_point():
    values = {"label-noise": [0, 0.5], "minority": [0.1, 0.5]}
    made = plan("label-noise", "minority", values=values, trials=3, seeds=8)
    places = ("label-noise=0.5,minority=0.1", "label-noise=0,minority=0.5")
    shifts = {
        **{f"adam,{place}": -0.3 for place in places},
        f"adam_c,{places[0]}": -0.2,
        f"adam_c,{places[1]}": -0.35,
    }
    found = found_at(made, shifts)
    places = [row[:3] for row in tables.cell_table(found).rows]
    assert places[1:2] + places[4:5] == [
        ("Adam label-noise=0 minority=0.5", "0", "0.5"),
        ("Adam_C", "0", "0.1"),
    ]
    (heading, table), _ = tables.maps(found)
    assert heading == "Adam_C: difference in test F1"
    assert table.heading == (r"minority \ label-noise", "0", "0.5")
    (_, upper_left, upper_right), (_, lower_left, lower_right) = table.rows
    assert table.rows[0][0] == "0.5"
    assert (upper_left[:6], lower_right[:6]) == ("-0.050", "+0.100")
    assert abs(float(upper_right)) < 0.01
    assert abs(float(lower_left)) < 0.01
    assert len(figures.panels(found)) == 2
    assert pages.as_svg(found).startswith("<svg")


# Wrong input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words_of_it"),
    [
        (
            ["generated-logreg", "label-noise", "--values", "label-noise=0,1.5"],
            ["label-noise must be a number from 0 to 1, got 1.5 (the task generated-logreg)"],
        ),
        (
            ["generated-mlp", "minority", "--values", "minority=half"],
            ["minority must be a number from 0.02 to 0.5, got 'half'"],
        ),
        (["generated-mlp", "lable-noise"], ["unknown axis 'lable-noise'", "'label-noise'?"]),
        (
            ["digits", "separation"],
            ["digits has no axis separation, which generated-logreg, generated-mlp have"],
        ),
        (
            ["generated-mlp", "depth"],
            ["generated-mlp has no axis depth, which python-text, ptb-lstm"],
        ),
        (
            ["generated-mlp", "minority", "separation", "label-noise"],
            ["one axis or 2, got 3", "batch, label-noise, separation, minority"],
        ),
        (
            ["generated-mlp", "minority", "--values", "minority=0.1,0.10"],
            ["has a value twice: 0.1, 0.1"],
        ),
        (
            ["generated-mlp", "minority", "--values", "minority=0.1,0.10000001"],
            ["has a value twice: 0.1, 0.1"],
        ),
        (["generated-mlp", "batch", "minority"], ["batch goes alone"]),
        (
            ["generated-mlp", "minority", "--set", "minority=0.1"],
            ["--set minority holds an axis"],
        ),
        (
            ["steep_tasks:Steep", "kind", "--values", "kind=crooked"],
            ["kind must be one of straight, bent, got 'crooked' (the task steep)"],
        ),
        (
            ["steep_tasks:Steep", "slope", "--values", "slope=3"],
            ["steep cannot be had at slope 3: no line has the slope 3"],
        ),
        (
            ["steep_tasks:Nameless", "slope"],
            ["called steep both at slope 0 and at slope 2", "let its name say where it is"],
        ),
        (["steep_tasks:Deaf", "slope"], ["steep cannot be had at slope 0", "'slope'"]),
        (["steep_tasks:Clashing", "decay"], ["has an axis 'decay' of its own", "none of"]),
        (["steep_tasks:Crooked", "decay"], ["has an axis 'a=b' of its own", "letters, digits"]),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, arguments, words_of_it):
    result = call("ablate", *arguments, out=tmp_path / "out")
    said = " ".join(words(result).replace("│", " ").split())
    assert result.exit_code == 2, said
    assert all(each in said for each in words_of_it), said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_config_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="--values minority needs a value at least"):
        plan("minority", values={"minority": []})


def test_no_axis_of_every_task_is_one_of_a_task_s_own():
    for task in TASKS.values():
        assert not AXES.keys() & set(getattr(task, "variations", ()))
