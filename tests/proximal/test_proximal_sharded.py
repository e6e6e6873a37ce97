"""Sharded parameters: the same zeros as with one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    worker = Path(__file__).parents[1] / "proximal_worker.py"
    done = subprocess.run(
        [sys.executable, worker, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
