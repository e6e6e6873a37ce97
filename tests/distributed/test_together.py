"""`decide_together` on two processes, and what it says to a process that is alone."""

from __future__ import annotations

import pytest
import torch

import gradmem
from processes import torchrun


def test_parts_of_a_model_equal_one_process() -> None:
    torchrun("together_worker.py", processes=2)


def test_it_needs_a_process_group() -> None:
    optimizer = gradmem.SGD_C([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(gradmem.StepError, match="init_process_group"):
        gradmem.decide_together(optimizer)
