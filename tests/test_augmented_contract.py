"""MemoryAugmented as an Optimizer: closures, hooks, schedulers, scalers, groups, copies."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import Counter

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import gradmem
from augmented import (
    MEMORY,
    each_class,
    everything,
    made,
    named_class,
    occupied,
    parameters_for,
)
from gradmem import MemoryAugmented, StepError, memory_bytes
from optimizers import (
    assert_differ,
    assert_same,
    each_optimizer,
    gradients,
    parameters,
    step_with,
    train,
)


@each_class
def test_it_is_an_optimizer_around_the_base(cls):
    ours, _ = made(cls)
    assert isinstance(ours, torch.optim.Optimizer)
    assert type(ours.optimizer) is cls
    assert ours.param_groups is ours.optimizer.param_groups
    assert ours.defaults == ours.optimizer.defaults
    ours.param_groups[0]["lr"] = 0.123
    assert ours.optimizer.param_groups[0]["lr"] == 0.123
    assert cls.__name__ in repr(ours)
    assert "capacity=10" in repr(ours)
    with pytest.raises(AttributeError, match="no_such_thing"):
        ours.no_such_thing  # noqa: B018


def test_attributes_of_the_base_are_reached():
    class Modal(torch.optim.SGD):
        mode = "train"

        def eval(self):
            self.mode = "eval"

    ours = MemoryAugmented(Modal(parameters(), lr=0.1))
    ours.eval()
    assert (ours.mode, ours.optimizer.mode) == ("eval", "eval")


# Closures, hooks, schedulers, scalers -------------------------------------------------------------


@each_class
def test_hooks_fire_once_and_the_closure_is_evaluated_once(cls):
    params, seen = parameters_for(cls), Counter()
    base = cls(params)

    def count(name):
        return lambda opt, args, kwargs: seen.update([name])

    base.register_step_pre_hook(count("pre of the base"))
    ours = MemoryAugmented(base)
    base.register_step_post_hook(count("post of the base"))  # before and after are alike
    ours.register_step_pre_hook(count("pre"))
    ours.register_step_post_hook(count("post"))

    def closure():
        assert torch.is_grad_enabled()
        seen["closure"] += 1
        ours.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    handles = [
        register_optimizer_step_pre_hook(count("global pre")),
        register_optimizer_step_post_hook(count("global post")),
    ]
    try:
        for _ in range(3):
            loss = ours.step(closure)
        assert ours.step(closure=closure) < loss
    finally:
        for handle in handles:
            handle.remove()
    names = ["pre", "post", "pre of the base", "post of the base", "global pre", "global post"]
    assert seen == dict.fromkeys([*names, "closure"], 4)
    assert torch.is_grad_enabled()
    assert ours.step() is None


def test_the_profiler_sees_a_step():
    ours, params = made(torch.optim.NAdam)
    train(ours, params, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours.step()
    names = Counter(event.name for event in profile.events())
    assert names["Optimizer.step#MemoryAugmented.step"] == 1


@pytest.mark.parametrize("closure", [3, "loss", torch.tensor(1.0)], ids=str)
def test_a_closure_that_cannot_be_called(closure):
    ours, params = made(torch.optim.Adam)
    train(ours, params, 2)
    before = everything(ours, params)
    with pytest.raises(StepError, match=f"callable or None, got {type(closure).__name__}"):
        ours.step(closure)
    with pytest.raises(StepError, match="from within its own closure"):
        ours.step(lambda: ours.step())
    with pytest.raises(ZeroDivisionError):
        ours.step(lambda: 1 / 0)
    assert_same(everything(ours, params), before)
    train(ours, params, 1)
    assert_differ(everything(ours, params), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.NAdam, torch.optim.Adafactor])
def test_a_step_under_no_grad_and_inference_mode(cls, mode):
    (inside, params), (outside, copies) = made(cls, **MEMORY), made(cls, **MEMORY)
    train(inside, params, 2)  # state made in inference mode would stay there, as with torch's own
    train(outside, copies, 2)
    with mode():
        train(inside, params, 5)
    train(outside, copies, 5)
    train(inside, params, 2, seed=4)
    train(outside, copies, 2, seed=4)
    assert_same(everything(inside, params), everything(outside, copies))


def cycles(optimizer):
    """Whether there is a momentum to be cycled."""
    return {"cycle_momentum": not {"momentum", "betas"}.isdisjoint(optimizer.defaults)}


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0 / (t + 1)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12, **cycles(o)),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3, **cycles(o)),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("given", ["the wrapper", "the base", "the base before"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@each_optimizer
def test_schedulers_drive_it_as_they_drive_the_named_class(info, make, given):
    """Warnings are errors here: one about the order of the two step() would be seen."""
    params, copies = parameters(), parameters()
    cycled = {"momentum": 0.9} if "momentum" in info.make_base(copies).defaults else {}
    named, base = named_class(info, copies, **MEMORY, **cycled), info.make_base(params, **cycled)
    before = make(base) if given == "the base before" else None
    ours = MemoryAugmented(base, **MEMORY, aggregate=named.defaults["aggregate"])
    schedulers = [before or make(ours if given == "the wrapper" else base), make(named)]
    rates = []
    for grads in itertools.islice(gradients(params), 9):
        step_with(named, copies, [g.clone() for g in grads])
        step_with(ours, params, grads)
        for scheduler in schedulers:
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*[1.0] if plateau else [])
        rates.append(ours.param_groups[0]["lr"])
        assert rates[-1] == named.param_groups[0]["lr"]
    assert len(set(rates)) > 1
    assert_same(everything(ours, params), everything(named, copies))


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_on_the_cpu(fused):  # the named class has a fused pass of its own
    """The memory holds unscaled gradients, and a step that overflows is left out whole."""
    params, copies = parameters(), parameters()
    ours = MemoryAugmented(torch.optim.Adam(params, fused=fused), **MEMORY)
    named = gradmem.Adam_C(copies, fused=fused, **MEMORY)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t, factors in enumerate(itertools.islice(gradients(params), 6)):
        ours.zero_grad()
        loss = sum((p * w).sum() for p, w in zip(params, factors, strict=True))
        scaler.scale(loss * (float("inf") if t == 3 else 1.0)).backward()
        if t % 2:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
        if t != 3:
            step_with(named, copies, [w.clone() for w in factors])
    assert scaler.get_scale() == 512.0
    close = {"rtol": 1e-6, "atol": 1e-7} if fused else {}
    assert_same(everything(ours, params), everything(named, copies), **close)


# Groups and parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    ours, params = made(torch.optim.Adam)
    train(ours, params, 1)
    held = [p.grad for p in params]
    ours.zero_grad(set_to_none=set_to_none)
    for p, grad in zip(params, held, strict=True):
        assert p.grad is (None if set_to_none else grad)
        assert set_to_none or not grad.any()


def test_a_step_without_any_gradient_changes_nothing():
    ours, params = made(torch.optim.Adam)
    ours.step()
    assert ours.state_dict()["state"] == {}
    train(ours, params, 1)
    before = everything(ours, params)
    ours.zero_grad()
    ours.step()
    before["state"][0]["memory_counters"][3] += 1  # all calls; the ledger is shared, the copy too
    assert_same(everything(ours, params), before)


@each_class
def test_parameters_frozen_without_gradient_and_thawed(cls):
    ours, params = made(cls, **MEMORY)
    params[0].requires_grad_(False)
    start = params[0].detach().clone()
    for grads in itertools.islice(gradients(params), 3):
        step_with(ours, params, [None, *grads[1:]])
    assert_same(params[0].detach(), start)
    assert "memory_slots" not in ours.state_dict()["state"].get(0, {})
    params[0].requires_grad_(True)
    train(ours, params, 2)
    assert ours.state_dict()["state"][0]["memory_slots"].any()
    assert occupied(ours) == [3]


@pytest.mark.parametrize("given_to", ["the wrapper", "the base"])
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
def test_a_group_added_later(scope, given_to):
    ours, params = made(torch.optim.NAdam, scope=scope, **MEMORY)
    train(ours, params, 4)
    late = parameters(seed=3)
    (ours if given_to == "the wrapper" else ours.optimizer).add_param_group(
        {"params": late, "lr": 0.5}
    )
    assert ours.optimizer.param_groups[1]["lr"] == 0.5
    train(ours, [*params, *late], 2)
    ledgers = [report.parameters for report in ours.memory_report().scopes]
    assert ledgers == {"model": [10], "group": [5, 5], "tensor": [1] * 10}[scope]
    assert all("memory_slots" in ours.state_dict()["state"][i] for i in range(10))


def test_a_group_taken_away():
    params, others = parameters(), parameters(seed=3)
    base = torch.optim.SGD([{"params": params}, {"params": others}], lr=0.1)
    ours = MemoryAugmented(base, capacity=3, groups=[{}, {"kappa": 0.5}])
    train(ours, [*params, *others], 3)
    ours.param_groups.pop(0)
    still = [p.detach().clone() for p in params]
    train(ours, others, 2)
    assert_same([p.detach() for p in params], still)
    assert [group["kappa"] for group in ours.memory_groups] == [0.5]
    assert occupied(ours) == [3]


# Copies, reports ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@each_class
def test_a_copy_continues_bit_for_bit_and_on_its_own(cls, how):
    ours, params = made(cls, **MEMORY)
    train(ours, params, 5)
    twin, copies = how((ours, params))
    before = everything(ours, params)
    assert_same(everything(twin, copies), before)
    assert twin.optimizer is not ours.optimizer
    assert twin.param_groups is twin.optimizer.param_groups
    assert twin.param_groups[0]["params"][0] is copies[0]
    train(twin, copies, 4, seed=3)
    assert_same(everything(ours, params), before)
    train(ours, params, 4, seed=3)
    assert_same(everything(ours, params), everything(twin, copies))
    for optimizer, own in ((ours, params), (twin, copies)):
        late = parameters_for(cls, seed=3)
        optimizer.add_param_group({"params": late})
        train(optimizer, [*own, *late], 2, seed=4)
    assert_same(everything(ours, params), everything(twin, copies))


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_report_and_the_bytes_agree(scope, dtype):
    params = parameters(dtype)
    ours = MemoryAugmented(torch.optim.RAdam(params), capacity=4, scope=scope)
    assert occupied(ours) == [0] * (5 if scope == "tensor" else 1)
    train(ours, params, 3)
    report = ours.memory_report()
    assert report.bytes == memory_bytes(params, capacity=4, scope=scope).total
    assert {one.occupied for one in report.scopes if one.steps} == {3}
    assert "3/4" in str(report)
