"""The spaces that settings are searched in: one dimension, or a few options fixed together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from gradmem.lab.errors import ConfigError

Options = dict[str, Any]

EDGE = 0.1  # within this share of a dimension's length from an end, a point is "at" it


@dataclass(frozen=True)
class LogUniform:
    """A number between ``low`` and ``high``, uniform on the logarithm.

    Args:
        name: the option.
        low: lower end.
        high: upper end.
        below_one: uniform on the logarithm of the distance to 1 instead, as suits a momentum.
        floor: the lower end is as good as nothing (of a weight decay, say): an optimum there is no
            sign that the space ends too early.
    """

    name: str
    low: float
    high: float
    below_one: bool = False
    floor: bool = False

    def __post_init__(self) -> None:
        least, most = (0.0, 1.0) if self.below_one else (0.0, math.inf)
        if not (least < self.low or self.below_one) or not self.low < self.high < most:
            wanted = "0 <= low < high < 1" if self.below_one else "0 < low < high"
            raise ConfigError(
                f"the range of {self.name} must have {wanted}, not {self.low:g} to {self.high:g}"
            )

    @property
    def key(self) -> str:
        """Its name in an Optuna study."""
        return f"1 - {self.name}" if self.below_one else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The options it decides."""
        return (self.name,)

    def at(self, u: float) -> Options:
        """The setting at ``u`` in [0, 1)."""
        start, end = self._ends()
        return self.options(start * (end / start) ** u)

    def options(self, value: Any) -> Options:
        """The setting at a value of the distribution; four digits, so that it can be typed again.

        >>> LogUniform("momentum", 0.5, 0.99, below_one=True).options(0.01234)
        {'momentum': 0.98766}
        """
        low, high = sorted(self._ends())
        inside = min(max(float(f"{value:.3e}"), low), high)
        return {self.name: round(1 - inside, 12) if self.below_one else inside}

    def value(self, options: Mapping[str, Any]) -> float:
        """The value of the distribution that gives ``options``."""
        chosen = float(options[self.name])
        return 1 - chosen if self.below_one else chosen

    def distribution(self) -> BaseDistribution:
        """The same dimension as Optuna knows it."""
        low, high = sorted(self._ends())
        return FloatDistribution(low, high, log=True)

    def place(self, options: Mapping[str, Any]) -> float:
        """Where ``options`` lies between the ends: 0 at the lower, 1 at the upper."""
        start, end = self._ends()
        return math.log(self.value(options) / start) / math.log(end / start)

    def at_edge(self, options: Mapping[str, Any]) -> bool:
        """Whether ``options`` lies so close to an end that a better one may lie beyond it."""
        place = self.place(options)
        return place > 1 - EDGE or (place < EDGE and not self.floor)

    def _ends(self) -> tuple[float, float]:
        return (1 - self.low, 1 - self.high) if self.below_one else (self.low, self.high)

    def __str__(self) -> str:
        scale = "the logarithm of its distance to 1" if self.below_one else "the logarithm"
        return f"{self.name} from {self.low:g} to {self.high:g}, uniform on {scale}"


@dataclass(frozen=True)
class Choice:
    """One of a few settings, each of which may fix several options at once."""

    settings: tuple[Mapping[str, Any], ...]

    @property
    def key(self) -> str:
        """Its name in an Optuna study."""
        return ", ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The options it decides."""
        return tuple(self.settings[0])

    def at(self, u: float) -> Options:
        """The setting at ``u`` in [0, 1)."""
        return dict(self.settings[int(u * len(self.settings))])

    def options(self, value: Any) -> Options:
        """The setting of this label."""
        return dict(self.settings[self._labels().index(value)])

    def value(self, options: Mapping[str, Any]) -> str:
        """The label of the setting in ``options``."""
        return self._label({name: options[name] for name in self.names})

    def distribution(self) -> BaseDistribution:
        """The same dimension as Optuna knows it."""
        return CategoricalDistribution(self._labels())

    def _labels(self) -> list[str]:
        return [self._label(setting) for setting in self.settings]

    @staticmethod
    def _label(setting: Mapping[str, Any]) -> str:
        return ", ".join(map(str, setting.values()))

    def __str__(self) -> str:
        return " | ".join(
            ", ".join(f"{name}={value}" for name, value in setting.items())
            for setting in self.settings
        )


Dimension: TypeAlias = LogUniform | Choice
Space: TypeAlias = tuple[Dimension, ...]


def one_of(name: str, *values: Any) -> Choice:
    """A choice among ``values`` of the option ``name``."""
    return Choice(tuple({name: value} for value in values))


def options_at(space: Space, point: Sequence[float]) -> Options:
    """The setting at ``point`` of the unit cube, one coordinate per dimension."""
    options: Options = {}
    for dimension, u in zip(space, point, strict=True):
        options |= dimension.at(u)
    return options


def overridden(space: Space, name: str, wanted: Any) -> Space:
    """``space`` with the option ``name`` searched as the user says.

    Args:
        space: the space as it stands.
        name: an option, of the space or new to it.
        wanted: a mapping with ``low`` and ``high``, a list of values, or one value to hold fixed.

    Raises:
        ConfigError: the range is empty, or a range is asked for an option chosen from a list.
    """
    kept: list[Dimension] = []
    replaced = False
    for dimension in space:
        if name not in dimension.names:
            kept.append(dimension)
        elif len(dimension.names) == 1:
            kept.append(_dimension(name, wanted, dimension))
            replaced = True
        else:
            kept.append(_without(dimension, name))
    return tuple(kept) if replaced else (*kept, _dimension(name, wanted, None))


def _dimension(name: str, wanted: Any, before: Dimension | None) -> Dimension:
    if isinstance(wanted, Mapping):
        low, high = float(wanted["low"]), float(wanted["high"])
        if isinstance(before, LogUniform):
            return replace(before, low=low, high=high, floor=False)
        return LogUniform(name, low, high)
    values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not values:
        raise ConfigError(f"the space of {name} needs a value at least, not an empty list")
    return one_of(name, *values)


def _without(dimension: Dimension, name: str) -> Choice:
    """A choice of several options at once, with ``name`` taken out of it."""
    assert isinstance(dimension, Choice)
    left: list[Mapping[str, Any]] = []
    for setting in dimension.settings:
        rest = {key: value for key, value in setting.items() if key != name}
        if rest not in left:
            left.append(rest)
    return Choice(tuple(left))
