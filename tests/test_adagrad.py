"""Where torch's Adagrad is unlike the others: it makes its state at construction."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from gradmem import Adagrad_C, OptionError
from optimizers import assert_same, parameters, snapshot, step_with, train


def test_without_memory_the_state_is_torch_s_from_the_start():
    for options in ({"capacity": 0}, {"kappa": 0}):
        params, copies = parameters(), parameters()
        ours = Adagrad_C(params, initial_accumulator_value=0.3, **options)
        base = torch.optim.Adagrad(copies, initial_accumulator_value=0.3)
        assert_same(snapshot(ours, params), snapshot(base, copies))
        ours.share_memory()
        assert ours.state[params[0]]["sum"].is_shared()


def test_with_a_memory_all_state_is_made_at_the_first_gradient():
    params = parameters()
    optimizer = Adagrad_C(params, capacity=3, initial_accumulator_value=0.3)
    assert not optimizer.state
    grad = torch.ones_like(params[0])
    step_with(optimizer, params, [grad, *[None] * 4])
    assert list(optimizer.state) == params[:1]
    assert torch.equal(optimizer.state[params[0]]["sum"], torch.full_like(grad, 1.3))


def test_a_group_added_later_begins_as_the_others_did():
    params, late = parameters(), parameters(seed=3)
    optimizer = Adagrad_C(params, capacity=3, initial_accumulator_value=0.3)
    train(optimizer, params, 2)
    optimizer.add_param_group({"params": late, "capacity": 0})
    step_with(optimizer, late, [torch.ones_like(p) for p in late])
    for p in late:
        assert torch.equal(optimizer.state[p]["sum"], torch.full_like(p, 1.3))


def test_a_distributed_checkpoint_holds_the_memory():
    """Its helpers fill a fresh optimizer's state by a step, unless there is some already."""
    models = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    ours, resumed = (Adagrad_C(model.parameters(), capacity=3) for model in models)
    train(ours, list(models[0].parameters()), 5)
    models[1].load_state_dict(models[0].state_dict())
    saved = copy.deepcopy(get_optimizer_state_dict(models[0], ours))
    template = get_optimizer_state_dict(models[1], resumed)
    assert template["state"]["weight"].keys() == saved["state"]["weight"].keys()
    set_optimizer_state_dict(models[1], resumed, saved)
    for model, optimizer in zip(models, (ours, resumed), strict=True):
        train(optimizer, list(model.parameters()), 4, seed=3)
    assert_same(
        *(
            snapshot(optimizer, list(model.parameters()))
            for model, optimizer in zip(models, (resumed, ours), strict=True)
        )
    )


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_after_a_look_at_state_that_is_not_there(how):
    optimizer = Adagrad_C(params := parameters(), capacity=3)
    assert optimizer.state[params[0]] == {}
    optimizer, params = how((optimizer, params))
    train(optimizer, params, 4)
    assert optimizer.memory_report().scopes[0].occupied == 3
    assert optimizer.state["anything"] == {}


def test_an_initial_value_of_a_group_s_own_is_refused():
    groups = [{"params": parameters()}, {"params": parameters(seed=1)}]
    groups[1]["initial_accumulator_value"] = 0.5
    with pytest.raises(OptionError, match=r"param group 1: initial_accu.* must be 0\.1 .*got 0\.5"):
        Adagrad_C(groups, initial_accumulator_value=0.1)
    Adagrad_C(groups, initial_accumulator_value=0.5)


def test_sharing_with_other_processes_is_refused_with_a_memory():
    optimizer = Adagrad_C([{"params": parameters(), "capacity": 0}, {"params": parameters(seed=1)}])
    with pytest.raises(OptionError, match=r"share_memory.* needs capacity=0 or kappa=0 in"):
        optimizer.share_memory()
