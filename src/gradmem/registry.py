"""Optimizers by name: the class, and its options read from its signature."""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim.optimizer import ParamsT

from gradmem.errors import OptionError, OptionTypeError, hint
from gradmem.optim.adagrad import Adagrad_C
from gradmem.optim.adam import Adam_C, AdamW_C
from gradmem.optim.aggmo import AggMo_C
from gradmem.optim.critical_momenta import Adam_CM, AdamW_CM
from gradmem.optim.critical_sgd import SGD_CM
from gradmem.optim.nadam import NAdam_C
from gradmem.optim.radam import RAdam_C
from gradmem.optim.rmsprop import RMSprop_C
from gradmem.optim.sgd import SGD_C
from gradmem.optim.shell import MemoryOptimizer

_CLASSES: dict[str, type[MemoryOptimizer]] = {
    cls.__name__.lower(): cls
    for cls in (
        *(SGD_C, RMSprop_C, Adam_C, AdamW_C, NAdam_C, RAdam_C, Adagrad_C, AggMo_C),
        *(SGD_CM, Adam_CM, AdamW_CM),
    )
}


def names() -> list[str]:
    """The names `create` knows, sorted.

    Example:
        >>> import gradmem
        >>> gradmem.names()
        ['adagrad_c', 'adam_c', 'adam_cm', 'adamw_c', 'adamw_cm', 'aggmo_c', 'nadam_c', 'radam_c',
         'rmsprop_c', 'sgd_c', 'sgd_cm']
    """
    return sorted(_CLASSES)


def optimizer_class(name: str) -> type[MemoryOptimizer]:
    """The class of this name, which is its own name in lower case.

    Raises:
        OptionError: there is none.
    """
    if not isinstance(name, str):
        raise OptionTypeError(f"name must be one of {', '.join(names())}, got {name!r}")
    if name not in _CLASSES:
        raise OptionError(f"unknown optimizer {name!r}; {hint(name, _CLASSES)}")
    return _CLASSES[name]


def options(name: str) -> dict[str, Any]:
    """Every option of an optimizer and its default, in the order of its signature.

    Raises:
        OptionError: there is no optimizer of this name.

    Example:
        >>> import gradmem
        >>> gradmem.options("sgd_c")["aggregate"]
        'sum'
    """
    parameters = inspect.signature(optimizer_class(name)).parameters
    return {key: p.default for key, p in parameters.items() if key != "params"}


def create(name: str, params: ParamsT, **chosen: Any) -> MemoryOptimizer:
    """Make an optimizer by name, for configuration files and command lines.

    Args:
        name: one of `names()`.
        params: parameters, named parameters, or groups, as for the class.
        **chosen: options of the class; see `options`.

    Raises:
        OptionError: the name or an option is unknown, or a value out of range.

    Example:
        >>> import torch, gradmem
        >>> model = torch.nn.Linear(2, 1)
        >>> type(gradmem.create("adam_c", model.parameters(), lr=0.01, capacity=5)).__name__
        'Adam_C'
    """
    known = options(name)
    for key in chosen:
        if key not in known:
            raise OptionError(f"unknown option {key!r} for {name!r}; {hint(key, known)}")
    return optimizer_class(name)(params, **chosen)
