"""Distributed Checkpoint: what is saved on some processes loads on any number, bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradmem
from checkpoint_cases import check_equal
from processes import torchrun


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_saved_on_two_processes_loads_on_any_number_and_back(tmp_path: Path) -> None:
    for processes, launch in ((2, "first"), (1, "other"), (4, "other"), (2, "back")):
        torchrun("checkpoint_worker.py", tmp_path, launch, processes=processes)


def two_groups(**options: Any) -> tuple[list[nn.Parameter], gradmem.Adam_C]:
    parameters = [nn.Parameter(torch.ones(n)) for n in (3, 2, 4)]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    return parameters, gradmem.Adam_C(groups, lr=0.1, capacity=2, **options)


def train(parameters: list[nn.Parameter], optimizer: gradmem.Adam_C, steps: range) -> None:
    for step in steps:
        for i, p in enumerate(parameters):
            p.grad = None if i and step < 6 else torch.full_like(p, 1.0 + (step * 7 + i) % 5)
        optimizer.step()


def with_unused(saved: dict[str, Any], **options: Any) -> dict[str, Any]:
    """What torch's getters and setters make of it: zeros for the parameters without a state."""
    parameters, optimizer = two_groups(**options)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
    optimizer.step()
    return {**saved, "state": {**optimizer.state_dict()["state"], **saved["state"]}}


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
def test_a_parameter_without_a_gradient_yet_goes_by_the_ledger_of_its_scope(scope: str) -> None:
    parameters, optimizer = two_groups(scope=scope)
    train(parameters, optimizer, range(5))
    assert len(optimizer.state) == 1
    saved = with_unused(copy.deepcopy(optimizer.state_dict()), scope=scope)
    assert len(saved["state"]) == 3
    twins, other = two_groups(scope=scope)
    with torch.no_grad():
        torch._foreach_copy_(twins, parameters)
    other.load_state_dict(saved)
    kept = [i for i, p in enumerate(twins) if "memory_slots" in other.state[p]]
    assert kept == {"model": [0], "group": [0, 2], "tensor": [0, 1, 2]}[scope]
    for p in twins[1:]:
        del other.state[p]  # as if torch had made none: its steps would be one more
    train(parameters, optimizer, range(5, 12))
    train(twins, other, range(5, 12))
    assert len(other.memory_report().scopes) == {"model": 1, "group": 2, "tensor": 3}[scope]
    for p, q in zip(parameters, twins, strict=True):
        check_equal({"p": q.detach(), **other.state[q]}, {"p": p.detach(), **optimizer.state[p]})
