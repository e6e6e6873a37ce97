"""The cells of an ablation as a plan, and the input that makes none."""

from dataclasses import replace

import pytest
import torch

from gradmem.lab.ablate.axis import AXES
from gradmem.lab.ablate.config import AblateConfig
from gradmem.lab.ablate.plan import CellPlan, prepare

from .test_ablate import call, words

pytestmark = pytest.mark.usefixtures("steep")


def plan(*axes, **options):
    return prepare(AblateConfig(task="digits", axes=axes, **options))


@pytest.mark.parametrize("name", [name for name in AXES if name != "batch"])
def test_every_axis_has_values_of_its_own_that_optimizers_take(name):
    made = plan(name, optimizer=("adam_c", "sgdm_c"))
    assert [cell.at[name] for cell in made.cells] == 2 * list(AXES[name].values)
    assert {cell.series for cell in made.cells} == {"Adam_C", "SGDM_C"}
    (part,) = made.parts
    model = torch.nn.Linear(3, 2)
    for spec in part.plan.optimizers:
        spec.build(model, spec.options_at([0.5] * len(spec.space)))
    values = {"policy": 9, "aggregate": 9, "scope": 3}
    assert len(AXES[name].values) == values.get(name, len(AXES[name].values))


def test_what_is_held_is_fixed_in_every_cell_and_searched_in_none():
    made = plan("kappa", held={"decay": 1, "norm": "sum", "max_age": "none"}, optimizer=("sgd_c",))
    for spec in made.parts[0].plan.optimizers:
        options = spec.options_at([0.9] * len(spec.space))
        if spec.optimizer == "sgd_c":
            assert options["decay"] == 1.0
            assert options["norm"] == "sum"
            assert options["aggregate"] == "sum"
            assert options["max_age"] is None
        else:
            assert options.keys() == {"lr"}


def test_a_base_of_two_variants_is_run_once():
    made = plan("decay", optimizer=("adam_c", "adam_cm"), values={"decay": [0.5]})
    names = [spec.name for spec in made.parts[0].plan.optimizers]
    assert names == ["adam", "adam_c,decay=0.5", "adam_cm,decay=0.5"]


def test_a_space_is_searched_in_every_cell_alike():
    made = plan("decay", space={"adam": {"lr": {"low": 1e-3, "high": 1e-2}, "eps": 1e-8}})
    for spec in made.parts[0].plan.optimizers:
        assert spec.options_at([0.0] * len(spec.space))["lr"] == 1e-3
        assert spec.options_at([0.9] * len(spec.space))["eps"] == 1e-8


def test_names_of_cells_decide_no_run():
    made = plan("decay", values={"decay": [0.5]})
    own = made.parts[0].plan.optimizers[1]
    renamed = replace(own, name="another", label="Another")
    options = own.options_at([0.5] * len(own.space))
    assert isinstance(made.plan, CellPlan)
    both = [made.plan.config("tune", spec, options, 0) for spec in (own, renamed)]
    assert both[0] == both[1]
    assert both[0].optimizer == "adam_c"


@pytest.mark.parametrize(
    ("arguments", "words_of_it"),
    [
        ([], ["an ablation has one axis or 2, got 0"]),
        (["capcity"], ["unknown axis 'capcity'", "'capacity'"]),
        (["capacity", "decay", "kappa"], ["one axis or 2, got 3"]),
        (["decay", "decay"], ["'decay' is named twice"]),
        (["batch", "decay"], ["batch goes alone"]),
        (["depth"], ["digits has no axis depth, which python-text, ptb-lstm", "`variations`"]),
        (["capacity", "--values", "capacity=5,-1"], ["-1 of capacity", "at least 0"]),
        (["capacity", "--values", "capacity=1.5"], ["1.5 of capacity", "must be an integer"]),
        (["decay", "--values", "decay=2"], ["decay must be in [0, 1], got 2"]),
        (["policy", "--values", "policy=best"], ["policy must be one of", "'top_norm'"]),
        (["max_age", "--values", "max_age=0"], ["max_age must be at least 1, got 0"]),
        (["kappa", "--values", "kappa=inf"], ["kappa must be a finite number"]),
        (["decay", "--values", "decay=0.5,.5"], ["has a value twice: 0.5, 0.5"]),
        (["decay", "--values", "decay="], ["--values takes name=value"]),
        (["decay", "--values", "kappa=1"], ["'kappa', which is no axis of this ablation"]),
        (["batch", "--values", "batch=0"], ["capacities of at least 1, got 0"]),
        (["decay", "--optimizer", "adam"], ["adam has no memory", "take adam_c"]),
        (["decay", "--optimizer", "adan_c"], ["unknown optimizer 'adan_c'"]),
        (["decay", "--set", "decay=0.5"], ["--set decay holds an axis"]),
        (["batch", "--set", "capacity=5"], ["--set capacity holds an axis"]),
        (["decay", "--set", "lr=0.1"], ["'lr' is none", "--space adam.eps=1e-8"]),
        (["decay", "--set", "kappa=x"], ["the value x of kappa", "must be a number"]),
        (["decay", "--set", "kappa=0"], ["the memory is off in every cell"]),
        (["decay", "--space", "adam_c.policy=fifo"], ["what is searched is the base's, of adam"]),
        (["decay", "--trials", "0"], ["trials must be at least 1, not 0"]),
        (["decay", "--seeds", "0"], ["seeds must be at least 1, not 0"]),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, arguments, words_of_it):
    result = call("ablate", "digits", *arguments, out=tmp_path / "out")
    said = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2, said
    assert all(each in said for each in words_of_it), said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_depths_that_are_none_and_tasks_in_order_are_refused():
    for axes, task, said in (
        (["depth", "--values", "depth=2"], "steep_tasks:Steep", "depth must be one of 1, 3"),
        (["batch"], "steep_tasks:Ordered", "ordered has no axis batch"),
    ):
        result = call("ablate", task, *axes)
        assert result.exit_code == 2
        assert said in " ".join(result.output.replace("│", " ").split())


def test_what_is_not_begun_is_no_ablation(tmp_path):
    assert call("report", tmp_path).exit_code == 2
    (tmp_path / "config.toml").write_text('command = "ablate"\ntask = "digits"\nfoo = 1\n')
    result = call("resume", tmp_path)
    assert result.exit_code == 2
    assert "unknown key 'foo'" in words(result)
