"""Checks of param groups: every message has the name, the value, the range, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.errors import GradientError, OptionError, OptionTypeError, hint
from gradmem.memory.options import OPTION_NAMES, MemoryOptions, options_of
from gradmem.memory.sharding import is_offloaded, is_sharded

# Options that decide what the stored numbers mean: changing them would need another memory.
FIXED_OPTIONS = ("capacity", "scope", "norm", "memory_dtype", "memory_device")

# Keys that schedulers, samplers of parameter groups and loggers put into groups.
FOREIGN_KEYS = {"params", "param_names", "name", "lr_scale", "layer_id"} | {
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
}


class _Range(NamedTuple):
    low: float
    high: float
    text: str

    def holds(self, value: float) -> bool:
        return self.low <= value < self.high


_NOT_NEGATIVE = _Range(0.0, math.inf, "a finite number of at least 0")
_BELOW_ONE = _Range(0.0, 1.0, "in [0, 1)")
_RANGES: dict[str, _Range] = {
    "lr": _NOT_NEGATIVE,
    "eps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "momentum": _NOT_NEGATIVE,
    "alpha": _NOT_NEGATIVE,
    "momentum_decay": _NOT_NEGATIVE,
    "lr_decay": _NOT_NEGATIVE,
    "initial_accumulator_value": _NOT_NEGATIVE,
    "dampening": _Range(-math.inf, math.inf, "a finite number"),
}


def check_base_options(options: Mapping[str, Any], where: str = "") -> None:
    """Check the torch class's own options, `where` being put before the message."""
    for name, allowed in _RANGES.items():
        if name in options:
            _check_number(name, options[name], allowed, where)
    if "betas" in options:
        # Adam's family, which has an eps, has two moments; AggMo any number of velocities.
        _check_betas(options["betas"], 2 if "eps" in options else None, where)
    _check_combinations(options, where)


def checked_group(group: Any, index: int, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a group after a check of its keys, options, and the kinds of its parameters.

    Memory options become plain numbers, and params a list where they were an iterator.
    """
    if not isinstance(group, dict):
        raise OptionTypeError(
            f"param group {index} must be a dict with the key 'params', got {type(group).__name__}"
        )
    where = f"param group {index}: "
    check_keys(group, defaults, where)
    options = {**defaults, **group}
    check_base_options(options, where)
    params, memory = group["params"], checked_options(options, where)
    if isinstance(params, Tensor):
        params = [params]
    if not isinstance(params, set):  # torch refuses a set, and says why
        params = list(params)
        check_parameters(params, options, where)
        check_storage(params, memory, where)
    if memory.memory_device is not None and options.get("capturable"):
        raise OptionError(
            f"{where}memory_device={memory.memory_device!r} waits for the decision at every step, "
            "which capturable=True forbids; use memory_device=None"
        )
    return {**group, **memory.as_group(), "params": params}


def fixed_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """What `check_edits` compares a group with."""
    return {name: group[name] for name in FIXED_OPTIONS}


def check_edits(
    groups: Sequence[dict[str, Any]], fixed: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Check options edited in ``param_groups``, in which they become plain numbers.

    Those of `FIXED_OPTIONS` may not change.

    Returns:
        The fixed options from now on: others if groups were taken away by hand.
    """
    for i, group in enumerate(groups):
        missing = [name for name in OPTION_NAMES if name not in group]
        if missing:
            raise OptionError(f"param group {i}: {missing[0]} was removed; set it to a value again")
    if len(groups) != len(fixed):
        fixed = [fixed_options(group) for group in groups]
    for i, (group, before) in enumerate(zip(groups, fixed, strict=True)):
        where = f"param group {i}: "
        for name, value in before.items():
            if group[name] != value:
                raise OptionError(
                    f"{where}{name} was changed from {value!r} to {group[name]!r}, but is fixed at "
                    f"construction; set it back to {value!r}, or make a new optimizer with "
                    f"{name}={group[name]!r} (kappa=0 switches the memory off)"
                )
        group.update(checked_options(group, where).as_group())
    return fixed


def checked_options(options: Mapping[str, Any], where: str) -> MemoryOptions:
    """The memory options among these, `where` being put before the message if one is wrong."""
    try:
        return options_of(options)
    except (OptionError, OptionTypeError) as error:
        raise type(error)(f"{where}{error}") from None


def check_keys(group: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Refuse a group without params, or with a key that no option has."""
    if "params" not in group:
        raise OptionError(f"{where}the key 'params' is missing; got {sorted(group)}")
    for key in group:
        if key not in defaults and key not in FOREIGN_KEYS:
            raise OptionError(f"{where}unknown key {key!r}; {hint(key, defaults)}")


def check_refused(
    group: Mapping[str, Any], defaults: Mapping[str, Any], refused: Mapping[str, str], where: str
) -> None:
    """Check that a group leaves the options off that a class refuses, with its reasons."""
    for name, reason in refused.items():
        value = group.get(name, defaults.get(name))
        if value:
            raise OptionError(f"{where}{name}={value!r} is refused: {reason}")


def check_parameters(params: Sequence[Any], options: Mapping[str, Any], where: str) -> None:
    """Check that a group's parameters, named or not, are of a kind a memory can hold."""
    seen: dict[Tensor, int] = {}
    for i, item in enumerate(params):
        p = item[1] if isinstance(item, tuple) else item
        if not isinstance(p, Tensor):
            continue  # torch says what is wrong with it
        if p in seen:
            raise GradientError(
                f"{where}parameter {i} is parameter {seen[p]} again; a memory would count its "
                "gradient twice: give each parameter once"
            )
        seen[p] = i
        if is_offloaded(p):
            raise GradientError(
                f"{where}parameter {i} is sharded over devices of another kind than {p.device}, "
                "where it lies; offloaded parameters are not supported: turn the offloading off"
            )
        if p.layout is not torch.strided:
            raise GradientError(
                f"{where}parameter {i} has the layout {p.layout}; a memory holds dense tensors "
                "(torch.strided): convert it with .to_dense()"
            )
        if options.get("fused") and not p.is_floating_point():
            raise OptionError(
                f"{where}fused=True needs floating-point parameters, but parameter {i} is "
                f"{p.dtype}; leave fused=None"
            )


def check_storage(params: Sequence[Any], options: MemoryOptions, where: str) -> None:
    """Check that these parameters' gradients can be kept in the chosen format and place."""
    for i, item in enumerate(params):
        p = item[1] if isinstance(item, tuple) else item
        if not isinstance(p, Tensor):
            continue  # torch says what is wrong with it
        if options.memory_dtype is not None and not p.is_floating_point():
            raise OptionError(
                f"{where}memory_dtype={options.memory_dtype!r} rounds real numbers, but parameter "
                f"{i} is {p.dtype}; put it in a group with memory_dtype=None"
            )
        if options.memory_dtype == "int8" and is_sharded(p):
            raise OptionError(
                f"{where}memory_dtype='int8' keeps a scale for every 256 elements, and parameter "
                f"{i} is sharded: its shards need not end where a block does; use 'bfloat16'"
            )
        if options.memory_device is not None and is_sharded(p):
            raise OptionError(
                f"{where}memory_device={options.memory_device!r} is not supported for a sharded "
                f"parameter, as parameter {i} is; use memory_device=None: its slots are sharded "
                "with it"
            )


def _check_betas(betas: Any, count: int | None, where: str) -> None:
    listed = isinstance(betas, (tuple, list))
    if not listed or not betas or count not in (None, len(betas)):
        numbers = "two numbers" if count else "one number or more, in a tuple, each"
        raise OptionTypeError(f"{where}betas must be {numbers} in [0, 1), got {betas!r}")
    for i, beta in enumerate(betas):
        _check_number(f"betas[{i}]", beta, _BELOW_ONE, where)


def _check_number(name: str, value: Any, allowed: _Range, where: str) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise OptionError(f"{where}{name} as a tensor must have 1 element, got {value.numel()}")
        if value.device.type != "cpu":
            return  # its value is not worth waiting for the accelerator
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(
            f"{where}{name} must be {allowed.text}, got {value!r} ({type(value).__name__})"
        )
    if not allowed.holds(float(value)) or math.isinf(value):
        raise OptionError(f"{where}{name} must be {allowed.text}, got {value!r}")


def _check_combinations(options: Mapping[str, Any], where: str) -> None:
    if options.get("differentiable"):
        raise OptionError(
            f"{where}differentiable=True is refused: stored gradients are constants, so a "
            "derivative through the step would be wrong; use the torch class for that"
        )
    if options.get("nesterov") and not (options["momentum"] > 0 and options["dampening"] == 0):
        raise OptionError(
            f"{where}nesterov=True needs momentum > 0 and dampening 0, got "
            f"momentum={options['momentum']!r}, dampening={options['dampening']!r}"
        )
    if options.get("fused") and options.get("foreach"):
        raise OptionError(f"{where}fused and foreach cannot both be True; set one of them")
    # torch refuses it for Adam and AdamW alone, which "amsgrad" tells from the others.
    tensor_lr = isinstance(options.get("lr"), Tensor) and "amsgrad" in options
    if options.get("foreach") and tensor_lr and not options.get("capturable"):
        raise OptionError(
            f"{where}a tensor lr with foreach=True needs capturable=True; use foreach=None, "
            "or a float lr"
        )
