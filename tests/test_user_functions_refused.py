"""What a user's policy or aggregate may not return, and that a step refused leaves no trace."""

from __future__ import annotations

import pytest
import torch

import gradmem
from gradmem import StepError
from optimizers import assert_same, continues, parameters, refuse, step_with, train
from user_functions import MAKERS, choice, each_maker, everything, memory_in, options_of, weights

NAN, INF = float("nan"), float("inf")
WRONG = {
    "nothing": (
        "policy",
        lambda offer, ledger: None,
        r"a NoneType; .*Choice\(priority, slot, acc",
    ),
    "two": ("policy", lambda offer, ledger: (offer.norm,) * 2, r"a tuple of 2; .*Choice\("),
    "one": ("policy", lambda offer, ledger: offer.norm, r"a Tensor; .*Choice\("),
    "priority shape": ("policy", choice(priority=lambda x: x[:, None]), r"\(2, 1\) .*shape \(2,\)"),
    "priority number": ("policy", choice(priority=lambda x: 3.5), r"3.5 for priority"),
    "priority type": (
        "policy",
        choice(priority=torch.Tensor.float),
        r"float32 .* of torch.float64",
    ),
    "priority nan": ("policy", choice(priority=lambda x: x * NAN), r"the priority nan"),
    "slot type": ("policy", choice(slot=torch.Tensor.int), r"int32 .* for slot.* of torch.int64"),
    "slot of none": (
        "policy",
        choice(slot=lambda x: x + 3),
        r"slot 3; there are slots from 0 to 2",
    ),
    "slot below": ("policy", choice(slot=lambda x: x - 1), r"slot -1; there are slots from 0 to 2"),
    "accept type": ("policy", choice(accept=torch.Tensor.int), r"for accept.* of torch.bool"),
    "accept device": ("policy", choice(accept=lambda x: x.to("meta")), r"on meta .* on cpu"),
    "no weights": (
        "aggregate",
        lambda ledger, kappa: None,
        r"a NoneType; .*Weights\(current, slots",
    ),
    "one weight": ("aggregate", lambda ledger, kappa: (1.0,), r"a tuple of 1; .*Weights\("),
    "slots shape": ("aggregate", weights(slots=lambda x: x[:, 1:]), r"\(2, 2\) .*shape \(2, 3\)"),
    "slots list": ("aggregate", weights(slots=lambda x: [1, 2, 3]), r"\[1, 2, 3\] for slots"),
    "slots complex": ("aggregate", weights(slots=lambda x: x * 1j), r"complex128 .* a real type"),
    "slots nan": ("aggregate", weights(slots=lambda x: x * NAN), r"must be finite"),
    "slots inf": ("aggregate", weights(slots=lambda x: x + INF), r"must be finite"),
    "current shape": ("aggregate", weights(torch.ones(2, 1)), r"\(2, 1\) .*shape \(2,\)"),
    "current text": ("aggregate", weights("all"), r"'all' for current, if not a number"),
    "current nan": ("aggregate", weights(NAN), r"must be finite"),
    "current inf": ("aggregate", weights(torch.tensor([1.0, INF])), r"must be finite"),
}
SHAPES = [(3, 4), (5,)]


@each_maker
@pytest.mark.parametrize(("option", "function", "message"), WRONG.values(), ids=WRONG)
def test_what_a_function_may_not_return(option, function, message, make):
    """A step refused has left no trace: the others are those of a run without it."""
    ours, theirs = parameters(shapes=SHAPES), parameters(shapes=SHAPES)
    interrupted, straight = make(ours, scope="tensor"), make(theirs, scope="tensor")
    train(interrupted, ours, 5)
    train(straight, theirs, 5)
    (group,) = options_of(interrupted)
    usual, group[option] = group[option], function
    before = everything(interrupted, ours)
    error = refuse(StepError, interrupted.step, interrupted, ours, match=f"(?s){message}")
    assert str(error.value).startswith(f"the {option} <function ")
    assert_same(everything(interrupted, ours), before)
    group[option] = usual
    train(interrupted, ours, 5, seed=9)
    train(straight, theirs, 5, seed=9)
    assert_same(everything(interrupted, ours), everything(straight, theirs))


@each_maker
@pytest.mark.parametrize("option", ["policy", "aggregate"])
def test_the_function_s_own_error_comes_through_and_nothing_has_changed(option, make):
    def fails(*_):
        raise ZeroDivisionError("mine")

    for steps in (0, 5):
        params = parameters(shapes=SHAPES)
        optimizer = make(params)
        train(optimizer, params, steps)
        (group,) = options_of(optimizer)
        usual, group[option] = group[option], fails
        for p in params:
            p.grad = torch.ones_like(p)
        before = everything(optimizer, params)
        refuse(ZeroDivisionError, optimizer.step, optimizer, params, match="^mine$")
        assert_same(everything(optimizer, params), before)
        group[option] = usual
        continues(optimizer, params)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("option", "wrong"),
    [("policy", choice(slot=lambda x: x + 9)), ("aggregate", weights(NAN))],
    ids=["policy", "aggregate"],
)
def test_an_error_in_one_group_changes_no_group(option, wrong, make):
    """Of three groups one has no memory, one a memory that could step, and one the error."""
    groups = [{"params": parameters(shapes=SHAPES, seed=seed)} for seed in range(3)]
    params = [p for group in groups for p in group["params"]]
    optimizer = make(groups)
    train(optimizer, params, 5)
    without, _, last = options_of(optimizer)
    without["kappa"] = 0.0
    last[option] = wrong
    before = everything(optimizer, params)
    refuse(StepError, optimizer.step, optimizer, params)
    assert_same(everything(optimizer, params), before)


@pytest.mark.parametrize("bad", [0.0, NAN, INF])
def test_numbers_for_a_gradient_that_is_not_stored_are_not_used(bad):
    """A policy may divide by the norm."""
    params = parameters(shapes=SHAPES)
    policy = choice(priority=lambda norm: norm / norm, slot=lambda x: x + 99)
    optimizer = gradmem.SGD_C(params, lr=0.0, capacity=3, policy=policy)
    step_with(optimizer, params, [torch.full_like(p, bad) for p in params])
    for entry in memory_in(optimizer, params):
        assert not entry["memory_birth"].any()
        assert entry["memory_counters"].tolist() == [0, 0, 0, 1]
