"""MemoryAugmented's checkpoints: what is in them, what fits, and what it refuses."""

from __future__ import annotations

import copy
import io
from typing import get_args

import pytest
import torch

import gradmem
from augmented import (
    CLASSES,
    MEMORY,
    copied,
    each_class,
    each_torch,
    everything,
    made,
    occupied,
    parameters_for,
)
from gradmem import (
    CheckpointError,
    GradientError,
    GradmemError,
    MemoryAugmented,
    OptionError,
    OptionTypeError,
    Weights,
    forget_memory,
)
from gradmem.memory.options import PolicyName
from optimizers import assert_differ, assert_same, gradients, parameters, step_with, train


def through_a_file(state_dict):
    """As `torch.load` gives it back with its safe default."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


# Resume ------------------------------------------------------------------------------------------


def check_resume(make, steps):
    """A fresh base, wrapped and loaded, goes on as the one that was saved."""
    ours, params = make(None)
    train(ours, params, steps)
    other, fresh = make(copied(params))
    other.load_state_dict(through_a_file(ours.state_dict()))
    assert_same(everything(other, fresh), everything(ours, params))
    train(ours, params, steps, seed=2)
    train(other, fresh, steps, seed=2)
    assert_same(everything(other, fresh), everything(ours, params))
    assert str(other.memory_report()) == str(ours.memory_report())


@each_class
def test_resume_is_bit_exact(cls):
    def make(params):
        params = params or parameters_for(cls)
        return MemoryAugmented(cls(params), **MEMORY), params

    check_resume(make, 20)


@each_torch
def test_resume_is_bit_exact_with_every_option_of_torch(cls, kwargs):
    def make(params):
        params = params or parameters_for(cls)
        return MemoryAugmented(cls(params, **copy.deepcopy(kwargs)), **MEMORY), params

    check_resume(make, 5)


def fading(ledger, kappa):
    return Weights(1.0, kappa * 0.5 ** ledger.age.double())


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("policy", get_args(PolicyName))
def test_resume_with_every_policy_and_a_function_for_aggregate(policy, scope):
    def make(params):
        params = params or parameters()
        base = torch.optim.NAdam([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}])
        options = {"policy": policy, "scope": scope, "aggregate": fading, "seed": 3}
        return MemoryAugmented(base, **MEMORY, **options, groups=[{}, {"kappa": 0.5}]), params

    check_resume(make, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_resume_keeps_every_type(dtype, scope):
    def make(params):
        params = params or parameters(dtype)
        return MemoryAugmented(torch.optim.Adam(params), **MEMORY, scope=scope), params

    check_resume(make, 5)


def test_options_that_need_not_agree_are_the_checkpoint_s():
    """As torch takes the learning rate from there."""
    ours, params = made(torch.optim.NAdam, aggregate="mid", kappa=0.3, max_age=2, **MEMORY)
    train(ours, params, 6)
    fresh = copied(params)
    other = MemoryAugmented(torch.optim.NAdam(fresh, lr=9.0), capacity=3, decay=0.1, seed=4)
    other.load_state_dict(through_a_file(ours.state_dict()))
    train(ours, params, 4, seed=2)
    train(other, fresh, 4, seed=2)
    assert_same(everything(other, fresh), everything(ours, params))
    kept = [{k: v for k, v in o.memory_groups[0].items() if k != "params"} for o in (ours, other)]
    assert kept[0] == kept[1]


# What is in them ----------------------------------------------------------------------------------


def test_a_checkpoint_is_the_base_s_with_the_memory_added():
    ours, params = made(torch.optim.NAdam, **MEMORY)
    train(ours, params, 4)
    saved, base = ours.state_dict(), ours.optimizer.state_dict()
    for group, own in zip(saved["param_groups"], base["param_groups"], strict=True):
        added = {name: value for name, value in group.items() if name not in own}
        assert (added["memory_capacity"], added["memory_decay"]) == (3, 0.9)
        assert all(name.startswith("memory_") for name in added)
        assert all(group[name] == own[name] for name in own)
    for i, entry in base["state"].items():
        added = {name for name in saved["state"][i] if name not in entry}
        assert {"memory_slots", "memory_sum", "memory_birth"} <= added
        assert all(name.startswith("memory_") for name in added)
        assert all(saved["state"][i][name] is value for name, value in entry.items())
    assert not any("memory" in key for entry in ours.optimizer.state.values() for key in entry)


@each_class
def test_a_checkpoint_of_the_base_starts_an_empty_memory(cls):
    copies = parameters_for(cls)
    base = cls(copies)
    train(base, copies, 4)
    params = copied(copies)
    ours = MemoryAugmented(cls(params), kappa=0.5, **MEMORY)
    train(ours, params, 2)  # it holds something
    with torch.no_grad():
        torch._foreach_copy_(params, [p.detach() for p in copies])
    ours.load_state_dict(through_a_file(base.state_dict()))
    assert occupied(ours) == [0]
    assert_same(ours.optimizer.state_dict(), base.state_dict())
    grads = next(gradients(params, seed=3))
    step_with(ours, params, grads)
    step_with(base, copies, [g.clone() for g in grads])
    assert_same([p.detach() for p in params], [p.detach() for p in copies])
    assert occupied(ours) == [1]
    assert ours.memory_groups[0]["kappa"] == 0.5


@each_class
def test_a_checkpoint_without_its_memory_is_the_base_s(cls):
    ours, params = made(cls, **MEMORY)
    train(ours, params, 4)
    forgotten = forget_memory(ours.state_dict())
    assert_same(forgotten["param_groups"], ours.optimizer.state_dict()["param_groups"])
    fresh = copied(params)
    base = cls(fresh)
    base.load_state_dict(through_a_file(forgotten))
    other = MemoryAugmented(cls(fresh), capacity=7, policy="fifo")
    other.load_state_dict(forgotten)
    assert occupied(other) == [0]
    for grads in (next(gradients(params, seed=s)) for s in (3, 4)):
        step_with(ours.optimizer, params, grads)
        step_with(base, fresh, [g.clone() for g in grads])
        assert_same([p.detach() for p in fresh], [p.detach() for p in params])


def test_loading_changes_neither_the_checkpoint_nor_its_owner():
    ours, params = made(torch.optim.SGD, **MEMORY)  # torch's others share what is loaded
    train(ours, params, 4)
    state_dict = ours.state_dict()
    before, own = copy.deepcopy(state_dict), everything(ours, params)
    other, others = made(torch.optim.SGD, **MEMORY)
    other.load_state_dict(state_dict)
    assert_same(state_dict, before)
    train(other, others, 3)
    assert_same(everything(ours, params), own)


def test_hooks_around_checkpoints_fire_once():
    ours, params = made(torch.optim.Adam, **MEMORY)
    train(ours, params, 2)
    seen = []
    ours.register_state_dict_pre_hook(lambda opt: seen.append("before saving"))
    ours.register_state_dict_post_hook(lambda opt, state: seen.append("after saving"))
    ours.register_load_state_dict_pre_hook(lambda opt, state: seen.append("before loading"))
    ours.register_load_state_dict_post_hook(lambda opt: seen.append("after loading"))
    ours.load_state_dict(ours.state_dict())
    assert seen == ["before saving", "after saving", "before loading", "after loading"]


# What it refuses ----------------------------------------------------------------------------------

OTHER = {
    "capacity": 5,
    "policy": "fifo",
    "scope": "tensor",
    "norm": "sum",
    "aggregate": fading,
    "memory_dtype": "int8",
}


@pytest.mark.parametrize("option", OTHER)
def test_a_checkpoint_of_another_memory_is_refused(option):
    ours, params = made(torch.optim.Adam, **MEMORY)
    foreign, others = made(torch.optim.Adam, **{**MEMORY, option: OTHER[option]})
    train(ours, params, 4)
    train(foreign, others, 6, seed=2)
    foreign.param_groups[0]["lr"] = 0.5
    before, report = everything(ours, params), str(ours.memory_report())
    with pytest.raises(CheckpointError, match=rf"param group 0.*{option}.*forget_memory"):
        ours.load_state_dict(foreign.state_dict())
    assert_same(everything(ours, params), before)
    assert str(ours.memory_report()) == report
    assert ours.param_groups[0]["lr"] == 0.001
    train(ours, params, 1)


def _spoil(name, change):
    return lambda state: state["state"][1].update({name: change(state["state"][1][name])})


SPOILT = {
    "no slots": lambda state: state["state"][1].pop("memory_slots"),
    "no ledger": lambda state: state["state"][1].pop("memory_birth"),
    "slots of another shape": _spoil("memory_slots", lambda t: t[..., None]),
    "slots of another type": _spoil("memory_slots", lambda t: t.double()),
    "ledgers that disagree": _spoil("memory_birth", lambda t: t + 1),
    "an option out of range": lambda state: state["param_groups"][0].update(memory_decay=7.0),
    "a group less": lambda state: state["param_groups"].clear(),
    "a parameter less": lambda state: state["param_groups"][0]["params"].pop(),
    "no groups": lambda state: state.pop("param_groups"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_corrupted_checkpoint_is_refused(spoil):
    ours, params = made(torch.optim.Adam, **MEMORY)
    foreign, others = made(torch.optim.Adam, **MEMORY)
    train(ours, params, 4)
    train(foreign, others, 6, seed=2)
    state_dict = copy.deepcopy(foreign.state_dict())
    spoil(state_dict)
    before = everything(ours, params)
    with pytest.raises(CheckpointError):
        ours.load_state_dict(state_dict)
    assert_same(everything(ours, params), before)
    train(ours, params, 1)


def test_what_cannot_be_wrapped():
    params = parameters()
    refused = {
        "LBFGS.step needs closure": torch.optim.LBFGS(params),
        "MemoryAugmented, has a memory": MemoryAugmented(torch.optim.SGD(params, lr=0.1)),
        "Adam_C, has a memory": gradmem.Adam_C(params),
        "got one of type NoneType": None,
        "got one of type list": params,
        "made already": torch.optim.Adam,
    }
    for says, base in refused.items():
        with pytest.raises((OptionError, OptionTypeError), match=says):
            MemoryAugmented(base)


def test_sparse_gradients_are_refused_before_anything_is_changed():
    for base in (torch.optim.SparseAdam, torch.optim.SGD, torch.optim.Adagrad):
        params = parameters(shapes=[(4, 2), (4, 3)])
        ours = MemoryAugmented(base(params, lr=0.1))
        params[0].grad, params[1].grad = torch.ones(4, 2), torch.ones(4, 3).to_sparse()
        before, grads = everything(ours, params), [p.grad for p in params]
        with pytest.raises(GradientError, match=r"\(4, 3\).*sparse"):
            ours.step()
        assert_same(everything(ours, params), before)
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    off = MemoryAugmented(torch.optim.SGD(params, lr=0.1), capacity=0)
    off.step()
    assert_differ(params[1].detach(), before["parameters"][1])


BAD = [
    ("capacity", -1, OptionError, "at least 0"),
    ("capacity", 2.5, OptionTypeError, "an integer"),
    ("decay", 1.5, OptionError, r"in \[0, 1\]"),
    ("decay", "high", OptionTypeError, "a number"),
    ("kappa", float("nan"), OptionError, "finite"),
    ("aggregate", "best", OptionError, "'mean'"),
    ("policy", "lru", OptionError, "'top_norm'"),
    ("scope", "layer", OptionError, "'model'"),
    ("norm", "l1", OptionError, "'l2'"),
    ("max_age", 0, OptionError, "at least 1"),
    ("seed", -1, OptionError, "at least 0"),
    ("memory_dtype", "int4", OptionError, "'bfloat16'"),
    ("memory_device", "disk", OptionError, "'cpu'"),
]


@pytest.mark.parametrize(("option", "value", "kind", "allowed"), BAD, ids=str)
def test_a_bad_value_is_refused(option, value, kind, allowed):
    params = parameters()
    base = torch.optim.Adam(params)
    with pytest.raises(kind, match=f"{option} must be .*{allowed}") as error:
        MemoryAugmented(base, **{option: value})
    assert isinstance(error.value, GradmemError)
    assert str(value) in str(error.value)
    with pytest.raises(kind, match=f"param group 0: {option} must be .*{allowed}"):
        MemoryAugmented(base, groups=[{option: value}])
    ours = MemoryAugmented(base, **MEMORY)
    with pytest.raises(kind, match=f"param group 1: {option} must be .*{allowed}"):
        ours.add_param_group({"params": parameters(seed=2)}, **{option: value})
    assert len(ours.param_groups) == len(ours.memory_groups) == 1
    train(ours, params, 2)
    before, right = everything(ours, params), ours.memory_groups[0][option]
    ours.memory_groups[0][option] = value
    with pytest.raises((OptionError, OptionTypeError), match=option):
        ours.step()
    assert_same(everything(ours, params), before)
    ours.memory_groups[0][option] = right
    train(ours, params, 1)


def test_a_misspelt_option_is_refused():
    base = torch.optim.Adam(parameters())
    with pytest.raises(TypeError, match="capcity"):
        MemoryAugmented(base, capcity=3)
    with pytest.raises(OptionError, match=r"group 0: .*'capcity'; did you mean 'capacity'"):
        MemoryAugmented(base, groups=[{"capcity": 3}])
    with pytest.raises(OptionError, match=r"one mapping for each .* 1 param groups, got 2"):
        MemoryAugmented(base, groups=[{}, {}])
    with pytest.raises(OptionError, match="'capcity'; did you mean 'capacity'"):
        MemoryAugmented(base).add_param_group({"params": parameters(seed=2)}, capcity=3)


def test_no_option_and_no_optimizer_is_left_out_here():
    assert {case[0] for case in BAD} == set(gradmem.MemoryOptions.__slots__)
    everyone = {c for c in vars(torch.optim).values() if isinstance(c, type)}
    optimizers = {c for c in everyone if issubclass(c, torch.optim.Optimizer)}
    others = {torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam}
    assert optimizers - others == set(CLASSES)
