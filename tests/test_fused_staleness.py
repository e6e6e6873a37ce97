"""What a fused pass keeps from step to step: that it no longer holds is noticed."""

from __future__ import annotations

import pytest
import torch

from fused_cases import CLASSES, count_passes, each_class, make, needs_kernels, watch
from optimizers import assert_same, parameters, step_with, train
from test_fused_memory_safety import Pair, make_keys

pytestmark = needs_kernels

FORMS = {
    "transposed": lambda g: g.t().contiguous().t(),
    "every other": lambda g: g.repeat_interleave(2, dim=1)[:, ::2],
    "all one number": lambda g: g[:1, :1].expand(g.shape),
    "negative view": lambda g: torch._neg_view(-g),
}


@each_class
def test_gradients_that_lie_otherwise_than_at_the_last_step(name, monkeypatch):
    watch(monkeypatch)
    pair = Pair(name, shapes=[(6, 6), (30, 20)])
    pair.step(2)
    for form in FORMS.values():
        for lies_so in ({0}, {0, 1}, set()):
            grads = [form(g) if i in lies_so else g for i, g in enumerate(next(pair.stream))]
            step_with(pair.alone, pair.copies, [grad.clone().contiguous() for grad in grads])
            step_with(pair.ours, pair.params, grads)
        pair.step()


@each_class
def test_a_gradient_that_shrank_where_it_lies_is_not_read_beyond(name):
    params = parameters(shapes=[(600,), (6, 6)])
    optimizer = make(name, params)
    train(optimizer, params, 3)
    before = params[0].detach().clone()
    params[0].grad.data = params[0].grad[:300]
    with pytest.raises(RuntimeError, match="size of tensor"):
        optimizer.step()
    assert_same(params[0].detach(), before)


def test_a_parameter_whose_type_changes_where_it_lies_is_left_to_torch(monkeypatch):
    passes = count_passes(monkeypatch)
    p = torch.nn.Parameter(torch.linspace(-2, 2, 600).bfloat16())
    optimizer = make("SGD_C", [p], lr=0.1)
    train(optimizer, [p], 3)
    p.data = p.data.view(torch.float16)
    train(optimizer, [p], 1)
    assert len(passes) == 3


def test_state_that_is_gone_is_made_anew_or_missed_as_without_kernels():
    for name in CLASSES:
        ends = []
        for fused in (True, None):
            params = parameters(shapes=[(600,), (6, 6)])
            optimizer = make(name, params, fused=fused)
            train(optimizer, params, 3)
            del optimizer.state[params[1]][make_keys[name][0]]
            try:
                train(optimizer, params, 2)
            except KeyError as error:
                ends.append(error.args)
            else:
                ends.append("went on")
        assert ends[0] == ends[1] == ("went on" if name == "SGD_C" else (make_keys[name][0],))
