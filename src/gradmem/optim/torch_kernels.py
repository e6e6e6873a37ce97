"""When torch's own fused kernels are taken for a base rule on the CPU.

They take a third of the time of torch's default, but ask for more than they check (torch 2.13): all
take for granted that everything lies in one order without gaps, SGD's that all momenta were begun
together, and of bfloat16 and float16 SGD's is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradmem.memory.sharding import local
from gradmem.optim.plan import Group
from gradmem.optim.state import MEMORY_KEYS, State

_TYPES = (torch.float32, torch.float64)
_NOT_OF_THE_BASE = frozenset(MEMORY_KEYS)


def fused_option(group: Group, state: State, updates: Sequence[Tensor]) -> bool | None:
    """What torch's rule is to be given for `fused`, for parameters of one kind.

    What the user chose, unless the kernels would be wrong; they are chosen where it was left open.
    """
    chosen: bool | None = group["fused"]
    params: list[Tensor] = group["params"]
    if chosen is False or group["foreach"] is not None or params[0].device.type != "cpu":
        return chosen
    if chosen is None and isinstance(group["lr"], Tensor):
        return None
    if _fit(params, [state.get(p, {}) for p in params], updates):
        return True
    return None if chosen is None else False


def _fit(
    params: Sequence[Tensor], entries: Sequence[dict[str, Any]], updates: Sequence[Tensor]
) -> bool:
    keys = entries[0].keys() - _NOT_OF_THE_BASE
    if not all(entry.keys() - _NOT_OF_THE_BASE == keys for entry in entries):
        return False
    steps = [entry["step"] for entry in entries] if "step" in keys else []
    values = [entry[key] for key in keys for entry in entries]
    kept = [value for value in values if isinstance(value, Tensor)]
    return (
        all(p.dtype in _TYPES for p in params)
        and all(step.dtype is torch.float32 for step in steps)
        and all(map(Tensor.is_contiguous, [*updates, *map(local, params), *map(local, kept)]))
        and not any(map(Tensor.is_neg, [*updates, *map(local, params)]))
    )
