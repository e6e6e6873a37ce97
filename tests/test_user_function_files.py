"""Functions of the user's in files and copies: the file has the name, the user the function."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import re

import pytest
import torch

import gradmem
from gradmem import CheckpointError, Choice, Weights
from optimizers import (
    assert_differ,
    assert_same,
    continues,
    parameters,
    refuse,
    train,
)
from user_functions import (
    by_norm,
    each_maker,
    every_tenth,
    everything,
    fading,
    options_of,
    two_draws,
    upright,
)


class Fading:
    """A policy and an aggregate with a number of their own."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, ledger, kappa):
        return Weights(1.0, kappa * self.rate ** ledger.age.double())

    def policy(self, offer, ledger):
        return Choice(offer.norm, ledger.age.max(dim=1).indices, offer.uniform() < self.rate)


def with_rate(rate, ledger, kappa):
    return Weights(1.0, kappa * rate ** ledger.age.double())


LAMBDA = lambda ledger, kappa: Weights(1.0, ledger.age * 0.1)  # noqa: E731
HERE = __name__
NAMED = [
    ("aggregate", fading, "user_functions.fading"),
    ("policy", two_draws, "user_functions.two_draws"),
    ("aggregate", LAMBDA, f"{HERE}.<lambda>"),
    ("aggregate", Fading(0.5), f"{HERE}.Fading"),
    ("policy", Fading(0.5).policy, f"{HERE}.Fading.policy"),
    ("aggregate", functools.partial(with_rate, 0.5), "functools.partial"),
]
IDS = ["function", "policy", "lambda", "object", "method", "partial"]
each_named = pytest.mark.parametrize(("option", "function", "name"), NAMED, ids=IDS)


def saved(optimizer):
    """Its state_dict through a file, read with torch's defaults."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file)


def goes_on_as(optimizer, params, expected, theirs):
    """Bit for bit, from equal parameters."""
    before = [p.detach().clone() for p in theirs]
    train(expected, theirs, 8, seed=7)
    train(optimizer, params, 8, seed=7)
    assert_same(everything(optimizer, params), everything(expected, theirs))
    assert_differ([p.detach() for p in theirs], before)


@each_maker
@each_named
def test_a_file_has_the_name_and_a_run_goes_on_with_the_function(make, option, function, name):
    params = parameters()
    optimizer = make(params, **{option: function})
    train(optimizer, params, 10)
    state_dict = saved(optimizer)
    (group,) = state_dict["param_groups"]
    assert group[option if option in group else f"memory_{option}"] == name
    assert options_of(optimizer)[0][option] is function
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = make(copies, **{option: function})
    other.load_state_dict(state_dict)
    assert callable(options_of(other)[0][option])
    goes_on_as(other, copies, optimizer, params)


@each_maker
@pytest.mark.parametrize("own", ["usual", "another function"])
@each_named
def test_a_file_is_refused_without_the_function(make, option, function, name, own):
    params, others = parameters(), parameters(seed=2)
    optimizer = make(params, **{option: function})
    train(optimizer, params, 5)
    state_dict = saved(optimizer)
    other = make(
        others,
        **({} if own == "usual" else {option: {"policy": upright, "aggregate": by_norm}[option]}),
    )
    train(other, others, 5)
    message = f"param group 0 of the checkpoint has a function of its user's for {option}, {name}, "
    error = refuse(
        CheckpointError,
        lambda: other.load_state_dict(state_dict),
        other,
        others,
        re.escape(message),
    )
    assert f"construct it with {option}=that function, or, to start with" in str(error.value)
    assert "gradmem.forget_memory(state_dict)" in str(error.value)
    other.load_state_dict(gradmem.forget_memory(state_dict))
    continues(other, others)


@each_maker
def test_a_file_of_a_built_in_policy_is_refused_by_a_function_and_an_aggregate_is_taken(make):
    params = parameters()
    optimizer = make(params, policy="fifo", aggregate="mid")
    train(optimizer, params, 5)
    other = make(params, policy=every_tenth)
    with pytest.raises(
        CheckpointError, match=r"has policy='fifo'.* construct it with policy='fifo'"
    ):
        other.load_state_dict(saved(optimizer))
    other = make(params, policy="fifo", aggregate=fading)
    other.load_state_dict(saved(optimizer))
    assert options_of(other)[0]["aggregate"] == "mid"


def test_functions_of_groups_are_kept_by_group():
    def make():
        groups = [{"params": parameters(), "policy": two_draws}, {"params": parameters(seed=1)}]
        groups += [{"params": parameters(seed=2), "aggregate": fading}]
        optimizer = gradmem.SGD_C(groups, lr=0.05, capacity=3)
        return optimizer, [p for group in optimizer.param_groups for p in group["params"]]

    optimizer, params = make()
    train(optimizer, params, 6)
    other, others = make()
    other.load_state_dict(saved(optimizer))
    for p, q in zip(others, params, strict=True):
        p.data.copy_(q.data)
    goes_on_as(other, others, optimizer, params)


@each_maker
@each_named
def test_copies_go_on_alike(make, option, function, name):
    params = parameters()
    optimizer = make(params, **{option: function})
    train(optimizer, params, 6)
    before = everything(optimizer, params)
    twins = [copy.deepcopy((optimizer, params))]
    if "<lambda>" not in name:  # pickle finds a function by its name
        twins.append(pickle.loads(pickle.dumps((optimizer, params))))
    for twin, copies in twins:
        train(twin, copies, 8, seed=7)
    assert_same(everything(optimizer, params), before)
    train(optimizer, params, 8, seed=7)
    for twin, copies in twins:
        assert_same(everything(twin, copies), everything(optimizer, params))


def test_a_load_keeps_the_function_object_itself():
    params, rate = parameters(), Fading(0.5)
    optimizer = gradmem.SGD_C(params, lr=0.1, aggregate=rate)
    train(optimizer, params, 3)
    optimizer.load_state_dict(saved(optimizer))
    assert optimizer.param_groups[0]["aggregate"] is rate
