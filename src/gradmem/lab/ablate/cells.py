"""An optimizer at every value of the axes, each as an optimizer of its own for the protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import gradmem
from gradmem.lab.ablate.axis import OF_A_MEMORY, Axis, Point, check, show
from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.optimizers import (
    OPTIMIZERS,
    Choice,
    Options,
    Spec,
    check_searched,
    find,
    get_optimizers,
    with_spaces,
)
from gradmem.lab.own_optimizers import MEMORY, known_as

Held = Mapping[str, Any]


@dataclass(frozen=True)
class CellSpec(Spec):
    """An optimizer, ``optimizer``, as one cell has it; ``name`` is the cell's."""

    optimizer: str = ""

    @property
    def known(self) -> str:
        """What its runs call it."""
        return self.optimizer


@dataclass(frozen=True)
class Entrant:
    """An optimizer with a memory that takes part, and the base it is compared with."""

    base: Spec
    variant: Spec


def get_entrants(
    names: Sequence[str], spaces: Mapping[str, Mapping[str, Any]]
) -> tuple[Entrant, ...]:
    """The optimizers called ``names``, their bases searched in ``spaces``.

    Raises:
        ConfigError: a name is unknown, or of an optimizer without a memory, or a space is wrong.
    """
    variants = get_optimizers(names, to_search=False)
    for spec in variants:
        if spec.base is None or not spec.shares:
            other = f"{spec.name}_c" if spec.name in OPTIMIZERS else f"{spec.typed}{MEMORY}"
            raise ConfigError(f"{spec.typed} has no memory, so it lacks every axis; take {other}")
    bases = list(dict.fromkeys(spec.base for spec in variants if spec.base))
    for name in spaces:
        if known_as(name) not in bases:
            raise ConfigError(
                f"--space names {name!r}; what is searched is the base's, of {', '.join(bases)}, "
                "in every cell alike; an option of the memory is an axis, or held with --set"
            )
    searched = {name: with_spaces(find(name), spaces) for name in bases}
    for spec in searched.values():
        check_searched(spec)
    return tuple(Entrant(searched[spec.base or ""], spec) for spec in variants)


def held_options(given: Held, axes: Sequence[Axis]) -> dict[str, Any]:
    """Every option of the memory that is no axis, and what it is held at.

    They are the defaults of `MemoryOptions`, whatever the optimizer, but for the aggregate where
    kappa is varied: it is ``sum`` then, as a ``mean`` with a negative kappa has a weight that
    shrinks and turns with the number of stored gradients.

    Raises:
        ConfigError: an option is unknown, an axis, or out of range.
    """
    names = ["capacity" if axis.name == "batch" else axis.name for axis in axes]
    for name in given:
        if name in names:
            raise ConfigError(f"--set {name} holds an axis; its values are given with --values")
        if name not in gradmem.MemoryOptions.__dataclass_fields__:
            raise ConfigError(
                f"--set holds options of the memory, and {name!r} is none; "
                f"{hint(name, OF_A_MEMORY)} The base's are searched alike in every cell: "
                "--space adam.eps=1e-8 holds one"
            )
    defaults = gradmem.MemoryOptions(aggregate="sum" if "kappa" in names else "mean")
    held = {name: getattr(defaults, name) for name in OF_A_MEMORY}
    held |= {name: check(name, value) for name, value in given.items()}
    if is_off({name: value for name, value in held.items() if name not in names}):
        raise ConfigError("the memory is off in every cell: --set must not hold it at 0")
    return {name: value for name, value in held.items() if name not in names}


def is_off(options: Options) -> bool:
    """Whether a memory of these options is none: the optimizer is then its base, to the bit."""
    return options.get("capacity") == 0 or options.get("kappa") == 0


def points(axes: Sequence[Axis]) -> Iterator[Point]:
    """Every combination of values."""
    names = [axis.name for axis in axes]
    for values in product(*(axis.values for axis in axes)):
        yield dict(zip(names, values, strict=True))


def base_cell(entrant: Entrant, where: Point) -> CellSpec:
    """The base alone; ``where`` is what sets it apart from the same base in other places."""
    return _cell(entrant.base, entrant, where, entrant.base.space)


def memory_cell(entrant: Entrant, point: Point, held: Held) -> CellSpec:
    """The variant at a point: its base's space, searched alike in every cell, and a fixed memory.

    What is fixed is the last coordinate of a trial, so every cell is tried at its base's settings.
    """
    memory = {name: point.get(name, held.get(name)) for name in (*OF_A_MEMORY, *held)}
    space = (*entrant.base.space, Choice((memory,)))
    return _cell(entrant.variant, entrant, point, space)


def _cell(spec: Spec, entrant: Entrant, where: Point, space: Any) -> CellSpec:
    said = [f"{name}={show(value)}" for name, value in where.items()]
    return CellSpec(
        name=",".join([spec.name, *said]),
        label=" ".join([spec.label, *said]),
        base=entrant.base.name,  # whose space it is, wherever it takes part
        space=space,
        create=spec.create,
        package=spec.package,
        proportional=spec.proportional,
        optimizer=spec.name,
        asked=spec.asked,
        versions=spec.versions,
    )
