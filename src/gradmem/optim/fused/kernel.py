"""What a fused pass has to know of a base rule."""

from __future__ import annotations

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
