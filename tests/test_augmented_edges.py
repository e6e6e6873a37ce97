"""MemoryAugmented around, and inside, optimizers that do not behave as torch's do."""

from __future__ import annotations

import copy

import pytest
import torch

import gradmem
from augmented import MEMORY, made, occupied
from gradmem import MemoryAugmented, OptionError
from optimizers import parameters, train


class Bare(torch.optim.Optimizer):
    """As wrappers of optimizers are written: without a call of Optimizer.__init__."""

    def __init__(self, inner):
        self.inner, self.defaults, self.state = inner, inner.defaults, inner.state
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}
        self._patch_step_function()

    @property
    def param_groups(self):
        return self.inner.param_groups

    def step(self, closure=None):
        self.inner.step()
        first = self.param_groups[0]["params"][0]
        self.inner.state[first]["mine"] = torch.ones(1)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state_dict):
        self.inner.load_state_dict(state_dict)


def test_a_base_that_never_called_the_constructor_of_optimizer():
    params = parameters()
    ours = MemoryAugmented(Bare(torch.optim.SGD(params, lr=0.1)), **MEMORY)
    train(ours, params, 3)
    assert occupied(ours) == [3]


def test_what_an_optimizer_around_it_puts_into_its_state_is_kept():
    ours, params = made(torch.optim.Adam, **MEMORY)
    around = Bare(ours)
    train(around, params, 3)
    other, _ = made(torch.optim.Adam, **MEMORY)
    loaded = Bare(other)
    loaded.load_state_dict(around.state_dict())
    first = loaded.param_groups[0]["params"][0]
    assert "mine" in loaded.inner.state[first]


def test_a_step_that_was_replaced_in_the_instance_is_refused():
    params, calls = parameters(), []
    base = torch.optim.SGD(params, lr=0.1)
    own = base.step
    base.step = lambda closure=None: (calls.append(1), own(closure))
    with pytest.raises(OptionError, match=r"the step of this SGD was replaced.*wrap the optimizer"):
        MemoryAugmented(base, **MEMORY)


def test_options_survive_a_base_that_makes_its_groups_anew():
    class Renewing(torch.optim.SGD):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                group["params"] = list(group["params"])

    params = parameters()
    ours = MemoryAugmented(Renewing(params, lr=0.1), groups=[{"kappa": 0.5}])
    ours.load_state_dict(ours.state_dict())
    train(ours, params, 1)
    assert ours.memory_groups[0]["kappa"] == 0.5


def test_a_base_without_a_guard_of_its_own_under_the_user_s_no_grad():
    class Unguarded(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)

    params = parameters()
    ours = MemoryAugmented(Unguarded(params), **MEMORY)
    with torch.no_grad():
        train(ours, params, 3)


def test_the_base_s_defaults_are_left_alone():
    class Own(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

    assert MemoryAugmented(Own(parameters())).optimizer.defaults == {"lr": 0.1}


def test_gradients_of_another_type_than_their_parameters():
    for make in (gradmem.SGD_C, lambda params, lr: MemoryAugmented(torch.optim.SGD(params, lr=lr))):
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        p.grad_dtype = torch.float32
        p.grad = torch.ones(3)
        optimizer = make([p], lr=0.1)
        optimizer.step()
        optimizer.step()


def test_switched_off_with_a_closure_it_is_the_base_with_a_closure():
    class ByLoss(torch.optim.SGD):
        def step(self, closure=None):
            self.loss = None if closure is None else closure()
            return super().step()

    base = ByLoss(parameters(), lr=0.1)
    MemoryAugmented(base, capacity=0).step(lambda: 2.5)
    assert base.loss == 2.5


def test_a_group_without_gradients_stores_zero_for_its_part():
    present, absent = parameters()[:2]
    base = torch.optim.SGD([{"params": [present]}, {"params": [absent]}], lr=0.1)
    ours = MemoryAugmented(base, capacity=1, policy="fifo")
    present.grad, absent.grad = torch.ones_like(present), torch.ones_like(absent)
    ours.step()
    before = absent.detach().clone()
    present.grad, absent.grad = 2 * torch.ones_like(present), None
    ours.step()
    assert torch.equal(ours.memory_state[present]["memory_slots"][0], present.grad)
    assert not ours.memory_state[absent]["memory_slots"].any()
    assert torch.equal(absent, before)


@pytest.mark.parametrize("name", ["param_groups", "state", "defaults"])
def test_what_is_the_base_s_can_be_set_through_it(name):
    params = parameters()
    base = torch.optim.Adam(params, lr=0.1)
    ours = MemoryAugmented(base, capacity=2)
    train(ours, params, 3)
    other = copy.copy(getattr(ours, name))
    setattr(ours, name, other)
    assert getattr(base, name) is other
    train(ours, params, 3)
    assert occupied(ours) == [2]
