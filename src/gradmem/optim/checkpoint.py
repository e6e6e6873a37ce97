"""Loading a state_dict without torch's casts, and refusing one that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import CheckpointError, OptionError, OptionTypeError
from gradmem.memory import offload
from gradmem.memory.ledger import STEPS
from gradmem.memory.options import OPTION_NAMES, MemoryOptions, options_of
from gradmem.memory.sharding import is_sharded
from gradmem.optim.state import (
    COUNTERS,
    MEMORY_KEYS,
    SCALES,
    SLOTS,
    STORE_KEYS,
    State,
    blank_entry,
    find_row,
)

# Options under which the stored numbers were made: a checkpoint must agree in them. The others are
# taken from the checkpoint, as torch takes its lr.
AGREE = ("capacity", "policy", "scope", "norm", "memory_dtype")

# The memory's options where they share a group with those of a wrapped optimizer.
_PREFIX = "memory_"
_PREFIXED = {name: name if name.startswith(_PREFIX) else _PREFIX + name for name in OPTION_NAMES}

# Options that may be a function, of which a checkpoint can hold the name alone.
FUNCTIONS = ("aggregate", "policy")

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
    groups = state_dict["param_groups"]
    wrapped = any(_PREFIXED["capacity"] in group for group in groups)
    options = set(_PREFIXED.values() if wrapped else OPTION_NAMES)
    return {
        **state_dict,
        "state": {
            key: without(entry, MEMORY_KEYS) if isinstance(entry, Mapping) else entry
            for key, entry in state_dict["state"].items()
        },
        "param_groups": [without(group, options) for group in groups],
    }


def without(entry: Mapping[str, Any], keys: Container[str]) -> dict[str, Any]:
    """A copy that lacks these keys."""
    return {key: value for key, value in entry.items() if key not in keys}


def joined(
    base: dict[str, Any], groups: Sequence[Mapping[str, Any]], state: Mapping[Any, dict[str, Any]]
) -> dict[str, Any]:
    """A base optimizer's state_dict with a memory that is kept apart: options under a prefix.

    Raises:
        CheckpointError: the base's has another form than torch's.
    """
    _check_form(base, groups)
    ids = [key for group in base["param_groups"] for key in group["params"]]
    parameters = [p for group in groups for p in group["params"]]
    memory = {key: state[p] for key, p in zip(ids, parameters, strict=True) if state.get(p)}
    saved = named({"param_groups": [dict(group) for group in groups]})["param_groups"]
    options = [{key: group[name] for name, key in _PREFIXED.items()} for group in saved]
    entries = {key: {**base["state"].get(key, {}), **memory.get(key, {})} for key in ids}
    return {
        **base,
        "state": {**base["state"], **{key: entry for key, entry in entries.items() if entry}},
        "param_groups": [
            {**group, **own} for group, own in zip(base["param_groups"], options, strict=True)
        ],
    }


def parted(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `joined` made, taken apart: the base's state_dict, and the memory as a class keeps it.

    Raises:
        CheckpointError: it has another form than torch's, or other groups.
    """
    _check_form(state_dict, groups)
    prefixed = {key: name for name, key in _PREFIXED.items()}
    base = {
        **state_dict,
        "state": {
            key: kept
            for key, entry in state_dict["state"].items()
            if (kept := without(entry, MEMORY_KEYS) if isinstance(entry, Mapping) else entry)
        },
        "param_groups": [without(group, prefixed) for group in state_dict["param_groups"]],
    }
    memory_groups = [
        {
            **{prefixed[key]: group[key] for key in prefixed if key in group},
            "params": group["params"],
        }
        for group in state_dict["param_groups"]
    ]
    return base, {"state": state_dict["state"], "param_groups": memory_groups}


def _check_form(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """A state by parameter, and the groups of this optimizer."""
    try:
        found = [len(group["params"]) for group in state_dict["param_groups"]]
        right = isinstance(state_dict["state"], Mapping)
    except (KeyError, TypeError):
        found, right = [], False
    if not right:
        raise CheckpointError(
            "the wrapped optimizer's state_dict has not the form {'state': ..., 'param_groups': "
            "...} of torch's, so the memory has no place in it; save the wrapped optimizer alone, "
            "as optimizer.optimizer.state_dict()"
        )
    needed = [len(group["params"]) for group in groups]
    if found != needed:
        raise CheckpointError(
            f"the checkpoint has param groups of {found} parameters, this optimizer of {needed}; "
            "construct it with the same groups"
        )


def named(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state_dict with names for functions: what `torch.load` refuses would be of no use."""
    for group in state_dict["param_groups"]:
        for option in FUNCTIONS:
            if option in group:
                group[option] = name_of(group[option])
    return state_dict


def name_of(choice: Any) -> Any:
    """A built-in choice as it is, a function as "module.name"; one without a name by its type."""
    if not callable(choice):
        return choice
    owner = choice if hasattr(choice, "__qualname__") else type(choice)
    return f"{owner.__module__}.{owner.__qualname__}"


class Loading:
    """One call of ``load_state_dict``: takes the memory out before torch casts it, puts it back."""

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self.groups = groups
        self.kept: dict[int, dict[str, Tensor]] = {}
        self.functions: list[dict[str, Any]] = []

    def take_memory(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Check the state_dict and return it without its memory, nothing being changed."""
        saved_groups = state_dict["param_groups"]
        if [len(g["params"]) for g in saved_groups] != [len(g["params"]) for g in self.groups]:
            return dict(state_dict)  # torch refuses it, and says why
        check_names(saved_groups, self.groups)
        # Where slots lie is no matter of what they are: this optimizer's own, whatever is saved.
        merged = [
            {
                **{name: group[name] for name in OPTION_NAMES},
                **saved,
                "memory_device": group["memory_device"],
            }
            for saved, group in zip(saved_groups, self.groups, strict=True)
        ]
        for i, (saved, group) in enumerate(zip(merged, self.groups, strict=True)):
            _find_functions(saved, group, i)
            _check_options(saved, group, i)
        parameters = [p for group in self.groups for p in group["params"]]
        options = [options_of(group) for group in self.groups for _ in group["params"]]
        ids = [key for group in saved_groups for key in group["params"]]
        state = _without_unused(merged, state_dict["state"])
        for i, (key, p, chosen) in enumerate(zip(ids, parameters, options, strict=True)):
            entry = state.get(key, {})
            memory = {name: entry[name] for name in MEMORY_KEYS if name in entry}
            if memory:
                _check_memory(memory, p, chosen, i)
                self.kept[i] = memory
        for group in merged:
            if group["scope"] != "tensor":
                find_row(group["params"], state)  # raises if they do not agree
        self.functions = [
            {option: group[option] for option in FUNCTIONS if callable(group[option])}
            for group in merged
        ]
        # Without the functions themselves, of which torch would make deep copies.
        return {**forget_memory(state_dict), **named({"param_groups": merged})}

    def restore_memory(
        self, groups: Sequence[dict[str, Any]], state: MutableMapping[Tensor, dict[str, Any]]
    ) -> None:
        """Give every parameter its memory back, exactly as saved, as a copy of its own."""
        for group, own in zip(groups, self.functions, strict=True):
            group.update(own)
        offload.settle()  # the state_dict may be another optimizer's own, on its way
        parameters = [(p, group) for group in groups for p in group["params"]]
        for i, memory in self.kept.items():
            p, group = parameters[i]
            for name, value in memory.items():
                state[p][name] = _copied(name, value, p, group)


def _copied(name: str, value: Tensor, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """An entry of the memory of a parameter, where this optimizer keeps it."""
    if name in (SLOTS, SCALES) and group["memory_device"] is not None:
        return offload.host_copy(value, beside=p.device)
    moved = value.to(p.device if name in STORE_KEYS else value.device)
    return moved.clone() if moved is value else moved


@contextmanager
def around_loading(
    optimizer: Optimizer,
    take: Callable[[dict[str, Any]], dict[str, Any]],
    restore: Callable[[], None],
) -> Iterator[None]:
    """A block in which torch's own loading, which casts what it loads, is given what `take` makes
    of the state_dict, and is followed by `restore`.
    """
    before = optimizer.register_load_state_dict_pre_hook(lambda _, given: take(given))
    after = optimizer.register_load_state_dict_post_hook(lambda _: restore(), prepend=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _find_functions(saved: dict[str, Any], group: Mapping[str, Any], index: int) -> None:
    """Put the optimizer's own function where the checkpoint has its name."""
    for option in FUNCTIONS:
        name, own = saved[option], group[option]
        if callable(own) and name == name_of(own):
            saved[option] = own
        elif isinstance(name, str) and "." in name:
            raise CheckpointError(
                f"param group {index} of the checkpoint has a function of its user's for {option}, "
                f"{name}, this optimizer has {name_of(own)!r}; construct it with "
                f"{option}=that function, or, {_REMEDY}"
            )


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


def _without_unused(groups: Sequence[Mapping[str, Any]], state: State) -> State:
    """The state without memories that were offered nothing yet, in scopes that were.

    Before it loads, torch.distributed.checkpoint makes a state for every parameter, and it stays
    with those the checkpoint has none of, as they had no gradient. Nothing of theirs is stored, so
    that they go by the ledger of the others.
    """
    model: dict[MemoryOptions, list[Any]] = {}  # groups of other options have ledgers of their own
    for group in groups:
        if group["scope"] == "model":
            model.setdefault(options_of(group), []).extend(group["params"])
    apart = [group["params"] for group in groups if group["scope"] == "group"]
    dropped: set[Any] = set()
    for keys in (*model.values(), *apart):
        steps = {key: int(state[key][COUNTERS][STEPS]) for key in keys if _has_counters(state, key)}
        if any(steps.values()):
            dropped.update(key for key, count in steps.items() if count == 0)
    return {k: without(entry, MEMORY_KEYS) if k in dropped else entry for k, entry in state.items()}


def _has_counters(state: State, key: Any) -> bool:
    counters = state.get(key, {}).get(COUNTERS)
    return isinstance(counters, Tensor) and counters.dim() == 1 and len(counters) > STEPS


def check_names(
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


def _check_memory(memory: Mapping[str, Any], p: Tensor, options: MemoryOptions, index: int) -> None:
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        key: (tuple(entry.shape), entry.dtype) for key, entry in blank_entry(p, options).items()
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
