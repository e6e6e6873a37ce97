"""`clip_grad_norm_`: torch's gradients and decisions, for a step that need not measure again."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import gradmem
from fused_cases import CLASSES, REASON, make, watch
from gradmem.errors import GradientError, OptionError, OptionTypeError
from gradmem.memory import norms as measures
from gradmem.optim import clipping, remember
from gradmem.optim.fused import native
from optimizers import assert_same

MAX = 1.5
SHAPES = ((40, 30), (7,), (), (0,), (513,))
FUSED = [False, *([] if REASON else [True])]
CLOSE = {"rtol": 1e-12, "atol": 1e-14}

OPTIONS = [
    {},
    {"scope": "tensor", "aggregate": "mid", "capacity": 2},
    {"scope": "group", "policy": "fifo", "memory_dtype": "bfloat16"},
    {"norm": "sum", "max_age": 4, "decay": 0.8},
    {"policy": "cosine_diverse", "aggregate": "max_mean", "kappa": 0.5},
]


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES
    ]


def give(params, t):
    """Gradients of norms below and above `MAX`; one parameter now and then has none."""
    generator = torch.Generator().manual_seed(t)
    size = (0.01, 0.2, 1.0, 0.03)[t % 4]
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * size
        p.grad = None if (t % 5, i) == (3, 1) else grad.to(p.dtype)


def norm_of(params):
    return math.sqrt(
        sum(float(p.grad.double().square().sum()) for p in params if p.grad is not None)
    )


def two_groups(params):
    return [{"params": params[:2]}, {"params": params[2:], "decay": 0.5}]


def counted(monkeypatch):
    """A list that grows with every pass over gradients for their norms."""
    passes = []
    for module, name in ((measures, "squared_norms"), (native, "squared_norms")):
        whole = getattr(module, name)

        def counting(*arguments, whole=whole):
            passes.append("norms")
            return whole(*arguments)

        monkeypatch.setattr(module, name, counting)
    whole_pass = native.step

    def stepping(*arguments, measure=False, **options):
        if measure:
            passes.append("step")
        return whole_pass(*arguments, measure=measure, **options)

    monkeypatch.setattr(native, "step", stepping)
    return passes


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_gradients_decisions_and_steps_are_those_after_torchs(name, options, fused):
    ours, theirs = parameters(), parameters()
    one = make(name, two_groups(ours), fused=fused, **options)
    other = make(name, two_groups(theirs), fused=fused, **options)
    for t in range(24):
        give(ours, t)
        give(theirs, t)
        expected = torch.nn.utils.clip_grad_norm_(theirs, MAX)
        torch.testing.assert_close(one.clip_grad_norm_(MAX), expected, **CLOSE)
        for p, q in zip(ours, theirs, strict=True):
            if q.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, **CLOSE)
        one.step()
        other.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, **CLOSE)
            for key, value in other.state[q].items():
                close = {"rtol": 1e-2, "atol": 1e-9} if key == "memory_slots" else CLOSE
                torch.testing.assert_close(one.state[p][key], value, **close)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
def test_a_step_does_not_measure_again(monkeypatch, scope, fused):
    params = parameters(torch.float32)
    optimizer = gradmem.Adam_C(two_groups(params), capacity=3, scope=scope, fused=fused)
    passes = counted(monkeypatch)
    if fused:
        watch(monkeypatch)
    for t in range(12):
        give(params, t)
        optimizer.clip_grad_norm_(MAX)
        measured = len(passes)
        assert measured
        optimizer.step()
        assert len(passes) == measured
        passes.clear()


def changes():
    def in_place(p):
        p.grad.mul_(3)

    def replaced(p):
        p.grad = p.grad * 3

    def accumulated(p):
        (p * torch.ones_like(p)).sum().backward()

    def taken_away(p):
        p.grad = None

    return [in_place, replaced, accumulated, taken_away]


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("largest", [1e-3, 1e3], ids=["clipped", "left alone"])
@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_a_gradient_that_was_changed_since_is_measured(monkeypatch, change, largest, fused):
    params = parameters(torch.float32)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=3, fused=fused)
    passes = counted(monkeypatch)
    give(params, 1)
    optimizer.clip_grad_norm_(largest)
    change(params[0])
    passes.clear()
    optimizer.step()
    assert passes
    assert optimizer.memory_report().scopes[0].norms[0] == pytest.approx(norm_of(params), rel=1e-6)


def test_a_gradient_that_comes_late_is_measured(monkeypatch):
    params = parameters(torch.float32)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=3)
    give(params, 3)  # without one of them
    optimizer.clip_grad_norm_(MAX)
    params[1].grad = torch.full_like(params[1], 9.0)
    optimizer.step()
    assert optimizer.memory_report().scopes[0].norms[0] == pytest.approx(norm_of(params), rel=1e-6)


def test_a_norm_is_for_one_step(monkeypatch):
    params = parameters(torch.float32)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=3)
    give(params, 2)
    optimizer.clip_grad_norm_(MAX)
    optimizer.step()
    passes = counted(monkeypatch)
    optimizer.step()
    assert passes


def test_what_a_graph_measures_is_for_the_graph_alone(monkeypatch):
    """And it takes from outside nothing that a replay would not make anew."""
    params = parameters(torch.float32)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=3)
    passes = counted(monkeypatch)
    for before, after in ((False, True), (True, False)):
        give(params, 2)
        monkeypatch.setattr(clipping, "is_capturing", lambda now=before: now)
        optimizer.clip_grad_norm_(MAX)
        monkeypatch.setattr(clipping, "is_capturing", lambda now=after: now)
        passes.clear()
        optimizer.step()
        assert passes


def test_gradients_are_let_go_of_between_clipping_and_the_step():
    import weakref

    params = parameters(torch.float32)
    optimizer = gradmem.Adam_C(params, capacity=2, fused=not REASON)
    for t in range(4):
        give(params, t)
        optimizer.clip_grad_norm_(MAX)
        watched = [weakref.ref(p.grad) for p in params if p.grad is not None]
        optimizer.zero_grad()
        assert all(ref() is None for ref in watched)
        give(params, t)
        optimizer.step()


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_clipped_as_torch_does_and_never_remembered(bad, fused):
    ours, theirs = parameters(), parameters()
    optimizer = gradmem.SGD_C(ours, lr=0.0, capacity=2, fused=fused)
    give(ours, 1)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    for params in (ours, theirs):
        give(params, 2)
        params[0].grad[3, 4] = bad
    held = [p.grad.clone() for p in ours]
    with pytest.raises(GradientError, match=r"norm is (nan|inf).*cannot be clipped to 1\.5"):
        optimizer.clip_grad_norm_(MAX, error_if_nonfinite=True)
    for p, grad in zip(ours, held, strict=True):
        assert_same(p.grad, grad)
    torch.nn.utils.clip_grad_norm_(theirs, MAX)
    optimizer.clip_grad_norm_(MAX)
    for p, q in zip(ours, theirs, strict=True):
        assert_same(p.grad, q.grad)
    optimizer.step()
    for i, entry in optimizer.state_dict()["state"].items():
        for key in ("memory_slots", "memory_sum", "memory_priority", "memory_birth"):
            if key != "memory_priority":  # which decays
                assert_same(entry[key], before[i][key])


def test_groups_without_a_memory_count_and_are_clipped():
    ours, theirs = parameters(), parameters()
    groups = [{"params": ours[:1]}, {"params": ours[1:], "capacity": 0}]
    optimizer = gradmem.SGD_C(groups, lr=0.1, capacity=2)
    give(ours, 2)
    give(theirs, 2)
    expected = torch.nn.utils.clip_grad_norm_(theirs, MAX)
    torch.testing.assert_close(optimizer.clip_grad_norm_(MAX), expected, **CLOSE)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, **CLOSE)
    optimizer.step()
    own = float(ours[0].grad.norm())
    assert optimizer.memory_report().scopes[0].norms[0] == pytest.approx(own, rel=1e-12)


def test_switched_off_it_is_torchs_but_for_rounding():
    ours, theirs = parameters(), parameters()
    optimizer, plain = gradmem.Adam_C(ours, capacity=0), torch.optim.Adam(theirs)
    for t in range(8):
        give(ours, t)
        give(theirs, t)
        optimizer.clip_grad_norm_(MAX)
        torch.nn.utils.clip_grad_norm_(theirs, MAX)
        optimizer.step()
        plain.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, **CLOSE)


def test_infinity_only_measures():
    params = parameters()
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=2)
    give(params, 2)
    before = [p.grad.clone() for p in params]
    versions = [p.grad._version for p in params]
    assert float(optimizer.clip_grad_norm_(math.inf)) == pytest.approx(norm_of(params), rel=1e-12)
    for p, grad in zip(params, before, strict=True):
        assert_same(p.grad, grad)
    assert [p.grad._version for p in params] == versions


def test_around_any_optimizer(monkeypatch):
    ours, theirs = parameters(), parameters()
    wrapped, other = (
        gradmem.MemoryAugmented(torch.optim.NAdam(params), capacity=3, decay=0.9)
        for params in (ours, theirs)
    )
    for t in range(10):
        give(ours, t)
        give(theirs, t)
        wrapped.clip_grad_norm_(MAX)
        torch.nn.utils.clip_grad_norm_(theirs, MAX)
        other.step()
        with monkeypatch.context() as patch:
            passes = counted(patch)
            wrapped.step()
            assert not passes
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_other_types(dtype):
    if dtype.is_complex:
        params = [torch.nn.Parameter(torch.ones(3, 4, dtype=dtype)) for _ in range(2)]
        for p in params:
            p.grad = torch.full_like(p, 3 + 4j)
    else:
        params = parameters(dtype)
        give(params, 1)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=2)
    before = math.sqrt(sum(float(p.grad.abs().double().square().sum()) for p in params))
    assert float(optimizer.clip_grad_norm_(0.5)) == pytest.approx(before, rel=1e-5)
    after = math.sqrt(sum(float(p.grad.abs().double().square().sum()) for p in params))
    assert after == pytest.approx(0.5, rel=2e-3)
    optimizer.step()
    assert optimizer.memory_report().scopes[0].norms[0] == pytest.approx(0.5, rel=1e-5)


def test_with_a_gradient_scaler_and_within_a_closure():
    ours, theirs = parameters(), parameters()
    pairs = [(ps, gradmem.Adam_C(ps, capacity=2)) for ps in (ours, theirs)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in pairs]

    def loss(params, t):
        return sum(((p - t) ** 2).sum() for p in params)

    for t in range(6):
        for (params, optimizer), scaler in zip(pairs, scalers, strict=True):
            optimizer.zero_grad()
            scaler.scale(loss(params, t)).backward()
            scaler.unscale_(optimizer)
            if params is ours:
                optimizer.clip_grad_norm_(MAX)
            else:
                torch.nn.utils.clip_grad_norm_(params, MAX)
            scaler.step(optimizer)
            scaler.update()
    for params, optimizer in pairs:

        def closure(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss(params, 9).backward()
            if params is ours:
                optimizer.clip_grad_norm_(MAX)
            else:
                torch.nn.utils.clip_grad_norm_(params, MAX)

        optimizer.step(closure)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, **CLOSE)
        torch.testing.assert_close(
            pairs[0][1].state[p]["memory_slots"], pairs[1][1].state[q]["memory_slots"], **CLOSE
        )


@pytest.mark.parametrize("largest", [math.inf, 1e25])  # of which the second has an infinite norm
def test_infinity_only_measures_whatever_the_norm(largest):
    params = parameters(torch.float32)
    optimizer = gradmem.SGD_C(params, lr=0.0, capacity=2)
    give(params, 2)
    params[0].grad.fill_(largest)
    before = [p.grad.clone() for p in params]
    assert optimizer.clip_grad_norm_(math.inf) == math.inf
    for p, grad in zip(params, before, strict=True):
        assert_same(p.grad, grad)


def test_a_memory_that_clipping_began_in_inference_mode_outlives_it():
    params = parameters()
    optimizer = gradmem.Adam_C(params, capacity=2)
    give(params, 1)
    with torch.inference_mode():
        optimizer.clip_grad_norm_(math.inf)
        optimizer.memory_report()
    optimizer.step()
    give(params, 2)
    optimizer.step()
    assert optimizer.memory_report().scopes[0].occupied == 2


def test_a_sharded_gradient_that_was_changed_since_is_measured(sharded):
    p = torch.nn.Parameter(sharded(torch.ones(4, 2)))
    optimizer = gradmem.SGD_C([p], lr=0.1, capacity=2)
    p.grad = sharded(torch.ones(4, 2))
    optimizer.clip_grad_norm_(1.0)
    p.grad.mul_(3)
    optimizer.step()
    assert optimizer.memory_report().scopes[0].norms[0] == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("value", [0, 0.0, -1, math.nan, -math.inf, 10**400])
def test_a_norm_out_of_range_is_refused(value):
    params = parameters()
    optimizer = gradmem.SGD_C(params, lr=0.1)
    give(params, 2)
    before = [p.grad.clone() for p in params]
    with pytest.raises(OptionError, match=f"max_norm must be above 0, got {value}"):
        optimizer.clip_grad_norm_(value)
    for p, grad in zip(params, before, strict=True):
        assert_same(p.grad, grad)


@pytest.mark.parametrize("value", ["1", None, True, [1.0], torch.ones(2)], ids=str)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(OptionTypeError, match="max_norm must be a number, got"):
        gradmem.SGD_C(parameters(), lr=0.1).clip_grad_norm_(value)


@pytest.mark.parametrize("capacity", [0, 2])
def test_a_sparse_gradient_is_refused_and_nothing_is_changed(capacity):
    dense = torch.nn.Parameter(torch.ones(2))
    table = torch.nn.Embedding(4, 2, sparse=True)
    groups = [{"params": [dense], "capacity": 2}, {"params": table.parameters()}]
    optimizer = gradmem.SGD_C(groups, lr=0.1, capacity=capacity)
    table(torch.tensor([1])).sum().backward()
    dense.grad = torch.full_like(dense, 9.0)
    with pytest.raises(GradientError, match=r"layout torch\.sparse_coo"):
        optimizer.clip_grad_norm_(1.0)
    assert_same(dense.grad, torch.full_like(dense, 9.0))


def test_without_gradients_the_norm_is_zero():
    optimizer = gradmem.SGD_C(parameters(), lr=0.1)
    assert optimizer.clip_grad_norm_(1.0) == 0
    optimizer.step()


def test_an_error_in_a_users_policy_leaves_nothing_of_the_step_behind(monkeypatch):
    """What a step measured before an error is not what the next one is given."""
    params = parameters(torch.float32)
    optimizer = gradmem.SGD_C(params, lr=0.1, capacity=2, fused=not REASON)
    give(params, 1)
    optimizer.step()
    give(params, 2)
    with monkeypatch.context() as patch:
        patch.setattr(remember.on_host, "decide", _raise)
        with pytest.raises(RuntimeError, match="on purpose"):
            optimizer.step()
    give(params, 5)
    optimizer.clip_grad_norm_(MAX)
    expected = [p.detach() - 0.1 * _update(optimizer, p) for p in params]
    optimizer.step()
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-6, atol=1e-7)


def _raise(*_):
    raise RuntimeError("on purpose")


def _update(optimizer, p):
    held = optimizer.state[p]["memory_sum"] if p in optimizer.state else 0
    return p.grad + held  # SGD_C's aggregate is the sum
