"""What is no test, how Triton is to run, and one line about the golden cases at the end of a run
that had them.
"""

from __future__ import annotations

import os

import pytest
import torch

# Scripts that are started as programs: no tests, and no modules to import.
collect_ignore_glob = ["distributed/*_worker.py", "triton_compiler.py"]

# Triton reads it when it is imported, whoever does that first: where there is no device its kernels
# are run by its interpreter (test_fused_triton.py).
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def sharded():
    """Makes a DTensor of a tensor, sharded over a mesh that this process has to itself."""
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        yield lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])
    finally:
        torch.distributed.destroy_process_group()


def pytest_terminal_summary(terminalreporter):
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    if any("test_golden.py" in report.nodeid for report in reports):
        import test_golden

        terminalreporter.write_line(test_golden.summary())
