"""The contract of a torch optimizer, kept by every optimizer of the table and every option."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import Counter

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import gradmem
from optimizers import (
    assert_differ,
    assert_same,
    continues,
    each_input,
    each_input_and_impl,
    each_optimizer,
    gradients,
    memory_of,
    parameters,
    snapshot,
    step_with,
    train,
)

MEMORY = {"capacity": 3, "decay": 0.9}
each_scope = pytest.mark.parametrize("scope", ["model", "group", "tensor"])


def occupied(optimizer):
    return [scope.occupied for scope in optimizer.memory_report().scopes]


@each_optimizer
def test_it_is_its_torch_class(info):
    optimizer = info.make(parameters())
    assert isinstance(optimizer, info.base_cls)
    assert isinstance(optimizer, gradmem.MemoryOptimizer)
    base = info.make_base(parameters())
    for name, value in base.defaults.items():
        assert_same(optimizer.defaults[name], value)
    own = {"fused"} - set(base.defaults) if optimizer.has_kernel else set()
    assert set(optimizer.defaults) - set(base.defaults) == {*gradmem.MemoryOptions.__slots__, *own}
    assert {*gradmem.options(info.name.lower())} <= {*optimizer.defaults}


# What a step leaves alone ------------------------------------------------------------------------


@each_input_and_impl
def test_gradients_are_unchanged(info, kwargs):
    params = [*parameters(), torch.nn.Parameter(torch.ones(4, 3).t())]
    optimizer = info.make(params, **kwargs)
    for grads in itertools.islice(gradients(params), 6):
        given = [g.clone() for g in grads]
        strides = [g.stride() for g in grads]
        step_with(optimizer, params, grads)
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same(grads, given)
        assert [g.stride() for g in grads] == strides


@each_input_and_impl
def test_the_state_is_allocated_once(info, kwargs):
    params = parameters()
    optimizer = info.make(params, **kwargs)
    train(optimizer, params, 1)

    def described():
        return [
            {k: (v.shape, v.dtype, v.stride(), v.data_ptr()) for k, v in entry.items()}
            for entry in optimizer.state.values()
        ]

    first = described()
    assert all("memory_slots" in entry for entry in first)
    train(optimizer, params, 7, seed=2)
    assert described() == first


@each_scope
@each_optimizer
def test_looking_at_the_memory_changes_nothing(info, scope):
    runs = []
    for looks in (True, False):
        params = parameters()
        optimizer = info.make(params, scope=scope, max_age=2, **MEMORY)
        for grads in itertools.islice(gradients(params), 6):
            if looks:
                str(optimizer.memory_report()), optimizer.state_dict(), repr(optimizer)
            step_with(optimizer, params, grads)
        runs.append(snapshot(optimizer, params))
    assert_same(*runs)


@each_optimizer
def test_two_optimizers_share_nothing(info):
    (a, b), runs = (parameters(), parameters(seed=5)), []
    for both in (True, False):
        one, other = info.make(a, **MEMORY), info.make(b, **MEMORY)
        start = [p.detach().clone() for p in a]
        for mine, theirs in itertools.islice(zip(gradients(a), gradients(b, 9), strict=False), 6):
            step_with(one, a, mine)
            if both:
                step_with(other, b, theirs)
        runs.append(snapshot(one, a))
        with torch.no_grad():
            for p, q in zip(a, start, strict=True):
                p.copy_(q)
    assert_same(*runs)


# Hooks, closures, profiler -----------------------------------------------------------------------


@each_optimizer
def test_hooks_fire_once_and_the_closure_is_evaluated_once(info):
    params, seen = parameters(), Counter()
    optimizer = info.make(params)

    def count(name):
        return lambda opt, args, kwargs: seen.update([(name, opt is optimizer)])

    def closure():
        assert torch.is_grad_enabled()
        seen["closure"] += 1
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    handles = [
        optimizer.register_step_pre_hook(count("pre")),
        optimizer.register_step_post_hook(count("post")),
        register_optimizer_step_pre_hook(count("global pre")),
        register_optimizer_step_post_hook(count("global post")),
    ]
    try:
        for _ in range(3):
            loss = optimizer.step(closure)
        optimizer.step(closure=closure)
    finally:
        for handle in handles:
            handle.remove()
    hooks = {(name, True): 4 for name in ("pre", "post", "global pre", "global post")}
    assert seen == {**hooks, "closure": 4}
    assert loss.item() > sum((p * p).sum() for p in params).item()
    assert torch.is_grad_enabled()
    assert optimizer.step() is None


@each_optimizer
def test_the_profiler_sees_a_step(info):
    optimizer = info.make(params := parameters())
    train(optimizer, params, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    names = Counter(event.name for event in profile.events())
    assert names[f"Optimizer.step#{info.name}.step"] == 1


@each_optimizer
def test_a_user_s_subclass_with_a_step_of_its_own(info):
    class Mine(info.optim_cls):
        calls = 0

        def step(self, closure=None):
            self.calls += 1
            return super().step(closure)

    params, copies = parameters(), parameters()
    mine, ours = Mine(params, **MEMORY), info.make(copies, **MEMORY)
    train(mine, params)
    train(ours, copies)
    assert mine.calls == 6
    assert_same(snapshot(mine, params), snapshot(ours, copies))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_optimizer
def test_a_step_under_no_grad_and_inference_mode(info, mode):
    params, copies = parameters(), parameters()
    inside, outside = info.make(params, **MEMORY), info.make(copies, **MEMORY)
    for made, own in ((inside, params), (outside, copies)):
        train(made, own, 2)  # state made in inference mode would stay there, as with torch's own
    with mode():
        train(inside, params, 5)
    train(outside, copies, 5)
    train(inside, params, 2, seed=4)
    train(outside, copies, 2, seed=4)
    assert_same(snapshot(inside, params), snapshot(outside, copies))


# Groups ------------------------------------------------------------------------------------------


def ledgers(optimizer):
    """Parameters per ledger."""
    return [scope.parameters for scope in optimizer.memory_report().scopes]


@each_scope
@each_optimizer
def test_which_groups_share_a_ledger(info, scope):
    three = [parameters(seed=i) for i in range(3)]
    groups = [{"params": three[0]}, {"params": three[1], "lr": 0.5}]
    optimizer = info.make(groups, scope=scope, **MEMORY)
    train(optimizer, [*three[0], *three[1]])
    assert ledgers(optimizer) == {"model": [10], "group": [5, 5], "tensor": [1] * 10}[scope]
    optimizer.add_param_group({"params": iter(three[2]), "decay": 0.5})
    assert ledgers(optimizer) == {"model": [10, 5], "group": [5] * 3, "tensor": [1] * 15}[scope]
    train(optimizer, [p for own in three for p in own])
    if scope == "model":
        priority = [optimizer.state[own[0]]["memory_priority"] for own in three]
        assert_same(priority[0], priority[1])
        assert_differ(priority[0], priority[2])
        assert [s.steps for s in optimizer.memory_report().scopes] == [12, 6]


@each_optimizer
def test_a_group_added_mid_training_joins_the_ledger_of_equal_options(info):
    params, late = parameters(), parameters(seed=3)
    optimizer = info.make(params, capacity=9, decay=0.9)
    train(optimizer, params, 3)
    optimizer.add_param_group({"params": late, "lr": 0.5})
    train(optimizer, [*params, *late], 2)
    assert (ledgers(optimizer), occupied(optimizer)) == ([10], [5])
    slots = optimizer.state[late[0]]["memory_slots"]
    assert not slots[:3].any()  # it was not there then: zero
    assert slots[3].any()
    assert_same(slots[4], late[0].grad)


@each_optimizer
def test_a_copy_takes_further_groups_too(info):
    original = info.make(parameters(), **MEMORY)
    for optimizer in (original, copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        own, late = optimizer.param_groups[0]["params"], parameters(seed=3)
        train(optimizer, own, 3)
        optimizer.add_param_group({"params": late})
        train(optimizer, [*own, *late], 2)
        assert (ledgers(optimizer), occupied(optimizer)) == ([10], [3])


@each_scope
@each_optimizer
def test_an_empty_group_and_one_taken_away(info, scope):
    params, others = parameters(), parameters(seed=3)
    groups = [{"params": [], "decay": 0.5}, {"params": params}, {"params": others}]
    optimizer = info.make(groups, scope=scope)
    train(optimizer, [*params, *others], 3)
    optimizer.param_groups.pop()
    still = [p.detach().clone() for p in others]
    continues(optimizer, params)
    assert_same([p.detach() for p in others], still)


@each_scope
@each_optimizer
def test_parameters_frozen_thawed_replaced_and_reset(info, scope):
    params = parameters()
    params[0].requires_grad_(False)
    optimizer = info.make(params, scope=scope, aggregate="mean", **MEMORY)
    train(optimizer, params[1:], 4)
    assert params[0] not in optimizer.state
    params[0].requires_grad_(True)
    train(optimizer, params, 2)
    assert "memory_slots" in optimizer.state[params[0]]

    new = torch.nn.Parameter(torch.ones(2, 2))
    optimizer.state.pop(params[0])
    optimizer.param_groups[0]["params"][0] = params[0] = new
    train(optimizer, params, 2)
    assert optimizer.state[new]["memory_slots"].shape == (3, 2, 2)
    assert optimizer.state[new]["memory_slots"].any()

    optimizer.state.clear()
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = info.make(fresh, scope=scope, aggregate="mean", **MEMORY)
    train(optimizer, params, 5)
    train(other, fresh, 5)
    assert_same(snapshot(optimizer, params), snapshot(other, fresh))


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("scope", ["group", "tensor"])
@each_optimizer
def test_one_parameter_s_state_deleted_is_one_ledger_started_anew(info, scope, which):
    params = parameters(shapes=[(2, 3), (4,), (5,)])
    groups = [{"params": [p]} for p in params] if scope == "group" else params
    optimizer = info.make(groups, scope=scope, **MEMORY)
    train(optimizer, params, 5)
    del optimizer.state[params[which]]
    fresh = [torch.nn.Parameter(params[which].detach().clone())]
    other = info.make(fresh, scope=scope, **MEMORY)
    for grads in itertools.islice(gradients(params, seed=4), 4):
        step_with(optimizer, params, grads)
        step_with(other, fresh, [grads[which].clone()])
    assert_same(memory_of(optimizer, [params[which]]), memory_of(other, fresh))
    assert_same(params[which].detach(), fresh[0].detach())


EDITS = [
    {"decay": 0.1},
    {"kappa": 0.2},
    {"aggregate": "mid"},
    {"policy": "fifo"},
    {"policy": "bottom_norm"},
    {"max_age": 1},
    {"lr": 0.5},
]


@pytest.mark.parametrize("edit", EDITS, ids=str)
@each_optimizer
def test_an_option_edited_in_a_group_takes_effect_at_the_next_step(info, edit):
    """As in an optimizer constructed with it that was given the same state."""
    params = parameters()
    edited = info.make(params, lr=0.01, **MEMORY)
    train(edited, params, 5)
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = info.make(fresh, **{"lr": 0.01, **MEMORY, **edit})
    state_dict = copy.deepcopy(edited.state_dict())
    state_dict["param_groups"][0].update(edit)
    other.load_state_dict(state_dict)
    untouched, copies = copy.deepcopy((edited, params))
    edited.param_groups[0].update(edit)
    for optimizer, own in ((edited, params), (other, fresh), (untouched, copies)):
        train(optimizer, own, 3, seed=6)
    assert_same(snapshot(edited, params), snapshot(other, fresh))
    assert_differ(snapshot(edited, params), snapshot(untouched, copies))


# Copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@each_input
def test_a_copy_continues_bit_for_bit_and_on_its_own(info, kwargs, how):
    params = parameters()
    optimizer = info.make(params, **kwargs)
    train(optimizer, params, 5)
    twin, copies = how((optimizer, params))
    before = snapshot(optimizer, params)
    assert_same(snapshot(twin, copies), before)
    assert twin.param_groups[0]["params"][0] is copies[0]
    train(twin, copies, 4, seed=3)
    assert_same(snapshot(optimizer, params), before)
    after = snapshot(twin, copies)
    train(optimizer, params, 4, seed=3)
    assert_same(snapshot(optimizer, params), after)
    assert_same(snapshot(twin, copies), after)
    assert str(twin.memory_report()) == str(optimizer.memory_report())


# Reports -----------------------------------------------------------------------------------------


@each_scope
@each_optimizer
def test_the_report_says_what_was_given(info, scope):
    params = parameters(shapes=[(4,)])
    optimizer = info.make(params, capacity=3, decay=0.5, scope=scope, aggregate="mean")
    given = [8.0, 1.0, 2.0, 0.5, 0.0]  # the memory is full at the fourth, which is too small
    for size in given:
        step_with(optimizer, params, [torch.full((4,), size / 2)])
    (report,) = optimizer.memory_report().scopes
    assert (report.steps, report.capacity, report.occupied, report.parameters) == (4, 3, 3, 1)
    assert report.norms == (8.0, 0.5, 2.0)  # the priorities 2, .25 and 1 before, at the fourth
    assert report.priorities == (0.5, 0.25, 0.5)
    assert report.ages == (4, 1, 2)
    assert report.accepted_share == 1.0
    assert report.oldest_used == 3
    assert report.total_weight == 1.0
    text = str(optimizer.memory_report())
    assert all(word in text for word in ("3/3", "0.5..8", "100%", f"{report.bytes:,}"))


@each_optimizer
def test_create_names_and_options(info):
    name = info.name.lower()
    assert name in gradmem.names() == sorted(gradmem.names())
    known = gradmem.options(name)
    optimizer = gradmem.create(name, parameters(), lr=0.3, capacity=7)
    assert type(optimizer) is info.optim_cls
    assert (optimizer.defaults["lr"], optimizer.defaults["capacity"]) == (0.3, 7)
    assert "params" not in known
    defaults = info.make(parameters()).defaults
    assert_same({name: defaults[name] for name in known}, known)
    known["capacity"] = -1
    assert gradmem.options(name)["capacity"] == 10
