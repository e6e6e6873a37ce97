"""The optimizers one can compare, how each is made, and the space its settings are searched in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import nn

import gradmem
from gradmem.lab.combined import Parameters, muon
from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.spaces import (
    Choice,
    LogUniform,
    Options,
    Space,
    one_of,
    options_at,
    overridden,
)

__all__ = ["OPTIMIZERS", "Choice", "LogUniform", "Options", "Space", "Spec", "get_optimizers"]

# model, its parameters or groups, one setting -> optimizer
Factory: TypeAlias = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Spec:
    """One optimizer: its name on the page, its base if it is a memory variant, how to make it.

    ``package`` is what has to be installed for it. ``proportional`` says that its step grows with
    the gradient handed to it, so that under `sum` its rate acts as if (1 + kappa) times larger.
    """

    name: str
    label: str
    base: str | None
    space: Space
    create: Factory
    package: str | None = None
    proportional: bool = False

    @property
    def learning_rate(self) -> LogUniform | None:
        """The dimension of the learning rate; None if it is held fixed or chosen from a list."""
        for dimension in self.space:
            if isinstance(dimension, LogUniform) and dimension.name == "lr":
                return dimension
        return None

    @property
    def missing(self) -> str | None:
        """A sentence on what to install, if that is needed."""
        if self.package is None or find_spec(self.package):
            return None
        return f"{self.name} needs the package {self.package}: pip install 'gradmem[peers]'"

    def options_at(self, point: Sequence[float]) -> Options:
        """The setting at ``point`` of the unit cube, one coordinate per dimension."""
        return options_at(self.space, point)

    def build(
        self, model: nn.Module, options: Mapping[str, Any], parameters: Parameters | None = None
    ) -> torch.optim.Optimizer:
        """The optimizer for ``model`` at one setting, on ``parameters`` or all there are."""
        given = model.parameters() if parameters is None else parameters
        # A list in a file is a tuple to torch: betas, for one.
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return self.create(model, given, **values)


# A memory variant searches its base's space and, on top, the memory's: with the same number of
# trials it pays for the extra options. The spaces of a pair begin alike, so the same quasi-random
# points give both the same learning rates. `sum` with kappa 1 doubles the gradient, so the upper
# ends are twice what one would give a plain search: a variant's best rate, doubled, is then still a
# rate its base was tried at (and a sentence says so where it is not, see `Tuned.warnings`).
_EPS = LogUniform("eps", 1e-8, 1e-3, floor=True)
_WEIGHT_DECAY = LogUniform("weight_decay", 1e-4, 1.0, floor=True)
_MOMENTUM = LogUniform("momentum", 0.5, 0.99, below_one=True)
_ADAPTIVE_RATE = LogUniform("lr", 3e-5, 2 * 0.15)
_SGD: Space = (LogUniform("lr", 1e-3, 2 * 50.0),)
_MOMENTUM_ALONE: Space = (LogUniform("lr", 1e-4, 2 * 10.0), _MOMENTUM)
_SGDM: Space = (*_MOMENTUM_ALONE, one_of("nesterov", False, True))
_RMSPROP: Space = (_ADAPTIVE_RATE, _EPS, one_of("alpha", 0.99, 0.9))
_ADAM: Space = (_ADAPTIVE_RATE, _EPS)
_ADAMW: Space = (_ADAPTIVE_RATE, _EPS, _WEIGHT_DECAY)
_ADAGRAD: Space = (LogUniform("lr", 1e-3, 2 * 1.0), LogUniform("eps", 1e-10, 1e-3, floor=True))
_AGGMO: Space = (
    LogUniform("lr", 1e-4, 2 * 10.0),
    one_of("betas", [0.0, 0.9, 0.99], [0.0, 0.9], [0.0, 0.9, 0.99, 0.999]),
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
    one_of("policy", "top_norm", "fifo"),
)


@dataclass(frozen=True)
class _Plain:
    """Makes an optimizer of torch's kind; its package is imported only then.

    ``betas`` many options beta1, beta2, ... become the one option ``betas``, so that each can be
    searched.
    """

    package: str
    name: str
    betas: int = 0

    def __call__(
        self,
        model: nn.Module,  # noqa: ARG002
        parameters: Parameters,
        **options: Any,
    ) -> torch.optim.Optimizer:
        names = [f"beta{i + 1}" for i in range(self.betas)]
        if names and all(name in options for name in names):
            options["betas"] = tuple(options.pop(name) for name in names)
        cls = getattr(import_module(self.package), self.name)
        made: torch.optim.Optimizer = cls(parameters, **options)
        return made


@dataclass(frozen=True)
class _Memory:
    """Makes one of gradmem's."""

    name: str

    def __call__(
        self,
        model: nn.Module,  # noqa: ARG002
        parameters: Parameters,
        **options: Any,
    ) -> torch.optim.Optimizer:
        return gradmem.create(self.name, parameters, **options)


@dataclass(frozen=True)
class _Augmented:
    """Puts gradmem's memory around what another makes."""

    base: Factory

    def __call__(
        self, model: nn.Module, parameters: Parameters, **options: Any
    ) -> torch.optim.Optimizer:
        own = {k: v for k, v in options.items() if k not in _MEMORY_OPTIONS}
        memory = {k: v for k, v in options.items() if k in _MEMORY_OPTIONS}
        return gradmem.MemoryAugmented(self.base(model, parameters, **own), **memory)


_MEMORY_OPTIONS = frozenset(each.name for each in fields(gradmem.MemoryOptions))

# name, label, space, class, name of the memory's class, whether the step grows with the gradient
_FAMILIES: tuple[tuple[str, str, Space, Factory, str, bool], ...] = (
    ("sgd", "SGD", _SGD, _Plain("torch.optim", "SGD"), "sgd_c", True),
    ("sgdm", "SGDM", _SGDM, _Plain("torch.optim", "SGD"), "sgd_c", True),
    ("rmsprop", "RMSprop", _RMSPROP, _Plain("torch.optim", "RMSprop"), "rmsprop_c", False),
    ("adam", "Adam", _ADAM, _Plain("torch.optim", "Adam"), "adam_c", False),
    ("adamw", "AdamW", _ADAMW, _Plain("torch.optim", "AdamW"), "adamw_c", False),
    ("nadam", "NAdam", _ADAM, _Plain("torch.optim", "NAdam"), "nadam_c", False),
    ("radam", "RAdam", _ADAM, _Plain("torch.optim", "RAdam"), "radam_c", False),
    ("adagrad", "Adagrad", _ADAGRAD, _Plain("torch.optim", "Adagrad"), "adagrad_c", False),
    ("aggmo", "AggMo", _AGGMO, _Plain("gradmem", "AggMo"), "aggmo_c", True),
)


def _families() -> Iterator[Spec]:
    for name, label, space, create, memory, proportional in _FAMILIES:
        yield Spec(name, label, None, space, create, proportional=proportional)
        both = space + MEMORY_SPACE
        yield Spec(
            *(f"{name}_c", f"{label}_C", name, both, _Memory(memory)), proportional=proportional
        )


def _critical_momenta() -> Iterator[Spec]:
    """Those that keep momenta instead of gradients."""
    for name, label, base, space in (
        ("sgd_cm", "SGD_CM", "sgdm", _MOMENTUM_ALONE),
        ("adam_cm", "Adam_CM", "adam", _ADAM),
        ("adamw_cm", "AdamW_CM", "adamw", _ADAMW),
    ):
        yield Spec(
            *(name, label, base, space + MEMORY_SPACE, _Memory(name)),
            proportional=base == "sgdm",
        )


def _augmented(specs: Iterable[Spec]) -> Iterator[Spec]:
    """Each, and with a memory around it."""
    for spec in specs:
        yield spec
        yield Spec(
            *(f"{spec.name}_c", f"{spec.label}_C", spec.name, spec.space + MEMORY_SPACE),
            create=_Augmented(spec.create),
            package=spec.package,
        )


def _peers() -> Iterator[Spec]:
    """Optimizers of other packages, and Muon, as their users would run them."""
    muon_space = (
        LogUniform("lr", 1e-4, 1.0),
        LogUniform("adam_lr", 3e-5, 0.3),
        _WEIGHT_DECAY,
        one_of("momentum", 0.95, 0.9),
    )
    yield Spec("muon", "Muon", None, muon_space, muon)
    lion_space = (
        LogUniform("lr", 1e-5, 0.1),
        LogUniform("weight_decay", 1e-4, 10.0, floor=True),
        Choice(({"beta1": 0.9, "beta2": 0.99}, {"beta1": 0.95, "beta2": 0.98})),
    )
    lion = _Plain("pytorch_optimizer", "Lion", betas=2)
    yield Spec("lion", "Lion", None, lion_space, lion, "pytorch_optimizer")
    mix_space = (
        _ADAPTIVE_RATE,
        _WEIGHT_DECAY,
        LogUniform("alpha", 1.0, 16.0),
        Choice(
            tuple({"beta1": 0.9, "beta2": 0.999, "beta3": last} for last in (0.999, 0.99, 0.9999))
        ),
        one_of("weight_decouple", True),
    )
    mix = _Plain("pytorch_optimizer", "AdEMAMix", betas=3)
    yield Spec("ademamix", "AdEMAMix", None, mix_space, mix, "pytorch_optimizer")
    free_space = (
        LogUniform("lr", 1e-4, 1.0),
        _WEIGHT_DECAY,
        Choice(tuple({"beta1": first, "beta2": 0.999} for first in (0.9, 0.95, 0.98))),
    )
    free = _Plain("schedulefree", "AdamWScheduleFree", betas=2)
    yield Spec("schedulefree", "ScheduleFree", None, free_space, free, "schedulefree")


OPTIMIZERS: Mapping[str, Spec] = MappingProxyType(
    {spec.name: spec for spec in (*_families(), *_critical_momenta(), *_augmented(_peers()))}
)


def get_optimizers(
    names: Sequence[str], spaces: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Spec, ...]:
    """The specs called ``names``, in that order.

    Args:
        names: of optimizers.
        spaces: by name of an optimizer and of an option, what to search instead of the default. A
            base's dimensions are its memory variant's too, unless that is given others.

    Raises:
        ConfigError: a name is unknown or comes twice, its package is missing, or a space is wrong.
    """
    if not names:
        raise ConfigError(f"no optimizer named; choose from: {', '.join(OPTIMIZERS)}")
    for name in names:
        _check_known(name)
    if len(set(names)) < len(names):
        raise ConfigError(f"an optimizer is named twice in {','.join(names)!r}")
    for name in names:
        if missing := OPTIMIZERS[name].missing:
            raise ConfigError(missing)
    return tuple(_searched(OPTIMIZERS[name], spaces or {}) for name in names)


def _check_known(name: str) -> None:
    if name not in OPTIMIZERS:
        said = hint(name, OPTIMIZERS)
        raise ConfigError(f"unknown optimizer {name!r}; {said} `gradmem optimizers` lists them")


def _searched(spec: Spec, spaces: Mapping[str, Mapping[str, Any]]) -> Spec:
    """``spec`` with the dimensions the user wants."""
    for name in spaces:
        _check_known(name)
    space = spec.space
    for name in filter(None, (spec.base, spec.name)):
        for option, wanted in spaces.get(name, {}).items():
            space = overridden(space, option, wanted)
    return replace(spec, space=space)


def available(specs: Iterable[Spec] = OPTIMIZERS.values()) -> list[Spec]:
    """Those whose packages are installed."""
    return [spec for spec in specs if spec.missing is None]
