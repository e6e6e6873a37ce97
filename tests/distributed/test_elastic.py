"""Killed at any time, a run goes on from its last whole checkpoint and ends bit-equal."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import torchrun

EXAMPLE = Path(__file__).parents[2] / "examples" / "fsdp2_checkpoints.py"


def arguments(folder: Path, steps: int) -> list[str]:
    options = {"--folder": folder, "--steps": steps, "--save-every": 10, "--log-every": 1}
    return [str(word) for option in options.items() for word in option]


def losses(printed: str) -> list[tuple[int, str]]:
    return [
        (int(step), loss) for step, loss in re.findall(r"^step (\d+): loss (\S+)$", printed, re.M)
    ]


def contents(checkpoint: Path, file: Path) -> dict[str, Any]:
    """All there is in a distributed checkpoint, by dotted name."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(checkpoint, file)

    def flat(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield from flat(value, f"{name}.{key}")
        elif isinstance(tree, list):
            yield from flat(dict(enumerate(tree)), name)
        else:
            yield name, tree

    return dict(flat(torch.load(file, weights_only=False), ""))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_killed_in_a_save_and_between_two_it_ends_the_same(tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    undisturbed = torchrun("elastic_worker.py", *arguments(alone, 35), processes=2)
    assert checkpoints(alone) == ["step-30", "step-35"]
    printed = torchrun(
        "elastic_worker.py",
        *arguments(killed, 30),
        processes=2,
        restarts=2,
        environment={"DEATHS": "save 20,step 25"},
    )
    begun, *again = re.split(r"^going on from (.*)$", printed, flags=re.M)
    assert again[::2] == ["step-10", "step-20"]
    (beside,) = re.findall(r"^dies in a save beside (.*)$", begun, flags=re.M)
    assert "__1_0.distcp" in beside.split()
    assert ".metadata" not in beside.split()
    assert "step-20 is half-written: skipped" in begun
    assert "half-written" not in again[1] + again[3]
    expected = losses(undisturbed)
    assert [step for step, _ in expected] == list(range(1, 36))
    assert losses(begun) == expected[:20]
    assert losses(again[1]) in (expected[10:24], expected[10:25])  # the process that prints died
    assert losses(again[3]) == expected[20:30]
    assert checkpoints(killed) == ["step-20", "step-30"]
    found = contents(killed / "step-30", tmp_path / "file")
    wanted = contents(alone / "step-30", tmp_path / "file")
    assert found.keys() == wanted.keys()
    assert sum("memory_slots" in name for name in wanted) > 20
    assert [name for name in wanted if not same(found[name], wanted[name])] == []

    # Without torchrun, on one process.
    command = [sys.executable, str(EXAMPLE), *arguments(killed, 35)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("going on from step-30\n")
    assert checkpoints(killed) == ["step-30", "step-35"]
    for (step, loss), (at, close) in zip(losses(done.stdout), expected[30:], strict=True):
        assert step == at
        assert float(loss) == pytest.approx(float(close), rel=1e-4)
