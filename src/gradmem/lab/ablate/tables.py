"""The tables of an ablation: cells, settings, and a map in numbers."""

from collections.abc import Callable

from gradmem.lab.ablate.axis import OF_A_MEMORY, show
from gradmem.lab.ablate.findings import Findings, edges, show_difference
from gradmem.lab.ablate.plan import Cell
from gradmem.lab.compare import Evaluated
from gradmem.lab.findings import Table, show_estimate, show_ratio
from gradmem.lab.score import Difference, show_p

MARKS = {"win": "▲", "tie": "", "loss": "▼"}
WORDS = {"win": "better", "tie": "undecided", "loss": "worse"}


def cell_table(found: Findings) -> Table:
    """A row for each base and each cell: what was chosen, and what it gave."""
    metric = found.metric
    unit = f", {metric.unit}" if metric.unit else ""
    axes = [axis.title for axis in found.ablation.axes]
    heading = ("optimizer", *axes, "learning rate", f"test {metric.name}{unit}", "less its base")
    bases = tuple(_base_row(found, name) for name in found.bases)
    cells = tuple(_cell_row(found, cell) for cell in found.ablation.cells)
    return Table((*heading, ""), bases + cells)


def short_table(found: Findings) -> Table:
    """A row for each base and each cell that is none; it fits the terminal."""
    metric = found.metric
    unit = f", {metric.unit}" if metric.unit else ""
    names = dict.fromkeys([*found.bases, *found.differences])
    heading = ("cell", "learning rate", f"test {metric.name}{unit}", "less its base", "")
    return Table(heading, tuple(_short_row(found, name) for name in names))


def _short_row(found: Findings, name: str) -> tuple[str, ...]:
    each, difference = found.outcomes.by_name[name], found.differences.get(name)
    label = each.spec.label
    if len(found.ablation.series) == 1 and difference is not None:
        label = label.partition(" ")[2]
    start = (label, rate(each), _test(found, name))
    if difference is None:
        return (*start, "the base", "")
    return (*start, show_difference(found, difference), MARKS[difference.outcome])


def _base_row(found: Findings, name: str) -> tuple[str, ...]:
    each = found.outcomes.by_name[name]
    at = found.base_at(name)
    values = [show(at[axis.name]) if axis.name in at else "-" for axis in found.ablation.axes]
    return (each.spec.label, *values, rate(each), _test(found, name), "-", "the base")


def _cell_row(found: Findings, cell: Cell) -> tuple[str, ...]:
    values = [show(value) for value in cell.at.values()]
    each, difference = found.evaluated(cell), found.difference(cell)
    start = (cell.series, *values, rate(each), _test(found, cell.entrant))
    if difference is None:
        return (*start, "-", "= the base")
    return (*start, show_difference(found, difference), _said(difference))


def _said(each: Difference) -> str:
    if len(each.by_seed) < 2:
        return "one seed"
    return f"{MARKS[each.outcome]} {WORDS[each.outcome]}".strip()


def _test(found: Findings, name: str) -> str:
    return show_estimate(found.scores[name].test, found.metric.scale, found.metric.decimals)


def rate(each: Evaluated) -> str:
    """The learning rate that was chosen; starred where it lies at an edge of its space.

    It is a dash where the user holds it fixed under another name.
    """
    if "lr" not in each.options:
        return "-"
    return f"{each.options['lr']:.3g}" + "*" * ("lr" in edges(each))


def settings_table(found: Findings) -> Table:
    """What was chosen for every cell that was run, and out of how much."""
    rows = tuple(_setting_row(found, each) for each in found.outcomes.by_name.values())
    heading = ("cell", "chosen", "at an edge", "trials", "diverged", "step time, base = 1")
    return Table(heading, rows)


def _setting_row(found: Findings, each: Evaluated) -> tuple[str, ...]:
    options = {name: value for name, value in each.options.items() if name not in OF_A_MEMORY}
    return (
        each.spec.label,
        ", ".join(f"{name}={show(value)}" for name, value in options.items()),
        ", ".join(edges(each)) or "-",
        str(len(each.tuned.trials)),
        str(each.tuned.count("diverged")),
        _step_time(found, each),
    )


def _step_time(found: Findings, each: Evaluated) -> str:
    """Against the base that the cell is compared with."""
    against = {cell.entrant: cell.against for cell in found.ablation.cells}
    base = found.scores[against.get(each.spec.name, each.spec.name)]
    return show_ratio(found.scores[each.spec.name].seconds_per_step, base.seconds_per_step)


def maps(found: Findings) -> list[tuple[str, Table]]:
    """Of two axes, for each optimizer, differences and learning rates as tables with headings."""
    if len(found.ablation.axes) < 2:
        return []
    metric = found.metric
    unit = metric.difference_unit
    shown = []
    for series in found.ablation.series:
        heading = f"{series}: difference in test {metric.name}" + (f", {unit}" if unit else "")
        shown += [
            (heading, _map(found, series, lambda cell: _difference(found, cell))),
            (
                f"{series}: learning rate chosen",
                _map(found, series, lambda cell: rate(found.evaluated(cell))),
            ),
        ]
    return shown


def _difference(found: Findings, cell: Cell) -> str:
    each = found.difference(cell)
    if each is None:
        return "base"
    return f"{found.metric.show_difference(each.estimate.mean)} {MARKS[each.outcome]}".strip()


def _map(found: Findings, series: str, text: Callable[[Cell], str]) -> Table:
    """A row for each value of the second axis, the largest first as in the figure."""
    across, up = found.ablation.axes
    by_place = {tuple(cell.at.values()): text(cell) for cell in found.of_series(series)}
    heading = (f"{up.name} \\ {across.name}", *map(show, across.values))
    rows = tuple(
        (show(value), *(by_place[other, value] for other in across.values))
        for value in (reversed(up.values) if up.ordered else up.values)
    )
    return Table(heading, rows)


def control_table(found: Findings) -> Table:
    """A memory less its base on a larger batch."""
    rows = tuple(
        (
            f"{each.variant.label} − {each.base.label}",
            show_difference(found, each),
            show_p(each.p),
            _said(each),
        )
        for each in found.controls
    )
    return Table(("pair", "difference", "p, corrected", ""), rows)


def comparison_table(found: Findings) -> Table:
    """Every difference with what the tests say."""
    rows = tuple(
        (
            f"{each.variant.label} − {each.base.label}",
            show_difference(found, each),
            show_p(each.p),
            show_p(each.welch),
            show_p(each.wilcoxon),
            _said(each),
        )
        for each in found.differences.values()
    )
    return Table(("pair", "difference", "p, corrected", "p, Welch", "p, Wilcoxon", ""), rows)
