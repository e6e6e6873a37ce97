"""The accelerator's kernels compile for NVIDIA's devices, which takes none: wide and exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def reports(which, folder):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    program = Path(__file__).with_name("triton_compiler.py")
    done = subprocess.run(
        [sys.executable, str(program), which], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_good(report):
    arrays = (
        3 + int(report["form"][1]).bit_count()
    )  # gradient, parameter and sum besides the states
    assert report["wide loads"] >= arrays, report
    assert report["wide stores"] >= arrays - 1, report
    # Between reading a slot and writing it, of whole blocks and of others.
    assert report["barriers"] == 2, report
    assert report["fused"] == report["approximate"] == 0, report


def test_typical_kernels_compile(tmp_path):
    found = reports("typical", tmp_path)
    for report in found:
        assert_good(report)
    assert len(found) == 6


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path):
    found = reports("all", tmp_path)
    for report in found:
        assert_good(report)
    assert len(found) == 2 * (40 + 29)
