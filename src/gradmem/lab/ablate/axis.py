"""The axes of an ablation: what can be varied, the values each has, and which are refused."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import gradmem
from gradmem.lab.config import parse_settings
from gradmem.lab.errors import ConfigError, LabError, hint
from gradmem.lab.tasks import TASKS
from gradmem.lab.tasks.base import Task
from gradmem.lab.tasks.varied import Range, Variation, Varied, checked

Value: TypeAlias = int | float | str | None
Point: TypeAlias = Mapping[str, Value]  # a value for each axis, by its name

MOST_AXES = 2
OWN_NAME = re.compile(r"[A-Za-z][\w-]*")  # of a task's axis: part of file and cell names
NONE = "none"  # how no value is typed, and kept in a file


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Args:
        name: of the axis; an option of a memory, ``batch``, or one of the task's own.
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
        )
    }
)  # those of every task; a task may have others of its own
OF_A_MEMORY = tuple(name for name in AXES if name != "batch")


def get_axes(
    names: Sequence[str], values: Mapping[str, Sequence[Any]], task: Task
) -> tuple[Axis, ...]:
    """The axes called ``names`` with the ``values`` that are wanted, or their own.

    Raises:
        ConfigError: a name or a value is none, or they do not go together.
    """
    own = _own(task)
    _check_names(names, own, task)
    for name in values:
        if name not in names:
            raise ConfigError(
                f"--values names {name!r}, which is no axis of this ablation; its axes are "
                f"{', '.join(names)}"
            )
    return tuple(
        _own_axis(name, own[name], values.get(name), task)
        if name in own
        else _axis(AXES[name], values.get(name), task)
        for name in names
    )


def at(task: Task, where: Point) -> Task:
    """The task at these values of its own axes; itself without any.

    Raises:
        ConfigError: it refuses them.
    """
    if not where:
        return task
    assert isinstance(task, Varied)
    try:
        return task.at(**{name.replace("-", "_"): value for name, value in where.items()})
    except LabError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{task.name} cannot be had at {say(where)}: {error}") from error


def say(where: Point) -> str:
    """Values of axes in words.

    >>> say({"depth": 2, "label-noise": 0.5})
    'depth 2, label-noise 0.5'
    """
    return ", ".join(f"{name} {show(value)}" for name, value in where.items())


def _own(task: Task) -> Mapping[str, Variation]:
    """The axes of the task's own."""
    own = task.variations if isinstance(task, Varied) else {}
    for name in own:
        if name in AXES or not OWN_NAME.fullmatch(name):
            raise ConfigError(
                f"the task {task.name} has an axis {name!r} of its own; the name must be letters, "
                f"digits and - _ alone, and none of {', '.join(AXES)}"
            )
    return own


def _check_names(names: Sequence[str], own: Mapping[str, Variation], task: Task) -> None:
    known = [*AXES, *own]
    for name in names:
        if name not in known:
            raise ConfigError(_unknown(name, known, task))
    if not 1 <= len(names) <= MOST_AXES:
        named = f" ({', '.join(names)})" if names else ""
        raise ConfigError(
            f"an ablation has one axis or {MOST_AXES}, got {len(names)}{named}; choose from: "
            + ", ".join(known)
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"the axis {names[0]!r} is named twice")
    if "batch" in names and len(names) > 1:
        raise ConfigError(
            "the axis batch goes alone, as it has rows of its own: a capacity, and the base on a "
            "larger batch"
        )


def _unknown(name: str, known: Sequence[str], task: Task) -> str:
    """What to say of a name that is no axis of the task."""
    having = [other for other, kind in TASKS.items() if name in getattr(kind, "variations", ())]
    if having:
        return (
            f"the task {task.name} has no axis {name}, which {', '.join(having)} have; a task has "
            "it that says so in its `variations` and makes itself `at` a value"
        )
    return f"unknown axis {name!r}; {hint(name, known)}"


def _axis(axis: Axis, wanted: Sequence[Any] | None, task: Task) -> Axis:
    if axis.name == "batch":
        _check_batches(task)
    values = tuple(check(axis.name, value) for value in (axis.values if wanted is None else wanted))
    _check_values(axis.name, values)
    return Axis(axis.name, values, axis.ordered)


def _own_axis(name: str, variation: Variation, wanted: Sequence[Any] | None, task: Task) -> Axis:
    """An axis of the task's, whose values it says itself."""
    usual = variation.values if isinstance(variation, Range) else variation
    try:
        values = tuple(
            checked(name, variation, each) for each in (usual if wanted is None else wanted)
        )
    except ValueError as error:
        raise ConfigError(f"{error} (the task {task.name})") from None
    _check_values(name, values)
    for value in values:
        at(task, {name: value})
    return Axis(name, values, ordered=not any(isinstance(value, str) for value in values))


def _check_values(name: str, values: Sequence[Value]) -> None:
    if not values:
        raise ConfigError(f"--values {name} needs a value at least")
    if len(set(map(show, values))) < len(values):  # cells are known by what is shown
        raise ConfigError(f"--values {name} has a value twice: {show_all(values)}")


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
