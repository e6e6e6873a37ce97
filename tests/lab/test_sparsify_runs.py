"""What `gradmem sparsify` is made of: a run and its files, channels, penalties, smaller models."""

import pytest
import torch

from gradmem.lab.errors import LabError
from gradmem.lab.sparsify import runs, speed, work
from gradmem.lab.sparsify.methods import METHODS, Method
from gradmem.lab.sparsify.plan import Plan
from gradmem.lab.sparsify.problem import (
    Penalised,
    get_problem,
    hidden_channels,
    small_channels,
    without_small_channels,
)
from gradmem.proximal import ProximalOptimizer, penalty_value, shrink


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Fewer rounds of the timing."""
    monkeypatch.setattr(speed, "ROUNDS", 6)
    monkeypatch.setattr(speed, "LEAST_SECONDS", 1e-6)


def problem(examples=96):
    return get_problem("digits", None, examples)


def a_plan(**changes):
    values = {
        "problem": problem(),
        "methods": (Method("adamw", "none"), Method("adamw", "diagonal")),
        "regularizer": "group_lasso",
        "penalties": {"diagonal": (0.2,)},
        "rates": (0.02,),
        "seeds": 2,
        "tuning_seeds": 1,
        "epochs": 2,
        "batch_size": 32,
        "threshold": 2.5,
        "within": 1.0,
    }
    return Plan(**{**values, **changes})


def a_setting(name="adamw-diagonal", penalty=0.2, seed=100):
    return a_plan().setting(METHODS[name], penalty, 0.02, seed, "evaluate")


# Runs ---------------------------------------------------------------------------------------------


def test_files_that_cannot_be_understood_are_made_again(tmp_path):
    store, setting = runs.Store(tmp_path), a_setting()
    result = work.run(problem(), setting, store)
    assert store.load(setting) == result
    (weights,) = (tmp_path / "runs").glob("*.pt")
    (written,) = (tmp_path / "runs").glob("*.json")
    weights.rename(tmp_path / "elsewhere")
    assert store.load(setting) is None
    (tmp_path / "elsewhere").rename(weights)
    assert store.load(setting) == result
    for text in ("{", "[]", '{"setting": {}}', written.read_text().replace("0.2", "0.3")):
        written.write_text(text)
        assert store.load(setting) is None


def test_a_run_can_be_stopped():
    with pytest.raises(runs.Stopped):
        runs.train(problem(), a_setting(), lambda: True)


def test_the_number_of_threads_is_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs.train(problem(), a_setting())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Channels -----------------------------------------------------------------------------------------


def test_every_channel_but_the_classes_is_a_group_and_can_be_taken_out():
    for name in ("digits", "mnist"):
        if name == "mnist" and get_problem("mnist", None, None).missing():
            continue
        model = get_problem(name, None, None).model(0)
        cut = hidden_channels(model)
        layers = [m for m in model if hasattr(m, "weight")]
        assert list(cut) == [layer.weight for layer in layers[:-1]]
        with torch.no_grad():
            for layer in layers[:-1]:
                layer.weight[::2] = 0
                layer.bias.fill_(0.3)  # a constant that is not zero goes too: nothing is padded
        left = [layer.weight.shape[0] for layer in shrink(model) if hasattr(layer, "weight")]
        assert left[:-1] == [layer.weight.shape[0] // 2 for layer in layers[:-1]]


def test_small_channels_are_those_up_to_the_threshold_and_become_zero():
    model = problem().model(0)
    cut = hidden_channels(model)
    first = next(iter(cut))
    with torch.no_grad():
        first[:3] = torch.tensor([0.0, 0.01, 0.02]).view(3, 1, 1, 1)
    small = small_channels(cut, 0.01)
    assert small[0][:3].tolist() == [True, True, False]
    assert not any(each.any() for each in small[1:])
    before = first.clone()
    zeroed = without_small_channels(model, 0.01)
    assert torch.equal(first, before)
    after = next(iter(hidden_channels(zeroed)))
    assert torch.equal(after[2:], before[2:])
    assert not after[:2].any()


def test_the_subgradient_is_of_the_loss_and_the_penalty_while_training():
    plain, penalty = problem(), 0.3
    task = Penalised(plain, "group_lasso", penalty)
    model = task.model(1)
    batch = plain.data().validation
    added = sum(
        penalty_value("group_lasso", groups.split(p), penalty)
        for p, groups in hidden_channels(model).items()
    )
    assert added > 1
    model.train()
    torch.testing.assert_close(task.loss(model, batch), plain.loss(model, batch) + added)
    model.eval()
    assert torch.equal(task.loss(model, batch), plain.loss(model, batch))


@pytest.mark.parametrize("kind", ["diagonal", "plain"])
def test_a_proximal_method_has_its_metric_and_leaves_the_classes_alone(kind):
    model = problem().model(0)
    made = Method("adamw_c", kind).optimizer(model, hidden_channels(model), 0.01, "group_linf", 0.5)
    assert isinstance(made, ProximalOptimizer)
    (group,) = made.param_groups
    assert (group["metric"], group["penalty"], group["lr"]) == (kind, 0.5, 0.01)
    assert group["regularizer"] == "group_linf"
    cut = [entry is not None for entry in group["groups"]]
    assert cut == [True, False, True, False, True, False, False, False]


def test_examples_are_drawn_alike_and_from_every_class():
    some = problem(200).data().train
    assert torch.equal(some.inputs, problem(200).data().train.inputs)
    assert len(some) == 200
    assert set(some.targets.tolist()) == set(range(10))


def test_a_smaller_model_that_computes_something_else_is_an_error(monkeypatch):
    weights = problem().model(0).state_dict()
    assert speed.measure(problem(), weights, 0.0).difference == 0.0
    monkeypatch.setattr(speed, "shrink", lambda whole: problem().model(1).eval())
    with pytest.raises(LabError, match="gives other outputs"):
        speed.measure(problem(), weights, 0.0)
