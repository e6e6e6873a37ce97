"""A whole training step under torch.compile: equal to the eager one, and never compiled again.

The optimizer's step is left out of the graph; what could go wrong in tracing shows with a backend
that runs the traced graph, so that most tests need no Inductor.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import ExponentialLR

import gradmem

# The loss is such a tensor: dynamo hides the warning from itself, but not where it is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
torch.set_num_threads(1)  # equal thread counts, equal bits; and these tensors are small
MEMORY = {"capacity": 3, "decay": 0.9, "max_age": 7}
STEPS, EDITED, FROZEN = 50, 20, 30  # kappa is edited, and a gradient goes missing, at these steps

MAKERS = {
    "Adam_C": lambda p: gradmem.Adam_C(p, lr=0.05, **MEMORY),
    "Adam_C, lr a tensor": lambda p: gradmem.Adam_C(p, lr=torch.tensor(0.05), **MEMORY),
    "Adam_CM, fused": lambda p: gradmem.Adam_CM(p, lr=0.01, fused=True, **MEMORY),
    "MemoryAugmented": lambda p: gradmem.MemoryAugmented(torch.optim.RAdam(p, lr=0.05), **MEMORY),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def network():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)]
    return torch.nn.Sequential(*layers)


def batches(count):
    """Inputs whose gradients fall slowly and jump: the memory replaces some and refuses others."""
    generator = torch.Generator().manual_seed(1)
    for t in range(count):
        yield torch.randn(5, 4, generator=generator) * (4.0 if t % 11 == 3 else 0.98**t)


def whole_step(model, optimizer, step=True):
    """All of a training step in one function, or all but the optimizer's step."""

    def train(x):
        optimizer.zero_grad()
        loss = (model(x) - 1.0).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        if step:
            optimizer.step()
        return loss

    return train


def as_it_is(function):
    return function


class Run:
    """A training of a network, with everything that may be changed from step to step changed."""

    def __init__(self, make, prepare=as_it_is, prepare_model=as_it_is, outside=False):
        self.model = network()
        self.optimizer = make(self.model.parameters())
        self.schedule = ExponentialLR(self.optimizer, 0.98)
        model = prepare_model(self.model)
        self.train = prepare(whole_step(model, self.optimizer, not outside))
        self.outside = outside
        self.t = 0

    def step(self, x):
        groups = getattr(self.optimizer, "memory_groups", self.optimizer.param_groups)
        groups[0]["kappa"] = 1.0 if self.t < EDITED else 0.4
        self.model[2].bias.requires_grad_(self.t != FROZEN)
        self.train(x)
        if self.outside:
            self.optimizer.step()
        self.schedule.step()
        self.t += 1

    def state(self):
        """Copies of the parameters and of the complete state."""
        state = copy.deepcopy(self.optimizer.state_dict()["state"])
        return [p.detach().clone() for p in self.model.parameters()], state

    def ages(self):
        return self.optimizer.memory_report().scopes[0].ages


def compiled_by(backend):
    return lambda function: torch.compile(function, backend=backend)


@pytest.fixture
def counter():
    """A backend that counts graphs, with nothing compiled before or left over."""
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


def assert_same_course(ours, eager, steps=STEPS):
    """Equal but for rounding after every step; returns the ages of the gradients held."""
    ages = []
    for x in batches(steps):
        ours.step(x)
        eager.step(x)
        torch.testing.assert_close(ours.state(), eager.state(), rtol=1e-5, atol=1e-6)
        ages.append(ours.ages())
    return ages


@pytest.mark.parametrize("name", gradmem.names())
def test_every_optimizer_s_compiled_step_equals_the_eager_one(name, counter):
    def make(params):
        return gradmem.create(name, params, lr=0.01, capacity=3)

    ours = Run(make, compiled_by("eager"))
    assert_same_course(ours, Run(make), steps=8)


@each_maker
def test_the_optimizer_causes_no_graph(make, counter):
    """The graphs are those of the same function without the step: forward and clipping, and each
    once more where a parameter is frozen, as torch guards on that.
    """
    ours = Run(make, compiled_by(counter))
    ages = assert_same_course(ours, Run(make))
    # What must not compile anew has happened: the memory filled, took, refused, and let expire.
    assert [len(some) for some in ages[:4]] == [1, 2, 3, 3]
    assert {min(some) == 1 for some in ages[3:]} == {True, False}
    assert max(map(max, ages)) == MEMORY["max_age"]
    graphs, operations = counter.frame_count, counter.op_count

    torch._dynamo.reset()
    without = CompileCounterWithBackend("aot_eager")
    other = Run(make, compiled_by(without), outside=True)
    for x in batches(STEPS):
        other.step(x)
    assert (graphs, operations) == (without.frame_count, without.op_count)
    assert graphs == 4


def test_before_a_parameter_is_frozen_there_are_two_graphs_from_the_first_step_on(counter):
    run = Run(MAKERS["Adam_C"], compiled_by(counter))
    for x in batches(FROZEN):
        run.step(x)
        assert counter.frame_count == 2


def test_a_gradient_taken_away_after_the_backward_pass_makes_no_graph(counter):
    """Nothing that is traced changes here: only the optimizer sees it. A hook is traced as others
    are, with torch's wrapper around the step, so this one is left out as the step is.
    """

    def runs(prepare):
        run = Run(MAKERS["Adam_C"], prepare)

        @torch.compiler.disable
        def drop(optimizer, args, kwargs):
            if run.t == 1:
                run.model[0].weight.grad = None

        run.optimizer.register_step_pre_hook(drop)
        return run

    ours = runs(compiled_by(counter))
    assert_same_course(ours, runs(as_it_is), steps=3)
    slots = ours.optimizer.state[ours.model[0].weight]["memory_slots"]
    assert [bool(slot.any()) for slot in slots].count(False) == 1  # it counts as zero there
    assert counter.frame_count == 2


@each_maker
def test_a_compiled_model_and_an_eager_optimizer(make, counter):
    """The usual form: one graph, and another while a parameter is frozen."""
    assert_same_course(Run(make, prepare_model=compiled_by(counter)), Run(make))
    assert counter.frame_count == 2


def test_a_compiled_backward_pass(counter):
    """Compiled autograd: forward and backward pass, and clipping; the step stays out."""
    make = MAKERS["Adam_C"]
    with torch._dynamo.config.patch(compiled_autograd=True):
        ours = Run(make, compiled_by(counter))
        assert_same_course(ours, Run(make), steps=12)
    assert counter.frame_count == 3


@each_maker
def test_one_graph_for_all_is_refused_in_torch_s_words(make, counter):
    model = network()
    optimizer = make(model.parameters())
    model(torch.ones(2, 4)).sum().backward()

    def double_step(x):
        optimizer.step()
        return x * 2

    before = copy.deepcopy(list(model.parameters()))
    compiled = torch.compile(double_step, backend=counter, fullgraph=True)
    with pytest.raises(RuntimeError, match=r"\.step.*wrapped with `torch\.compiler\.disable`"):
        compiled(torch.ones(2))
    assert all(map(torch.equal, model.parameters(), before))
    assert counter.frame_count == 0


def calls_in(function, *arguments):
    """How many calls of Python and C functions it makes, and which Python functions."""
    count, entered = 0, []

    def profile(frame, event, argument):
        nonlocal count
        if event in ("call", "c_call"):
            count += 1
        if event == "call":
            entered.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return count, entered


def test_leaving_the_graph_costs_a_few_calls(counter):
    """Beside the calls of the step itself, which a whole step makes too, there are next to none."""
    counts, resumed = {}, {}
    for outside in (False, True):
        torch._dynamo.reset()
        run = Run(MAKERS["Adam_C"], compiled_by("aot_eager"), outside=outside)
        *first, last = batches(9)
        for x in first:  # all graphs are there
            run.step(x)
        counts[outside], entered = calls_in(run.train, last)
        resumed[outside] = sum(name.startswith("torch_dynamo_resume") for name in entered)
    alone, _ = calls_in(run.optimizer.step)
    extra = counts[False] - counts[True] - alone
    assert abs(extra) < 40, f"{extra} of {counts[False]}, {alone} of them the step's own"
    # What dynamo goes through again: torch's wrapper around the step, and what comes after it.
    assert resumed[False] - resumed[True] == 2


def test_the_program_of_the_page_runs():
    """In a process of its own, as doctest would take the compiled function's globals away."""
    page = (Path(__file__).parents[1] / "docs" / "compile.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "10/10" in done.stdout


COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="NO C++ COMPILER: Inductor was not tried")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor's own
@each_maker
def test_with_inductor(make, counter):
    inductor = CompileCounterWithBackend("inductor")
    ours = Run(make, compiled_by(inductor))
    assert_same_course(ours, Run(make))
    assert inductor.frame_count == 4
