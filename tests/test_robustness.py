"""Whatever happens to an optimizer between or within steps, its memory stays true, or says why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import gradmem
from gradmem import SGD_C, Adam_C, GradientError, StepError


def parameters(*sizes: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(size)) for size in sizes]


def step(optimizer: gradmem.MemoryOptimizer, value: float) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, value)
    optimizer.step()


def check_memory(optimizer: gradmem.MemoryOptimizer) -> None:
    """Every slot holds the gradient that its ledger tells of, and the sums are their sums."""
    report = optimizer.memory_report()
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state[p]
            torch.testing.assert_close(state["memory_sum"], state["memory_slots"].sum(dim=0))
    (scope,) = report.scopes
    states = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    squares = sum(s["memory_slots"].flatten(1).square().sum(dim=1) for s in states)
    assert isinstance(squares, Tensor)
    torch.testing.assert_close(squares.sqrt().double(), states[0]["memory_norm"])
    assert scope.occupied == int((states[0]["memory_birth"] > 0).sum())


@pytest.mark.parametrize("foreach", [None, False, True])
def test_nesterov_leaves_the_gradient_alone_and_stores_it(foreach: bool | None) -> None:
    (p,) = parameters(3)
    optimizer = SGD_C([p], lr=0.1, momentum=0.9, nesterov=True, foreach=foreach, capacity=3)
    for value in (1.0, 2.0, 3.0):
        step(optimizer, value)
        assert torch.equal(p.grad, torch.full((3,), value))
    assert optimizer.state[p]["memory_slots"][:, 0].tolist() == [1.0, 2.0, 3.0]
    plain = SGD_C([p], lr=0.1, momentum=0.9, nesterov=True, foreach=foreach, capacity=0)
    step(plain, 1.0)
    assert torch.equal(p.grad, torch.ones(3))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_within_a_step_leaves_a_true_memory(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters(4, 4, 4)
    groups = [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(params)]
    optimizer = Adam_C(groups, capacity=2, policy="fifo")
    for value in (1.0, 2.0, 3.0):
        step(optimizer, value)
    calls = iter(range(10))
    update = Adam_C._update

    def fail(self, group, updates):
        if next(calls) == at:
            raise MemoryError("no room")
        update(self, group, updates)

    monkeypatch.setattr(Adam_C, "_update", fail)
    with pytest.raises(MemoryError):
        step(optimizer, 100.0)
    monkeypatch.setattr(Adam_C, "_update", update)
    check_memory(optimizer)
    for value in (4.0, 5.0, 6.0):
        step(optimizer, value)
    check_memory(optimizer)
    assert sorted(optimizer.state[params[1]]["memory_slots"][:, 0].tolist()) == [5.0, 6.0]


@pytest.mark.parametrize("which", [0, 1])
def test_state_replaced_for_one_parameter_is_taken_up(which: int) -> None:
    params = parameters(2, 3)
    optimizer = SGD_C(params, lr=0.1, capacity=3)
    step(optimizer, 1.0)
    optimizer.state[params[which]] = copy.deepcopy(optimizer.state[params[which]])
    step(optimizer, 2.0)
    step(optimizer, 3.0)
    check_memory(optimizer)
    for p in params:
        assert optimizer.state[p]["memory_birth"].tolist() == [1, 2, 3]
    fresh = SGD_C(params, lr=0.1, capacity=3)
    fresh.load_state_dict(optimizer.state_dict())


def test_state_moved_in_place_is_taken_up() -> None:
    params = parameters(2, 3)
    optimizer = SGD_C(params, lr=0.1, capacity=3)
    step(optimizer, 1.0)
    for p in params:  # what offloading helpers do
        for value in optimizer.state[p].values():
            value.data = value.data.clone()
    step(optimizer, 2.0)
    check_memory(optimizer)
    assert optimizer.memory_report().scopes[0].occupied == 2


def test_a_schedule_of_options_keeps_the_plan() -> None:
    optimizer = SGD_C(parameters(2, 3), lr=0.1, capacity=3)
    step(optimizer, 1.0)
    plan = optimizer._plan
    for i in range(4):
        optimizer.param_groups[0]["kappa"] = 0.5 + i
        optimizer.param_groups[0]["decay"] = 0.5 + 0.1 * i
        step(optimizer, float(i + 2))
    assert optimizer._plan is plan
    assert plan.memories[0].options.kappa == 3.5


def test_a_report_changes_nothing() -> None:
    (p,) = parameters(2)
    optimizer = SGD_C([p], lr=0.1, capacity=5)
    for value in (5.0, 4.0, 3.0):
        step(optimizer, value)
    before = copy.deepcopy(dict(optimizer.state[p]))
    optimizer.param_groups[0]["max_age"] = 1
    optimizer.memory_report()
    assert all(torch.equal(before[key], value) for key, value in optimizer.state[p].items())
    step(optimizer, 2.0)  # the two that are too old go, and the third makes room for this one
    assert optimizer.memory_report().scopes[0].occupied == 1


def test_groups_can_be_given_to_several_optimizers() -> None:
    groups = [{"params": parameters(2), "lr": 0.1}]
    before = dict(groups[0])
    Adam_C(groups)
    SGD_C(groups)
    assert groups[0] == before


def test_a_parameter_given_twice_is_refused() -> None:
    (p,) = parameters(2)
    with pytest.raises(GradientError, match=r"parameter 1 is parameter 0 again.*once"):
        SGD_C([p, p], lr=0.1)


def test_data_of_another_shape_is_refused_in_a_sentence() -> None:
    (p,) = parameters(3)
    optimizer = SGD_C([p], lr=0.1)
    step(optimizer, 1.0)
    p.grad = None
    p.data = torch.ones(5)
    p.grad = torch.ones(5)
    with pytest.raises(StepError, match=r"\(5,\).*\(3,\).*del optimizer.state"):
        optimizer.step()
    del optimizer.state[p]
    step(optimizer, 1.0)
    check_memory(optimizer)


def test_switching_policy_judges_by_norms() -> None:
    """After a long time of fifo, top_norm must not be shut out by what fifo left."""
    (p,) = parameters(1)
    optimizer = SGD_C([p], lr=0.0, capacity=3, decay=1.0, policy="fifo")
    for _ in range(50):
        step(optimizer, 2.0)
    optimizer.param_groups[0]["policy"] = "top_norm"
    step(optimizer, 3.0)
    assert 3.0 in optimizer.state[p]["memory_norm"].tolist()
