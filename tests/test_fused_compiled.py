"""The compiled pass of an accelerator, tried on the CPU: the same steps, few graphs, a way back."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import gradmem
from gradmem.optim.fused import compiled
from gradmem.optim.plan import Memory

SHAPES = ((3, 4), (), (0,), (300,))
BASES = {
    "SGD_C": [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.2}, {}],
    "RMSprop_C": [{"momentum": 0.9, "centered": True}, {"maximize": True}],
    "Adam_C": [{"amsgrad": True}, {"maximize": True, "decoupled_weight_decay": True}],
    "AdamW_C": [{"betas": (0.0, 0.9)}],
    "Adam_CM": [{"amsgrad": True, "maximize": True}],
    "AdamW_CM": [{}],
}
CASES = [(name, base) for name, bases in BASES.items() for base in bases]
POLICIES = ["top_norm", "bottom_norm", "fifo", "random", "reservoir", "proportional"]
POLICIES += ["mean_diverse", "cosine_diverse", "cosine_similar"]


@pytest.fixture
def counter(monkeypatch):
    """Decisions stay in tensors and runs on the CPU are compiled; counts the graphs."""
    monkeypatch.setattr(Memory, "on_host", False)
    monkeypatch.setattr(compiled, "DEVICES", {"cpu"})
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiled, "BACKEND", counter)
    torch._dynamo.reset()
    return counter


def train(name, fused, steps=12, dtype=torch.float64, absent=(), edit=None, **options):
    """Parameters and state after steps whose gradients depend on nothing but the shapes."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in SHAPES]
    options = {"lr": 0.01, "capacity": 3, "decay": 0.95, "weight_decay": 0.1, **options}
    optimizer = getattr(gradmem, name)(params, fused=fused, **options)
    for t in range(steps):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
            p.grad = None if (t, i) in absent else grad * (1 + t % 5)
        if edit:
            edit(optimizer.param_groups[0], t)
        optimizer.step()
    return [p.detach() for p in params], [dict(optimizer.state[p]) for p in params]


def assert_equals_eager(name, counter, graphs=1, rtol=1e-9, **options):
    expected = train(name, False, **options)
    assert counter.frame_count == 0
    torch.testing.assert_close(train(name, True, **options), expected, rtol=rtol, atol=rtol)
    assert counter.frame_count == graphs


@pytest.mark.parametrize(("name", "base"), CASES)
def test_one_graph_does_every_step(name, base, counter):
    assert_equals_eager(name, counter, **base)


@pytest.mark.parametrize("aggregate", ["mid", "sum", "min", "median_mean"])
def test_every_kind_of_aggregate(aggregate, counter):
    assert_equals_eager("Adam_C", counter, aggregate=aggregate, kappa=-0.3)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy(policy, counter):
    assert_equals_eager("SGD_C", counter, policy=policy, max_age=9)


@pytest.mark.parametrize("memory_dtype", ["float32", "bfloat16", "float16", "int8"])
def test_every_format(memory_dtype, counter):
    assert_equals_eager("SGD_C", counter, memory_dtype=memory_dtype)


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_every_scope(scope, counter):
    assert_equals_eager("Adam_C", counter, scope=scope)


def test_schedules_of_any_number_make_no_graph(counter):
    def edit(group, t):
        group.update(lr=0.01 / (1 + t), betas=(0.9 - 0.02 * t, 0.99), weight_decay=0.1 + t)
        group.update(kappa=1 - 0.1 * t, decay=0.9 + 0.005 * t)

    assert_equals_eager("Adam_C", counter, edit=edit)


def test_a_switch_that_is_turned_makes_one(counter):
    def edit(group, t):
        group["weight_decay"] = 0.1 * (t < 6)

    assert_equals_eager("Adam_C", counter, graphs=2, edit=edit)


def test_a_set_of_gradients_makes_one_when_it_comes_twice_in_a_row(counter):
    once = {(4, 0), (6, 3)}
    assert_equals_eager("Adam_C", counter, absent=once)


def test_another_set_for_good_makes_one_more(counter):
    absent = {(t, 3) for t in range(5, 12)}
    assert_equals_eager("RMSprop_C", counter, graphs=2, absent=absent)


def test_there_is_a_limit_to_graphs(counter, monkeypatch):
    monkeypatch.setattr(compiled, "GRAPHS", 1)
    absent = {(t, 3) for t in range(5, 12)}
    assert_equals_eager("SGD_C", counter, graphs=1, absent=absent)


@pytest.mark.parametrize("name", ["Adam_C", "Adam_CM"])
def test_bad_gradients_leave_no_trace_in_the_memory(name, counter):
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = getattr(gradmem, name)([p], capacity=2, fused=True, betas=(0.0, 0.9))
    for value in (1.0, 2.0, float("nan"), float("inf"), 0.0):
        p.grad = torch.full((4,), value)
        optimizer.step()
    assert counter.frame_count == 1
    assert torch.equal(optimizer.state[p]["memory_slots"], torch.tensor([[1.0] * 4, [2.0] * 4]))
    assert torch.equal(optimizer.state[p]["memory_sum"], torch.full((4,), 3.0))


def test_where_compiling_fails_it_says_so_once_and_goes_on(counter, monkeypatch):
    def broken(graph, inputs):
        raise OSError("there is no compiler")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    expected = train("Adam_C", False)
    with pytest.warns(RuntimeWarning, match="torch.compile failed with .*no compiler") as warned:
        result = train("Adam_C", True)
    assert len(warned) == 1
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_an_error_of_a_graph_that_runs_is_raised(counter, monkeypatch):
    def backend(graph, inputs):
        def run(*arguments):
            raise MemoryError("out of memory")

        return run

    monkeypatch.setattr(compiled, "BACKEND", backend)
    with pytest.raises(MemoryError, match="out of memory"):
        train("Adam_C", True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor's own
@pytest.mark.parametrize("name", ["SGD_C", "Adam_CM"])
def test_with_inductor(name, counter, monkeypatch):
    failures, whole = [], compiled._failure

    def watched(*arguments):
        failures.append(whole(*arguments))
        return failures[-1]

    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr(compiled, "_failure", watched)
    expected = train(name, False, dtype=torch.float32)
    result = train(name, True, dtype=torch.float32)
    assert failures == [None] * 10  # after one that makes the state, and one more
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
