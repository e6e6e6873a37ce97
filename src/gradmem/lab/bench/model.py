"""The user's own model as a set of parameters."""

import sys
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from gradmem.lab.bench.sets import ParameterSet
from gradmem.lab.errors import ConfigError


def load(name: str) -> ParameterSet:
    """The parameters of what ``package:function`` returns: a module, or parameters one by one.

    Shapes and types alone are taken from it, so the model may be on any device, "meta" too. A
    package is looked for in the current folder first, then where Python looks.

    Raises:
        ConfigError: there is no such package or function, or it returns something else.
    """
    return parameter_set(name, _called(name, _found(name)))


def parameter_set(name: str, made: object) -> ParameterSet:
    """The parameters of a module, or these, as a set.

    >>> parameter_set("mine", nn.Linear(3, 2)).facts.describe()
    '8 float32 parameters in 2 tensors, your own'

    Raises:
        ConfigError: there are none, or one is no dense tensor of numbers with a fraction.
    """
    if isinstance(made, nn.Module):
        parameters: list[Any] = [p for p in made.parameters() if p.requires_grad]
    elif isinstance(made, Iterable) and not isinstance(made, torch.Tensor):
        parameters = list(made)
    else:
        raise ConfigError(
            f"{name} returns a {type(made).__name__}; it must return a torch.nn.Module or "
            "an iterable of parameters"
        )
    for each in parameters:
        if not isinstance(each, torch.Tensor):
            raise ConfigError(
                f"{name} returns an iterable with a {type(each).__name__} in it; all must be "
                "parameters (model.parameters(), say)"
            )
        if not (each.is_floating_point() or each.is_complex()) or each.layout != torch.strided:
            raise ConfigError(
                f"{name} has a parameter of type {each.dtype} and layout {each.layout}; an "
                "optimizer is measured on dense ones of a floating type"
            )
    if not parameters:
        raise ConfigError(f"{name} has no parameter that requires a gradient")
    tensors = tuple((tuple(each.shape), each.dtype) for each in parameters)
    return ParameterSet(name, "your own", tensors)


def _found(name: str) -> Any:
    place, _, attribute = name.partition(":")
    if not place or not attribute:
        raise ConfigError(
            f"--model must be PACKAGE:FUNCTION, got {name!r}; the function returns a "
            "torch.nn.Module or its parameters"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return resolve_name(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"there is no module {error.name!r}, neither in {here} nor installed"
            ) from None
        raise _raised(f"importing {place}", error) from error
    except AttributeError as error:
        raise ConfigError(f"{name} is not there: {error}") from None
    except Exception as error:
        raise _raised(f"importing {place}", error) from error


def _called(name: str, found: Any) -> object:
    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise _raised(f"{name}()", error) from error


def _raised(what: str, error: Exception) -> ConfigError:
    return ConfigError(f"{what} raised {type(error).__name__}: {error}")
