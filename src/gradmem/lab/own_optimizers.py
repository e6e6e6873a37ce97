"""Optimizers of a user's own: ``module:attribute`` or ``file.py:attribute``."""

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from gradmem.lab.combined import Parameters
from gradmem.lab.config import check_dimension
from gradmem.lab.errors import ConfigError
from gradmem.lab.importing import attribute_of, digest, module_at
from gradmem.lab.spaces import Choice, LogUniform, Space, overridden

MEMORY = "+memory"  # after a name: with gradmem's memory around it
RATE = LogUniform("lr", 1e-5, 1.0)  # what is searched where nothing is said

# option -> range, list or value, as in a table [space] of TOML; or dimensions
Declared: TypeAlias = Mapping[str, Any] | tuple[LogUniform | Choice, ...]


@dataclass(frozen=True)
class SimpleOptimizer:
    """An optimizer of one's own, with what a class or a function alone does not say.

    Args:
        create: a class of optimizers, or a function that returns one; it is called with the
            parameters, or groups of them, and the options by keyword.
        space: by option, a mapping with ``low`` and ``high``, a list of values, or one value; or a
            tuple of `LogUniform` and `Choice`. None for what ``create.search_space`` says, or
            without that the learning rate from 1e-5 to 1.
        label: what it is called in print; None for the name it is found under.
        base: the optimizer it is a variant of, by name: the two are compared, and what is searched
            of that one is searched of this one too, as far as this one searches it at all.
        proportional: whether its step grows with the gradient, as SGD's does: a memory under `sum`
            then acts like a larger learning rate, and a warning says so where that went beyond
            what was tried without.

    Example:
        >>> import torch
        >>> from gradmem.lab.optimizers import SimpleOptimizer
        >>> amsgrad = SimpleOptimizer(
        ...     torch.optim.Adam,
        ...     space={"lr": {"low": 3e-5, "high": 0.3}, "amsgrad": True},
        ...     label="AMSGrad",
        ...     base="adam",
        ... )
    """

    create: Callable[..., torch.optim.Optimizer]
    space: Declared | None = None
    label: str | None = None
    base: str | None = None
    proportional: bool = False


@dataclass(frozen=True)
class Found:
    """What a name stood for, checked."""

    create: "Made"
    space: Space  # empty if nothing says what to search
    label: str
    base: str | None
    proportional: bool
    origin: str  # digest of the files it stands in


@dataclass(frozen=True)
class Made:
    """Makes the optimizer, and sees that it is one."""

    create: Callable[..., Any]

    def __call__(
        self,
        model: nn.Module,  # noqa: ARG002
        parameters: Parameters,
        **options: Any,
    ) -> torch.optim.Optimizer:
        """TypeError if it is none that the lab can train with."""
        made = self.create(parameters, **options)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(f"it makes a {type(made).__name__}, not a torch.optim.Optimizer")
        if needed := _needed(type(made).step):
            raise TypeError(f"its step needs {', '.join(needed)}, and the lab calls step()")
        return made


def _needed(step: Callable[..., Any]) -> list[str]:
    """The arguments that a step cannot do without, but for the optimizer itself."""
    parameters = list(inspect.signature(step).parameters.values())[1:]
    left_out = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in left_out]


def known_as(name: str) -> str:
    """What runs call an optimizer: wherever its file lies, and however it was named.

    >>> known_as("adam"), known_as("sub/mine.py:Mine+memory"), known_as("package.inner:Mine")
    ('adam', 'mine:Mine+memory', 'package.inner:Mine')
    """
    place, colon, attribute = name.rpartition(":")
    return f"{Path(place).stem if place.endswith('.py') else place}{colon}{attribute}"


def load(name: str) -> Found:
    """The optimizer that ``module:attribute`` stands for, found as a task of one's own is.

    Raises:
        ConfigError: there is no such module, file or attribute, the module cannot be imported, or
            what is there is no optimizer; says which, and what to do.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(
            f"{name!r} has to be MODULE:ATTRIBUTE, such as my_package:MyOptimizer, or "
            "FILE.py:ATTRIBUTE"
        )
    try:
        module = module_at(place)
        found = attribute_of(module, attribute, "optimizers", _is_optimizer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    simple = found if isinstance(found, SimpleOptimizer) else SimpleOptimizer(found)
    _check(name, simple)
    return Found(
        create=Made(simple.create),
        space=_space(name, simple),
        label=" ".join((simple.label or attribute).split()),
        base=simple.base,
        proportional=bool(simple.proportional),
        origin=_origin(module, simple.create),
    )


def _is_optimizer(value: Any) -> bool:
    own = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    return own or isinstance(value, SimpleOptimizer)


def _check(name: str, simple: SimpleOptimizer) -> None:
    """ConfigError unless it can be what makes an optimizer."""
    create = simple.create
    wanted = "a class of torch.optim.Optimizer, or a function that returns one"
    if isinstance(create, torch.optim.Optimizer):
        raise ConfigError(
            f"{name} is a {type(create).__name__} that was made already; every run makes its own, "
            f"so name {wanted}"
        )
    if isinstance(create, type) and not issubclass(create, torch.optim.Optimizer):
        raise ConfigError(f"{name} is the class {create.__name__}; it has to be {wanted}")
    if not callable(create):
        raise ConfigError(f"{name} is a {type(create).__name__}; it has to be {wanted}")
    for what, value in (("label", simple.label), ("base", simple.base)):
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise ConfigError(f"{name}: its {what} has to be a text, not {value!r:.40}")


def _space(name: str, simple: SimpleOptimizer) -> Space:
    """What it declares; else the learning rate if it has one, and nothing if not."""
    declared = simple.space
    if declared is None:
        declared = getattr(simple.create, "search_space", None)
    if declared is None:
        return (RATE,) if _has_rate(simple.create) else ()
    if isinstance(declared, Mapping) and declared:
        return _of_table(name, declared)
    dimensions = tuple(declared) if isinstance(declared, (tuple, list)) else ()
    if not dimensions or not all(isinstance(each, (LogUniform, Choice)) for each in dimensions):
        raise ConfigError(
            f"{name}: its search space has to be a mapping, such as "
            f'{{"lr": {{"low": 1e-5, "high": 1.0}}}}, not {declared!r:.60}'
        )
    return dimensions


def _has_rate(create: Callable[..., Any]) -> bool:
    try:
        return "lr" in inspect.signature(create).parameters
    except ValueError:  # written in C, and says nothing of its arguments
        return False


def _of_table(name: str, declared: Mapping[str, Any]) -> Space:
    space: Space = ()
    for option, wanted in declared.items():
        try:
            if not (isinstance(option, str) and option.isidentifier()):
                raise ValueError("is no name of an option")
            space = overridden(space, option, check_dimension(_plain(wanted)))
        except ValueError as error:
            raise ConfigError(f"{name}: in its search space {option!r} {error}") from error
    return space


def _plain(value: Any) -> Any:
    """``value`` as JSON has it, since a run is kept and known by that: a tuple is a list."""
    try:
        plain = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        plain = None
    if not _is_plain(list(plain.values()) if isinstance(plain, Mapping) else plain):
        raise ValueError(
            f"needs finite numbers, texts, true or false, or lists of them, not {value!r:.60}"
        )
    return plain


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, (str, bool, int, float))


def _origin(module: ModuleType, create: Callable[..., Any]) -> str:
    """Of the module that was named, and of the one in which it is written, if that is another."""
    while isinstance(create, partial):
        create = create.func
    written = sys.modules.get(getattr(create, "__module__", None) or "", module)
    return ".".join(dict.fromkeys(digest(each) for each in (module, written)))
