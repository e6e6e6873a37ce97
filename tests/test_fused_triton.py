"""The kernels of an accelerator, in Triton's interpreter: the steps of the eager passes.

That they compile is in test_triton_compiler.py; what a device alone can show, test_cuda_fused.py.
"""

from __future__ import annotations

import pytest
import torch

import gradmem
from fused_cases import OPTIONS, needs_kernels
from gradmem.optim.fused import tables
from gradmem.optim.plan import Memory
from optimizers import assert_same, parameters, train
from triton_cases import assert_equals_eager, course, needs_interpreter, use_interpreter

pytestmark = [
    needs_interpreter,
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy's, of NaN
]

BLOCK = tables.BLOCK
BASES = {
    "SGD_C": [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.2}, {}],
    "RMSprop_C": [{"momentum": 0.9, "centered": True}, {"maximize": True}],
    "Adam_C": [{"amsgrad": True}, {"maximize": True, "decoupled_weight_decay": True}],
    "AdamW_C": [{"betas": (0.0, 0.9)}],
    "Adam_CM": [{"amsgrad": True, "maximize": True}],
    "AdamW_CM": [{}],
}
CASES = [(name, base) for name, bases in BASES.items() for base in bases]


@pytest.fixture
def launches(monkeypatch):
    return use_interpreter(monkeypatch)


@pytest.mark.parametrize(("name", "base"), CASES)
def test_every_rule(name, base, launches):
    assert_equals_eager(name, launches, **base)


@pytest.mark.parametrize("aggregate", ["mid", "sum", "min", "median_mean"])
def test_every_kind_of_aggregate(aggregate, launches):
    assert_equals_eager("Adam_C", launches, aggregate=aggregate, kappa=-0.3)


def test_weights_of_a_function_that_lie_in_no_order(launches):
    def ages(ledger, kappa):
        return gradmem.Weights(0.5, kappa / (1.0 + ledger.age.t().contiguous().t().float()))

    assert_equals_eager("SGD_C", launches, aggregate=ages, scope="tensor", tolerance=1e-6)


@pytest.mark.parametrize("policy", ["fifo", "random", "mean_diverse"])
def test_policies(policy, launches):
    assert_equals_eager("SGD_C", launches, policy=policy, max_age=5)


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_every_scope(scope, launches):
    assert_equals_eager("Adam_C", launches, scope=scope)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize("memory_dtype", ["float32", "bfloat16", "float16", "int8"])
def test_every_format(memory_dtype, aggregate, launches):
    shapes = ((300,), (5, 2))
    options = {"memory_dtype": memory_dtype, "aggregate": aggregate, "shapes": shapes}
    assert_equals_eager("SGD_C", launches, **options)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 272])
@pytest.mark.parametrize("memory_dtype", [None, "int8"])
def test_sizes_about_a_block(size, memory_dtype, launches):
    """Whole blocks, whole blocks at addresses that suit no wide load, and the rest of one."""
    options = {"shapes": ((size,),), "memory_dtype": memory_dtype, "momentum": 0.9}
    assert_equals_eager("SGD_C", launches, steps=5, capacity=2, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_dtype", [None, "float16", "int8"])
@pytest.mark.parametrize("name", ["SGD_C", "RMSprop_C", "AdamW_C"])
@needs_kernels
def test_the_twin_in_c_plus_plus(name, memory_dtype, dtype, launches, monkeypatch):
    """To a bit or two: both compute in float32 and round once."""
    ends = []
    for on_host in (True, False):
        params = parameters(dtype, shapes=[(300,), (4, 7)])
        optimizer = getattr(gradmem, name)(
            params, **{**OPTIONS[name], "memory_dtype": memory_dtype, "fused": True}
        )
        monkeypatch.setattr(Memory, "on_host", True)
        train(optimizer, params, 2)
        monkeypatch.setattr(Memory, "on_host", on_host)
        optimizer._plan = None  # which says who takes a run
        train(optimizer, params, 5, seed=3)
        ends.append([[p.detach() for p in params], [optimizer.state[p] for p in params]])
    for state in (*ends[0][1], *ends[1][1]):
        del state["memory_drift"]
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"]).float()
    tolerance = 2e-6 if dtype is torch.float32 else 2**-7
    assert_same(*ends, rtol=tolerance, atol=tolerance)
    assert launches.steps == 5


def test_float16_parameters(launches):
    """No further off than the eager passes, which round at every operation."""
    options = {"shapes": ((300,), (5, 2)), "momentum": 0.9, "lr": 0.03}
    exact = course("SGD_C", False, **options)[0]
    ours = course("SGD_C", True, dtype=torch.float16, **options)[0]
    eager = course("SGD_C", False, dtype=torch.float16, **options)[0]
    assert launches.steps == 6

    def off(some):
        return sum(float((p.double() - e).norm()) for p, e in zip(some, exact, strict=True))

    assert off(ours) < 1.1 * off(eager) < 0.1


def test_schedules_of_any_number_make_no_kernel(launches):
    def edit(group, t):
        group.update(lr=0.01 / (1 + t), betas=(0.9 - 0.02 * t, 0.99), weight_decay=0.1 * (t % 3))
        group.update(kappa=1 - 0.1 * t, decay=0.9 + 0.005 * t, maximize=t == 4)

    assert_equals_eager("Adam_C", launches, edit=edit)


def test_nor_do_options_that_are_tensors(launches):
    lr = torch.tensor(0.1, dtype=torch.float64)

    def edit(group, t):
        group["lr"].mul_(0.9)

    expected = course("RMSprop_C", False, lr=lr.clone(), edit=edit)
    torch.testing.assert_close(course("RMSprop_C", True, lr=lr, edit=edit), expected)
    assert launches.steps == 6
    assert len(launches.forms) == 1


def test_nor_sets_of_gradients_and_who_has_none_stores_zero(launches):
    absent = {(1, 1), (2, 0), (2, 3), (4, 0), (4, 1), (4, 2), (4, 3), (5, 3)}
    assert_equals_eager("Adam_C", launches, absent=absent)


def test_who_gets_a_first_gradient_late_has_it_in_an_eager_step(launches):
    absent = {(t, 3) for t in range(3)} | {(t, 0) for t in range(5)}
    options = {"momentum": 0.9, "absent": absent}
    assert_equals_eager("SGD_C", launches, steps=8, eager=3, **options)


@pytest.mark.parametrize("name", ["Adam_C", "Adam_CM"])
def test_bad_gradients_leave_no_trace_in_the_memory(name, launches):
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = getattr(gradmem, name)([p], capacity=2, fused=True, betas=(0.0, 0.9))
    for value in (1.0, 2.0, float("nan"), float("inf"), 0.0):
        p.grad = torch.full((4,), value)
        optimizer.step()
    assert launches.steps == 4
    assert torch.equal(optimizer.state[p]["memory_slots"], torch.tensor([[1.0] * 4, [2.0] * 4]))
    assert torch.equal(optimizer.state[p]["memory_sum"], torch.full((4,), 3.0))


@pytest.mark.parametrize("memory_dtype", ["float32", "float16", "bfloat16"])
def test_what_is_beyond_a_format_is_its_largest_number(memory_dtype, launches):
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = gradmem.SGD_C([p], lr=0.0, capacity=2, memory_dtype=memory_dtype, fused=True)
    largest = torch.finfo(getattr(torch, memory_dtype)).max
    for sign in (1.0, -1.0):
        p.grad = torch.tensor([1.0, sign * 1e39, -sign * 1e39], dtype=torch.float64)
        optimizer.step()
    slots = optimizer.state[p]["memory_slots"].double()
    assert torch.equal(slots[:, 1], torch.tensor([largest, -largest], dtype=torch.float64))
    assert torch.equal(optimizer.state[p]["memory_sum"], torch.tensor([2.0, 0.0, 0.0]).double())
