"""What is run: the cells, and the studies that have them carried out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gradmem.lab.ablate.axis import AXES, Axis, Point, Value, at, get_axes, say
from gradmem.lab.ablate.cells import (
    CellSpec,
    Entrant,
    Held,
    base_cell,
    get_entrants,
    held_options,
    is_off,
    memory_cell,
    points,
)
from gradmem.lab.ablate.config import AblateConfig
from gradmem.lab.compare import Plan
from gradmem.lab.errors import ConfigError
from gradmem.lab.optimizers import Options, Spec
from gradmem.lab.run import Purpose, RunConfig
from gradmem.lab.search import SearchPlan
from gradmem.lab.session import check_task, task_of
from gradmem.lab.tasks.base import Task

LARGER = "larger batch"  # (C + 1) times as large: so many times fewer steps, or more epochs
EXAMPLES, STEPS = LARGER, f"{LARGER}, more epochs"


@dataclass(frozen=True)
class CellPlan(Plan):
    """A comparison of cells: its runs are those of the optimizers that the cells are made of.

    So a cell that is the base has the base's runs, and no cell's name decides a number.
    """

    def config(self, purpose: Purpose, spec: Spec, options: Options, seed: int) -> RunConfig:
        """One run."""
        assert isinstance(spec, CellSpec)
        return replace(super().config(purpose, spec, options, seed), optimizer=spec.optimizer)


@dataclass(frozen=True)
class Cell:
    """A place in the table.

    Args:
        series: the curve or map it belongs to.
        at: its value on each axis.
        entrant: the name of the cell that is run; the base's own if the memory is off.
        against: the name of the base it is compared with.
        base: what that is called.
    """

    series: str
    at: Point
    entrant: str
    against: str
    base: str

    @property
    def is_base(self) -> bool:
        """Whether it is what it would be compared with."""
        return self.entrant == self.against


@dataclass(frozen=True)
class Part:
    """The cells that share a task, a batch size and a number of epochs: one study."""

    plan: CellPlan
    name: str = ""  # what it is beside other parts


@dataclass(frozen=True)
class Ablation:
    """Everything that is run, and what is compared.

    Args:
        task: as it is by itself, where an axis is one of its own.
        axes: one or two.
        entrants: the optimizers, each beside its base.
        held: the memory's options that are no axis.
        parts: the studies; every one has the same trials and seeds.
        cells: in the order of the report.
        controls: pairs of names, second less first, that are a question of their own.
    """

    task: Task
    axes: tuple[Axis, ...]
    entrants: tuple[Entrant, ...]
    held: Held
    parts: tuple[Part, ...]
    cells: tuple[Cell, ...]
    controls: tuple[tuple[str, str], ...] = field(default=())

    @property
    def plan(self) -> CellPlan:
        """The first part's, whose trials and seeds are everybody's."""
        return self.parts[0].plan

    @property
    def runs(self) -> int:
        """How many there are."""
        return sum(part.plan.runs for part in self.parts)

    @property
    def series(self) -> tuple[str, ...]:
        """The curves or maps, in the order of the report."""
        return tuple(dict.fromkeys(cell.series for cell in self.cells))


def prepare(config: AblateConfig) -> Ablation:
    """Check everything that can be checked before anything is run.

    Raises:
        ConfigError: an option does not fit the task, the optimizers or another.
        TaskError: the data are missing, where their number has to be known.
    """
    task = task_of(config)
    axes = get_axes(config.axes, config.values, task)
    entrants = get_entrants(config.optimizer, config.space)
    held = held_options(config.held, axes)
    plan = CellPlan(
        task=task,
        optimizers=(),
        trials=config.trials,
        seeds=config.seeds,
        epochs=config.epochs or task.budget.epochs,
        batch_size=config.batch_size or task.budget.batch_size,
        tuning_seeds=config.tuning_seeds,
        search=SearchPlan("halton", config.sampler_seed),
        timeout=config.timeout,
    )
    if axes[0].name == "batch":
        return _batches(axes, entrants, held, plan)
    return _grid(axes, entrants, held, plan)


def _grid(
    axes: tuple[Axis, ...], entrants: tuple[Entrant, ...], held: Held, plan: CellPlan
) -> Ablation:
    """The options of the memory, and the task's own axes: a part for each of their points."""
    specs: dict[tuple[tuple[str, Value], ...], dict[str, Spec]] = {}
    cells = []
    for entrant in entrants:
        for point in points(axes):
            where = {name: value for name, value in point.items() if name not in AXES}
            base = base_cell(entrant, where)
            off = is_off({**held, **point})
            own = base if off else memory_cell(entrant, point, held)
            specs.setdefault(tuple(where.items()), {}).update({base.name: base, own.name: own})
            cells.append(
                Cell(entrant.variant.label, point, own.name, base.name, entrant.base.label)
            )
    parts = [
        Part(
            replace(plan, task=at(plan.task, dict(where)), optimizers=tuple(those.values())),
            say(dict(where)),
        )
        for where, those in specs.items()
    ]
    _check_task_names(parts)
    return Ablation(plan.task, axes, entrants, held, tuple(parts), tuple(cells))


def _check_task_names(parts: Sequence[Part]) -> None:
    """ConfigError if two points have tasks of one name: each would be given the other's runs."""
    known: dict[str, str] = {}
    for part in parts:
        name = part.plan.task.name
        if name in known:
            raise ConfigError(
                f"the task is called {name} both at {known[name]} and at {part.name}, and runs are "
                "known by that: let its name say where it is"
            )
        known[name] = part.name


def _batches(
    axes: tuple[Axis, ...], entrants: tuple[Entrant, ...], held: Held, plan: CellPlan
) -> Ablation:
    """A memory of C gradients, and its base alone on a batch (C + 1) times as large.

    What is larger has fewer steps at equal examples; so it is run at equal steps, too.
    """
    own: dict[str, Spec] = {}
    cells, controls, parts = [], [], []
    for entrant in entrants:
        base = base_cell(entrant, {})
        variants = {
            count: memory_cell(entrant, {"capacity": count}, held) for count in axes[0].values
        }
        own |= {spec.name: spec for spec in (base, *variants.values())}
        cells += [
            Cell(entrant.variant.label, {"batch": count}, spec.name, base.name, entrant.base.label)
            for count, spec in variants.items()
        ]
    for way in (EXAMPLES, STEPS):
        for count in axes[0].values:
            assert isinstance(count, int)
            larger = _larger(plan, count, way)
            bases = {each.base.name: _enlarged(each, larger, way) for each in entrants}
            parts.append(Part(replace(larger, optimizers=tuple(bases.values())), _say(larger, way)))
            for entrant in {each.base.name: each for each in entrants}.values():
                spec = bases[entrant.base.name]
                series = f"{entrant.base.label}, {way}"
                at, name = {"batch": count}, entrant.base.name
                cells.append(Cell(series, at, spec.name, name, entrant.base.label))
            controls += [
                (bases[each.base.name].name, f"{each.variant.name},capacity={count}")
                for each in entrants
            ]
    first = replace(plan, optimizers=tuple(own.values()))
    return Ablation(
        *(plan.task, axes, entrants, held, (Part(first, _say(first, "the memory")), *parts)),
        *(tuple(cells), tuple(controls)),
    )


def _larger(plan: CellPlan, count: int, way: str) -> CellPlan:
    """The plan at a batch (``count`` + 1) times as large, at equal examples or equal steps."""
    larger = replace(plan, batch_size=plan.examples_a_step * (count + 1))
    if way == EXAMPLES:
        return larger
    return replace(larger, epochs=max(1, round(steps_of(plan) / (steps_of(larger) / plan.epochs))))


def steps_of(plan: Plan) -> int:
    """Steps of a run.

    Raises:
        TaskError: the data cannot be read.
    """
    check_task(plan.task)
    return plan.epochs * math.ceil(len(plan.task.data().train) / plan.examples_a_step)


def _enlarged(entrant: Entrant, plan: Plan, way: str) -> CellSpec:
    spec = base_cell(entrant, {"batch": plan.examples_a_step})
    if way == EXAMPLES:
        return spec
    said = f"epochs={plan.epochs}"
    return replace(spec, name=f"{spec.name},{said}", label=f"{spec.label} {said}")


def _say(plan: Plan, what: str) -> str:
    return f"{what}: batches of {plan.examples_a_step}, {plan.epochs} epochs"


def all_specs(parts: Sequence[Part]) -> Iterator[tuple[Part, Spec]]:
    """Every cell that is run, with its part."""
    for part in parts:
        for spec in part.plan.optimizers:
            yield part, spec
