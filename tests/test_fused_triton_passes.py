"""Passes of an accelerator, one after the other, in Triton's interpreter: what they move, what they
find otherwise than at the last step, and what is done where there are none.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import gradmem
from fused_cases import watch
from gradmem.memory import on_device
from gradmem.optim.fused import launches as made
from gradmem.optim.fused import on_triton, tables
from gradmem.optim.remember import norms_of
from optimizers import assert_same, gradients, step_with, train
from test_fused_memory_safety import TAMPERINGS, Pair
from triton_cases import assert_equals_eager, course, needs_interpreter, use_interpreter

pytestmark = needs_interpreter

BLOCK = tables.BLOCK


@pytest.fixture
def launches(monkeypatch):
    return use_interpreter(monkeypatch)


# Before the decision ------------------------------------------------------------------------------

MEMORIES = [
    {},
    {"scope": "tensor", "aggregate": "mid", "memory_dtype": "bfloat16"},
    {"norm": "sum", "max_age": 9, "memory_dtype": "int8", "kappa": -0.5},
    {"norm": "sum", "scope": "tensor", "policy": "reservoir"},
    {"policy": "cosine_diverse"},
]


@pytest.mark.parametrize(
    ("name", "memory"), [("RMSprop_C", {}), *(("AdamW_C", memory) for memory in MEMORIES)]
)
def test_updates_made_ahead_are_the_same_bits(name, memory, launches, monkeypatch):
    options = {"steps": 16, "dtype": torch.float32, "absent": {(9, 3), (10, 1)}, **memory}
    ours = course(name, True, **options)
    assert launches.ahead > 1
    assert launches.late > 0
    monkeypatch.setattr(on_device, "refused_last", lambda ledger: ledger.drift > 1e9)
    launches.ahead = 0
    assert_same(ours, course(name, True, **options))
    assert launches.ahead == 0


def test_not_for_a_ledger_that_is_full_no_longer(launches):
    def edit(group, t):
        group["max_age"] = 2 if t >= 6 else None  # the last gradient was refused, two slots drop

    assert_equals_eager("SGD_C", launches, steps=9, edit=edit)


@pytest.mark.parametrize("norm", ["l2", "sum"])
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
def test_norms_by_row(scope, norm, launches):
    params = [
        torch.nn.Parameter(torch.ones(shape)) for shape in ((2500,), (), (0,), (7, 9), (300,))
    ]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = gradmem.SGD_C(groups, capacity=2, scope=scope, norm=norm, fused=True)
    train(optimizer, params, 2)
    (memory,) = optimizer._plan.memories
    for grads in (next(gradients(params, seed=5)), [None, None, torch.ones(0), None, None]):
        vectors = [{p: g for p, g in zip(params, grads, strict=True) if g is not None}]
        measured = on_triton.norms(optimizer, memory, ahead=False)(memory, vectors)
        torch.testing.assert_close(measured, norms_of(memory, vectors), rtol=1e-6, atol=0)
        assert measured.dtype is torch.float64
    assert launches.measured >= 4


def test_not_where_an_error_could_still_end_the_step(launches):
    def policy(offer, ledger):
        if offer.norm > 100:
            raise ValueError("too much")
        return gradmem.Choice(offer.norm, torch.zeros_like(offer.step), offer.norm > 1e9)

    p = torch.nn.Parameter(torch.ones(30))
    optimizer = gradmem.SGD_C([p], lr=0.1, capacity=1, policy=policy, fused=True)
    for _ in range(4):
        p.grad = torch.ones(30)
        optimizer.step()
    before = p.detach().clone()
    p.grad = torch.full((30,), 1e3)
    with pytest.raises(ValueError, match="too much"):
        optimizer.step()
    assert_same(p.detach(), before)
    assert launches.measured == 4
    assert launches.ahead == 0
    p.grad = torch.ones(30)  # what was measured in the step that failed is not used in the next
    optimizer.step()
    torch.testing.assert_close(p.detach(), before - 0.2)


def test_nor_beside_a_group_without_a_memory(launches):
    params = [torch.nn.Parameter(torch.ones(30)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "capacity": 0}]
    optimizer = gradmem.AdamW_C(groups, capacity=1, decay=1.0, fused=True)
    for size in (3.0, 1.0, 1.0, 1.0):
        for p in params:
            p.grad = torch.full((30,), size)
        optimizer.step()
    assert (launches.steps, launches.ahead) == (3, 0)


# What is moved: words of float32 an element of the parameters ------------------------------------

# Read: gradient, sum, parameter, states; written: parameter, states. Where the gradient enters, the
# slot is read, and slot and sum are written. A word more after a step that took its gradient: the
# norm has a pass of its own. After one that refused it, a gradient that enters is read again, and
# the sum. Of a gradient refused after one was taken, refused again, taken then, and taken again:
WORDS = {
    "SGD_C": ({}, (5, 4, 9, 8)),
    "AdamW_C": ({}, (9, 8, 13, 12)),
    "AdamW_C, amsgrad": ({"amsgrad": True}, (11, 10, 15, 14)),
    "AdamW_C, bfloat16 slots": ({"memory_dtype": "bfloat16"}, (9, 8, 12, 11)),
    "AdamW_C, bfloat16": ({"dtype": torch.bfloat16}, (5, 4.5, 8, 7)),  # but for the sum
    "AdamW_CM": ({}, (6, 6, 9, 9)),  # momentum in place of gradient, both measured elsewhere
}


@pytest.mark.parametrize("case", WORDS)
def test_a_step_moves_no_word_more_than_it_must(case, launches):
    options, words = dict(WORDS[case][0]), WORDS[case][1]
    p = torch.nn.Parameter(torch.ones(2 * BLOCK, dtype=options.pop("dtype", torch.float32)))
    name = case.split(",")[0]
    optimizer = getattr(gradmem, name)([p], lr=0.0, capacity=2, decay=1.0, fused=True, **options)
    moved = []
    for size in (3.0, 2.0, 1e-6, 1e-6, 1e6, 2e6):
        launches.words(p)
        p.grad = torch.full_like(p, size)
        optimizer.step()
        moved.append(launches.words(p))
    assert tuple(moved[2:]) == words
    p.grad = None
    optimizer.step()  # nothing is offered, and nothing done
    assert launches.words(p) == 0


@pytest.mark.parametrize(("case", "words"), {"SGD_C": (4, 7), "AdamW_C": (8, 11)}.items())
def test_a_word_less_where_clipping_has_measured(case, words, launches):
    """Of a gradient that is refused, and of one that enters after one was taken."""
    p = torch.nn.Parameter(torch.ones(2 * BLOCK))
    optimizer = getattr(gradmem, case)([p], lr=0.0, capacity=2, decay=1.0, fused=True)
    moved = []
    for size in (3.0, 2.0, 1e-6, 1e6, 2e6):
        p.grad = torch.full_like(p, size)
        optimizer.clip_grad_norm_(float("inf"))
        launches.words(p)
        optimizer.step()
        moved.append(launches.words(p))
    assert moved[2] == words[0]
    assert moved[3:] == [words[1]] * 2
    assert not launches.ahead


def test_neither_does_a_gradient_that_is_not_finite(launches):
    p = torch.nn.Parameter(torch.ones(BLOCK))
    optimizer = gradmem.SGD_C([p], lr=0.0, capacity=2, fused=True)
    for size in (3.0, 2.0, float("nan")):
        launches.words(p)
        p.grad = torch.full_like(p, size)
        optimizer.step()
    assert launches.words(p) == 5


def test_an_empty_sum_is_not_read(launches):
    p = torch.nn.Parameter(torch.ones(BLOCK))
    optimizer = gradmem.SGD_C([p], lr=0.1, capacity=2, fused=True)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        launches.words(p)
        optimizer.step()
    assert launches.words(p) == 1 + 3


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy's
def test_a_sum_without_weight_may_be_infinite(launches):
    p = torch.nn.Parameter(torch.ones(9))
    optimizer = gradmem.SGD_C([p], lr=0.5, capacity=2, fused=True)
    for grad in (0.0, 0.0, 1.0):
        if grad:
            optimizer.state[p]["memory_sum"].fill_(torch.inf)
        p.grad = torch.full_like(p, grad)
        optimizer.step()
    assert_same(p.detach(), torch.full((9,), 0.5))


def test_single_slots_are_read_where_they_have_a_weight(launches):
    p = torch.nn.Parameter(torch.ones(BLOCK))
    optimizer = gradmem.SGD_C([p], lr=0.1, capacity=5, decay=1.0, aggregate="max", fused=True)
    for size in (5.0, 4.0, 3.0, 2.0, 1.0, 0.5):
        p.grad = torch.full_like(p, size)
        launches.words(p)
        optimizer.step()
    assert launches.words(p) == 1 + 4  # gradient, one slot, parameter twice


# What a step finds otherwise than the last one ---------------------------------------------------


@pytest.mark.parametrize("tamper", TAMPERINGS)
@pytest.mark.parametrize("name", ["Adam_C", "Adam_CM"])
def test_state_that_was_replaced_or_moved_is_noticed(name, tamper, launches, monkeypatch):
    pair = Pair(name, shapes=[(40,), ()], memory_dtype="int8")
    pair.step(2)
    watch(monkeypatch)
    old = [
        (entry[key], entry[key].detach(), entry[key].clone()) for entry, key in pair.entries(name)
    ]
    if "freeing" in tamper.__name__:
        old.clear()
    for entry, key in list(pair.entries(name)):
        tamper(entry, key)
    pair.step(2)
    for _, alias, before in old:
        assert_same(alias, before)  # nothing was written where the tensor was


def test_parameters_that_were_moved_are_noticed(launches, monkeypatch):
    pair = Pair("RMSprop_C", shapes=[(40,), (6, 6)])
    pair.step(2)
    watch(monkeypatch)
    for p in pair.params:
        old, before = p.detach(), p.detach().clone()
        p.data = p.detach().clone()
        pair.step()
        assert_same(old, before)


@pytest.mark.parametrize(
    "form",
    [
        lambda g: g.t().contiguous().t(),
        lambda g: g.repeat_interleave(2, dim=1)[:, ::2],
        lambda g: g[:1, :1].expand(g.shape),
        lambda g: torch._neg_view(-g),
    ],
    ids=["transposed", "every other", "expanded", "negated lazily"],
)
def test_gradients_that_lie_otherwise_are_copied(form, launches, monkeypatch):
    pair = Pair("SGD_C", shapes=[(6, 6), (7, 9)])
    pair.step(2)
    watch(monkeypatch)
    grads = [form(g) for g in next(pair.stream)]
    step_with(pair.alone, pair.copies, [grad.clone().contiguous() for grad in grads])
    step_with(pair.ours, pair.params, grads)
    for p, q in zip(pair.params, pair.copies, strict=True):
        assert_same(p.detach(), q.detach())
        for key in ("memory_slots", "memory_sum", "momentum_buffer"):
            assert_same(pair.ours.state[p][key], pair.alone.state[q][key])


@pytest.mark.parametrize("memory_dtype", [None, "int8"])
def test_layouts_of_parameters(memory_dtype, launches):
    """int8 slots are in the order of indices, whatever the parameter's: its pass is not fused."""
    ends = []
    for fused in (True, False):
        torch.manual_seed(0)
        last = torch.randn(4, 3, 5, 6).contiguous(memory_format=torch.channels_last)
        params = [torch.nn.Parameter(last), torch.nn.Parameter(torch.randn(7, 5).t())]
        optimizer = gradmem.AdamW_C(params, capacity=2, memory_dtype=memory_dtype, fused=fused)
        train(optimizer, params, 5)
        ends.append([p.detach() for p in params])
    assert_same(*ends, rtol=1e-4, atol=1e-5)
    assert launches.steps == (4 if memory_dtype is None else 0)


def test_parameters_that_share_memory_are_stepped_one_after_the_other(launches):
    ends = []
    for fused in (True, False):
        flat = torch.linspace(-1, 1, 600)
        params = [torch.nn.Parameter(flat), torch.nn.Parameter(flat[7:40])]
        train(gradmem.SGD_C(params, lr=0.01, fused=fused), params, 4)
        ends.append(flat)
    assert_same(*ends, rtol=1e-5, atol=1e-5)
    assert launches.steps == 0


def test_a_parameter_that_only_wraps_others_is_left_to_the_eager_passes(launches):
    p = torch.nn.Parameter(TwoTensor(torch.ones(30), torch.ones(30)))
    q = torch.nn.Parameter(torch.ones(30))
    for some in (p, q):
        train(gradmem.SGD_C([some], lr=0.1, capacity=2, fused=True), [some], 4)
    assert_same(p.detach().a, q.detach(), rtol=1e-6, atol=1e-6)
    assert launches.steps == 3  # of the other


def test_so_is_one_that_is_negated_lazily(launches):
    p = torch.nn.Parameter(torch._neg_view(torch.ones(30)))
    train(gradmem.RMSprop_C([p], lr=0.1, capacity=2, fused=True), [p], 4)
    assert launches.steps == 0


def test_a_momentum_switched_on_and_off(launches):
    def edit(group, t):
        group["momentum"] = (0.0, 0.0, 0.5, 0.5, 0.0, 0.9)[t]

    assert_equals_eager("SGD_C", launches, steps=6, eager=2, forms=2, edit=edit)


def test_autograd_refuses_what_it_saved_of_a_parameter(launches):
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = gradmem.SGD_C([p], lr=0.1, fused=True)
    for _ in range(2):
        loss = p.square().sum()
        p.grad = torch.ones(4)
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_numbers_of_a_decision_that_lie_apart_are_copied():
    table = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    for whole in (
        table,
        table.t(),
        table[:, 1:],
        table[::2],
        table[:1].expand(3, 4),
        table.float(),
    ):
        rows = list(whole.unbind())
        found = tables.column(rows, torch.float64)
        found = found.as_strided(whole.shape, (whole.shape[1], 1))
        assert torch.equal(found, whole.double())


# Graphs, as far as they can be tried without a device ---------------------------------------------


def test_what_a_graph_was_captured_with_is_not_written_over(monkeypatch):
    capturing = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(tables, "is_capturing", lambda: bool(capturing))
    monkeypatch.setattr(tables, "_CAPTURED", [])
    inputs = tables.Inputs(2, 1, torch.device("cpu"))
    known = tables.array("q", [16, 32])
    before = inputs.send(known, [0.5])
    again = inputs.send(known, [0.5])
    assert before[0].data_ptr() == again[0].data_ptr()  # nothing was sent
    capturing.append(1)
    same, other = inputs.send(known, [0.5]), inputs.send(known, [0.25])
    third = inputs.send(known, [0.125])
    capturing.clear()
    assert same[0].data_ptr() == before[0].data_ptr()
    after = inputs.send(known, [0.5])  # the graph has sent nothing yet
    inputs.send(tables.array("q", [48, 0]), [1.0])
    for sent, option in ((before, 0.5), (same, 0.5), (other, 0.25), (third, 0.125), (after, 0.5)):
        assert (sent[0].tolist(), sent[1].tolist()) == ([16, 32], [option])
    kept = {tensor.data_ptr() for tensor in tables._CAPTURED}
    assert {sent[0].data_ptr() for sent in (same, other, third)} <= kept


def test_a_kernel_that_was_not_made_before_is_not_made_in_a_capture(launches, monkeypatch):
    monkeypatch.setattr(made, "is_capturing", lambda: True)
    expected = course("SGD_C", False)
    torch.testing.assert_close(course("SGD_C", True), expected, rtol=1e-9, atol=1e-9)
    assert launches.steps == 0


# Where it cannot be done --------------------------------------------------------------------------


def assert_goes_on(match):
    expected = course("Adam_C", False)
    with pytest.warns(RuntimeWarning, match=match) as warned:
        result = course("Adam_C", True)
    assert len(warned) == 1
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_without_triton_it_says_so_once_and_goes_on(launches, monkeypatch):
    def missing():
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(made, "kernels", missing)
    made.available.cache_clear()
    try:
        assert_goes_on("Triton cannot be imported: No module named 'triton'")
    finally:
        made.available.cache_clear()


@pytest.mark.parametrize("broken", ["count_steps", "one_pass", "measure", "renew", "add_up"])
def test_where_compiling_fails_it_says_so_once_and_goes_on(broken, launches, monkeypatch):
    class Broken:
        def __getitem__(self, grid):
            raise RuntimeError("Failed to find C compiler.\n\nPlease specify via CC")

    module = SimpleNamespace(**{**vars(made.kernels()), broken: Broken()})
    monkeypatch.setattr(made, "kernels", lambda: module)
    assert_goes_on("RuntimeError: Failed to find C compiler. / Please specify via CC")


def test_not_for_what_is_left_to_the_eager_passes(launches):
    p = torch.nn.Parameter(torch.ones(6))
    observed = gradmem.SGD_C([p], lr=0.01, fused=True)
    with gradmem.Recorder(observed):
        train(observed, [p], 3)
    q = torch.nn.Parameter(torch.ones(6, dtype=torch.complex64))
    train(gradmem.SGD_C([q], lr=0.01), [q], 3)
    train(gradmem.SGD_C([p], lr=0.01, fused=False), [p], 3)
    assert launches.steps == 0
    train(observed, [p], 1)
    assert launches.steps == 1
