"""The fused pass writes where things are now: nothing else can be at an address it remembers."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import gradmem
from fused_cases import (
    CLASSES,
    count_passes,
    each_class,
    make,
    needs_kernels,
    twins,
    watch,
)
from gradmem.optim.fused import native
from optimizers import assert_same, gradients, parameters, step_with, train

pytestmark = needs_kernels

SHAPES = [(600,), (6, 6), ()]


def state_keys(name):
    keys = ["memory_slots", "memory_sum", "memory_scales", "step"]
    return [*keys, *make_keys[name]]


make_keys = {
    "SGD_C": ["momentum_buffer"],
    "RMSprop_C": ["square_avg", "grad_avg", "momentum_buffer"],
    "Adam_C": ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    "AdamW_C": ["exp_avg", "exp_avg_sq"],
    "Adam_CM": ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    "AdamW_CM": ["exp_avg", "exp_avg_sq"],
}


class Pair:
    """An optimizer that is left alone, and one that is tampered with: both must stay equal."""

    def __init__(self, name, shapes=SHAPES, **options):
        self.params = parameters(shapes=shapes)
        self.copies = twins(self.params)
        self.ours = make(name, self.params, **options)
        self.alone = make(name, self.copies, **options)
        self.stream = gradients(self.params)

    def step(self, times=1, missing=()):
        for _ in range(times):
            grads = [g if i not in missing else None for i, g in enumerate(next(self.stream))]
            step_with(self.ours, self.params, [None if g is None else g.clone() for g in grads])
            step_with(self.alone, self.copies, grads)
        for p, q in zip(self.params, self.copies, strict=True):
            assert_same(p.detach().clone(), q.detach().clone())
            ours = {k: v.clone() for k, v in self.ours.state[p].items()}
            assert_same(ours, {k: v.clone() for k, v in self.alone.state[q].items()})

    def entries(self, name):
        for p in self.params:
            for key in state_keys(name):
                if key in self.ours.state[p]:
                    yield self.ours.state[p], key


def replace(entry, key):
    entry[key] = entry[key].clone()


def replace_after_freeing(entry, key):
    """The new tensor may get the address of the old one, as an allocator likes to have it."""
    numbers = entry.pop(key).clone()
    entry[key] = torch.empty_like(numbers)
    entry[key].copy_(numbers)


def give_other_data(entry, key):
    entry[key].data = entry[key].detach().clone()


def give_other_data_in_place(entry, key):
    entry[key].set_(entry[key].clone())


def replace_by_a_view(entry, key):
    """Amid another buffer, at an address of its own."""
    old = entry[key]
    buffer = torch.zeros(old.numel() + 9, dtype=old.dtype)
    part = buffer[5 : 5 + old.numel()]
    entry[key] = part.as_strided(old.shape, old.stride(), part.storage_offset()).copy_(old)


TAMPERINGS = [
    replace,
    replace_after_freeing,
    give_other_data,
    give_other_data_in_place,
    replace_by_a_view,
]


@pytest.mark.parametrize("tamper", TAMPERINGS)
@each_class
def test_a_state_tensor_that_was_replaced_or_moved_is_noticed(name, tamper, monkeypatch):
    watch(monkeypatch)
    pair = Pair(name, memory_dtype="int8" if name in ("SGD_C", "Adam_CM") else None)
    pair.step(3)
    kept = []
    for entry, key in list(pair.entries(name)):
        kept.append((entry[key], entry[key].detach(), entry[key].clone()))
        tamper(entry, key)
        if tamper is replace_after_freeing:
            kept.pop()
        pair.step()
        for _, old, before in kept if "freeing" not in tamper.__name__ else ():
            assert_same(old, before)  # nothing was written where the tensor was
            kept = []
    pair.step(2)


@each_class
def test_an_entry_that_was_replaced_is_noticed(name, monkeypatch):
    watch(monkeypatch)
    pair = Pair(name)
    pair.step(3)
    for p in pair.params:
        old = pair.ours.state[p]
        before = {key: old[key].clone() for key in make_keys[name]}
        pair.ours.state[p] = {key: value.clone() for key, value in old.items()}
        pair.step(2)
        assert_same({key: old[key] for key in before}, before)


@pytest.mark.parametrize("how", ["data", "set_", "in a buffer"])
@each_class
def test_a_parameter_that_was_moved_is_noticed(name, how, monkeypatch):
    watch(monkeypatch)
    pair = Pair(name)
    pair.step(2)
    for p in pair.params:
        old, before = p.detach(), p.detach().clone()
        if how == "data":
            p.data = p.detach().clone()
        elif how == "set_":
            with torch.no_grad():
                p.set_(p.detach().clone())
        else:
            flat = torch.zeros(p.numel() + 3)
            p.data = flat[3:].view(p.shape).copy_(p.detach())
        pair.step()
        if how != "set_":
            assert_same(old, before)


def wrong_type(tensor):
    return tensor.bfloat16()


def too_short(tensor):
    return tensor.flatten()[: tensor.numel() // 2].clone()


def gone(tensor):
    return tensor.to("meta")


@pytest.mark.parametrize("make_wrong", [wrong_type, too_short, gone])
@each_class
def test_a_state_tensor_the_kernels_cannot_go_through_is_left_to_torch(name, make_wrong):
    """What torch makes of it, an error or not, the kernels write nowhere else."""
    for key in make_keys[name]:
        guard = torch.full((6000,), 7.0)  # a buffer with a frame of sevens around the tensor
        params = parameters(shapes=[(600,)])
        optimizer = make(name, params)
        train(optimizer, params, 2)
        wrong = make_wrong(optimizer.state[params[0]][key])
        if wrong.device.type == "cpu":
            part = guard.view(wrong.dtype)[2000 : 2000 + wrong.numel()]
            wrong = part.copy_(wrong)
        optimizer.state[params[0]][key] = wrong
        try:
            train(optimizer, params, 2)
        except (RuntimeError, NotImplementedError):
            continue
        finally:
            assert (guard.view(torch.float32)[:900] == 7).all()
            assert (guard.view(torch.float32)[2700:] == 7).all()


@each_class
def test_an_address_is_not_given_again_while_it_is_remembered(name):
    """To a smaller tensor, of which the kernel would know nothing."""
    params = parameters(shapes=[(4096,)])
    optimizer = make(name, params)
    train(optimizer, params, 2)
    entry = optimizer.state[params[0]]
    for key in make_keys[name]:
        address, size = entry[key].data_ptr(), entry[key].nbytes
        del entry[key]
        gc.collect()
        others = [torch.zeros(size // 2, dtype=torch.int8) for _ in range(20)]
        others += [torch.zeros(size // 4) for _ in range(20)]
        assert all(not address <= other.data_ptr() < address + size for other in others)


def test_the_order_of_a_parameter_that_changes_where_it_lies():
    """Transposed data at the same address; of state as it was, torch's fused kernels are wrong."""
    for name in ("RMSprop_C", "Adam_CM", "AdamW_CM"):
        params = parameters(shapes=[(6, 6)])
        copies = twins(params)
        ours, theirs = make(name, params), make(name, copies, fused=None)
        for _ in range(2):
            train(ours, params, 2)
            train(theirs, copies, 2)
            assert_same(params[0].detach(), copies[0].detach(), rtol=1e-5, atol=1e-6)
            params[0].data = params[0].data.t()
            with torch.no_grad():
                copies[0].copy_(copies[0].t().clone())


def test_two_parameters_of_the_same_memory_are_stepped_one_after_the_other(monkeypatch):
    passes = count_passes(monkeypatch)
    for name in CLASSES:
        results = []
        for how in ({}, {"fused": None, "foreach": False}):
            torch.manual_seed(1)
            flat = torch.randn(50_000)
            params = [torch.nn.Parameter(flat) for _ in range(2)]
            params += [torch.nn.Parameter(flat[7:40])]
            optimizer = make(name, params, **how)
            train(optimizer, params, 4)
            results.append(flat)
        assert_same(*results, rtol=1e-5, atol=1e-5)
    assert not passes


@each_class
def test_a_gradient_that_is_the_parameter_itself(name):
    results = []
    for fused in (True, None):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 700))
        optimizer = make(name, [p], fused=fused)
        for _ in range(5):
            p.grad = p.detach()
            optimizer.step()
        results.append(p.detach())
    assert_same(*results, rtol=1e-5, atol=1e-5)


@each_class
def test_a_gradient_of_another_shape_is_refused_and_not_read_beyond(name):
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    p.data = torch.ones(8)
    with pytest.raises(RuntimeError, match="size of tensor"):
        make(name, [p]).step()
    assert_same(p.detach(), torch.ones(8))


@each_class
def test_groups_added_removed_and_passes_switched_on_and_off(name):
    params = parameters(shapes=[(600,), (6, 6), (300,)])
    copies = twins(params)
    ours, theirs = make(name, params[:2]), make(name, copies[:2], fused=None)
    stream = gradients(params)

    def step(times=2):
        for _ in range(times):
            grads = next(stream)
            step_with(ours, params, grads)
            step_with(theirs, copies, [grad.clone() for grad in grads])
        for p, q in zip(params, copies, strict=True):
            assert_same(p.detach(), q.detach(), rtol=1e-4, atol=1e-5)

    step()
    ours.add_param_group({"params": params[2:]})
    theirs.add_param_group({"params": copies[2:]})
    step()
    for fused in (None, True, False, True):
        ours.param_groups[0]["fused"] = fused
        step()
    ours.param_groups[1]["fused"] = None
    step()
    for optimizer in (ours, theirs):
        optimizer.param_groups.pop()
    step()


def test_a_gradient_of_a_step_that_failed_is_not_used_in_the_next():
    from gradmem import Choice

    fails = []

    def policy(offer, ledger):
        if fails:
            fails.clear()
            raise ValueError("once")
        return Choice(offer.norm, torch.zeros_like(offer.step), offer.norm > 0)

    results = []
    for fused in (True, None):
        params = parameters(shapes=[(300,), (20,)])
        groups = [{"params": [p]} for p in params]
        optimizer = gradmem.SGD_C(groups, lr=0.1, capacity=2, policy=policy, fused=fused)
        train(optimizer, params, 2)
        fails.append(1)
        with pytest.raises(ValueError, match="once"):
            train(optimizer, params, 1, seed=8)
        optimizer.param_groups[1]["fused"] = None
        train(optimizer, params, 2, seed=5)
        results.append([p.detach() for p in params])
    assert_same(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["amsgrad", "momentum"])
def test_state_that_an_edit_wants_or_wants_no_more(option):
    name = "Adam_C" if option == "amsgrad" else "SGD_C"
    params = parameters(shapes=[(600,), (6, 6)])
    copies = twins(params)
    ours, theirs = make(name, params), make(name, copies, fused=None)
    values = (False, True, False) if option == "amsgrad" else (0.0, 0.5, 0.0, 0.9)
    for value in values:
        train(ours, params, 2)
        train(theirs, copies, 2)
        for p, q in zip(params, copies, strict=True):
            assert_same(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)
        for optimizer in (ours, theirs):
            optimizer.param_groups[0][option] = value


def test_a_late_amsgrad_fails_as_torchs_and_the_memory_forgets_what_was_half_done():
    params = parameters(shapes=[(600,)])
    optimizer = make("Adam_C", params, amsgrad=False)
    train(optimizer, params, 3)
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(KeyError, match="max_exp_avg_sq"):
        train(optimizer, params, 1)
    optimizer.param_groups[0]["amsgrad"] = False
    train(optimizer, params, 3)


def test_a_parameter_that_only_wraps_others_is_left_to_torch(monkeypatch):
    passes = count_passes(monkeypatch)
    p, q = torch.nn.Parameter(TwoTensor(torch.ones(300), torch.ones(300))), parameters()
    assert not native.takes(p, torch.float32)
    optimizer = make("RMSprop_C", [*q, p])
    for _ in range(3):
        p.grad = TwoTensor(torch.ones(300), torch.ones(300))
        optimizer.step()
    assert (p.a < 1).all()
    assert not passes
