"""Two things at once, as random sequences of events found them: each of these was once wrong."""

from __future__ import annotations

import copy

import pytest
import torch

import gradmem
from fused_cases import CLASSES, REASON, make
from optimizers import assert_same, parameters, step_with, train

EVERY = [name for name in gradmem.names() if name not in ("adam_cm", "adamw_cm")]
FUSED = [None] if REASON else [None, True]
CRITICAL = [("SGD_CM", None), *(("Adam_CM", fused) for fused in FUSED), ("AdamW_CM", FUSED[-1])]


def trained(optimizer, params, *sizes):
    """A step along gradients of one number each."""
    step_with(
        optimizer, params, [torch.full_like(p, size) for p, size in zip(params, sizes, strict=True)]
    )


def resumed(ours, params, make_again):
    """Other parameters and another optimizer, made from a checkpoint."""
    copies, theirs = make_again()
    for p, q in zip(params, copies, strict=True):
        q.data.copy_(p.data)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    return copies, theirs


def assert_same_state(one, params, other, copies):
    for p, q in zip(params, copies, strict=True):
        assert_same(dict(one.state[p]), dict(other.state[q]))
        assert_same(p.detach(), q.detach())


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("name", "fused"), CRITICAL)
@pytest.mark.parametrize("option", ["policy", "aggregate"])
def test_an_error_of_a_users_function_leaves_momenta_as_they_were(name, fused, steps, option):
    """Of a group whose own options have no function, too."""

    def fails(*_):
        raise ZeroDivisionError("mine")

    groups = [
        {"params": parameters(shapes=[(3, 4)])},
        {"params": parameters(shapes=[(5,)], seed=1)},
    ]
    params = [p for group in groups for p in group["params"]]
    optimizer = getattr(gradmem, name)(groups, fused=fused)
    train(optimizer, params, steps)
    last = optimizer.param_groups[1]
    usual, last[option] = last[option], fails
    for p in params:
        p.grad = torch.ones_like(p)
        if steps or name == "SGD_CM":  # Adam makes its state where there is nothing at all
            optimizer.state[p]["mine"] = 3  # of a user's
    before = copy.deepcopy([dict(optimizer.state.get(p, {})) for p in params])
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert_same([dict(optimizer.state.get(p, {})) for p in params], before)
    last[option] = usual
    train(optimizer, params, 2)


# Where numbers lie --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_a_parameter_that_comes_to_lie_with_gaps(name):
    """Neither it nor a gradient that lies so is gone through as if it had none."""
    ends = []
    for fused in (True, None):
        p = torch.nn.Parameter(torch.ones(600))
        optimizer = make(name, [p], fused=fused)
        trained(optimizer, [p], 1.0)
        p.data = p.data.repeat_interleave(2)[::2]
        p.grad = torch.stack([torch.ones(600), torch.full((600,), 100.0)], 1)[:, 0]
        optimizer.step()
        state = {key: v for key, v in optimizer.state[p].items() if key != "memory_drift"}
        ends.append([p.detach(), state])
    assert_same(*ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_gradient_that_is_a_negative_view(name):
    ends = []
    for form in (lambda g: torch._neg_view(-g), torch.clone):
        p = torch.nn.Parameter(torch.ones(5))
        optimizer = gradmem.create(name, [p], lr=0.01, capacity=2)
        for t in range(1, 5):
            p.grad = form(torch.arange(5.0) + t)
            optimizer.step()
        ends.append(p.detach())
    assert_same(*ends, rtol=1e-6, atol=1e-6)


def test_the_norm_of_a_gradient_that_is_one_number_expanded():
    """In float32, which loses digits where numbers are added one by one."""
    p = torch.nn.Parameter(torch.zeros(2**18))
    optimizer = gradmem.SGD_C([p], lr=0.1, capacity=1)
    p.grad = torch.tensor([0.7001]).expand(2**18)
    optimizer.step()
    assert float(optimizer.state[p]["memory_norm"]) == pytest.approx(0.7001 * 2**9, rel=1e-4)


def test_one_gradient_of_two_parameters_is_clipped_once():
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    params[0].grad = params[1].grad = torch.full((4,), 3.0)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=1)
    optimizer.clip_grad_norm_(0.5)
    expected = torch.linalg.vector_norm(torch.cat([p.grad for p in params]))
    torch.testing.assert_close(expected, torch.tensor(0.5), rtol=1e-5, atol=0)
    optimizer.step()
    assert float(optimizer.state[params[0]]["memory_norm"]) == pytest.approx(0.5, rel=1e-5)


# Base rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", FUSED)
def test_without_a_first_moment_no_gradient_before_counts(fused):
    p = torch.nn.Parameter(torch.ones(3))
    options = {"capacity": 1, "decay": 1.0, "policy": "bottom_norm", "kappa": 1e-30}
    optimizer = gradmem.Adam_C([p], betas=(0.0, 0.5), fused=fused, **options)
    for size in (1e8, 1.0):
        trained(optimizer, [p], size)
    assert_same(optimizer.state[p]["exp_avg"], torch.full((3,), 0.5))


# Resumes: the bits of a run that was not interrupted ----------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_of_a_run_that_no_pass_takes(name):
    """int8 slots lie in the order of indices, and these parameters do not."""

    def begin():
        p = torch.nn.Parameter(torch.ones(32, 7, 5, 5).to(memory_format=torch.channels_last))
        return [p], make(name, [p], memory_dtype="int8")

    def step(params, optimizer, t):
        (p,) = params
        grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
        step_with(optimizer, params, [grad.to(memory_format=torch.channels_last)])

    params, ours = begin()
    for t in range(4):
        step(params, ours, t)
    copies, theirs = resumed(ours, params, begin)
    step(params, ours, 4)
    step(copies, theirs, 4)
    assert_same_state(ours, params, theirs, copies)


def pair(**second):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], **second}]
    return params, gradmem.SGD_C(groups, lr=0.1, capacity=2)


def test_of_ledgers_that_parted_and_became_the_same():
    params, ours = pair()
    trained(ours, params, 9.0, 9.0)
    ours.param_groups[1]["decay"] = 0.5
    trained(ours, params, 0.1, 0.1)
    for group in ours.param_groups:
        group["decay"] = 0.0
    trained(ours, params, 0.1, 0.1)
    copies, theirs = resumed(ours, params, pair)
    for optimizer, each in ((ours, params), (theirs, copies)):
        trained(optimizer, each, 1.0, 2.0)
    assert_same_state(ours, params, theirs, copies)


def test_of_a_group_that_has_seen_zeros_alone_and_joins_another():
    params, ours = pair(kappa=0.5)
    for _ in range(3):
        trained(ours, params, 1.0, 0.0)
    ours.param_groups[1]["kappa"] = 1.0
    trained(ours, params, 1.0, 0.0)
    copies, theirs = resumed(ours, params, pair)
    for optimizer, each in ((ours, params), (theirs, copies)):
        trained(optimizer, each, 1.0, 2.0)
        trained(optimizer, each, 1.0, 2.0)
    assert len(ours.memory_report().scopes) == 1
    assert_same_state(ours, params, theirs, copies)


def test_of_a_group_apart_that_has_seen_zeros_alone():
    params, ours = pair(decay=0.5)
    for _ in range(3):
        trained(ours, params, 1.0, 0.0)
    copies, theirs = resumed(ours, params, lambda: pair(decay=0.5))
    assert_same_state(ours, params, theirs, copies)
