"""The optimizers one can compare, how each is made, and the space its settings are searched in.

`get_optimizers` finds those of the table, and a user's own: ``my_package:MyOptimizer``, and with a
memory around it ``my_package:MyOptimizer+memory``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gradmem.lab import own_optimizers as own
from gradmem.lab.combined import muon
from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.importing import is_foreign
from gradmem.lab.own_optimizers import MEMORY, SimpleOptimizer, known_as
from gradmem.lab.spaces import Choice, LogUniform, Options, Space, one_of, overridden
from gradmem.lab.specs import (
    MEMORY_OPTIONS,
    MEMORY_SPACE,
    Factory,
    Memory,
    Plain,
    Spec,
    with_memory,
)

__all__ = [
    "OPTIMIZERS",
    "Choice",
    "LogUniform",
    "Options",
    "SimpleOptimizer",
    "Space",
    "Spec",
    "find",
    "get_optimizers",
]

# A memory variant searches its base's space and, on top, the memory's: with the same number of
# trials it pays for the extra options. The spaces of a pair begin alike, so the same quasi-random
# points give both the same learning rates. `sum` with kappa 1 doubles the gradient, so the upper
# ends are twice what one would give a plain search: a variant's best rate, doubled, is then still a
# rate its base was tried at (and a sentence says so where it is not, see `Tuned.warnings`).
_EPS = LogUniform("eps", 1e-8, 1e-3, floor=True)
_WEIGHT_DECAY = LogUniform("weight_decay", 1e-4, 1.0, floor=True)
_MOMENTUM = LogUniform("momentum", 0.5, 0.99, below_one=True)
_ADAPTIVE_RATE = LogUniform("lr", 3e-5, 2 * 0.15)
_SGD: Space = (LogUniform("lr", 1e-3, 2 * 50.0),)
_MOMENTUM_ALONE: Space = (LogUniform("lr", 1e-4, 2 * 10.0), _MOMENTUM)
_SGDM: Space = (*_MOMENTUM_ALONE, one_of("nesterov", False, True))
_RMSPROP: Space = (_ADAPTIVE_RATE, _EPS, one_of("alpha", 0.99, 0.9))
_ADAM: Space = (_ADAPTIVE_RATE, _EPS)
_ADAMW: Space = (_ADAPTIVE_RATE, _EPS, _WEIGHT_DECAY)
_ADAGRAD: Space = (LogUniform("lr", 1e-3, 2 * 1.0), LogUniform("eps", 1e-10, 1e-3, floor=True))
_AGGMO: Space = (
    LogUniform("lr", 1e-4, 2 * 10.0),
    one_of("betas", [0.0, 0.9, 0.99], [0.0, 0.9], [0.0, 0.9, 0.99, 0.999]),
)

# name, label, space, class, name of the memory's class, whether the step grows with the gradient
_FAMILIES: tuple[tuple[str, str, Space, Factory, str, bool], ...] = (
    ("sgd", "SGD", _SGD, Plain("torch.optim", "SGD"), "sgd_c", True),
    ("sgdm", "SGDM", _SGDM, Plain("torch.optim", "SGD"), "sgd_c", True),
    ("rmsprop", "RMSprop", _RMSPROP, Plain("torch.optim", "RMSprop"), "rmsprop_c", False),
    ("adam", "Adam", _ADAM, Plain("torch.optim", "Adam"), "adam_c", False),
    ("adamw", "AdamW", _ADAMW, Plain("torch.optim", "AdamW"), "adamw_c", False),
    ("nadam", "NAdam", _ADAM, Plain("torch.optim", "NAdam"), "nadam_c", False),
    ("radam", "RAdam", _ADAM, Plain("torch.optim", "RAdam"), "radam_c", False),
    ("adagrad", "Adagrad", _ADAGRAD, Plain("torch.optim", "Adagrad"), "adagrad_c", False),
    ("aggmo", "AggMo", _AGGMO, Plain("gradmem", "AggMo"), "aggmo_c", True),
)


def _families() -> Iterator[Spec]:
    for name, label, space, create, memory, proportional in _FAMILIES:
        yield Spec(name, label, None, space, create, proportional=proportional)
        both = space + MEMORY_SPACE
        yield Spec(
            *(f"{name}_c", f"{label}_C", name, both, Memory(memory)), proportional=proportional
        )


def _critical_momenta() -> Iterator[Spec]:
    """Those that keep momenta instead of gradients."""
    for name, label, base, space in (
        ("sgd_cm", "SGD_CM", "sgdm", _MOMENTUM_ALONE),
        ("adam_cm", "Adam_CM", "adam", _ADAM),
        ("adamw_cm", "AdamW_CM", "adamw", _ADAMW),
    ):
        yield Spec(
            *(name, label, base, space + MEMORY_SPACE, Memory(name)),
            proportional=base == "sgdm",
        )


def _augmented(specs: Iterable[Spec]) -> Iterator[Spec]:
    """Each, and with a memory around it."""
    for spec in specs:
        yield spec
        yield with_memory(spec, f"{spec.name}_c")


def _peers() -> Iterator[Spec]:
    """Optimizers of other packages, and Muon, as their users would run them."""
    muon_space = (
        LogUniform("lr", 1e-4, 1.0),
        LogUniform("adam_lr", 3e-5, 0.3),
        _WEIGHT_DECAY,
        one_of("momentum", 0.95, 0.9),
    )
    yield Spec("muon", "Muon", None, muon_space, muon)
    lion_space = (
        LogUniform("lr", 1e-5, 0.1),
        LogUniform("weight_decay", 1e-4, 10.0, floor=True),
        Choice(({"beta1": 0.9, "beta2": 0.99}, {"beta1": 0.95, "beta2": 0.98})),
    )
    lion = Plain("pytorch_optimizer", "Lion", betas=2)
    yield Spec("lion", "Lion", None, lion_space, lion, "pytorch_optimizer")
    mix_space = (
        _ADAPTIVE_RATE,
        _WEIGHT_DECAY,
        LogUniform("alpha", 1.0, 16.0),
        Choice(
            tuple({"beta1": 0.9, "beta2": 0.999, "beta3": last} for last in (0.999, 0.99, 0.9999))
        ),
        one_of("weight_decouple", True),
    )
    mix = Plain("pytorch_optimizer", "AdEMAMix", betas=3)
    yield Spec("ademamix", "AdEMAMix", None, mix_space, mix, "pytorch_optimizer")
    free_space = (
        LogUniform("lr", 1e-4, 1.0),
        _WEIGHT_DECAY,
        Choice(tuple({"beta1": first, "beta2": 0.999} for first in (0.9, 0.95, 0.98))),
    )
    free = Plain("schedulefree", "AdamWScheduleFree", betas=2)
    yield Spec("schedulefree", "ScheduleFree", None, free_space, free, "schedulefree")


OPTIMIZERS: Mapping[str, Spec] = MappingProxyType(
    {spec.name: spec for spec in (*_families(), *_critical_momenta(), *_augmented(_peers()))}
)


# A user's own, by name, as they were last asked for.
_OWN: dict[str, Spec] = {}


def find(name: str) -> Spec:
    """The optimizer that runs call ``name``, searched in its own space.

    Raises:
        ConfigError: there is none, or it is a user's own and cannot be had.
    """
    name = known_as(name)
    if not is_foreign(name):
        _check_known(name)
        return OPTIMIZERS[name]
    if name not in _OWN:
        plain = name.removesuffix(MEMORY)
        spec = _OWN.get(plain) or _load(plain)
        _OWN[name] = spec if plain == name else _around(spec)
    return _OWN[name]


def get_optimizers(
    names: Sequence[str],
    spaces: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    to_search: bool = True,
) -> tuple[Spec, ...]:
    """The specs called ``names``, in that order.

    Args:
        names: of optimizers; the files of a user's own are read anew.
        spaces: by name of an optimizer and of an option, what to search instead of the default. A
            base's dimensions are its memory variant's too, unless that is given others.
        to_search: whether settings are searched, so that there has to be something to search.

    Raises:
        ConfigError: a name is unknown or comes twice, its package is missing, a space is wrong or
            empty, or one of a user's own cannot be had.
    """
    if not names:
        raise ConfigError(f"no optimizer named; choose from: {', '.join(OPTIMIZERS)}")
    load_own(names)
    _check_taking_part(spaces or {}, names)
    found = {spec.name: spec for spec in map(find, names)}
    if len(found) < len(names):
        raise ConfigError(f"an optimizer is named twice in {','.join(names)!r}")
    for spec in found.values():
        if spec.missing:
            raise ConfigError(spec.missing)
    specs = tuple(with_spaces(spec, spaces or {}) for spec in found.values())
    if to_search:
        for spec in specs:
            check_searched(spec)
    return specs


def load_own(names: Iterable[str]) -> None:
    """Read the files of those of a user's own among ``names``, for `find`.

    Two of one label are called by their whole names.

    Raises:
        ConfigError: one cannot be had, or two would be taken for one another.
    """
    seen: dict[str, str] = {}
    for name in (name.removesuffix(MEMORY) for name in names if is_foreign(name)):
        if (other := seen.setdefault(known_as(name), name)) != name:
            raise ConfigError(
                f"{other} and {name} are both known as {known_as(name)}: name one optimizer in one "
                "way, or give one of two files another name"
            )
    specs = [_load(name) for name in seen.values()]
    labels = [spec.label for spec in specs]
    taken = {f"{label}_C" for label in labels}  # what they are called with a memory
    for spec in specs:
        if labels.count(spec.label) > 1 or spec.label in taken:
            _OWN[spec.name] = replace(spec, label=spec.name)


def _load(asked: str) -> Spec:
    """One of a user's own, without a memory around it."""
    found, name = own.load(asked), known_as(asked)
    base = found.base and known_as(found.base)
    if base == name:
        raise ConfigError(f"{asked} names itself as its base")
    if base and not is_foreign(base):
        _check_known(base)
    taken = any(found.label == spec.label for spec in OPTIMIZERS.values())
    spec = Spec(
        name=name,
        label=name if taken else found.label,
        base=base,
        space=found.space,
        create=found.create,
        proportional=found.proportional,
        shares=False,
        asked=asked,
        versions={name: found.origin},
    )
    _OWN[name] = spec
    _OWN.pop(name + MEMORY, None)  # of what was loaded before
    return spec


def _around(spec: Spec) -> Spec:
    """A memory around one of a user's own."""
    if shared := sorted(spec.options & MEMORY_OPTIONS):
        raise ConfigError(
            f"{spec.typed}{MEMORY}: {', '.join(shared)} is an option of both the optimizer and the "
            "memory; let a function take the optimizer's by another name"
        )
    return replace(with_memory(spec, spec.name + MEMORY), asked=spec.typed + MEMORY)


def _check_known(name: str) -> None:
    if name not in OPTIMIZERS:
        said = hint(name, OPTIMIZERS)
        plain = name.removesuffix(MEMORY)
        if plain != name and f"{plain}_c" in OPTIMIZERS:
            said = f"with a memory it is called {plain}_c;"
        raise ConfigError(
            f"unknown optimizer {name!r}; {said} `gradmem optimizers` lists them. Or name your "
            "own: my_package:MyOptimizer"
        )


def with_spaces(spec: Spec, spaces: Mapping[str, Mapping[str, Any]]) -> Spec:
    """``spec`` with the dimensions the user wants.

    Raises:
        ConfigError: an optimizer is unknown, or a space is wrong.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for asked, options in spaces.items():
        name = known_as(asked)
        if not is_foreign(name):
            _check_known(name)
        wanted.setdefault(name, {}).update(options)
    inherited = wanted.get(spec.base or "", {})
    if spec.name.endswith(MEMORY):  # around what its base is then, with what that has inherited
        spec, inherited = _around(with_spaces(find(spec.base or ""), spaces)), {}
    space = spec.space
    for option, values in inherited.items():
        if spec.shares or option in spec.options:
            space = overridden(space, option, values)
    for option, values in wanted.get(spec.name, {}).items():
        space = overridden(space, option, values)
    return replace(spec, space=space)


def _check_taking_part(spaces: Iterable[str], names: Iterable[str]) -> None:
    """ConfigError if a user's own has a space and takes no part: it is taken for a slip."""
    there = {known_as(name.removesuffix(MEMORY)) for name in names}
    for name in filter(is_foreign, spaces):
        if known_as(name.removesuffix(MEMORY)) not in there:
            raise ConfigError(f"there is a search space for {name}, which takes no part")


def check_searched(spec: Spec) -> None:
    """See that there is something to search, beside a memory's options.

    Raises:
        ConfigError: there is not.
    """
    if all(dimension in MEMORY_SPACE for dimension in spec.space):
        plain = spec.typed.removesuffix(MEMORY)
        raise ConfigError(
            f"{plain} has no option lr and does not say what to search: give it an attribute "
            'search_space = {"OPTION": {"low": LOW, "high": HIGH}}, or the command --space '
            f"{plain}.OPTION=LOW:HIGH"
        )


def available(specs: Iterable[Spec] = OPTIMIZERS.values()) -> list[Spec]:
    """Those whose packages are installed."""
    return [spec for spec in specs if spec.missing is None]
