"""The optimizers one can compare, how each is made, and the space its settings are searched in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import gradmem

Options = dict[str, Any]


@dataclass(frozen=True)
class LogUniform:
    """A number between ``low`` and ``high``, uniform on the logarithm."""

    name: str
    low: float
    high: float

    def at(self, u: float) -> Options:
        """The setting at ``u`` in [0, 1); four digits, so that it can be read and typed again."""
        value = self.low * (self.high / self.low) ** u
        return {self.name: float(f"{value:.3e}")}

    def __str__(self) -> str:
        return f"{self.name} from {self.low:g} to {self.high:g}, uniform on the logarithm"


@dataclass(frozen=True)
class Choice:
    """One of a few settings, each of which may fix several options at once."""

    settings: tuple[Mapping[str, Any], ...]

    def at(self, u: float) -> Options:
        """The setting at ``u`` in [0, 1)."""
        return dict(self.settings[int(u * len(self.settings))])

    def __str__(self) -> str:
        return " | ".join(
            ", ".join(f"{name}={value}" for name, value in setting.items())
            for setting in self.settings
        )


def one_of(name: str, *values: Any) -> Choice:
    """A choice among ``values`` of the option ``name``."""
    return Choice(tuple({name: value} for value in values))


Space = tuple[LogUniform | Choice, ...]


@dataclass(frozen=True)
class Spec:
    """One optimizer: its name on the page, its base if it is a memory variant, how to make it."""

    name: str
    label: str
    base: str | None
    space: Space
    create: Callable[..., torch.optim.Optimizer]

    @property
    def learning_rate(self) -> LogUniform:
        """The dimension every space begins with."""
        first = self.space[0]
        assert isinstance(first, LogUniform)
        return first

    def options_at(self, point: Sequence[float]) -> Options:
        """The setting at ``point`` of the unit cube, one coordinate per dimension."""
        options: Options = {}
        for dimension, u in zip(self.space, point, strict=True):
            options |= dimension.at(u)
        return options

    def build(self, model: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The optimizer for ``model`` at one setting."""
        return self.create(model.parameters(), **options)


# A memory variant searches its base's space and, on top, the memory's: with the same number of
# trials it pays for the extra options. The spaces of a pair begin alike, so the same quasi-random
# points give both the same learning rates. Their ends lie well beyond the optimum on the tasks
# here: `sum` doubles the step, and a space that ended early would credit it for that alone.
BASE_SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "sgd": (LogUniform("lr", 1e-3, 10.0), one_of("momentum", 0.0, 0.9)),
        "rmsprop": (LogUniform("lr", 1e-4, 0.3), LogUniform("eps", 1e-8, 1e-3)),
        "adam": (LogUniform("lr", 1e-4, 0.3), LogUniform("eps", 1e-8, 1e-3)),
        "adamw": (
            LogUniform("lr", 1e-4, 0.3),
            LogUniform("eps", 1e-8, 1e-3),
            LogUniform("weight_decay", 1e-4, 1.0),
        ),
    }
)

# kappa and aggregate are chosen together: a negative kappa means something under `sum` only, since
# `mean` would put a weight of 1 + kappa * n, soon negative, on a memory of n gradients.
MEMORY_SPACE: Space = (
    one_of("capacity", 5, 10, 20),
    one_of("decay", 0.7, 0.9, 0.99),
    Choice(
        (
            {"aggregate": "mean", "kappa": 1.0},
            {"aggregate": "sum", "kappa": 1.0},
            {"aggregate": "sum", "kappa": 0.25},
            {"aggregate": "sum", "kappa": -0.25},
        )
    ),
)

_TORCH: Mapping[str, type[torch.optim.Optimizer]] = MappingProxyType(
    {
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
)


def _specs() -> Iterable[Spec]:
    for name, space in BASE_SPACES.items():
        label = _TORCH[name].__name__
        yield Spec(name, label, None, space, _TORCH[name])
        variant = f"{name}_c"
        yield Spec(
            variant, f"{label}_C", name, space + MEMORY_SPACE, partial(gradmem.create, variant)
        )


OPTIMIZERS: Mapping[str, Spec] = MappingProxyType({spec.name: spec for spec in _specs()})


def get_optimizers(names: Sequence[str]) -> tuple[Spec, ...]:
    """The specs called ``names``, in that order; ValueError with the known names otherwise."""
    known = f"choose from: {', '.join(OPTIMIZERS)}"
    if not names:
        raise ValueError(f"no optimizer named; {known}")
    unknown = [name for name in names if name not in OPTIMIZERS]
    if unknown:
        raise ValueError(f"unknown optimizer {unknown[0]!r}; {known}")
    if len(set(names)) < len(names):
        raise ValueError(f"an optimizer is named twice in {','.join(names)!r}")
    return tuple(OPTIMIZERS[name] for name in names)
