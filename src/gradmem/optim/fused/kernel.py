"""What a fused pass has to know of a base rule."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor


class Kernel(NamedTuple):
    """A base rule with the options of one group.

    Attributes:
        name: "sgd", "rmsprop", "adam" or "critical_adam".
        options: the kernel's numbers, in its order.
        states: keys in ``state[p]`` of the tensors it changes, in its order, three at most; None
            for one that these options do without. A count of steps is always under "step".
    """

    name: str
    options: tuple[float | Tensor, ...]
    states: tuple[str | None, ...]


def warn_of_fallback(reason: str) -> None:
    """Say that fused=True is done without a pass of its own, and why."""
    warnings.warn(
        "fused=True goes on with torch's kernels and passes over the memory beside them, which "
        f"takes longer: {reason}",
        RuntimeWarning,
        stacklevel=3,
    )
