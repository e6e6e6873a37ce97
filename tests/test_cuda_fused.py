"""The kernels of an accelerator on a CUDA device: the eager steps, no wait for it, captured graphs.

What they compute is tried without one in test_fused_triton.py, by Triton's interpreter.
"""

from __future__ import annotations

import itertools

import pytest
import torch

import gradmem
from gradmem.memory import on_device
from gradmem.optim.fused import on_triton, tables

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: there is none"
)
FUSED = ["SGD_C", "RMSprop_C", "Adam_C", "AdamW_C", "Adam_CM", "AdamW_CM"]
FORMS = {
    "default": {},
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
PAIRS = [
    (name, form)
    for name in gradmem.names()
    for form, given in FORMS.items()
    if set(given) <= set(gradmem.options(name))
    and (name, form) != ("sgd_cm", "fused")  # has no such kernel, and says so
]


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FORMATS = [None, "bfloat16", "float16", "int8"]
BLOCK = tables.BLOCK


def make(
    name, shapes=((64, 32), (32,), (), (0,), (3 * BLOCK + 7,)), dtype=torch.float32, **options
):
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to("cuda", dtype))
        for shape in shapes
    ]
    cls = getattr(gradmem, name, None)
    options = {"lr": 0.01, "capacity": 3, "decay": 0.95, **options}
    return params, cls(params, **options) if cls else gradmem.create(name, params, **options)


def give(params, seed, *, in_place=True, absent=()):
    generator = torch.Generator("cuda").manual_seed(seed)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator, device="cuda") * (1 + seed % 5)
        grad = grad.to(p.dtype)
        if i in absent:
            p.grad = None
        else:
            p.grad = grad if p.grad is None or not in_place else p.grad.copy_(grad)


@pytest.fixture
def launches(monkeypatch):
    """A list that grows by the form of every pass that follows a decision."""
    found, one_pass = [], on_triton.one_pass

    def counting(form, layout, given, orders, capacity, squares=None):
        if squares is None:
            found.append(form)
        one_pass(form, layout, given, orders, capacity, squares)

    monkeypatch.setattr(on_triton, "one_pass", counting)
    return found


def assert_both_equal(name, launches, steps=25, tolerance=1e-4, absent=lambda t: (), **options):
    """A fused and an eager optimizer, step by step."""
    ours, one = make(name, fused=True, **options)
    theirs, other = make(name, **options)
    for t in range(steps):
        give(ours, t, in_place=t % 3 > 0, absent=absent(t))
        give(theirs, t, absent=absent(t))
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + t)
            optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 10)
    assert len(launches) == steps - 1  # the first is eager
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(one.state[p]["memory_birth"], other.state[q]["memory_birth"])


@pytest.mark.parametrize("memory_dtype", FORMATS)
@pytest.mark.parametrize("name", FUSED)
def test_every_step_is_the_eager_one(name, memory_dtype, launches):
    assert_both_equal(name, launches, memory_dtype=memory_dtype)


@pytest.mark.parametrize("memory_dtype", ["float32", *FORMATS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype, memory_dtype, launches):
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 0.05)
    options = {"dtype": dtype, "memory_dtype": memory_dtype, "policy": "fifo"}
    assert_both_equal("SGD_C", launches, tolerance=tolerance, **options)


@pytest.mark.parametrize("aggregate", ["mid", "min", "median_mean"])
@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_every_kind_of_aggregate_and_scope(aggregate, scope, launches):
    assert_both_equal("AdamW_C", launches, aggregate=aggregate, scope=scope, kappa=-0.3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD_C", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
        ("RMSprop_C", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
        ("RMSprop_C", {"momentum": 0.9, "capturable": True}),
        ("Adam_C", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
        ("AdamW_C", {"betas": (0.0, 0.9), "capturable": True}),
        ("AdamW_CM", {"amsgrad": True, "maximize": True}),
    ],
)
def test_options_of_the_rules(name, options, launches):
    assert_both_equal(name, launches, **options)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("norm", ["l2", "sum"])
def test_where_the_memory_refuses_the_update_is_made_ahead(norm, scope, launches, monkeypatch):
    """Steps that guess right and wrong, and equal bits where none guesses."""
    ends = []
    for ahead in (True, False):
        if not ahead:
            monkeypatch.setattr(on_device, "refused_last", lambda ledger: ledger.drift > 1e99)
        params, optimizer = make("AdamW_C", fused=True, decay=0.99, norm=norm, scope=scope)
        accepted = []
        for t in range(60):
            give(params, t)
            for p in params:
                p.grad.mul_((0.2, 0.5, 3.0)[t // 6 % 3])
            optimizer.step()
            accepted.append(int(optimizer.state[params[0]]["memory_counters"][1]))
        taken = [later > earlier for earlier, later in itertools.pairwise(accepted)]
        assert {(False, False), (False, True), (True, False)} <= set(itertools.pairwise(taken))
        ends.append([*params, *(optimizer.state[p]["memory_sum"] for p in params)])
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_absent_gradients(launches):
    def absent(t):
        return (t % 4, t % 3) if t > 2 else ()

    assert_both_equal("Adam_C", launches, absent=absent)
    assert len(set(launches)) == 1


@pytest.mark.parametrize(
    ("dtype", "memory_dtype", "size"),
    [
        (torch.float32, "int8", 512 * BLOCK),
        (torch.bfloat16, "float32", 512 * BLOCK),
        (torch.bfloat16, None, 512 * BLOCK + 1),  # no slot after the first suits wide loads
        (torch.float16, "float32", 512 * BLOCK + 1),
    ],
)
def test_slots_are_read_before_they_are_written(dtype, memory_dtype, size, launches):
    """By other threads: in many blocks, whose magnitudes leap from slot to slot."""
    options = {"memory_dtype": memory_dtype, "policy": "fifo", "capacity": 2, "lr": 1e-4}
    (p,), optimizer = make("SGD_C", [(size,)], dtype=dtype, fused=True, **options)
    largest = 0.0
    for t in range(15):
        give([p], t)
        p.grad.mul_(10.0 ** (t % 4))
        optimizer.step()
        state = optimizer.state[p]
        slots, step = state["memory_slots"].float(), 0.0
        if memory_dtype == "int8":
            each = state["memory_scales"].repeat_interleave(256, dim=1)
            slots, step = slots * each, each.max()
        largest = max(largest, float(p.grad.abs().max()))
        off = (state["memory_sum"] - slots.sum(dim=0)).abs().max()
        assert off <= 1e-6 * largest  # a number taken for another's is off by far more
        newest = int(state["memory_birth"].argmax())
        assert (slots[newest] - p.grad).abs().max() <= 0.51 * step
    assert len(launches) == 14


def test_parameters_at_odd_addresses(launches):
    ends = []
    for fused in (True, False):
        flat = torch.linspace(-1, 1, 4 * BLOCK, device="cuda")
        params = [
            torch.nn.Parameter(flat[1 : 2 * BLOCK]),
            torch.nn.Parameter(flat[2 * BLOCK + 3 :]),
        ]
        optimizer = gradmem.AdamW_C(params, capacity=3, fused=fused)
        grads = torch.zeros(4 * BLOCK, device="cuda")
        for t in range(10):
            grads.copy_(torch.randn(4 * BLOCK, generator=torch.Generator().manual_seed(t)))
            params[0].grad, params[1].grad = grads[1 : 2 * BLOCK], grads[2 * BLOCK + 3 :]
            optimizer.step()
        ends.append(flat)
    assert len(launches) == 9
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_many_tensors(launches):
    shapes = [(1 + i % 700,) for i in range(3000)]
    assert_both_equal("Adam_C", launches, steps=4, shapes=shapes)


@pytest.mark.parametrize(
    ("size", "dtype"), [(2**29 + 1029, torch.float32), (2**31 + 1029, torch.bfloat16)]
)
def test_more_than_32_bits_can_address(size, dtype, launches):
    """Bytes of a tensor, and elements: what is at the end is as what is at the beginning."""
    p = torch.nn.Parameter(torch.zeros(size, dtype=dtype, device="cuda"))
    optimizer = gradmem.SGD_C([p], lr=0.25, capacity=2, aggregate="mean", fused=True)
    for value in (1.0, 2.0, 4.0):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    assert len(launches) == 2
    for some in (p.detach(), optimizer.state[p]["memory_sum"], *optimizer.state[p]["memory_slots"]):
        assert some[0] != 0
        assert (some == some[0]).all()


def test_another_device_than_the_current_one(launches):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    p = torch.nn.Parameter(torch.ones(300, device="cuda:1"))
    optimizer = gradmem.SGD_C([p], lr=0.1, capacity=2, fused=True)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert len(launches) == 2
    assert torch.cuda.current_device() == 0


def test_on_a_stream_of_ones_own(launches):
    ends = []
    for stream in (torch.cuda.Stream(), torch.cuda.current_stream()):
        params, optimizer = make("AdamW_C", [(2048, 512)], fused=True)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for t in range(12):
                give(params, t, in_place=False)
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_nothing_waits_for_the_device(name, form):
    params, optimizer = make(name, **FORMS[form])
    for t in range(5):
        give(params, t)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t in range(40):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + t)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert optimizer.memory_report().scopes[0].occupied == 3


def test_nor_new_gradients_and_schedules():
    """Addresses and options are sent while the device goes on."""
    params, optimizer = make("Adam_C", fused=True, memory_dtype="int8")
    for t in range(5):
        give(params, t, in_place=False)
        optimizer.step()
    fresh = [[torch.randn_like(p) for p in params] for _ in range(30)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t, grads in enumerate(fresh):
            for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
                p.grad = None if (t + i) % 5 == 0 else grad
            group = optimizer.param_groups[0]
            group.update(lr=0.01 / (1 + t), betas=(0.9 - 0.01 * t, 0.99), kappa=1 - 0.1 * t)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_does_not_wait_either_and_the_step_is_that_after_torchs(fused):
    both = []
    for clip in (torch.nn.utils.clip_grad_norm_, None):
        params, optimizer = make("AdamW_C", fused=fused)
        for t in range(12):
            give(params, t, absent={1} if t % 4 == 3 else ())
            if t >= 4:
                torch.cuda.set_sync_debug_mode("error")
            try:
                clip(params, 3.0) if clip else optimizer.clip_grad_norm_(3.0)
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        both.append(params)
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)


def test_clipping_and_a_step_in_one_graph():
    both = []
    for captured in (False, True):
        params, optimizer = make("AdamW_C", capturable=True, fused=True)
        warm_up(params, optimizer)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.clip_grad_norm_(3.0)
                optimizer.step()
        for t in range(5, 25):
            give(params, t)
            if captured:
                graph.replay()
            else:
                optimizer.clip_grad_norm_(3.0)
                optimizer.step()
        both.append(params)
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)


def warm_up(params, optimizer, steps=3):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for t in range(steps):
            give(params, t)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", FUSED[1:])
def test_a_captured_step_follows_the_learning_rate(name, fused, launches):
    both = []
    for captured in (False, True):
        lr = torch.tensor(0.01, device="cuda")
        params, optimizer = make(name, lr=lr, capturable=True, fused=fused)
        warm_up(params, optimizer)
        graph = torch.cuda.CUDAGraph()
        if captured:
            before = len(launches)
            with torch.cuda.graph(graph):
                optimizer.step()
            assert len(launches) == before + fused
        for t in range(5, 25):
            give(params, t)
            lr.fill_(0.01 / t)
            graph.replay() if captured else optimizer.step()
        both.append(params)
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)


def test_gradients_of_the_graph_and_eager_steps_between_replays(launches):
    """The graph has gradients of its own, and keeps the options it was captured with."""
    both = []
    for captured in (False, True):
        params, optimizer = make("AdamW_C", [(300, 7), (5,)], capturable=True, fused=True)
        sources = [torch.ones_like(p) for p in params]

        def step(params=params, optimizer=optimizer, sources=sources):
            for p, source in zip(params, sources, strict=True):
                p.grad = source * 2.0
            optimizer.step()

        warm_up(params, optimizer)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                step()
        for t in range(20):
            generator = torch.Generator("cuda").manual_seed(t)
            for source in sources:
                source.copy_(torch.randn(source.shape, generator=generator, device="cuda"))
            if t % 4 == 3:
                optimizer.param_groups[0]["lr"] = 0.002 * t
                give(params, t, in_place=False)
                optimizer.step()
                optimizer.param_groups[0]["lr"] = 0.01
            else:
                graph.replay() if captured else step()
        both.append(params)
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_it_launches_fewer_kernels(name):
    launched = []
    for fused in (False, True):
        params, optimizer = make(name, [(64, 64)] * 40, fused=fused)
        for t in range(5):
            give(params, t)
            optimizer.step()
        give(params, 5)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            optimizer.step()
            torch.cuda.synchronize()
        names = [event.name for event in profile.events()]
        launched.append(len(names))
        ours = [name for name in names if name in ("measure", "one_pass", "count_steps", "add_up")]
    assert launched[1] < 0.7 * launched[0], launched
    once = ["count_steps", "one_pass"] if "Adam" in name else ["one_pass"]
    assert ours == (once if name.endswith("CM") else ["measure", *once, *once])
