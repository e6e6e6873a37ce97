"""The axes of an ablation: what can be varied, the values each has, and which are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import (
    Any,
    Literal,
    Protocol,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import gradmem
from gradmem.lab.config import parse_settings
from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.tasks.base import Task

Value: TypeAlias = int | float | str | None
Point: TypeAlias = Mapping[str, Value]  # a value for each axis, by its name

MOST_AXES = 2
NONE = "none"  # how no value is typed, and kept in a file


@runtime_checkable
class Deep(Protocol):
    """A task whose model can be made with other numbers of layers.

    The task at its own depth has its own name; at another, a name that says so.
    """

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths it can be had at."""

    def at_depth(self, depth: int) -> Task:
        """The same task with a model of this depth."""


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Args:
        name: of the axis; an option of a memory, or ``batch`` or ``depth``.
        values: what it is set to, in the order of the report.
        ordered: whether neighbours are nearer to each other than others are.
    """

    name: str
    values: tuple[Value, ...]
    ordered: bool = True

    @property
    def title(self) -> str:
        """What stands over its values."""
        return "capacity C" if self.name == "batch" else self.name


def _names(option: str) -> tuple[str, ...]:
    """All names that an option of a memory may have."""
    found = get_type_hints(gradmem.MemoryOptions)[option]
    literals = [each for each in (found, *get_args(found)) if get_origin(each) is Literal]
    return tuple(name for each in literals for name in get_args(each))


AXES: Mapping[str, Axis] = MappingProxyType(
    {
        axis.name: axis
        for axis in (
            Axis("capacity", (0, 1, 2, 5, 10, 20, 50)),
            Axis("decay", (0.05, 0.2, 0.5, 0.7, 0.9, 0.99, 1.0)),
            Axis("aggregate", _names("aggregate"), ordered=False),
            Axis("policy", _names("policy"), ordered=False),
            Axis("scope", _names("scope"), ordered=False),
            Axis("max_age", (5, 10, 20, 50, None)),
            Axis("kappa", (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)),
            Axis("batch", (1, 2, 5, 10, 20)),  # capacities C: batches are (C + 1) times as large
            Axis("depth", ()),  # the task says which there are
        )
    }
)
OF_A_MEMORY = tuple(name for name in AXES if name not in ("batch", "depth"))


def get_axes(
    names: Sequence[str], values: Mapping[str, Sequence[Any]], task: Task
) -> tuple[Axis, ...]:
    """The axes called ``names`` with the ``values`` that are wanted, or their own.

    Raises:
        ConfigError: a name or a value is none, or they do not go together.
    """
    _check_names(names)
    for name in values:
        if name not in names:
            raise ConfigError(
                f"--values names {name!r}, which is no axis of this ablation; its axes are "
                f"{', '.join(names)}"
            )
    return tuple(_axis(AXES[name], values.get(name), task) for name in names)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in AXES:
            raise ConfigError(f"unknown axis {name!r}; {hint(name, AXES)}")
    if not 1 <= len(names) <= MOST_AXES:
        named = f" ({', '.join(names)})" if names else ""
        raise ConfigError(
            f"an ablation has one axis or {MOST_AXES}, got {len(names)}{named}; choose from: "
            + ", ".join(AXES)
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"the axis {names[0]!r} is named twice")
    if "batch" in names and len(names) > 1:
        raise ConfigError(
            "the axis batch goes alone, as it has rows of its own: a capacity, and the base on a "
            "larger batch"
        )


def _axis(axis: Axis, wanted: Sequence[Any] | None, task: Task) -> Axis:
    if axis.name == "depth":
        return Axis(axis.name, _depths(wanted, task))
    if axis.name == "batch":
        _check_batches(task)
    values = tuple(check(axis.name, value) for value in (axis.values if wanted is None else wanted))
    if not values:
        raise ConfigError(f"--values {axis.name} needs a value at least")
    if len(set(values)) < len(values):
        raise ConfigError(f"--values {axis.name} has a value twice: {show_all(values)}")
    return Axis(axis.name, values, axis.ordered)


def _depths(wanted: Sequence[Any] | None, task: Task) -> tuple[int, ...]:
    if not isinstance(task, Deep):
        raise ConfigError(
            f"the task {task.name} has no axis depth: its model is of one depth. A task has it "
            "that says which `depths` there are and makes itself `at_depth(n)`; python-text does"
        )
    depths = task.depths if wanted is None else tuple(wanted)
    for depth in depths:
        if depth not in task.depths or isinstance(depth, bool):
            raise ConfigError(
                f"depth must be one of {show_all(task.depths)} on {task.name}, not {depth!r}"
            )
    if not depths or len(set(depths)) < len(depths):
        raise ConfigError(f"--values depth needs each value once, not {show_all(depths)}")
    return depths


def _check_batches(task: Task) -> None:
    if task.ordered:
        raise ConfigError(
            f"the task {task.name} has no axis batch: its examples are consecutive stretches of "
            "one text, so more of them a step make a longer stretch, not a larger batch"
        )


def check(name: str, value: Any) -> Value:
    """``value`` as the option ``name`` of a memory, or the axis ``batch``, takes it.

    >>> check("decay", 1), check("max_age", "none")
    (1.0, None)

    Raises:
        ConfigError: it does not; with the range.
    """
    option = "capacity" if name == "batch" else name
    given: Any = {option: None if value == NONE else value}
    try:
        taken: Value = getattr(gradmem.MemoryOptions(**given), option)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the value {show(value)} of {name} is refused: {error}") from None
    if name == "batch" and taken == 0:
        raise ConfigError(
            "the axis batch takes capacities of at least 1, got 0: a batch as large as the base's "
            "is the base, which has its row anyway"
        )
    return taken


def parse_values(pairs: Sequence[str] | None) -> dict[str, list[Any]] | None:
    """``axis=value,value,...`` of the command line.

    >>> parse_values(["capacity=0,5", "max_age=5, none"])
    {'capacity': [0, 5], 'max_age': [5, 'none']}

    Raises:
        ConfigError: one is not of this form.
    """
    if not pairs:
        return None
    found: dict[str, list[Any]] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        settings = [parse_settings([f"{name}={part}"], "--values") for part in text.split(",")]
        found[name.strip()] = [each[name.strip()] for each in settings if each]
    return found


def show(value: Any) -> str:
    """A value as it is typed.

    >>> show(0.5), show(None), show("fifo")
    ('0.5', 'none', 'fifo')
    """
    if value is None:
        return NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_all(values: Sequence[Any]) -> str:
    """Values as they are typed, with commas."""
    return ", ".join(map(show, values))
