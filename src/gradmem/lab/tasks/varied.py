"""What a task can be had at beside what it is by itself: a deeper model, other data.

Each of these is an axis of an ablation. A task says which it has (`Varied`), the ablation which
values it goes through.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from gradmem.lab.tasks.base import Task

Setting: TypeAlias = int | float | str


@dataclass(frozen=True)
class Range:
    """Any number from ``low`` to ``high``.

    Args:
        low: the least.
        high: the most; infinite for no bound.
        values: what an ablation goes through unless it is told otherwise.
    """

    low: float
    high: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a number of at least {self.low:g}"
        return f"a number from {self.low:g} to {self.high:g}"


# The values there are, and no others; or a range.
Variation: TypeAlias = tuple[Setting, ...] | Range


@runtime_checkable
class Varied(Protocol):
    """A task with axes of its own.

    The task by itself has its own name; elsewhere a name that says where, as runs are known by it.
    """

    @property
    def variations(self) -> Mapping[str, Variation]:
        """Its axes by name, and which values each has."""

    def at(self, *args: Any, **where: Any) -> Task:
        """The same task at a value of each axis in ``where``, whose ``-`` are ``_`` here.

        Any value is one that `checked` has let through; they need not go together (ValueError).
        """


def checked(name: str, variation: Variation, value: Any) -> Setting:
    """``value`` as the axis ``name`` takes it.

    >>> checked("depth", (1, 2, 4), 2), checked("label-noise", Range(0, 1, (0, 0.5)), 1)
    (2, 1.0)

    Raises:
        ValueError: it does not; with what it takes.
    """
    if isinstance(variation, Range):
        return in_range(name, variation, value)
    for each in variation:
        if each == value and not isinstance(value, bool):
            return each
    raise ValueError(f"{name} must be one of {', '.join(map(str, variation))}, got {value!r}")


def in_range(name: str, variation: Range, value: Any) -> float:
    """``value`` as a number of this range.

    Raises:
        ValueError: it is none, or out of it.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and variation.low <= value <= variation.high:
        return float(value)
    raise ValueError(f"{name} must be {variation}, got {value!r}")
