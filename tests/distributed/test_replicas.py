"""DDP and ZeRO: the trajectory and the decisions of one process."""

from __future__ import annotations

import pytest

from processes import torchrun


@pytest.mark.parametrize("processes", [2, 4])
def test_replicas_equal_one_process(processes: int) -> None:
    torchrun("replicas_worker.py", processes=processes)
