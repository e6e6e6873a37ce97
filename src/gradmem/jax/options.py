"""The options of a memory in JAX: their names, ranges, and the one place that checks them."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gradmem.errors import OptionError, OptionTypeError, check_choice, check_integer

AggregateName: TypeAlias = Literal[
    "mean", "sum", "mid", "min", "median", "max", "min_mean", "median_mean", "max_mean"
]
PolicyName: TypeAlias = Literal["top_norm", "bottom_norm", "fifo"]
Scope: TypeAlias = Literal["model", "tensor"]
Norm: TypeAlias = Literal["l2", "sum"]
FormatName: TypeAlias = Literal["float32", "bfloat16", "float16"]
# A plain number, or one that is known only when the step runs.
Number: TypeAlias = "float | jax.Array"


@dataclass(frozen=True)
class Options:
    """The options of `remember_gradients`, checked when made; `memory_dtype` becomes its name."""

    capacity: int
    decay: Number
    aggregate: AggregateName
    kappa: Number
    policy: PolicyName
    max_age: int | None
    scope: Scope
    norm: Norm
    memory_dtype: Any

    def __post_init__(self) -> None:
        _check_integer("capacity", self.capacity, 0, "0 switches the memory off")
        if _is_plain("decay", self.decay) and not 0.0 <= self.decay <= 1.0:
            raise OptionError(
                f"decay must be in [0, 1], got {self.decay!r}; the paper uses 0.7 to 0.99"
            )
        if _is_plain("kappa", self.kappa) and not math.isfinite(self.kappa):
            raise OptionError(
                f"kappa must be a finite number, got {self.kappa!r}; 1 is the paper's, "
                "0 switches the memory off"
            )
        if self.max_age is not None:
            _check_integer("max_age", self.max_age, 1, "None sets no limit")
        check_choice("aggregate", self.aggregate, get_args(AggregateName))
        check_choice("policy", self.policy, get_args(PolicyName))
        groups = "; for a memory for each group of parameters use optax.multi_transform"
        check_choice("scope", self.scope, get_args(Scope), groups)
        check_choice("norm", self.norm, get_args(Norm))
        if self.memory_dtype is not None:
            object.__setattr__(self, "memory_dtype", _format_name(self.memory_dtype))

    @property
    def enabled(self) -> bool:
        """Whether anything is remembered at all; a kappa that is an array may become 0 later."""
        return self.capacity > 0 and not (isinstance(self.kappa, Real) and self.kappa == 0)


def _is_plain(name: str, value: object) -> bool:
    """Whether a number's value can be looked at; that of an array belongs to the step."""
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise OptionTypeError(
                f"{name} as an array must be one real floating-point number of shape (), got "
                f"{value.dtype} of shape {value.shape}"
            )
        return False
    if isinstance(value, bool) or not isinstance(value, Real):
        remedy = "; a schedule goes through optax.inject_hyperparams" if callable(value) else ""
        raise OptionTypeError(
            f"{name} must be a number, got {value!r} ({type(value).__name__}){remedy}"
        )
    return True


def _format_name(value: object) -> str:
    name: Any = value
    if not isinstance(value, str):
        with suppress(TypeError):  # no type at all: refused as it is
            name = jnp.dtype(name).name
    check_choice("memory_dtype", name, get_args(FormatName), " or None for the parameter's own")
    return str(name)


def _check_integer(name: str, value: object, least: int, remark: str) -> None:
    if isinstance(value, jax.Array):
        raise OptionTypeError(
            f"{name} must be an integer that is known when the step is traced, got an array; "
            f"optax.inject_hyperparams wants static_args=('capacity', 'max_age') for that"
        )
    check_integer(name, value, least, remark)
