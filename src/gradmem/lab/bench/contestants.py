"""Whose steps are measured: how each optimizer is made, and under which conditions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import gradmem
from gradmem.lab.errors import ConfigError, hint

OURS = "gradmem"
REFERENCE = "adam-fused"

# All gradients have one norm. A memory that lets no priority decay then refuses every one of them
# once it is full; one of the last gradients takes every one.
CONDITIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"keeps": {"policy": "top_norm", "decay": 1.0}, "replaces": {"policy": "fifo"}}
)


@dataclass(frozen=True)
class Contestant:
    """An optimizer by name: where its class is, and what it is given besides the parameters.

    ``base`` names the contestant it puts a memory on, ``hue`` its family's colour.
    """

    name: str
    label: str
    module: str
    cls: str
    hue: str
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None

    @property
    def missing(self) -> str | None:
        """What to install, if that is needed."""
        package = self.module.partition(".")[0]
        return None if find_spec(package) else f"pip install {package}"

    def build(self, params: list[nn.Parameter], **more: Any) -> torch.optim.Optimizer:
        """The optimizer, ready for a step."""
        options = {**self.options, **more}
        if self.module == OURS:
            return gradmem.create(self.cls, params, **options)
        made: torch.optim.Optimizer = getattr(import_module(self.module), self.cls)(
            params, **options
        )
        if callable(train := getattr(made, "train", None)):  # schedule-free ones have two modes
            train()
        return made


def _table() -> Iterator[Contestant]:
    fused = {"fused": True}
    torch_ = "torch.optim"
    yield Contestant(REFERENCE, "Adam fused", torch_, "Adam", "adam", fused)
    yield Contestant("adam", "Adam", torch_, "Adam", "adam")
    yield Contestant("adam_c-fused", "Adam_C fused", OURS, "adam_c", "adam", fused, REFERENCE)
    yield Contestant("adam_c", "Adam_C", OURS, "adam_c", "adam", base="adam")
    yield Contestant("adam_cm-fused", "Adam_CM fused", OURS, "adam_cm", "adam", fused, REFERENCE)
    yield Contestant("adam_cm", "Adam_CM", OURS, "adam_cm", "adam", base="adam")
    yield Contestant("adamw-fused", "AdamW fused", torch_, "AdamW", "adamw", fused)
    yield Contestant("adamw", "AdamW", torch_, "AdamW", "adamw")
    yield Contestant(
        "adamw_c-fused", "AdamW_C fused", OURS, "adamw_c", "adamw", fused, "adamw-fused"
    )
    yield Contestant("adamw_c", "AdamW_C", OURS, "adamw_c", "adamw", base="adamw")
    yield Contestant("sgd", "SGD", torch_, "SGD", "sgd")
    yield Contestant("sgd_c-fused", "SGD_C fused", OURS, "sgd_c", "sgd", fused, "sgd")
    yield Contestant("sgd_c", "SGD_C", OURS, "sgd_c", "sgd", base="sgd")
    yield Contestant("rmsprop", "RMSprop", torch_, "RMSprop", "rmsprop")
    yield Contestant(
        "rmsprop_c-fused", "RMSprop_C fused", OURS, "rmsprop_c", "rmsprop", fused, "rmsprop"
    )
    yield Contestant("rmsprop_c", "RMSprop_C", OURS, "rmsprop_c", "rmsprop", base="rmsprop")
    yield Contestant("schedulefree", "ScheduleFree", "schedulefree", "AdamWScheduleFree", "nadam")
    yield Contestant("ademamix", "AdEMAMix", "pytorch_optimizer", "AdEMAMix", "muon")
    yield Contestant("lion", "Lion", "pytorch_optimizer", "Lion", "lion")
    yield Contestant("adam8bit", "Adam 8-bit", "bitsandbytes.optim", "Adam8bit", "sgdm")


CONTESTANTS: Mapping[str, Contestant] = MappingProxyType({each.name: each for each in _table()})


@dataclass(frozen=True)
class Entry:
    """A contestant under one condition, with the memory's options as they are given to it.

    ``smaller`` is a capacity it is compared with, besides its base.
    """

    contestant: Contestant
    condition: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    smaller: int | None = None

    @property
    def key(self) -> str:
        """What it is called in the file, and no other is.

        >>> Entry(CONTESTANTS["adam_c"], "keeps", {"capacity": 5}).key
        'adam_c keeps capacity=5'
        """
        given = [f"{name}={value}" for name, value in self.options.items()]
        if self.smaller is not None:
            given.append(f"beside {self.smaller}")
        return " ".join(filter(None, (self.contestant.name, self.condition, *given)))

    @property
    def memory(self) -> str:
        """The memory in a few words.

        >>> Entry(CONTESTANTS["adam_c"], "keeps", {"capacity": 5, "memory_dtype": "int8"}).memory
        'keeps 5 int8'
        """
        given = {**self.options}
        if device := given.pop("memory_device", None):
            given["on"] = f"on {device}"
        return " ".join(filter(None, (self.condition, *map(str, given.values()))))

    @property
    def title(self) -> str:
        """Both."""
        return " ".join(filter(None, (self.contestant.label, self.memory)))

    @property
    def lesser(self) -> "Entry | None":
        """The same with the smaller capacity."""
        if self.smaller is None:
            return None
        options = {**self.options, "capacity": self.smaller}
        return replace(self, options=options, smaller=None)

    @property
    def warm_up(self) -> int:
        """Steps after which all is allocated and the memory full."""
        return int(self.options.get("capacity", 1)) + 2

    def build(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer, with a memory as the condition has it."""
        return self.contestant.build(params, **CONDITIONS.get(self.condition, {}), **self.options)


def entries(
    names: Sequence[str],
    capacities: Sequence[int],
    dtypes: Sequence[str | None] = (),
    device: str | None = None,
) -> list[Entry]:
    """All that is to be measured: each contestant, ours under each condition and memory option.

    Args:
        names: of `CONTESTANTS`.
        capacities: of the memories.
        dtypes: types of the stored gradients, None for the parameters' own; as the library has it
            if there are none.
        device: where the memories are kept; as the library has it if None.

    Raises:
        ConfigError: a name is unknown, or something is named twice or out of range.
    """
    for name in names:
        if name not in CONTESTANTS:
            raise ConfigError(f"unknown optimizer {name!r}; {hint(name, CONTESTANTS)}")
    for what, given in (("optimizer", names), ("capacity", capacities), ("memory dtype", dtypes)):
        if len(set(given)) < len(given):
            raise ConfigError(f"the {what} {_twice(given)!r} is named twice")
    for capacity in capacities:
        if capacity < 1:
            raise ConfigError(f"capacity must be at least 1, got {capacity}: 0 has no memory")
    if not names:
        raise ConfigError(f"no optimizer named; choose from: {', '.join(CONTESTANTS)}")
    memories = list(_memories(capacities, dtypes, device))
    return [entry for name in names for entry in _entries(CONTESTANTS[name], memories)]


def _twice(given: Sequence[Any]) -> Any:
    return next(each for i, each in enumerate(given) if each in given[:i])


def _memories(
    capacities: Sequence[int], dtypes: Sequence[str | None], device: str | None
) -> Iterator[dict[str, Any]]:
    """Options as they are given to our optimizers, what is the default left out."""
    placed = {"memory_device": device} if device else {}
    for capacity in capacities:
        for dtype in dtypes or (None,):
            typed = {"memory_dtype": dtype} if dtype else {}
            yield {"capacity": capacity, **typed, **placed}


def _entries(contestant: Contestant, memories: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    if contestant.module != OURS:
        yield Entry(contestant)
        return
    smallest = min(options["capacity"] for options in memories)
    for options in memories:
        smaller = smallest if options["capacity"] > smallest else None
        for condition in CONDITIONS:
            yield Entry(contestant, condition, options, smaller)
