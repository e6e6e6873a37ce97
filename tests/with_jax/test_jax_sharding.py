"""Over four devices a memory decides as on one, and no device holds a whole slot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs():
    """What sharded_worker.py prints, by name."""
    worker = Path(__file__).with_name("sharded_worker.py")
    flags = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, str(worker)], env=flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {run["name"]: run for run in json.loads(done.stdout)}


every_way = pytest.mark.parametrize("name", ["Auto", "Explicit", "told", "shard_map"])


@every_way
def test_decisions_are_those_of_one_device(runs, name):
    assert runs[name]["births are equal"]
    assert 0.1 < runs[name]["accepted share"] < 0.9


@every_way
def test_updates_are_those_of_one_device(runs, name):
    assert runs[name]["difference"] < 1e-6


@pytest.mark.parametrize("name", ["Auto", "Explicit", "told"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_each_device_holds_a_quarter_of_every_slot(runs, name, when):
    """Of an (8, 6) parameter over a mesh of 2 by 2, before the first step and after the last."""
    slots, total = runs[name][when]
    assert slots == [[3, 8, 6], [[3, 4, 3]]]
    assert total == [[8, 6], [[4, 3]]]
