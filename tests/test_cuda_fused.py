"""The compiled pass on a CUDA device: the eager steps, no wait for the device, captured graphs."""

from __future__ import annotations

import pytest
import torch

import gradmem
from gradmem.optim.fused import compiled

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: there is none"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Inductor's own
]
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
]


def make(name, shapes=((64, 32), (32,), ()), **options):
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=generator).cuda()) for shape in shapes
    ]
    cls = getattr(gradmem, name, None)
    options = {"lr": 0.01, "capacity": 3, "decay": 0.95, **options}
    return params, cls(params, **options) if cls else gradmem.create(name, params, **options)


def give(params, seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    for p in params:
        grad = torch.randn(p.shape, generator=generator, device="cuda") * (1 + seed % 5)
        p.grad = grad if p.grad is None else p.grad.copy_(grad)


def count(monkeypatch):
    """A list that grows with every compiled pass."""
    passes, whole = [], compiled._failure

    def counting(*arguments):
        passes.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(compiled, "_failure", counting)
    return passes


@pytest.mark.parametrize("memory_dtype", [None, "bfloat16", "int8"])
@pytest.mark.parametrize("name", FUSED)
def test_every_step_is_the_eager_one(name, memory_dtype, monkeypatch):
    passes = count(monkeypatch)
    ours, one = make(name, fused=True, memory_dtype=memory_dtype)
    theirs, other = make(name, memory_dtype=memory_dtype)
    for t in range(40):
        give(ours, t)
        give(theirs, t)
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + t)
            optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(passes) == 38
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(one.state[p]["memory_birth"], other.state[q]["memory_birth"])


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


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", FUSED[1:])
def test_a_captured_step_follows_the_learning_rate(name, fused):
    both = []
    for captured in (False, True):
        lr = torch.tensor(0.01, device="cuda")
        params, optimizer = make(name, lr=lr, capturable=True, fused=fused)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for t in range(5):
                give(params, t)
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for t in range(5, 25):
            give(params, t)
            lr.fill_(0.01 / t)
            graph.replay() if captured else optimizer.step()
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
        launched.append(len(profile.events()))
    assert launched[1] < 0.7 * launched[0], launched
