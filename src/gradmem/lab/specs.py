"""What is known of an optimizer: how it is made, and the space its settings are searched in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import nn

import gradmem
from gradmem.lab.combined import Parameters
from gradmem.lab.spaces import Choice, LogUniform, Options, Space, one_of, options_at

# model, its parameters or groups, one setting -> optimizer
Factory: TypeAlias = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Spec:
    """One optimizer: its name on the page, its base if it is a memory variant, how to make it.

    ``package`` is what has to be installed for it. ``proportional`` says that its step grows with
    the gradient handed to it, so that under `sum` its rate acts as if (1 + kappa) times larger.
    ``shares`` says that every dimension of its base is its own too, as it is around it. Of a user's
    own, ``asked`` is what a command calls it, and ``versions`` has the digest of its source, which
    its runs depend on.
    """

    name: str
    label: str
    base: str | None
    space: Space
    create: Factory
    package: str | None = None
    proportional: bool = False
    shares: bool = True
    asked: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> str:
        """What its runs call it."""
        return self.name

    @property
    def typed(self) -> str:
        """What a command calls it."""
        return self.asked or self.name

    @property
    def options(self) -> frozenset[str]:
        """The names of what is searched."""
        return frozenset(name for dimension in self.space for name in dimension.names)

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
class Plain:
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
        """The optimizer of these options."""
        names = [f"beta{i + 1}" for i in range(self.betas)]
        if names and all(name in options for name in names):
            options["betas"] = tuple(options.pop(name) for name in names)
        cls = getattr(import_module(self.package), self.name)
        made: torch.optim.Optimizer = cls(parameters, **options)
        return made


@dataclass(frozen=True)
class Memory:
    """Makes one of gradmem's."""

    name: str

    def __call__(
        self,
        model: nn.Module,  # noqa: ARG002
        parameters: Parameters,
        **options: Any,
    ) -> torch.optim.Optimizer:
        """The optimizer of these options."""
        return gradmem.create(self.name, parameters, **options)


@dataclass(frozen=True)
class Augmented:
    """Puts gradmem's memory around what another makes."""

    base: Factory

    def __call__(
        self, model: nn.Module, parameters: Parameters, **options: Any
    ) -> torch.optim.Optimizer:
        """The optimizer of these options, the memory's told from the others by name."""
        own = {k: v for k, v in options.items() if k not in MEMORY_OPTIONS}
        memory = {k: v for k, v in options.items() if k in MEMORY_OPTIONS}
        return gradmem.MemoryAugmented(self.base(model, parameters, **own), **memory)


MEMORY_OPTIONS = frozenset(each.name for each in fields(gradmem.MemoryOptions))


def with_memory(spec: Spec, name: str) -> Spec:
    """``spec`` with gradmem's memory around it, which is called ``name``."""
    return replace(
        spec,
        name=name,
        label=f"{spec.label}_C",
        base=spec.name,
        space=spec.space + MEMORY_SPACE,
        create=Augmented(spec.create),
        shares=True,
    )
