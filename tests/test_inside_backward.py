"""Optimizers that step inside backward(), parameter by parameter: handled, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradmem
from gradmem import MemoryAugmented, StepError

MEMORY = {"capacity": 3, "decay": 0.9}


def named(params: Any, **options: Any) -> torch.optim.Optimizer:
    return gradmem.Adam_C(params, lr=0.01, **MEMORY, **options)


def wrapped(params: Any, **options: Any) -> torch.optim.Optimizer:
    return MemoryAugmented(torch.optim.Adam(params, lr=0.01), **MEMORY, **options)


each = pytest.mark.parametrize("make", [named, wrapped])


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def backward(net: nn.Module, step: int) -> None:
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step)) * (1 + step % 3)
    net(inputs).square().mean().backward()


def in_hooks(net: nn.Module, step: Callable[[Tensor], Any]) -> None:
    """Call step(p) as soon as p has its gradient, which is dropped then."""

    def hook(p: Tensor) -> None:
        step(p)
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(hook)


def assert_same_training(
    whole: nn.Module, reference: torch.optim.Optimizer, parts: nn.Module
) -> None:
    """Steps after backward() on one model, in it on the other, to the same bits."""
    for step in range(8):
        reference.zero_grad()
        backward(whole, step)
        reference.step()
        backward(parts, step)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(p, q)


@each
def test_an_optimizer_for_each_parameter_is_one_of_scope_tensor(make: Any) -> None:
    whole, parts = model(), model()
    reference = make(whole.parameters(), scope="tensor")
    optimizers = {p: make([p]) for p in parts.parameters()}
    in_hooks(parts, lambda p: optimizers[p].step())
    assert_same_training(whole, reference, parts)


@each
def test_one_optimizer_of_scope_tensor_may_step_in_parts(make: Any) -> None:
    whole, parts = model(), model()
    reference = make(whole.parameters(), scope="tensor")
    optimizer = make(parts.parameters(), scope="tensor")
    in_hooks(parts, lambda _: optimizer.step())
    assert_same_training(whole, reference, parts)


@each
def test_one_memory_for_the_model_is_refused_and_nothing_changed(make: Any) -> None:
    net = model()
    optimizer = make(net.parameters())
    backward(net, 0)
    optimizer.step()
    optimizer.zero_grad()
    before, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    in_hooks(net, lambda _: optimizer.step())
    with pytest.raises(StepError, match=r"inside backward.*scope='tensor'"):
        backward(net, 1)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    now = optimizer.state_dict()["state"]
    for i, entry in state["state"].items():
        assert all(torch.equal(entry[key], now[i][key]) for key in entry)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torch_s_own_way_of_stepping_in_backward_works() -> None:
    from torch.distributed.optim import _apply_optimizer_in_backward

    whole, parts = model(), model()
    options = {"lr": 0.01, **MEMORY}
    reference = gradmem.SGD_C(whole.parameters(), scope="tensor", **options)
    _apply_optimizer_in_backward(gradmem.SGD_C, parts.parameters(), options)
    assert_same_training(whole, reference, parts)


@each
def test_switched_off_it_steps_wherever_the_base_does(make: Any) -> None:
    net = model()
    optimizer = make(net.parameters(), kappa=0.0)
    before = [p.detach().clone() for p in net.parameters()]
    in_hooks(net, lambda _: optimizer.step())
    backward(net, 0)
    assert not any(map(torch.equal, before, net.parameters()))
