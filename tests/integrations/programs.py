"""Running the examples as a user does, and reading what they leave in their folders."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

import gradmem

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(Path(__file__).parents[1] / "distributed")]

from processes import torchrun  # noqa: E402

__all__ = [
    "EXAMPLES",
    "TWO_PROCESSES",
    "curves",
    "differences",
    "example",
    "expected",
    "run",
    "tensors",
    "torchrun",
    "writers",
]

TWO_PROCESSES = Path(__file__).parent / "two_processes.py"


def example(name: str) -> ModuleType:
    """An example as a module, for runs in this process."""
    return importlib.import_module(name)


def run(program: Path, *arguments: object) -> str:
    """Run a program to its end; what it printed.

    Raises:
        AssertionError: it failed; the message has the end of what it printed.
    """
    done = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two nests of dicts and lists differ in a value, a type, a dtype or a bit."""
    if type(one) is not type(other):
        return [f"{at}: {type(one)} {type(other)}"]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [f"{at}: {list(one)} {list(other)}"]
        return [d for key in one for d in differences(one[key], other[key], f"{at}/{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{at}: {len(one)} {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{at}/{i}")]
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [f"{at}: {one.dtype} {other.dtype}"]
    return [] if one == other else [f"{at}: {one} {other}"]


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars that TensorBoard shows of a folder: by name, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            points = {event.step: event.value for event in events.Scalars(name)}
            assert "memory" not in name or len(points) == len(events.Scalars(name)), name
            found.setdefault(name, {}).update(points)
    return found


def writers(folder: Path) -> set[str]:
    """The processes that wrote something for TensorBoard."""
    return {file.name.split(".")[-2] for file in folder.rglob("events.out.tfevents.*")}


def expected(report: gradmem.MemoryReport) -> dict[str, float]:
    """What the curves of a memory of one scope must end in."""
    (scope,) = report.scopes
    return {
        "occupied": scope.occupied,
        "accepted_share": scope.accepted_share,
        "age_mean": sum(scope.ages) / len(scope.ages),
        "age_max": max(scope.ages),
        "norm_min": min(scope.norms),
        "norm_max": max(scope.norms),
        "oldest_used": scope.oldest_used,
        "total_weight": scope.total_weight,
        "scopes": 1,
        "bytes": report.bytes,
    }


def tensors(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """All that an optimizer's checkpoint has, in one order on every process."""
    for entry in optimizer.state_dict()["state"].values():
        for _, value in sorted(entry.items()):
            yield torch.as_tensor(value)
