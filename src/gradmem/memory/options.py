"""The options of a memory: their names, defaults, ranges, and the one place that checks them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, TypeAlias, cast, get_args

import torch

from gradmem.errors import OptionError, OptionTypeError, check_choice, check_integer
from gradmem.memory.aggregates import AggregateFunction
from gradmem.memory.formats import FORMATS, FormatName
from gradmem.memory.policies import PolicyFunction

# fmt: off
AggregateName: TypeAlias = Literal[
    "mean", "sum", "mid", "min", "median", "max", "min_mean", "median_mean", "max_mean"
]
PolicyName: TypeAlias = Literal[
    "top_norm", "bottom_norm", "fifo", "random", "reservoir", "proportional",
    "mean_diverse", "cosine_diverse", "cosine_similar",
]
# fmt: on
Aggregate: TypeAlias = AggregateName | AggregateFunction
Policy: TypeAlias = PolicyName | PolicyFunction
Scope: TypeAlias = Literal["model", "group", "tensor"]
Norm: TypeAlias = Literal["l2", "sum"]
MemoryDtype: TypeAlias = FormatName | torch.dtype | None
MemoryDevice: TypeAlias = Literal["cpu"] | torch.device | None


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """What is remembered and how it is combined; checked when made.

    Args:
        capacity: gradients kept, an integer from 0; 0 switches the memory off.
        decay: factor from 0 to 1 on every priority at every step.
        aggregate: how memory and gradient are combined: a name of `AggregateName`, or a function of
            a ledger and kappa that returns `Weights`.
        kappa: weight of the memory, any finite number, negative too; 0 switches the memory off.
        policy: which gradients are kept: a name of `PolicyName`, or a function of an `Offer` and a
            ledger that returns a `Choice`.
        scope: what shares one decision per step: "model", "group" or "tensor".
        norm: "l2", or "sum" of the tensors' own L2 norms, as the authors' programs have it.
        max_age: steps after which a gradient is dropped, an integer from 1; None for no limit.
        seed: of the random policies, an integer from 0; equal seeds make equal choices.
        memory_dtype: what stored gradients are rounded to: "float32", "bfloat16", "float16", "int8"
            (a scale for every 256 elements), or such a torch.dtype; None for the parameter's own.
        memory_device: "cpu" to keep stored gradients in the host's memory; None for beside the
            parameters.

    Raises:
        OptionError: an option is out of range.
        OptionTypeError: an option is of the wrong type.

    Example:
        >>> MemoryOptions(capacity=5).decay
        0.7
        >>> MemoryOptions(decay=1.5)
        Traceback (most recent call last):
        ...
        gradmem.errors.OptionError: decay must be in [0, 1], got 1.5; the paper uses 0.7 to 0.99
    """

    capacity: int = 10
    decay: float = 0.7
    aggregate: Aggregate = field(default="mean", hash=False)
    kappa: float = 1.0
    policy: Policy = field(default="top_norm", hash=False)
    scope: Scope = "model"
    norm: Norm = "l2"
    max_age: int | None = None
    seed: int = 0
    memory_dtype: MemoryDtype = None
    memory_device: MemoryDevice = None

    def __post_init__(self) -> None:
        check_integer("capacity", self.capacity, 0, "0 switches the memory off")
        _check_real("decay", self.decay)
        if not 0.0 <= self.decay <= 1.0:
            raise OptionError(
                f"decay must be in [0, 1], got {self.decay!r}; the paper uses 0.7 to 0.99"
            )
        _check_real("kappa", self.kappa)
        if not math.isfinite(self.kappa):
            raise OptionError(
                f"kappa must be a finite number, got {self.kappa!r}; 1 is the paper's, "
                "0 switches the memory off"
            )
        if self.max_age is not None:
            check_integer("max_age", self.max_age, 1, "None sets no limit")
        check_integer("seed", self.seed, 0, "it decides what the random policies draw")
        # Plain numbers, whatever kind was given: a checkpoint holds them.
        object.__setattr__(self, "capacity", int(self.capacity))
        object.__setattr__(self, "decay", float(self.decay))
        object.__setattr__(self, "kappa", float(self.kappa))
        if self.max_age is not None:
            object.__setattr__(self, "max_age", int(self.max_age))
        object.__setattr__(self, "seed", int(self.seed))
        if not callable(self.aggregate):
            check_choice("aggregate", self.aggregate, get_args(AggregateName), " or a function")
        if not callable(self.policy):
            check_choice("policy", self.policy, get_args(PolicyName), " or a function")
        check_choice("scope", self.scope, get_args(Scope))
        check_choice("norm", self.norm, get_args(Norm))
        # Names, not torch's objects: param_groups go through checkpoints of every kind.
        if self.memory_dtype is not None:
            object.__setattr__(self, "memory_dtype", _format_name(self.memory_dtype))
        if self.memory_device is not None:
            object.__setattr__(self, "memory_device", _device_name(self.memory_device))

    @property
    def enabled(self) -> bool:
        """Whether anything is remembered at all."""
        return self.capacity > 0 and self.kappa != 0

    @property
    def format(self) -> FormatName | None:
        """The name of `memory_dtype`, which is one once the options are made."""
        return cast("FormatName | None", self.memory_dtype)

    def as_group(self) -> dict[str, Any]:
        """The options as entries of a param group."""
        return {name: getattr(self, name) for name in OPTION_NAMES}


OPTION_NAMES: tuple[str, ...] = tuple(field.name for field in fields(MemoryOptions))


def options_of(group: Mapping[str, Any]) -> MemoryOptions:
    """The memory options of a param group, checked."""
    return MemoryOptions(**{name: group[name] for name in OPTION_NAMES})


def _format_name(value: object) -> str:
    names = {dtype: name for name, dtype in FORMATS.items()}
    name = names.get(value, str(value)) if isinstance(value, torch.dtype) else value
    check_choice("memory_dtype", name, get_args(FormatName), " or None for the parameter's own")
    return str(name)


def _device_name(value: object) -> str:
    name = str(value) if isinstance(value, torch.device) else value
    check_choice("memory_device", name, ("cpu",), " or None for beside the parameters")
    return str(name)


def _check_real(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
