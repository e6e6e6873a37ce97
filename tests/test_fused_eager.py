"""The fused pass gives what the eager ones give: in every type, size and layout."""

from __future__ import annotations

import pytest
import torch

import gradmem
from fused_cases import (
    CLASSES,
    OPTIONS,
    assert_close,
    count_passes,
    each_class,
    make,
    needs_kernels,
    pair,
    twins,
    watch,
)
from gradmem import OptionError
from gradmem.optim.state import store_of
from optimizers import (
    assert_same,
    gradients,
    parameters,
    snapshot,
    step_with,
    train,
)

pytestmark = needs_kernels

SIZES = [1, 255, 256, 257, 511, 512, 513, 16383, 16384, 16385]
SHAPES = [(size,) for size in SIZES] + [(0,), ()]


@each_class
def test_in_float32_it_equals_the_eager_passes_to_rounding(name, monkeypatch):
    passes = count_passes(monkeypatch)
    params = parameters(shapes=SHAPES)
    ours, theirs, copies = pair(name, params)
    stream = gradients(params)
    for _ in range(40):
        grads = next(stream)
        step_with(ours, params, grads)
        step_with(theirs, copies, [grad.clone() for grad in grads])
        assert_close(ours, theirs, params, copies, 1e-4)
    assert len(passes) == 40


@pytest.mark.parametrize("memory_dtype", [None, "float32", "float16", "int8"])
@each_class
def test_in_bfloat16_it_is_no_further_off_than_the_eager_passes(name, memory_dtype, monkeypatch):
    passes = count_passes(monkeypatch)
    params = parameters(torch.bfloat16, shapes=[(300,), (20, 30), (), (513,)])
    exact = [torch.nn.Parameter(p.detach().float()) for p in params]
    options = {"memory_dtype": memory_dtype, "policy": "fifo", "lr": 0.01}
    ours, theirs, copies = pair(name, params, **options)
    reference = make(name, exact, **{**options, "fused": None})
    stream = gradients(params)
    for _ in range(12):
        grads = next(stream)
        step_with(ours, params, grads)
        step_with(theirs, copies, [grad.clone() for grad in grads])
        step_with(reference, exact, [grad.float() for grad in grads])
        if not name.endswith("CM"):  # what is stored is then the gradients themselves
            for p, q in zip(params, copies, strict=True):
                slots, others = (store_of(o.state[x]).slots for o, x in ((ours, p), (theirs, q)))
                assert_same(slots, others)
    assert len(passes) == 12

    def off(some):
        return sum(float((p - e).detach().norm()) for p, e in zip(some, exact, strict=True))

    assert off(params) < 1.1 * off(copies)


def channels_last(shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


LAYOUTS = {
    "channels_last": lambda: channels_last((4, 3, 5, 6)),
    "transposed": lambda: torch.randn(7, 5).t(),
    "permuted": lambda: torch.randn(3, 4, 5).permute(2, 0, 1),
    "a view amid a buffer": lambda: torch.randn(100)[3:87],
    "of one row": lambda: torch.randn(1, 9).t(),
    "sliced": lambda: torch.randn(6, 8)[:, ::2],
    "with gaps": lambda: torch.randn(8, 9)[:, :5],
}
GAPS = ("sliced", "with gaps")
GRADIENTS = {
    "alike": lambda g, p: torch.empty_like(p).copy_(g),
    "contiguous": lambda g, p: g.contiguous(),
    "reversed order": lambda g, p: (
        g.permute(*range(g.dim())[::-1]).contiguous().permute(*range(g.dim())[::-1])
    ),
    "expanded": lambda g, p: g.flatten()[:1].reshape([1] * g.dim()).expand(p.shape),
    "with gaps": lambda g, p: torch.stack([g, g], dim=-1)[..., 0],
    "negated lazily": lambda g, p: torch.complex(g, -g).conj().imag,
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_parameters_and_gradients(layout, kind, monkeypatch):
    """One that the kernels do not take goes through the eager passes, and is as right."""
    torch.manual_seed(3)
    passes = count_passes(monkeypatch)
    for name, memory_dtype in zip(
        CLASSES, [None, "int8", None, "bfloat16", *[None] * 2], strict=True
    ):
        params = [torch.nn.Parameter(LAYOUTS[layout]()), torch.nn.Parameter(torch.randn(3))]
        plain = [torch.nn.Parameter(p.detach().clone().contiguous()) for p in params]
        ours = make(name, params, memory_dtype=memory_dtype)
        theirs = make(name, plain, fused=None, memory_dtype=memory_dtype)
        for grads in (next(gradients(params, seed)) for seed in range(5)):
            laid = GRADIENTS[kind](grads[0], params[0].detach())
            before = laid.clone()
            step_with(ours, params, [laid, grads[1]])
            step_with(theirs, plain, [before.contiguous(), grads[1].clone()])
            assert_same(laid, before)
            assert_close(ours, theirs, params, plain, 1e-5)
    assert bool(passes) == (layout not in GAPS)


def test_the_layouts_that_are_dense_are_taken(monkeypatch):
    watch(monkeypatch)
    for layout in LAYOUTS.keys() - set(GAPS):
        params = [torch.nn.Parameter(LAYOUTS[layout]()), *parameters()]
        for name in CLASSES:
            train(make(name, params), params, 2)


def test_parameters_that_are_views_of_one_buffer(monkeypatch):
    torch.manual_seed(1)
    passes = count_passes(monkeypatch)
    for name in CLASSES:
        flat = torch.randn(1000)
        cuts = [(0, 3), (3, 17), (20, 600), (620, 380)]
        params = [torch.nn.Parameter(flat[start : start + size]) for start, size in cuts]
        ours, theirs, copies = pair(name, params)
        train(ours, params, 5)
        train(theirs, copies, 5)
        assert_close(ours, theirs, params, copies, 1e-5)
    assert len(passes) == 5 * len(CLASSES)


def test_norms_do_not_depend_on_where_the_numbers_lie():
    from gradmem.optim.fused import native

    (numbers,), buffer = parameters(shapes=[(5000,)]), torch.empty(5100)
    seen = set()
    for start in range(17):
        moved = buffer[start : start + 5000].copy_(numbers.detach())
        seen.update(native.squared_norms([moved], native.pointers([moved])))
    assert len(seen) == 1


@each_class
def test_types_mixed_in_one_model(name):
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.float32]
    params = [p for kind in kinds for p in parameters(kind, shapes=[(40, 7)])]
    ours, theirs, copies = pair(name, params, lr=0.01, policy="fifo")
    stream = gradients(params)
    for _ in range(6):
        grads = next(stream)
        step_with(ours, params, grads)
        step_with(theirs, copies, [grad.clone() for grad in grads])
    for p, q in zip(params, copies, strict=True):
        assert p.dtype is q.dtype
        assert_same(ours.state[p]["memory_birth"], theirs.state[q]["memory_birth"])
        if p.dtype is not torch.bfloat16:  # of that, see above
            assert_same(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_gradient_of_another_type_than_its_parameter(kind):
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this torch has no gradients of another type than their parameter's")
    for name in CLASSES:
        params = parameters(shapes=[(300,), (4, 5)])
        for p in params:
            p.grad_dtype = kind
        ours = make(name, params)
        plain = twins(params)
        theirs = make(name, plain)
        for seed in range(4):
            grads = [grad.to(kind) for grad in next(gradients(params, seed))]
            step_with(ours, params, grads)
            step_with(theirs, plain, [grad.float() for grad in grads])
        assert_same(snapshot(ours, params), snapshot(theirs, plain))


@each_class
def test_complex_parameters_are_refused(name):
    with pytest.raises(OptionError, match="fused=True needs floating-point parameters"):
        make(name, parameters(torch.complex64))


@pytest.mark.parametrize("option", ["capacity", "kappa"])
@each_class
def test_switched_off_it_is_torchs_own_bit_for_bit(name, option):
    cls = CLASSES[name]
    base = next(c for c in cls.__mro__ if c.__module__.startswith("torch.optim."))
    own = {k: v for k, v in OPTIONS[name].items() if k not in gradmem.MemoryOptions.__slots__}
    fused = {} if base is torch.optim.RMSprop else {"fused": True}
    params = parameters(shapes=[(300,), (2, 3), ()])
    copies = twins(params)
    ours, theirs = make(name, params, **{option: 0}), base(copies, **own, **fused)
    train(ours, params, 6)
    train(theirs, copies, 6)
    assert_same(snapshot(ours, params), snapshot(theirs, copies))
