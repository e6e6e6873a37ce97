"""capacity=0 and kappa=0 are the torch class: parameters and complete state, bit for bit."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.optim import lr_scheduler

from gradmem import MemoryOptions, OptionError
from optimizers import (
    INPUTS_AND_IMPLS,
    assert_differ,
    assert_same,
    each,
    each_input_and_impl,
    each_optimizer,
    gradients,
    parameters,
    refuse,
    snapshot,
    step_with,
    train,
)

OFF = {"capacity": {"capacity": 0}, "kappa": {"kappa": 0}}


def race(ours, base, pairs, steps=5, miss=True):
    """Equal gradients to both; every third step one parameter has none, one step is not finite."""
    params, copies = zip(*pairs, strict=True)
    for t, grads in enumerate(itertools.islice(gradients(params), steps)):
        if miss and t % 3 == 2:
            grads[0] = None
        if t == 3:
            grads[1] = torch.full_like(params[1], float("nan"))
        step_with(base, copies, [None if g is None else g.clone() for g in grads])
        step_with(ours, params, grads)
        assert_same(snapshot(ours, params), snapshot(base, copies), f"step {t}")


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@each_input_and_impl
def test_switched_off_is_the_torch_class(info, kwargs, dtype, off):
    if dtype.is_complex and kwargs.get("fused"):
        base = info.make_base(params := parameters(dtype), **kwargs)
        with pytest.raises(RuntimeError):  # torch cannot do it, so we say so
            train(base, params, 1)
        with pytest.raises(OptionError, match="fused=True needs floating-point parameters"):
            info.make(parameters(dtype), **kwargs)
        return
    params, copies = parameters(dtype), parameters(dtype)
    ours = info.make(params, **{**kwargs, **off})
    base = info.make_base(copies, **kwargs)
    race(ours, base, list(zip(params, copies, strict=True)))
    assert_differ([p.detach() for p in params], [p.detach() for p in parameters(dtype)])
    assert not any("memory" in key for entry in ours.state.values() for key in entry)
    assert ours.memory_report().scopes == ()
    assert ours.memory_report().bytes == 0


@each(INPUTS_AND_IMPLS[::5], ("info", "kwargs"))
def test_one_group_switched_off_beside_one_that_remembers(info, kwargs):
    params, copies = parameters(), parameters()
    others = parameters(seed=4)
    ours = info.make(
        [{"params": params, "capacity": 0}, {"params": others, "capacity": 2}], **kwargs
    )
    base = info.make_base(copies, **kwargs)
    stream = gradients(others, seed=7)
    for grads in itertools.islice(gradients(params), 5):
        for p, grad in zip(others, next(stream), strict=True):
            p.grad = grad
        step_with(base, copies, [g.clone() for g in grads])
        step_with(ours, params, grads)
        assert_same(snapshot(ours, params), snapshot(base, copies))
    assert all("memory_slots" in ours.state[p] for p in others)


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@each(INPUTS_AND_IMPLS[::7], ("info", "kwargs"))
def test_kappa_set_to_zero_gives_the_base_step_while_the_memory_lives_on(info, kwargs, scope):
    """From equal moments, a step at kappa 0 is the torch class's step, with a full memory too."""
    params = parameters()
    ours = info.make(params, **{**kwargs, "scope": scope})
    train(ours, params, 5)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    base = info.make_base(copies, **kwargs)
    state_dict = copy.deepcopy(ours.state_dict())
    for entry in state_dict["state"].values():
        for key in [key for key in entry if key.startswith("memory_")]:
            del entry[key]
    for group in state_dict["param_groups"]:
        for name in MemoryOptions.__slots__:
            del group[name]
    base.load_state_dict(state_dict)
    ours.param_groups[0]["kappa"] = 0
    for grads in itertools.islice(gradients(params, seed=5), 4):
        step_with(base, copies, [g.clone() for g in grads])
        step_with(ours, params, grads)
        assert_same([p.detach() for p in params], [p.detach() for p in copies])
    ours.param_groups[0]["kappa"] = 1.0
    grads = next(gradients(params, seed=6))
    step_with(base, copies, [g.clone() for g in grads])
    step_with(ours, params, grads)
    assert_differ([p.detach() for p in params], [p.detach() for p in copies])


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
@each_optimizer
def test_a_checkpoint_of_a_switched_off_optimizer_is_the_torch_class_s(info, off):
    params, copies = parameters(), parameters()
    ours, base = info.make(params, **off), info.make_base(copies)
    race(ours, base, list(zip(params, copies, strict=True)), steps=3, miss=False)
    assert_same(ours.state_dict()["state"], base.state_dict()["state"])
    fresh = parameters()
    resumed = info.make(fresh, **off)
    resumed.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert_same(snapshot(resumed, fresh)["state"], snapshot(base, copies)["state"])


@each_optimizer
def test_sgd_without_memory_takes_sparse_gradients_as_torch_does(info):
    params, copies = parameters(shapes=[(3, 4)]), parameters(shapes=[(3, 4)])
    ours, base = info.make(params, capacity=0), info.make_base(copies)
    for p in (*params, *copies):
        p.grad = torch.ones(3, 4).to_sparse()
    if info.base.supports_sparse:
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # or torch warns
            base.step()
            ours.step()
        assert_same(snapshot(ours, params), snapshot(base, copies))
    else:
        refuse(RuntimeError, ours.step, ours, params, "does not support sparse gradients")


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0 / (t + 1)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.1, total_steps=12, cycle_momentum=has_momentum(o)
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, 0.001, 0.1, step_size_up=3, cycle_momentum=has_momentum(o)
    ),
}


def has_momentum(optimizer):
    return not {"momentum", "betas"}.isdisjoint(optimizer.defaults)


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@each_optimizer
def test_schedulers_drive_ours_as_they_drive_torch_s(info, make):
    """With a memory of nothing the trajectories are equal; with one, the schedule still is."""
    # momentum is there to be cycled
    options = {"momentum": 0.9} if "momentum" in info.make_base(parameters()).defaults else {}
    schedules = []
    sets = [parameters() for _ in range(3)]
    made = [info.make_base(sets[0], **options)]
    made += [info.make(sets[1], capacity=0, **options), info.make(sets[2], capacity=3, **options)]
    for optimizer, params in zip(made, sets, strict=True):
        scheduler, schedule = make(optimizer), []
        for grads in itertools.islice(gradients(params), 9):
            step_with(optimizer, params, grads)
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*[1.0] if plateau else [])
            group = optimizer.param_groups[0]
            schedule.append((group["lr"], group.get("momentum"), group.get("betas")))
        schedules.append(schedule)
    assert schedules[0] == schedules[1] == schedules[2]
    assert len(set(schedules[0])) > 1
    assert_same(snapshot(made[1], sets[1]), snapshot(made[0], sets[0]))
    assert made[2].memory_report().scopes[0].occupied == 3
