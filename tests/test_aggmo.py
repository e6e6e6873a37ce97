"""AggMo itself, which torch does not have; AggMo_C is in the table with the others."""

from __future__ import annotations

import copy
import io
import itertools
from collections import Counter

import pytest
import torch

import gradmem
from gradmem import AggMo, GradientError, OptionError, OptionTypeError
from optimizers import (
    assert_differ,
    assert_same,
    gradients,
    parameters,
    refuse,
    snapshot,
    step_with,
    train,
)

each_foreach = pytest.mark.parametrize("foreach", [False, True, None])


@each_foreach
def test_three_steps_by_hand(foreach):
    p = torch.nn.Parameter(torch.tensor([10.0], dtype=torch.float64))
    optimizer = AggMo([p], lr=0.3, betas=(0.0, 0.5), foreach=foreach)
    found = []
    for grad in (4.0, 2.0, 0.0):
        step_with(optimizer, [p], [torch.tensor([grad], dtype=torch.float64)])
        found.append(p.item())
    # velocities (4, 4), (2, 4), (0, 2): means 4, 3, 1
    assert found == pytest.approx([8.8, 7.9, 7.6])
    assert optimizer.state[p]["velocity"].tolist() == [[0.0], [2.0]]


@each_foreach
def test_weight_decay_and_maximize(foreach):
    options = {"lr": 1.0, "betas": (0.0,), "foreach": foreach}
    for maximize, expected in ((False, 2 - (1 + 0.5 * 2)), (True, 2 - (-1 + 0.5 * 2))):
        p = torch.nn.Parameter(torch.tensor(2.0))
        optimizer = AggMo([p], weight_decay=0.5, maximize=maximize, **options)
        step_with(optimizer, [p], [torch.tensor(1.0)])
        assert p.item() == expected


@each_foreach
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128])
def test_with_one_beta_it_is_sgd_with_that_momentum(dtype, foreach):
    params, copies = parameters(dtype), parameters(dtype)
    options = {"lr": 0.1, "weight_decay": 0.1, "foreach": foreach}
    ours = AggMo(params, betas=(0.9,), **options)
    sgd = torch.optim.SGD(copies, momentum=0.9, **options)
    train(ours, params, 9)
    train(sgd, copies, 9)
    eps = torch.finfo(dtype).eps
    close = {"rtol": 10 * eps, "atol": 10 * eps}
    assert_same([p.detach() for p in params], [p.detach() for p in copies], **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01), torch.tensor([0.01])], ids=str)
def test_together_and_one_after_the_other_are_the_same(lr, dtype):
    runs = []
    for foreach in (False, True):
        params = parameters(dtype)
        optimizer = AggMo(params, lr=lr, weight_decay=0.1, foreach=foreach)
        train(optimizer, params)
        runs.append(snapshot(optimizer, params))
    assert_same(*runs)
    assert_differ(runs[0]["parameters"], [p.detach() for p in parameters(dtype)])


def test_a_tensor_lr_is_a_float_lr():
    runs = []
    for lr in (0.01, torch.tensor(0.01, dtype=torch.float64)):
        params = parameters(torch.float64)
        train(AggMo(params, lr=lr), params)
        runs.append([p.detach() for p in params])
    assert_same(runs[1], runs[0], rtol=1e-12, atol=1e-12)


@each_foreach
def test_gradients_are_left_alone_and_a_missing_one_is_skipped(foreach):
    params = parameters()
    options = {"weight_decay": 0.1, "maximize": True}
    optimizer = AggMo(params, lr=0.1, foreach=foreach, **options)
    train(optimizer, params, 2)
    before = snapshot(optimizer, params)
    grads = [None, *next(gradients(params, 5))[1:]]
    given = copy.deepcopy(grads)
    step_with(optimizer, params, grads)
    assert_same(grads[1:], given[1:])
    after = snapshot(optimizer, params)
    assert_same(after["parameters"][0], before["parameters"][0])
    assert_same(after["state"][0], before["state"][0])
    assert_differ(after["parameters"][1], before["parameters"][1])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_velocities_lie_in_memory_as_their_parameter_does(layout):
    p = torch.nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=layout))
    optimizer = AggMo([p], lr=0.1)
    step_with(optimizer, [p], [torch.ones_like(p)])
    assert optimizer.state[p]["velocity"][1].stride() == p.stride()


def test_a_resumed_run_continues_bit_for_bit():
    params = parameters(torch.bfloat16)
    optimizer = AggMo([{"params": params[:2], "betas": [0.5]}, {"params": params[2:]}], lr=0.1)
    train(optimizer, params, 4)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = AggMo([{"params": copies[:2]}, {"params": copies[2:]}])
    other.load_state_dict(torch.load(buffer))
    for one, own in ((optimizer, params), (other, copies)):
        train(one, own, 4, seed=3)
    assert_same(snapshot(optimizer, params), snapshot(other, copies))


def test_hooks_fire_once_and_the_closure_is_evaluated_once():
    params, seen = parameters(), Counter()
    optimizer = AggMo(params, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.update(["pre"]))
    optimizer.register_step_post_hook(lambda *_: seen.update(["post"]))

    def closure():
        assert torch.is_grad_enabled()
        seen["closure"] += 1
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert seen == {"pre": 3, "post": 3, "closure": 3}
    assert losses == sorted(losses, reverse=True)
    assert optimizer.step() is None


def test_the_step_compiles():
    params, copies = parameters(), parameters()
    eager, compiled = AggMo(params, lr=0.1), AggMo(copies, lr=0.1)
    step = torch.compile(compiled.step, backend="eager")
    for grads in itertools.islice(gradients(params), 3):
        step_with(eager, params, grads)
        for p, grad in zip(copies, grads, strict=True):
            p.grad = grad.clone()
        step()
    assert_same(snapshot(compiled, copies), snapshot(eager, params))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"lr": -1}, OptionError, r"lr must be a finite number of at least 0, got -1"),
        ({"weight_decay": "0"}, OptionTypeError, r"weight_decay must be .*got '0'"),
        ({"betas": (0.9, 1.0)}, OptionError, r"betas\[1\] must be in \[0, 1\), got 1\.0"),
        ({"betas": ()}, OptionTypeError, r"betas must be one number or more, .*got \(\)"),
        ({"betas": 0.9}, OptionTypeError, r"betas must be one number or more, .*got 0\.9"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused(options, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        AggMo(parameters(), **options)
    with pytest.raises(kind, match=f"^param group 0: {message}"):
        AggMo([{"params": parameters(), **options}])
    optimizer = AggMo(params := parameters())
    train(optimizer, params, 1)
    group = {"params": parameters(seed=2), **options}
    message = f"^param group 1: {message}"
    refuse(kind, lambda: optimizer.add_param_group(group), optimizer, params, message)


def test_a_misspelt_key_is_refused():
    with pytest.raises(
        OptionError, match="param group 0: unknown key 'beta'; did you mean 'betas'"
    ):
        AggMo([{"params": parameters(), "beta": 0.9}])
    with pytest.raises(OptionError, match="unknown key 'capacity'"):
        AggMo([{"params": parameters(), "capacity": 3}])
    with pytest.raises(OptionTypeError, match=r"param group 1 must be a dict .*got list"):
        AggMo(parameters()).add_param_group([])


@pytest.mark.parametrize("name", ["AggMo", "AggMo_C"])
def test_the_number_of_betas_cannot_change_but_they_can(name):
    optimizer = getattr(gradmem, name)(params := parameters(), lr=0.1)
    train(optimizer, params, 2)
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    message = r"param group 0: betas has 2 numbers, \(0\.5, 0\.9\), but there are 3 velocities"
    refuse(OptionError, optimizer.step, optimizer, params, message)
    optimizer.param_groups[0]["betas"] = (0.5, 0.5, 0.5)
    before = copy.deepcopy(params[0].detach())
    train(optimizer, params, 1)
    assert_differ(params[0].detach(), before)


def test_a_sparse_gradient_is_refused():
    optimizer = AggMo(params := parameters(shapes=[(3, 4), (2,)]), lr=0.1)
    train(optimizer, params, 1)
    params[1].grad = torch.ones(2).to_sparse()
    sentence = r"shape \(2,\).*layout torch.sparse_coo.*does not support sparse gradients"
    refuse(GradientError, optimizer.step, optimizer, params, sentence)
