"""The setting of a comparison on one surface, checked before anything is run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import gradmem
from gradmem.lab.optimizers import Spec, get_optimizers
from gradmem.lab.surfaces.surface import Surface

# Half a decade apart, from far too short to far too long a step on nearly all surfaces.
RATES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-14, 7))
MEMORY_OPTIONS = ("capacity", "decay", "aggregate", "kappa", "policy")
# What makes an optimizer what its name says, beside the learning rate.
OWN: Mapping[str, Mapping[str, Any]] = {"sgdm": {"momentum": 0.9}}
LARGEST_STEPS, LARGEST_PATH = 1_000_000, 20_000_000
AUTHORS = "authors"


class Place(nn.Module):
    """A point as a model, for that is what the lab's optimizers are made for."""

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))


@dataclass(frozen=True)
class Entrant:
    """An optimizer that takes part: how it is made, and all its options but the learning rate."""

    spec: Spec
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.spec.name

    @property
    def label(self) -> str:
        """What it is called in print."""
        return self.spec.label

    def build(self, place: Place, rate: float) -> torch.optim.Optimizer:
        """The optimizer that moves ``place``."""
        return self.spec.build(place, {"lr": rate, **self.options})

    @property
    def memory(self) -> dict[str, Any]:
        """The options of its memory, and their values; empty without one."""
        if "capacity" not in self.defaults:
            return {}
        return {name: self.defaults[name] for name in MEMORY_OPTIONS}

    @property
    def factor(self) -> float:
        """By how much its aggregate makes the step longer, once the memory is filled.

        One if the base divides by the size of the gradients, as Adam does.
        """
        memory = self.memory
        if not (self.spec.proportional and memory and memory["capacity"] > 0):
            return 1.0
        return 1.0 + float(memory["kappa"]) if memory["aggregate"] == "sum" else 1.0


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        surface: the function.
        entrants: the optimizers.
        start: where every path begins; its length is the dimension.
        steps: of every path.
        rates: learning rate by optimizer; None if they are searched for.
        noise: standard deviation of what is added to every coordinate of every gradient.
        tolerance: share of the gap at the start that counts as solved.
        seed: of the noise, and of a policy that draws.
    """

    surface: Surface
    entrants: tuple[Entrant, ...]
    start: tuple[float, ...]
    steps: int = 1000
    rates: Mapping[str, float] | None = None
    noise: float = 0.0
    tolerance: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        self.surface.check_dimension(self.dimension)
        if not 1 <= self.steps <= LARGEST_STEPS:
            raise ValueError(f"steps must be from 1 to {LARGEST_STEPS:,}, got {self.steps}")
        if self.steps * self.dimension > LARGEST_PATH:
            raise ValueError(
                f"steps times dimension must be at most {LARGEST_PATH:,}, got "
                f"{self.steps * self.dimension:,}; take fewer steps"
            )
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise must be a finite number from 0, got {self.noise:g}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1, got {self.tolerance:g}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        value = float(self.surface.function(torch.tensor(self.start, dtype=torch.float64)))
        if not math.isfinite(value):
            raise ValueError(f"{self.surface.name} is not finite at the start {self.start}")

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return len(self.start)

    @property
    def searched(self) -> bool:
        """Whether learning rates are searched for."""
        return self.rates is None

    @property
    def fresh_seed(self) -> int:
        """The seed of the paths that are shown: with noise, none that a rate was chosen on."""
        return self.seed + 1 if self.searched and self.noise else self.seed


def enter(names: Sequence[str], memory: Mapping[str, Any], seed: int) -> tuple[Entrant, ...]:
    """The optimizers called ``names``, each with those of the ``memory`` options that it has.

    Decay of weights is off: it would move the minimum.
    """
    chosen = {name: value for name, value in memory.items() if value is not None}
    entrants = tuple(_entrant(spec, chosen, seed) for spec in get_optimizers(names))
    if chosen and not any(each.memory for each in entrants):
        raise ValueError(
            f"--{next(iter(chosen))} means nothing for {', '.join(names)}, which have no memory"
        )
    return entrants


def _entrant(spec: Spec, chosen: Mapping[str, Any], seed: int) -> Entrant:
    place = Place((0.0,))
    wanted = {**chosen, "seed": seed, "weight_decay": 0.0, **OWN.get(spec.base or spec.name, {})}
    try:
        made = spec.build(place, {"lr": 1.0})
        if hasattr(made, "eval"):
            raise ValueError("it trains at one point and is judged at another")
        options = {key: value for key, value in wanted.items() if key in made.defaults}
        defaults = spec.build(place, {"lr": 1.0, **options}).defaults
        if _first_step(spec, options, 1.0) == _first_step(spec, options, 2.0):
            raise ValueError("its learning rate means nothing for a single vector")
    except (ValueError, TypeError, gradmem.GradmemError) as error:
        raise ValueError(f"{spec.label} cannot be run on a surface: {error}") from None
    return Entrant(spec, options, defaults)


def _first_step(spec: Spec, options: Mapping[str, Any], rate: float) -> float:
    place = Place((0.0,))
    optimizer = spec.build(place, {"lr": rate, **options})
    place.x.grad = torch.ones_like(place.x)
    optimizer.step()
    return place.x.item()


def parse_rates(
    text: str | None, names: Sequence[str], surface: Surface
) -> dict[str, float] | None:
    """Learning rates as typed: none to search, one for all, ``adam=0.01,sgd=1e-3``, "authors"."""
    if text is None:
        return None
    if text.strip() == AUTHORS:
        if surface.authors_rate is None:
            raise ValueError(
                f"--lr {AUTHORS}: the paper's authors did not draw {surface.name}; give a number, "
                "or leave --lr out to have rates searched"
            )
        return dict.fromkeys(names, surface.authors_rate)
    if "=" not in text:
        return dict.fromkeys(names, _rate(text))
    given = dict(_named_rate(part, names) for part in text.split(","))
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"--lr names no rate for {missing[0]}; name all or leave --lr out")
    return given


def _named_rate(part: str, names: Sequence[str]) -> tuple[str, float]:
    name, _, number = (piece.strip() for piece in part.partition("="))
    if name not in names:
        raise ValueError(f"--lr names {name!r}, which is none of {', '.join(names)}")
    return name, _rate(number)


def _rate(text: str) -> float:
    rate = _number(text, "learning rate")
    if rate <= 0:
        raise ValueError(f"learning rate must be above 0, got {text.strip()}")
    return rate


def parse_start(text: str | None, surface: Surface, dimension: int | None) -> tuple[float, ...]:
    """The start as typed, a number for each coordinate, or the surface's own."""
    if text is not None:
        start = tuple(_number(part, "start") for part in text.split(","))
        if dimension is not None and dimension != len(start):
            raise ValueError(f"--start has {len(start)} coordinates, --dimension is {dimension}")
        return start
    n = dimension if dimension is not None else surface.dimension or 2
    surface.check_dimension(n)
    return surface.default_start(n)


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{what} must be numbers with commas, got {text.strip()!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, got {text.strip()}")
    return number
