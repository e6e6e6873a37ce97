"""Types, shapes, layouts and devices of parameters and gradients, and gradients that are bad."""

from __future__ import annotations

import itertools

import pytest
import torch

import gradmem
from gradmem import GradientError
from optimizers import (
    INFOS,
    assert_differ,
    assert_same,
    continues,
    each,
    each_impl,
    each_optimizer,
    gradients,
    impls,
    memory_of,
    parameters,
    refuse,
    snapshot,
    step_with,
    takes,
    train,
    wide,
)

MEMORY = {"capacity": 3, "decay": 0.9}
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
EPS = {torch.float16: 1e-3}  # Adam's own 1e-8 is 0 in float16, and the first step 0 / 0

IMPLS_AND_DTYPES = [
    (info, impl, dtype, f"{info.name}-{name}-{dtype}".replace("torch.", ""))
    for info in INFOS
    for name, impl in impls(info).items()
    for dtype in DTYPES
    if dtype.is_floating_point or name != "fused"
]
each_impl_and_dtype = each(IMPLS_AND_DTYPES, ("info", "impl", "dtype"))
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO CUDA HERE: the accelerator's variants did not run"
)


def make(info, params, dtype, **kwargs):
    if dtype in EPS and "eps" in info.base_cls([torch.nn.Parameter(torch.ones(1))]).defaults:
        kwargs["eps"] = EPS[dtype]
    return info.make(params, **kwargs)


@each_impl_and_dtype
def test_every_type_holds_exactly_the_gradients_it_was_given(info, impl, dtype):
    """A capacity beyond the number of steps: slot t is gradient t, and the sum is their sum."""
    params = parameters(dtype)
    optimizer = make(info, params, dtype, capacity=9, **impl)
    given = list(itertools.islice(gradients(params), 6))
    for grads in given:
        step_with(optimizer, params, [g.clone() for g in grads])
    precision = torch.finfo(wide(params[0])).eps
    for i, p in enumerate(params):
        state = optimizer.state[p]
        total = torch.zeros_like(p, dtype=torch.promote_types(dtype, torch.float64))
        for t, grads in enumerate(given):
            assert_same(state["memory_slots"][t], grads[i], f"slot {t} of tensor {i}")
            total += grads[i]
        assert not state["memory_slots"][6:].any()
        assert state["memory_sum"].dtype == wide(p)
        assert_same(
            state["memory_sum"].to(total.dtype), total, "sum", rtol=0.0, atol=100 * precision
        )
        squares = [
            sum(g.to(wide(g)).abs().double().square().sum() for g in grads) for grads in given
        ]
        norms = torch.stack([*squares, *[torch.zeros(())] * 3]).sqrt()
        assert_same(state["memory_norm"], norms.double(), "norms", rtol=1e-5, atol=0.0)
        assert p.isfinite().all()
        assert p.dtype == dtype
    assert_differ([p.detach() for p in params], [p.detach() for p in parameters(dtype)])


@each_impl_and_dtype
def test_narrow_types_follow_float64(info, impl, dtype):
    """One step from a full memory is, rounded, the step in the widest type."""
    ours = parameters(dtype)
    widest = torch.complex128 if dtype.is_complex else torch.float64
    exact = [torch.nn.Parameter(p.detach().to(widest)) for p in ours]
    optimizers = [make(info, p, dtype, lr=0.01, **MEMORY, **impl) for p in (ours, exact)]
    for grads in itertools.islice(gradients(ours), 4):
        step_with(optimizers[0], ours, grads)
        step_with(optimizers[1], exact, [g.to(widest) for g in grads])
    tolerance = {"rtol": 30 * torch.finfo(dtype).eps, "atol": 30 * torch.finfo(dtype).eps}
    assert_same([p.detach().to(widest) for p in ours], [p.detach() for p in exact], **tolerance)


ODD = {
    "empty": lambda: torch.randn(0, 3),
    "zero-dim": lambda: torch.randn(()),
    "channels_last_3d": lambda: torch.randn(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d),
    "transposed": lambda: torch.randn(4, 3).t(),
    "sliced": lambda: torch.randn(4, 6)[:, ::2],
    "one element": lambda: torch.randn(1, 1, 1, 1),
}


@pytest.mark.parametrize("scope", ["model", "tensor"])
@each(
    [
        (info, impl, shape, f"{info.name}-{name}-{shape}")
        for info in INFOS
        for name, impl in impls(info).items()
        for shape in ODD
        # torch's fused kernels themselves are wrong, in silence, for parameters with gaps
        if not (name == "fused" and shape == "sliced")
    ],
    ("info", "impl", "shape"),
)
def test_odd_shapes_and_layouts(info, impl, shape, scope):
    """The stored gradient is the given one, whatever the strides of either."""
    params = [torch.nn.Parameter(ODD[shape]()), torch.nn.Parameter(torch.ones(2))]
    strides = [p.stride() for p in params]
    optimizer = info.make(params, scope=scope, capacity=4, **impl)
    given = list(itertools.islice(gradients(params), 4))
    for grads in given:
        step_with(optimizer, params, grads)
    for i, p in enumerate(params):
        alone = p.numel() == 0 and scope == "tensor"  # of norm zero: never stored
        for t, grads in enumerate(given):
            expected = torch.zeros_like(grads[i]) if alone else grads[i]
            assert_same(optimizer.state[p]["memory_slots"][t], expected)
        assert p.stride() == strides[i]
        assert p.grad is given[-1][i]
    assert optimizer.memory_report().scopes[-1].occupied == 4


@pytest.mark.parametrize("impl", [{"foreach": False}, {"foreach": True}], ids=str)
@each_optimizer
def test_expanded_gradients(info, impl):
    """Not fused: those kernels of torch are wrong, in silence, for gradients of other strides."""
    params, copies = parameters(shapes=[(3, 4), (5,)]), parameters(shapes=[(3, 4), (5,)])
    ours, expected = info.make(params, **MEMORY, **impl), info.make(copies, **MEMORY, **impl)
    for scale in (1.0, -2.0, 0.5, 3.0):
        grads = [torch.full((1, 1), scale).expand(3, 4), torch.full((1,), -scale).expand(5)]
        step_with(expected, copies, [g.contiguous() for g in grads])
        step_with(ours, params, grads)
        assert all(p.grad.stride() == (0,) * p.dim() for p in params)
    assert_same(snapshot(ours, params), snapshot(expected, copies))


@pytest.mark.parametrize("scope", ["model", "group"])
@each_impl
def test_a_tensor_without_gradient_has_zeros_in_its_slot(info, impl, scope):
    """Memory contents equal those of a run whose missing gradients are explicit zeros."""
    params, copies = parameters(), parameters()
    memory = {"capacity": 3, "decay": 0.9, "scope": scope}
    ours, zeros = info.make(params, **memory, **impl), info.make(copies, **memory, **impl)
    missing = [set(), {0}, {3}, {0, 3, 4}, {1}, {0}]
    for t, grads in enumerate(itertools.islice(gradients(params), 6)):
        step_with(
            zeros, copies, [g * 0 if i in missing[t] else g.clone() for i, g in enumerate(grads)]
        )
        step_with(ours, params, [None if i in missing[t] else g for i, g in enumerate(grads)])
        assert_same(memory_of(ours, params), memory_of(zeros, copies), f"step {t}")
    assert ours.memory_report().scopes[0].accepted_share > 0.5


@each_impl
def test_in_scope_tensor_a_missing_gradient_leaves_the_memory_alone(info, impl):
    params = parameters()
    optimizer = info.make(params, scope="tensor", **MEMORY, **impl)
    train(optimizer, params)
    before = memory_of(optimizer, params)
    step_with(optimizer, params, [None, *next(gradients(params, seed=5))[1:]])
    after = memory_of(optimizer, params)
    assert_same(after[0], before[0])
    assert_differ(after[3], before[3])


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@each_optimizer
def test_mixed_types_in_one_group(info, scope):
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.float32]
    params = [p for dtype in dtypes for p in parameters(dtype, [(3, 2), ()])]
    optimizer = info.make(params, scope=scope, capacity=9)
    given = list(itertools.islice(gradients(params), 5))
    for grads in given:
        step_with(optimizer, params, grads)
    for i, p in enumerate(params):
        stored = optimizer.state[p]["memory_slots"]
        assert stored.dtype == p.dtype
        for t, grads in enumerate(given):
            assert_same(stored[t], grads[i])
    assert len(optimizer.memory_report().scopes) == (len(params) if scope == "tensor" else 1)


BAD = {
    "nan": lambda p: torch.full_like(p, float("nan")),
    "inf": lambda p: torch.full_like(p, float("inf")),
    "-inf": lambda p: torch.full_like(p, -float("inf")),
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize(
    ("bad", "which"),
    # one zero tensor among others is a gradient like any other
    [
        (bad, which)
        for bad in BAD
        for which in ("all", "first")
        if (bad, which) != ("zero", "first")
    ],
)
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@each(
    [case for case in IMPLS_AND_DTYPES if "forloop" not in case[-1]],
    ("info", "impl", "dtype"),
)
def test_bad_gradients_leave_the_memory_as_it_was(info, impl, dtype, scope, bad, which):
    alone = scope == "tensor" and which == "first"  # the other tensors see a good gradient then
    touched = slice(0, 1) if alone else slice(None)
    runs = []
    for with_bad in (True, False):
        params = parameters(dtype)
        optimizer = make(info, params, dtype, scope=scope, **MEMORY, **impl)
        stream = gradients(params)
        for t in range(7):
            grads = next(stream)
            if with_bad and t in (0, 2, 3, 5):
                before = memory_of(optimizer, params)
                spoilt = [
                    BAD[bad](p.detach()) if which == "all" or i == 0 else g
                    for i, (p, g) in enumerate(zip(params, grads, strict=True))
                ]
                step_with(optimizer, params, spoilt)
                after = memory_of(optimizer, params)
                if t > 0:
                    assert_same(after[touched], before[touched], f"bad step {t}")
                else:
                    assert not any(entry["memory_slots"].any() for entry in after[touched])
            step_with(optimizer, params, grads)
        runs.append(memory_of(optimizer, params)[touched])
    assert_same(runs[0], runs[1])
    assert runs[0][0]["memory_birth"].all()


@each_optimizer
def test_a_huge_but_finite_gradient_counts_as_infinite_and_is_not_stored(info):
    """Documented: in float32 the square of more than 1.8e19 is infinite; float64 goes further."""
    for dtype, stored in ((torch.float32, 0), (torch.float64, 1)):
        params = parameters(dtype, [(2,)])
        optimizer = info.make(params, **MEMORY)
        step_with(optimizer, params, [torch.full((2,), 1e25, dtype=dtype)])
        assert optimizer.memory_report().scopes[0].occupied == stored


@each_impl
def test_a_grad_scaler_hands_over_unscaled_gradients(info, impl):
    params, copies = parameters(shapes=[(3, 4), (5,)]), parameters(shapes=[(3, 4), (5,)])
    scaled, plain = info.make(params, **MEMORY, **impl), info.make(copies, **MEMORY, **impl)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    scales = set()
    for t, grads in enumerate(itertools.islice(gradients(params), 8)):
        overflow = t in (2, 5)
        scales.add(scale := scaler.get_scale())
        assert scaler.scale(torch.ones(())).item() == scale
        for p, g in zip(params, grads, strict=True):
            p.grad = g * scale
        if overflow:
            params[0].grad[1, 1] = float("inf")
            before = snapshot(scaled, params)
        scaler.step(scaled)
        scaler.update()
        if overflow:
            assert_same(snapshot(scaled, params), before)
        else:
            step_with(plain, copies, grads)
    assert len(scales) > 2
    assert_same(snapshot(scaled, params), snapshot(plain, copies))  # powers of two: exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@each(
    [
        (INFOS[2], own, f"{own}")
        for own in ({}, {"lr": 0.5}, {"capacity": 2}, {"decay": 0.5}, {"kappa": 0}, {"capacity": 0})
    ]
    + [(INFOS[0], {"scope": "tensor"}, "SGD_C"), (INFOS[1], {"policy": "fifo"}, "RMSprop_C")],
    ("info", "own"),
)
def test_bytes_are_as_foretold(info, own, scope, dtype):
    params, others = parameters(dtype), parameters(dtype, seed=2)
    groups = [{"params": params}, {"params": others, **own}]
    foretold = gradmem.memory_bytes(groups, capacity=4, scope=scope)
    optimizer = info.make(groups, capacity=4, scope=scope)
    train(optimizer, [*params, *others], 1)
    report = optimizer.memory_report()
    slots = [entry for entry in optimizer.state.values() if "memory_slots" in entry]
    assert foretold.slots == sum(entry["memory_slots"].nbytes for entry in slots)
    assert foretold.sums == sum(entry["memory_sum"].nbytes for entry in slots)
    assert foretold.total == report.bytes
    assert report.bytes == sum(s.bytes for s in report.scopes) > 0


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
def test_bytes_of_a_group_of_one_tensor_and_of_named_parameters(scope):
    params = parameters(shapes=[(4, 3)])
    expected = gradmem.memory_bytes(params, scope=scope)
    assert gradmem.memory_bytes([{"params": params[0]}], scope=scope) == expected
    assert gradmem.memory_bytes([("weight", params[0])], scope=scope) == expected
    assert gradmem.memory_bytes((p for p in params), scope=scope) == expected


# Sparse ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@each_optimizer
def test_a_sparse_gradient_is_refused_and_changes_nothing(info, scope, where):
    params = parameters(shapes=[(3, 4), (5,), (4, 2)])
    optimizer = info.make(params, scope=scope, **MEMORY)
    for steps in (0, 4):
        train(optimizer, params, steps)
        grads = next(gradients(params))
        grads[0 if where == "first" else -1] = grads[0 if where == "first" else -1].to_sparse()
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        sentence = r"shape \(\d, \d\).*layout torch.sparse_coo.*use nn.Embedding\(sparse=False\)"
        refuse(GradientError, optimizer.step, optimizer, params, sentence)
        continues(optimizer, params)


@pytest.mark.parametrize("form", ["list", "group", "generator", "named", "single"])
@each_optimizer
def test_a_sparse_parameter_is_refused(info, form):
    p = torch.nn.Parameter(torch.eye(3).to_sparse())
    given = {
        "list": [p],
        "group": [{"params": [p]}],
        "generator": (q for q in [p]),
        "named": [("weight", p)],
        "single": [{"params": p}],
    }[form]
    with pytest.raises(GradientError, match=r"param group 0: .*torch.sparse_coo.*\.to_dense\(\)"):
        info.optim_cls(given)


# Accelerators -------------------------------------------------------------------------------------


def cuda_cases():
    for info in INFOS:
        for given in info.optim_inputs_func("cuda"):
            for name, impl in impls(info, "cuda").items():
                if takes(info, given.kwargs, name):
                    yield info, {**given.kwargs, **impl}, f"{info.name}-{given.desc}-{name}"


@needs_cuda
@each(list(cuda_cases()), ("info", "kwargs"))
def test_on_cuda_the_memory_and_the_steps_are_those_on_the_cpu(info, kwargs):
    host, device = parameters(torch.float64), parameters(torch.float64, device="cuda")
    shared = {k: v for k, v in kwargs.items() if k not in ("capturable", "foreach", "fused")}
    expected, ours = info.make(host, **shared), info.make(device, **kwargs)
    for grads in itertools.islice(gradients(host), 9):
        step_with(ours, device, [g.cuda() for g in grads])
        step_with(expected, host, grads)
    close = {"rtol": 1e-8, "atol": 1e-10}
    assert_same([p.detach().cpu() for p in device], [p.detach() for p in host], **close)
    for on_device, on_host in zip(memory_of(ours, device), memory_of(expected, host), strict=True):
        assert_same({k: v.cpu() for k, v in on_device.items()}, on_host, **close)


@needs_cuda
@each_optimizer
def test_parameters_on_several_devices(info):
    params = [*parameters(torch.float64), *parameters(torch.float64, seed=3, device="cuda")]
    copies = [torch.nn.Parameter(p.detach().cpu()) for p in params]
    ours, expected = info.make(params, **MEMORY), info.make(copies, **MEMORY)
    for grads in itertools.islice(gradients(copies), 8):
        step_with(ours, params, [g.to(p.device) for g, p in zip(grads, params, strict=True)])
        step_with(expected, copies, grads)
    moved = [p.detach().cpu() for p in params]
    assert_same(moved, [p.detach() for p in copies], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (torch.nn.Sequential(torch.nn.Linear(2, 1)), "got a Sequential; of a model give model.par"),
        ({"params": [torch.ones(2)]}, "got a dict"),
        (torch.ones(2), "got a Tensor"),
        ([torch.nn.Linear(2, 1)], "must be tensors, or names and tensors, got Linear"),
        ([("weight", 3.0)], r"got \('weight', 3.0\)"),
    ],
)
def test_bytes_are_of_parameters(params, said):
    with pytest.raises(gradmem.OptionTypeError, match=said):
        gradmem.memory_bytes(params)
