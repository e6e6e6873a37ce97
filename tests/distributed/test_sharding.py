"""Sharded parameters: the trajectory and the decisions of one process, slots in parts."""

from __future__ import annotations

import pytest

from processes import torchrun


@pytest.mark.parametrize("processes", [2, 4])
def test_shards_equal_one_process(processes: int) -> None:
    torchrun("sharding_worker.py", processes=processes)
