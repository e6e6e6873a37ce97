"""The options of the proximal step in a param group, and the one place that checks them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias

from torch import Tensor

from gradmem.errors import OptionError, OptionTypeError
from gradmem.proximal.groups import Groups
from gradmem.proximal.metric import least, number
from gradmem.proximal.penalties import PENALTIES, check_regularizer

Regularizer: TypeAlias = Literal["group_lasso", "group_linf", "group_mcp"]
Metric: TypeAlias = Literal["diagonal", "plain"]

# As in a param group: of each parameter (axis, view), or None. Groups themselves would keep
# torch.load from loading a checkpoint by its safe default.
Entry: TypeAlias = tuple[int, tuple[int, ...] | None] | None

OPTION_NAMES = ("regularizer", "penalty", "metric", "reweight", "gamma", "groups")


def checked(group: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options in a param group as plain numbers and tuples, `where` being put before a message.

    Raises:
        OptionError: an option is out of range, missing, or does not fit the parameters.
        OptionTypeError: an option is of the wrong type.
    """
    for name in OPTION_NAMES:
        if name not in group:
            raise OptionError(f"{where}{name} was removed; set it to a value again")
    try:
        check_regularizer(group["regularizer"])
        penalty = _number("penalty", group["penalty"], "0 takes the optimizer's steps alone")
        gamma = _number("gamma", group["gamma"], "3 is usual")
        if gamma == 0.0:
            raise OptionError(f"gamma must be above 0, got {gamma!r}; 3 is usual")
        _check_choices(group["metric"], group["reweight"])
    except (OptionError, OptionTypeError) as error:
        raise type(error)(f"{where}{error}") from None
    options = {
        "regularizer": group["regularizer"],
        "penalty": penalty,
        "metric": group["metric"],
        "reweight": group["reweight"],
        "gamma": gamma,
        "groups": _entries(group["groups"], group["params"], where),
    }
    _check_gamma({**group, **options}, where)
    return options


def entries_of(params: Sequence[Tensor], chosen: Mapping[Tensor, Groups] | None) -> list[Entry]:
    """The groups of parameters, from a mapping; None: by first axis from two dimensions on."""
    if chosen is None:
        return [(0, None) if p.dim() > 1 else None for p in params]
    found = [chosen.get(p) for p in params]
    return [None if groups is None else (groups.axis, groups.view) for groups in found]


def check_mapping(chosen: object) -> None:
    """Refuse what is no mapping from parameters to Groups, nor None."""
    right = isinstance(chosen, Mapping) and all(
        isinstance(p, Tensor) and (groups is None or isinstance(groups, Groups))
        for p, groups in chosen.items()
    )
    if chosen is not None and not right:
        raise OptionTypeError(
            f"groups must be a mapping from parameters to Groups, or None, got {chosen!r}; None "
            "groups every parameter of two or more dimensions by its first"
        )


def check_known(chosen: Mapping[Any, Any] | None, params: Sequence[Tensor]) -> None:
    """Refuse groups of parameters that the optimizer does not have."""
    known = set(map(id, params))
    strange = [tuple(p.shape) for p in chosen or () if id(p) not in known]
    if strange:
        raise OptionError(
            f"groups must be of the optimizer's parameters, got {len(strange)} others, of shapes "
            f"{strange[:3]}; make them from the same model, and leave frozen parameters out"
        )


def _entries(entries: Any, params: Sequence[Tensor], where: str) -> list[Entry]:
    if isinstance(entries, Mapping):
        check_mapping(entries)
        check_known(entries, params)
        entries = entries_of(params, entries)
    if not isinstance(entries, Sequence) or len(entries) != len(params):
        raise OptionError(
            f"{where}groups must have one entry for each of the {len(params)} parameters, got "
            f"{entries!r}; an entry is (axis, view), or None for a parameter left alone"
        )
    return [
        None if entry is None else _entry(entry, p, f"{where}parameter {i}: ")
        for i, (entry, p) in enumerate(zip(entries, params, strict=True))
    ]


def _entry(entry: Any, p: Tensor, where: str) -> Entry:
    try:
        groups = entry if isinstance(entry, Groups) else Groups(*entry)
    except (OptionError, OptionTypeError) as error:
        raise type(error)(f"{where}{error}") from None
    except TypeError:
        raise OptionTypeError(
            f"{where}groups must be Groups, (axis, view) or None, got {entry!r}"
        ) from None
    groups.check(p.shape, where)
    if not p.is_floating_point():
        raise OptionError(f"{where}groups must be of real numbers, got {p.dtype}; leave it out")
    return groups.axis, groups.view


def _number(name: str, value: object, remark: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(
            f"{name} must be a finite number of at least 0, got {value!r} "
            f"({type(value).__name__}); {remark}"
        )
    if not 0.0 <= float(value) < math.inf:
        raise OptionError(f"{name} must be a finite number of at least 0, got {value!r}; {remark}")
    return float(value)


def _check_choices(metric: object, reweight: object) -> None:
    if metric not in ("diagonal", "plain"):
        kind = OptionError if isinstance(metric, str) else OptionTypeError
        raise kind(f"metric must be one of 'diagonal', 'plain', got {metric!r}")
    if not isinstance(reweight, bool):
        raise OptionTypeError(f"reweight must be True or False, got {reweight!r}")


def _check_gamma(group: Mapping[str, Any], where: str) -> None:
    """Refuse a concave penalty with which the proximal step is no convex problem."""
    lr, gamma, bound = number(group["lr"]), group["gamma"], least(group)
    if not PENALTIES[group["regularizer"]].concave or group["penalty"] == 0.0:
        return
    if isinstance(lr, Tensor):
        return  # its value is not worth waiting for the accelerator; such groups become NaN
    if not gamma * bound > lr:
        from_eps = group["metric"] == "diagonal" and "eps" in group
        above = f"{lr / bound if bound > 0 else math.inf:.3g}"
        remedy = f"an eps above {lr / gamma:.3g}, or metric='plain'" if from_eps else "a smaller lr"
        raise OptionError(
            f"{where}gamma times the smallest metric possible must be above lr, got "
            f"gamma={gamma!r}, {f'eps={bound!r}' if from_eps else 'a metric of 1'} and lr={lr!r}; "
            f"take a gamma above {above}, {remedy}"
        )
