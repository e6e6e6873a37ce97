"""A run saved at any of its first 3C steps continues bit for bit in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gradmem
from resume_worker import gradient_step, make

CAPACITY = 4
UNTIL = 4 * CAPACITY
CASES = [
    (name, dtype, options)
    for name in gradmem.names()
    for dtype, options in (
        (torch.float32, {"decay": 0.95}),
        (torch.bfloat16, {"scope": "group", "policy": "fifo", "aggregate": "sum"}),
        (torch.float64, {"scope": "tensor", "max_age": 3, "kappa": -0.5}),
        (torch.float32, {"norm": "sum", "policy": "bottom_norm", "aggregate": "mid"}),
    )
]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory):
    """Every case interrupted at every step: what was straight, and what another process gave."""
    folder = tmp_path_factory.mktemp("resume")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cases, straight = [], []
    try:
        for name, dtype, options in CASES:
            options = {**options, "capacity": CAPACITY}
            params, optimizer = make(name, dtype, options)
            saved = []
            for step in range(UNTIL):
                if step <= 3 * CAPACITY:
                    saved.append(
                        {
                            "name": name,
                            "dtype": dtype,
                            "options": options,
                            "at": step,
                            "until": UNTIL,
                            "params": [p.detach().clone() for p in params],
                            "state": snapshot(optimizer.state_dict()),
                        }
                    )
                gradient_step(params, optimizer, step)
            cases.extend(saved)
            final = {
                "params": [p.detach() for p in params],
                "state": optimizer.state_dict()["state"],
            }
            straight.extend([final] * len(saved))
    finally:
        torch.set_num_threads(threads)
    torch.save(cases, folder / "in.pt")
    worker = Path(__file__).with_name("resume_worker.py")
    subprocess.run([sys.executable, worker, folder / "in.pt", folder / "out.pt"], check=True)
    return cases, straight, torch.load(folder / "out.pt")


def snapshot(state_dict):
    """A copy that later steps do not touch, as a file would be."""
    if isinstance(state_dict, dict):
        return {key: snapshot(value) for key, value in state_dict.items()}
    if isinstance(state_dict, list):
        return [snapshot(value) for value in state_dict]
    return state_dict.clone() if isinstance(state_dict, torch.Tensor) else state_dict


@pytest.mark.parametrize("number", range(len(CASES)))
def test_resume_is_bit_exact_at_every_step(resumed, number: int) -> None:
    each = 3 * CAPACITY + 1
    for case, straight, other in list(zip(*resumed, strict=True))[number * each :][:each]:
        for p, q in zip(straight["params"], other["params"], strict=True):
            assert torch.equal(p, q), case["at"]
        assert straight["state"].keys() == other["state"].keys()
        for key, state in straight["state"].items():
            assert list(state) == list(other["state"][key])
            for name, value in state.items():
                found = other["state"][key][name]
                assert found.dtype == value.dtype, name
                assert torch.equal(found, value), (name, case["at"])


def test_the_memory_was_in_use(resumed) -> None:
    """The cases above have memories that fill, and that replace."""
    _, straight, _ = resumed
    for final in straight:
        counters = final["state"][0]["memory_counters"]
        assert counters[1] >= CAPACITY
