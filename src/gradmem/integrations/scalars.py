"""A memory's report as a flat dict of numbers, which is what loggers take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from gradmem import MemoryAugmented, MemoryOptimizer, MemoryReport, OptionTypeError, ScopeReport

# Where wrappers keep the optimizer they wrap: accelerate and most others, torch's
# ZeroRedundancyOptimizer and PostLocalSGDOptimizer.
_INNER = ("optimizer", "optim")
_HOLDERS = (MemoryOptimizer, MemoryAugmented)

# More ledgers than this are summed up: nobody looks at a thousand curves.
MOST_SCOPES = 16


def report_of(optimizer: Any) -> MemoryReport:
    """The memory report of an optimizer that a trainer may have wrapped.

    Args:
        optimizer: one with a memory, or a wrapper around it that has it as ``optimizer`` or
            ``optim``, such as those of accelerate, lightning, gradmem.proximal and torch's
            ZeroRedundancyOptimizer; or a report, which is returned.

    Returns:
        What its ``memory_report()`` says on this process.

    Raises:
        OptionTypeError: there is no memory in it.

    Example:
        >>> import torch, gradmem
        >>> from gradmem.integrations.scalars import report_of
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> report_of(gradmem.Adam_C([weight], capacity=2)).scopes[0].capacity
        2
    """
    if isinstance(optimizer, MemoryReport):
        return optimizer
    for layer in _layers(optimizer):
        if isinstance(layer, _HOLDERS):
            return layer.memory_report()
    found = " around ".join(type(layer).__name__ for layer in _layers(optimizer))
    raise OptionTypeError(
        f"no memory to report on in {found or None}; train with one of gradmem's optimizers, such "
        "as AdamW_C, or put gradmem.MemoryAugmented(optimizer) around yours"
    )


def has_memory(optimizer: Any) -> bool:
    """Whether `report_of` finds a memory, switched on or not."""
    return any(isinstance(layer, _HOLDERS) for layer in _layers(optimizer))


def memory_scalars(optimizer: Any, prefix: str = "memory") -> dict[str, float]:
    """What a memory holds, as numbers for a logger.

    For each scope, with its name before the number's if there are several (``memory/occupied``,
    ``memory/group_0/occupied``); of more than 16 scopes the least, mean and largest
    (``memory/occupied/min``, ``/mean``, ``/max``):

    | name | number |
    |---|---|
    | ``occupied`` | gradients held |
    | ``accepted_share`` | of the steps, those that changed the memory |
    | ``age_mean``, ``age_max`` | of the gradients held, in steps |
    | ``norm_min``, ``norm_max`` | of the gradients held |
    | ``oldest_used`` | the largest age that ever entered an update |
    | ``total_weight`` | by which the step grows if all gradients are equal |

    and for all together ``scopes`` and ``bytes``. Numbers that are not there yet, like the ages
    in an empty memory, are left out. A memory that is switched off has 0 scopes and 0 bytes.

    Args:
        optimizer: an optimizer or a report, as `report_of` takes them.
        prefix: what every name begins with, before a slash.

    Returns:
        Names to floats. Reading them waits for the device: not for every step.

    Raises:
        OptionTypeError: there is no memory in it.

    Example:
        >>> import torch, gradmem
        >>> from gradmem.integrations.scalars import memory_scalars
        >>> weight = torch.nn.Parameter(torch.ones(4))
        >>> optimizer = gradmem.SGD_C([weight], lr=0.1, capacity=3)
        >>> for _ in range(2):
        ...     weight.grad = torch.ones(4)
        ...     optimizer.step()
        >>> scalars = memory_scalars(optimizer)
        >>> scalars["memory/occupied"], scalars["memory/age_max"], scalars["memory/norm_min"]
        (2.0, 2.0, 2.0)
    """
    report = report_of(optimizer)
    scopes = {_slug(scope.name): _numbers(scope) for scope in report.scopes}
    if len(scopes) == 1:
        (named,) = scopes.values()
    elif len(scopes) <= MOST_SCOPES:
        named = {f"{s}/{name}": value for s, own in scopes.items() for name, value in own.items()}
    else:
        named = _summed_up(list(scopes.values()))
    totals = {"scopes": float(len(report.scopes)), "bytes": float(report.bytes)}
    return {f"{prefix}/{name}": value for name, value in {**named, **totals}.items()}


def _layers(optimizer: Any) -> Iterator[Any]:
    """The optimizer, and what it is wrapped around, from the outside in."""
    layer, seen = optimizer, set()
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        own = getattr(layer, "__dict__", {})
        # lightning's wrapper takes on the class of what it wraps, but has not its attributes.
        if "_optimizer" in own:
            layer = own["_optimizer"]
            continue
        yield layer
        layer = next((own[name] for name in _INNER if name in own), None)


def _numbers(scope: ScopeReport) -> dict[str, float]:
    numbers = {"occupied": float(scope.occupied)}
    if scope.steps:
        numbers["accepted_share"] = scope.accepted_share
    if scope.occupied:
        numbers["age_mean"] = fmean(scope.ages)
        numbers["age_max"] = float(max(scope.ages))
        numbers["norm_min"] = min(scope.norms)
        numbers["norm_max"] = max(scope.norms)
    numbers["oldest_used"] = float(scope.oldest_used)
    numbers["total_weight"] = scope.total_weight
    return numbers


def _summed_up(scopes: list[dict[str, float]]) -> dict[str, float]:
    """Least, mean and largest over the scopes that have a number."""
    names = dict.fromkeys(name for own in scopes for name in own)
    found = {}
    for name in names:
        values = [own[name] for own in scopes if name in own]
        found[f"{name}/min"] = min(values)
        found[f"{name}/mean"] = fmean(values)
        found[f"{name}/max"] = max(values)
    return found


def _slug(name: str) -> str:
    """A scope's name as a part of a logger's: letters, digits and underscores."""
    return re.sub(r"\W+", "_", name)
