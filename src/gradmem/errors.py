"""Every error gradmem raises on purpose, and the checks that all rooms share.

GradmemError
├── OptionError (ValueError)       an option is outside its range, unknown, or contradicts another
├── OptionTypeError (TypeError)    an option is of the wrong type
├── GradientError (RuntimeError)   a gradient or a parameter of a kind the memory cannot hold
├── StepError (RuntimeError)       step() called in a way that cannot be carried out
└── CheckpointError (ValueError)   a state_dict that does not fit the optimizer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

__all__ = [
    "CheckpointError",
    "GradientError",
    "GradmemError",
    "OptionError",
    "OptionTypeError",
    "StepError",
]


class GradmemError(Exception):
    """Base of all errors raised on purpose; parameters, state and memory are as before it."""


class OptionError(GradmemError, ValueError):
    """An option is outside its range, unknown, or contradicts another."""


class OptionTypeError(GradmemError, TypeError):
    """An option is of the wrong type."""


class GradientError(GradmemError, RuntimeError):
    """A gradient or a parameter of a kind the memory cannot hold."""


class StepError(GradmemError, RuntimeError):
    """step() was called in a way that cannot be carried out."""


class CheckpointError(GradmemError, ValueError):
    """A state_dict does not fit the optimizer it is loaded into."""


def hint(name: object, known: Iterable[str]) -> str:
    """What to say of an unknown name: the known one it resembles, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(str(name).lower(), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}"


def check_integer(name: str, value: object, least: int, remark: str) -> None:
    """Refuse what is no integer of at least `least`, the remark saying what it is for."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionTypeError(
            f"{name} must be an integer, got {value!r} ({type(value).__name__}); {remark}"
        )
    if value < least:
        raise OptionError(f"{name} must be at least {least}, got {value}; {remark}")


def check_choice(name: str, value: object, choices: tuple[str, ...], more: str = "") -> None:
    """Refuse what is none of the choices, nor what `more` names."""
    listed = ", ".join(repr(choice) for choice in choices) + more
    if not isinstance(value, str):
        raise OptionTypeError(f"{name} must be one of {listed}, got {value!r}")
    if value not in choices:
        raise OptionError(f"{name} must be one of {listed}, got {value!r}")
