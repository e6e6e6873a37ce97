"""MemoryAugmented around torch's: the named class, the base when off, and nothing else."""

from __future__ import annotations

import copy
import itertools
from typing import get_args

import pytest
import torch

import gradmem
from augmented import (
    MEMORY,
    OFF,
    Spy,
    copied,
    each_class,
    each_torch,
    everything,
    made,
    named_class,
    parameters_for,
    wrapped,
)
from gradmem import MemoryAugmented, Weights
from gradmem.memory.options import AggregateName, PolicyName
from optimizers import (
    INFOS,
    INPUTS_AND_IMPLS,
    MEMORY_INPUTS,
    assert_differ,
    assert_same,
    each,
    each_optimizer,
    gradients,
    parameters,
    step_with,
    train,
)

# What it is equal to ------------------------------------------------------------------------------


def race(info, kwargs, steps, dtype=torch.float32):
    """The wrapper and the named class over the same gradients, of which some are missing or bad."""
    params, copies = ([*parameters(dtype), transposed(dtype)] for _ in range(2))
    ours, named = wrapped(info, params, **kwargs), named_class(info, copies, **kwargs)
    # The named class has a fused pass of its own, which rounds otherwise than torch's.
    close = {"rtol": 1e-5, "atol": 1e-6} if kwargs.get("fused") and named.has_kernel else {}
    for t, grads in enumerate(itertools.islice(gradients(params), steps)):
        # laid out like its parameter: torch's fused kernels take it for granted, unchecked
        grads[-1] = torch.empty_like(params[-1]).detach().copy_(grads[-1])
        if t % 5 == 4:
            grads[t % len(grads)] = None
        # Of NaN torch's fused AMSGrad keeps the last few elements of a tensor out of the maximum.
        if t == 7 and steps < 10 and not (close and kwargs.get("amsgrad")):
            grads[0] = torch.full_like(params[0], float("nan"))
        step_with(named, copies, [None if g is None else g.clone() for g in grads])
        step_with(ours, params, grads)
        own, others = ([p.detach() for p in some] for some in (params, copies))
        assert_same(own, others, where=f"step {t}", **close)
    assert_same(everything(ours, params), everything(named, copies), **close)


def transposed(dtype):
    return torch.nn.Parameter(torch.linspace(0, 1, 12, dtype=dtype).view(4, 3).t())


@each(
    [(i, d, f"{i.name}-{n}".replace(" ", "_")) for i in INFOS for n, d in MEMORY_INPUTS.items()],
    ("info", "kwargs"),
)
def test_it_is_the_named_class_for_many_steps(info, kwargs):
    race(info, {"aggregate": info.other_aggregate, **kwargs}, 60)


@each(INPUTS_AND_IMPLS, ("info", "kwargs"))
def test_it_is_the_named_class_with_every_option_of_torch(info, kwargs):
    race(info, kwargs, 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
@each_optimizer
def test_it_is_the_named_class_in_every_precision(info, dtype):
    race(info, MEMORY, 9, dtype)


def fading(ledger, kappa):
    return Weights(1.0, kappa * 0.5 ** ledger.age.double())


CHOICES = [
    *({"policy": policy, "seed": 5} for policy in get_args(PolicyName)),
    *({"aggregate": aggregate, "kappa": 0.7} for aggregate in get_args(AggregateName)),
    {"aggregate": fading, "kappa": 0.7},
]


def name(choice):
    first = next(iter(choice.values()))
    return getattr(first, "__name__", first)


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_it_is_the_named_class_with_every_policy_and_aggregate(choice):
    race(INFOS[-1], {**MEMORY, **choice}, 30)


@each_optimizer
def test_it_is_the_named_class_with_groups(info):
    """Groups of different memories, and one that joins later."""
    ours, named = parameters() + parameters(seed=3), parameters() + parameters(seed=3)
    own, other = {"decay": 0.5, "policy": "fifo"}, {"kappa": -0.5, "scope": "tensor"}
    aggregate = info.make(parameters()).defaults["aggregate"]
    groups = [{"params": ours[:5], "lr": 0.02}, {"params": ours[5:], "lr": 0.3}]
    optimizer = MemoryAugmented(
        info.base_cls(groups), capacity=3, aggregate=aggregate, groups=[own, other]
    )
    groups = [{"params": named[:5], "lr": 0.02, **own}, {"params": named[5:], "lr": 0.3, **other}]
    expected = named_class(info, groups, capacity=3)
    train(optimizer, ours, 12)
    train(expected, named, 12)
    late = parameters(seed=4), parameters(seed=4)
    optimizer.add_param_group({"params": iter(late[0]), "lr": 0.1}, max_age=2)
    expected.add_param_group({"params": iter(late[1]), "lr": 0.1, "max_age": 2})
    train(optimizer, [*ours, *late[0]], 12, seed=2)
    train(expected, [*named, *late[1]], 12, seed=2)
    assert_same(everything(optimizer, [*ours, *late[0]]), everything(expected, [*named, *late[1]]))


@each_optimizer
def test_it_is_the_named_class_when_options_are_edited(info):
    params, copies = parameters(), parameters()
    ours, named = wrapped(info, params, **MEMORY), named_class(info, copies, **MEMORY)
    for edit in ({}, {"kappa": 0.3}, {"policy": "fifo", "decay": 0.2}, {"max_age": 1}, {"lr": 0.5}):
        memory = {k: v for k, v in edit.items() if k != "lr"}
        ours.memory_groups[0].update(memory)
        ours.param_groups[0].update({k: v for k, v in edit.items() if k not in memory})
        named.param_groups[0].update(edit)
        train(ours, params, 3, seed=len(edit))
        train(named, copies, 3, seed=len(edit))
        assert_same(everything(ours, params), everything(named, copies), where=str(edit))


@each_optimizer
def test_it_is_the_named_class_for_tensors_beyond_the_working_buffer(info):
    shapes = [(700, 500), (3,)]  # larger than 2**18 elements
    params, copies = parameters(shapes=shapes), parameters(shapes=shapes)
    ours, named = wrapped(info, params, **MEMORY), named_class(info, copies, **MEMORY)
    train(ours, params, 5)
    train(named, copies, 5)
    assert_same(everything(ours, params), everything(named, copies))


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
@each_torch
def test_switched_off_it_is_the_base(cls, kwargs, off):
    ours, params = made(cls, kwargs, **off)
    copies = parameters_for(cls)
    base = cls(copies, **copy.deepcopy(kwargs))
    for t, grads in enumerate(itertools.islice(gradients(params), 5)):
        if t == 2:
            grads[0] = None
        step_with(base, copies, [None if g is None else g.clone() for g in grads])
        step_with(ours, params, grads)
        assert_same([p.detach() for p in params], [p.detach() for p in copies], where=f"step {t}")
    assert_same(everything(ours, params)["state"], everything(base, copies)["state"])
    assert_differ([p.detach() for p in params], [p.detach() for p in parameters_for(cls)])
    assert ours.memory_report().scopes == ()


@each_torch
def test_the_base_sees_the_aggregates_and_nothing_else(cls, kwargs):
    """The base handed new tensors with the aggregates of another memory takes the same path."""
    ours, params = made(cls, kwargs, **MEMORY, kappa=0.5)
    mirror, copies = copied(params), parameters_for(cls)
    spy, base = Spy(mirror), cls(copies, **copy.deepcopy(kwargs))
    memory = MemoryAugmented(spy, **MEMORY, kappa=0.5)
    for t, grads in enumerate(itertools.islice(gradients(params), 8)):
        if t == 4:
            grads[0] = None
        step_with(memory, mirror, [None if g is None else g.clone() for g in grads])
        step_with(base, copies, spy.seen)
        step_with(ours, params, grads)
        assert_same([p.detach() for p in params], [p.detach() for p in copies], where=f"step {t}")
    for saw, given in zip(spy.seen, grads, strict=True):
        if given.numel() > 0:
            assert_differ(saw, given)


@each_class
def test_a_base_that_has_trained_before(cls):
    """Its first step with an empty memory is the base's own, with its state."""
    params, copies = parameters_for(cls), parameters_for(cls)
    base, other = cls(params), cls(copies)
    train(base, params, 5)
    train(other, copies, 5)
    ours = MemoryAugmented(base, **MEMORY)
    train(ours, params, 1, seed=2)
    train(other, copies, 1, seed=2)
    assert_same([p.detach() for p in params], [p.detach() for p in copies])
    train(ours, params, 3, seed=3)
    assert ours.memory_report().scopes[0].occupied == 3


# What a step leaves alone -------------------------------------------------------------------------


@each_torch
def test_gradients_are_unchanged(cls, kwargs):
    ours, params = made(cls, kwargs, **MEMORY)
    for grads in itertools.islice(gradients(params), 6):
        grads = [g.t().contiguous().t() if g.dim() == 2 else g for g in grads]
        given, strides = [g.clone() for g in grads], [g.stride() for g in grads]
        step_with(ours, params, grads)
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same(grads, given)
        assert [g.stride() for g in grads] == strides


class Clumsy(torch.optim.Optimizer):
    """SGD that does everything one may do to ``p.grad``, and keeps hold of what it was handed."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})
        self.held = []

    @torch.no_grad()
    def step(self, closure=None):
        for i, p in enumerate(self.param_groups[0]["params"]):
            if p.grad is None:
                continue
            p.sub_(p.grad, alpha=0.1)
            if i == 0:
                p.grad.fill_(float("nan"))
            elif i == 1:
                p.grad.transpose_(0, 1)
            self.held.append((p.grad, p.grad.clone()))
            if i == 2:
                p.grad = None
            elif i == 3:
                p.grad = torch.full_like(p, 7.0)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_whatever_the_base_does_to_gradients(scope):
    shapes = [(2, 3), (4, 2), (), (3, 2), (5,)]
    params, copies = parameters(shapes=shapes), parameters(shapes=shapes)
    ours = MemoryAugmented(Clumsy(params), **MEMORY, scope=scope)
    named = gradmem.SGD_C(copies, lr=0.1, aggregate="mean", **MEMORY, scope=scope)
    for t, grads in enumerate(itertools.islice(gradients(params), 12)):
        if t == 5:
            grads[1] = None
        given = [None if g is None else g.clone() for g in grads]
        step_with(named, copies, [None if g is None else g.clone() for g in grads])
        step_with(ours, params, grads)
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same([g for g in grads if g is not None], [g for g in given if g is not None])
        assert_same([p.detach() for p in params], [p.detach() for p in copies], where=f"step {t}")
    for tensor, content in ours.optimizer.held:  # it may keep them: nobody else writes there
        assert_same(tensor, content)


class Failing(torch.optim.SGD):
    """Raises when half of its work is done, while it is told to."""

    failing = False

    @torch.no_grad()
    def step(self, closure=None):
        if self.failing:
            first = self.param_groups[0]["params"][0]
            first.sub_(first.grad)
            first.grad.zero_()
            raise ArithmeticError("half way")
        return super().step(closure)


@pytest.mark.parametrize("steps", [0, 2, 5])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_a_base_that_raises(scope, steps):
    """Gradients and memory are as before, parameters as the base left them; and on it goes."""
    params = parameters()
    ours = MemoryAugmented(Failing(params, lr=0.1, momentum=0.9), **MEMORY, scope=scope)
    train(ours, params, steps)
    untroubled, copies = copy.deepcopy((ours, params))
    before = everything(ours, params)
    for grads in itertools.islice(gradients(params, seed=9), 3):
        given = [g.clone() for g in grads]
        ours.optimizer.failing = True
        with pytest.raises(ArithmeticError, match="half way"):
            step_with(ours, params, grads)
        ours.optimizer.failing = False
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same(grads, given)
        assert_same(everything(ours, params)["state"], before["state"])
        assert_same([p.detach() for p in params[1:]], before["parameters"][1:])
    assert_differ(params[0].detach(), before["parameters"][0])
    with torch.no_grad():
        params[0].copy_(copies[0])
    train(ours, params, 4, seed=5)
    train(untroubled, copies, 4, seed=5)
    assert_same(everything(ours, params), everything(untroubled, copies))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@each_class
def test_a_gradient_that_is_not_finite_never_enters(cls, bad):
    ours, params = made(cls, **MEMORY)
    train(ours, params, 5)
    before = memory_of(ours)
    grads = next(gradients(params, seed=4))
    grads[0].view(-1)[0] = bad
    step_with(ours, params, grads)
    assert_same(memory_of(ours), before)


def memory_of(optimizer):
    """Copies of all the memory keeps, but for the counters, one of which counts bad steps too."""
    return {
        f"{i} {key}": value.clone()
        for i, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
        if key.startswith("memory_") and key != "memory_counters"
    }
