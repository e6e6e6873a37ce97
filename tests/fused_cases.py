"""What the tests of fused passes share: the six classes, and a watch that a pass is fused."""

from __future__ import annotations

import pytest
import torch

import gradmem
from critical_twin import CriticalRace
from gradmem.optim.fused import native
from gradmem.optim.shell import MemoryOptimizer
from optimizers import assert_same
from races import Race
from test_against_reference import BASE
from test_critical_momenta import BASE as CRITICAL_BASE

REASON = native.reason_against()
needs_kernels = pytest.mark.skipif(REASON is not None, reason=f"no fused kernels: {REASON}")

# By class: the race, its rule, and options of the base that differ from the defaults.
RACES = {
    "SGD_C": (Race, "sgd", BASE["sgd"]),
    "RMSprop_C": (Race, "rmsprop", BASE["rmsprop"]),
    "Adam_C": (Race, "adam", BASE["adam"]),
    "AdamW_C": (Race, "adamw", BASE["adamw"]),
    "Adam_CM": (CriticalRace, "adam", CRITICAL_BASE["adam"]),
    "AdamW_CM": (CriticalRace, "adamw", CRITICAL_BASE["adamw"]),
}
CLASSES = {name: getattr(gradmem, name) for name in RACES}

# One set of options a class that leaves no line of its kernel out, at a rate safe for long runs.
OPTIONS = {
    "SGD_C": {"lr": 0.01, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
    "RMSprop_C": {"lr": 0.001, "centered": True, "momentum": 0.5, "weight_decay": 0.01},
    "Adam_C": {"lr": 0.001, "amsgrad": True, "weight_decay": 0.01},
    "AdamW_C": {"lr": 0.001, "weight_decay": 0.1},
    "Adam_CM": {"lr": 0.001, "amsgrad": True, "weight_decay": 0.01},
    "AdamW_CM": {"lr": 0.001, "weight_decay": 0.1, "maximize": True},
}
OPTIONS = {name: {**own, "capacity": 3, "decay": 0.95} for name, own in OPTIONS.items()}

each_class = pytest.mark.parametrize("name", CLASSES)


def fused_race(name, groups, number=0, which=0, *, begin_together=False, **options):
    """A race of a class's fused pass; the kernels' SGD, unlike torch's, takes momenta made late."""
    kind, rule, bases = RACES[name]
    base = bases[which % len(bases)]
    race = kind(rule, groups, {"fused": True}, number, **{**base, **options})
    race.begin_together = begin_together
    return race


def watch(monkeypatch):
    """From here on a pass that is not fused fails the test."""

    def eager(self, memory, portion, *rest):
        shapes = [tuple(p.shape) for p in portion.parameters]
        raise AssertionError(f"parameters of the shapes {shapes} were not taken by a fused pass")

    monkeypatch.setattr(MemoryOptimizer, "_step_portion", eager)


def make(name, params, *, fused=True, **options):
    return CLASSES[name](params, **{**OPTIONS[name], **options}, fused=fused)


def count_passes(monkeypatch):
    """A list that grows by one with every fused pass that updates parameters."""
    passes, whole = [], native.step

    def counting(*arguments, **options):
        if any(arguments[3].update):
            passes.append(arguments)
        return whole(*arguments, **options)

    monkeypatch.setattr(native, "step", counting)
    return passes


def twins(params):
    """Parameters of the same values and layouts."""
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def pair(name, params, **options):
    """A fused optimizer, and an eager one on copies of the parameters."""
    copies = twins(params)
    return make(name, params, **options), make(name, copies, fused=None, **options), copies


def assert_close(ours, theirs, params, copies, tolerance):
    for p, q in zip(params, copies, strict=True):
        assert_same(p.detach(), q.detach(), rtol=tolerance, atol=tolerance)
        one, other = dict(ours.state[p]), dict(theirs.state[q])
        assert_same(one["memory_birth"], other["memory_birth"])
        for state in (one, other):
            del state["memory_drift"]  # of norms, far below their rounding
            state["step"] = torch.as_tensor(state.get("step", 0)).float()
        assert_same(one, other, rtol=tolerance, atol=tolerance)
