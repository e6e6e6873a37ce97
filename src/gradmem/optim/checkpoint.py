"""Loading a state_dict without torch's casts, and refusing one that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmem.errors import CheckpointError, OptionError, OptionTypeError
from gradmem.memory.options import OPTION_NAMES, options_of
from gradmem.memory.sharding import is_sharded
from gradmem.memory.slots import sum_dtype
from gradmem.optim.state import MEMORY_KEYS, SLOTS, SUM, blank_row, find_row

# Options under which the stored numbers were made: a checkpoint must agree in them. The others are
# taken from the checkpoint, as torch takes its lr.
AGREE = ("capacity", "policy", "scope", "norm")

_REMEDY = "to start with an empty memory, load gradmem.forget_memory(state_dict)"


def forget_memory(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state_dict without its memory: what the torch class would have saved.

    Load it into a torch optimizer, or into a memory-augmented one of any capacity, policy and
    scope, which then starts with an empty memory and its own memory options.

    Args:
        state_dict: what ``optimizer.state_dict()`` returned; it is not changed, tensors are shared.

    Returns:
        A new state_dict.

    Example:
        >>> import torch, gradmem
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> weight.grad = torch.ones(3)
        >>> optimizer = gradmem.Adam_C([weight], capacity=10)
        >>> optimizer.step()
        >>> smaller = gradmem.Adam_C([weight], capacity=5)
        >>> smaller.load_state_dict(gradmem.forget_memory(optimizer.state_dict()))
        >>> sorted(smaller.state[weight])
        ['exp_avg', 'exp_avg_sq', 'step']
    """
    return {
        **state_dict,
        "state": {
            key: {k: v for k, v in entry.items() if k not in MEMORY_KEYS}
            if isinstance(entry, Mapping)
            else entry
            for key, entry in state_dict["state"].items()
        },
        "param_groups": [
            {k: v for k, v in group.items() if k not in OPTION_NAMES}
            for group in state_dict["param_groups"]
        ],
    }


class Loading:
    """One call of ``load_state_dict``: takes the memory out before torch casts it, puts it back."""

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self.groups = groups
        self.kept: dict[int, dict[str, Tensor]] = {}

    def take_memory(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Check the state_dict and return it without its memory, nothing being changed."""
        saved_groups = state_dict["param_groups"]
        if [len(g["params"]) for g in saved_groups] != [len(g["params"]) for g in self.groups]:
            return dict(state_dict)  # torch refuses it, and says why
        _check_names(saved_groups, self.groups)
        merged = [
            {**{name: group[name] for name in OPTION_NAMES}, **saved}
            for saved, group in zip(saved_groups, self.groups, strict=True)
        ]
        for i, (saved, group) in enumerate(zip(merged, self.groups, strict=True)):
            _check_options(saved, group, i)
        parameters = [p for group in self.groups for p in group["params"]]
        capacities = [group["capacity"] for group in self.groups for _ in group["params"]]
        ids = [key for group in saved_groups for key in group["params"]]
        for i, (key, p, capacity) in enumerate(zip(ids, parameters, capacities, strict=True)):
            entry = state_dict["state"].get(key, {})
            memory = {name: entry[name] for name in MEMORY_KEYS if name in entry}
            if memory:
                _check_memory(memory, p, capacity, i)
                self.kept[i] = memory
        for group in merged:
            if group["scope"] != "tensor":
                find_row(group["params"], state_dict["state"])  # raises if they do not agree
        return {**forget_memory(state_dict), "param_groups": merged}

    def restore_memory(
        self, groups: Sequence[Mapping[str, Any]], state: MutableMapping[Tensor, dict[str, Any]]
    ) -> None:
        """Give every parameter its memory back, exactly as saved, as a copy of its own."""
        parameters = [p for group in groups for p in group["params"]]
        for i, memory in self.kept.items():
            p = parameters[i]
            for name, value in memory.items():
                device = p.device if name in (SLOTS, SUM) else value.device
                moved = value.to(device)
                state[p][name] = moved.clone() if moved is value else moved


def _check_options(saved: Mapping[str, Any], group: Mapping[str, Any], index: int) -> None:
    for name in AGREE:
        if saved[name] != group[name]:
            raise CheckpointError(
                f"param group {index} of the checkpoint has {name}={saved[name]!r}, this optimizer "
                f"has {name}={group[name]!r}; construct it with {name}={saved[name]!r}, or, "
                f"{_REMEDY}"
            )
    try:
        options_of(saved)
    except (OptionError, OptionTypeError) as error:
        raise CheckpointError(f"param group {index} of the checkpoint: {error}") from None


def _check_names(
    saved_groups: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse the same named parameters in another order; renamed ones are none of our business."""
    if not all("param_names" in group for group in (*saved_groups, *groups)):
        return
    saved = [name for group in saved_groups for name in group["param_names"]]
    own = [name for group in groups for name in group["param_names"]]
    if saved != own and sorted(saved) == sorted(own):
        first = next(i for i, (a, b) in enumerate(zip(saved, own, strict=True)) if a != b)
        raise CheckpointError(
            f"the checkpoint has the same parameters in another order: number {first} is "
            f"{saved[first]!r} there and {own[first]!r} here; construct the groups in the "
            "checkpoint's order"
        )


def _check_memory(memory: Mapping[str, Any], p: Tensor, capacity: int, index: int) -> None:
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        SLOTS: ((capacity, *p.shape), p.dtype),
        SUM: (tuple(p.shape), sum_dtype(p.dtype)),
        **{key: (tuple(entry.shape), entry.dtype) for key, entry in blank_row(capacity).items()},
    }
    for name, (shape, dtype) in expected.items():
        value = memory.get(name)
        right = isinstance(value, Tensor) and (tuple(value.shape), value.dtype) == (shape, dtype)
        if not right:
            found = type(value).__name__
            if isinstance(value, Tensor):
                found = f"{tuple(value.shape)} of {value.dtype}"
            raise CheckpointError(
                f"{name} of parameter {index} in the checkpoint is {found}, but {shape} of {dtype} "
                "is needed; the checkpoint is of another model, order of groups or precision, or "
                f"went through another optimizer: {_REMEDY}"
            )
    if is_sharded(memory[SLOTS]) != is_sharded(p):
        raise CheckpointError(
            f"parameter {index} and its memory in the checkpoint are not sharded alike; "
            "load through torch.distributed.checkpoint.state_dict"
        )
