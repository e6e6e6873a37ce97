"""Two axes as a map: a colour and a number for every cell, and a mark where it is not noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
from matplotlib.patches import Rectangle

from gradmem.lab.ablate.axis import show
from gradmem.lab.ablate.curves import MARKERS, OUTLYING, Panel
from gradmem.lab.ablate.findings import Findings, edges
from gradmem.lab.ablate.plan import Cell
from gradmem.lab.axes import plain
from gradmem.lab.drawing import Draw
from gradmem.lab.score import Difference

# From worse to better: lightness falls all the way, so a map printed in grey keeps its order.
SCALE = LinearSegmentedColormap.from_list(
    "worse-better", ["#fff3b8", "#ecc98f", "#bdb9b5", "#7fa3bf", "#2c5f86"]
)
DARK, LIGHT, BLANK = "#12161c", "#fdfdfd", "#ffffff"  # on the map's colours, in any theme


def maps(found: Findings) -> list[Panel]:
    """A map of differences for each optimizer, and one of the learning rates that were chosen."""
    shown: list[Panel] = []
    unit = plain(found.metric.difference_unit)
    for series in found.ablation.series:
        name = plain(series)
        shown += [
            (
                f"{name}: test {plain(found.metric.name)} less the base"
                + (f", {unit}" if unit else ""),
                _map(found, series),
                "Darker is better, lighter is worse; the scale is symmetric about 0. Framed, with "
                "a triangle: differs from the base beyond noise, up for better and down for "
                "worse.",
            ),
            (
                f"{name}: learning rate chosen",
                _rate_map(found, series),
                "One search for every cell, at the same settings. Framed: at the edge of what was "
                "searched.",
            ),
        ]
    return sorted(shown, key=lambda each: "learning rate" in each[0])


def _map(found: Findings, series: str) -> Draw:
    metric = found.metric

    def draw(axes: Axes) -> None:
        cells = found.of_series(series)
        end = reach([each for cell in cells if (each := found.difference(cell))]) * metric.scale
        sign = 1 if metric.higher_is_better else -1

        def paint(cell: Cell) -> _Paint:
            each = found.difference(cell)
            if each is None:
                return _Paint(BLANK, "base")
            mean = each.estimate.mean
            if not math.isfinite(mean):
                return _Paint(to_hex(SCALE(0.0)), "failed")
            colour = to_hex(SCALE(0.5 + 0.5 * sign * metric.scale * mean / end))
            marker = "" if each.outcome == "tie" else MARKERS[each.outcome]
            return _Paint(colour, metric.show_difference(mean), marker)

        _paint_cells(axes, found, cells, paint)
        colours = SCALE if sign > 0 else SCALE.reversed()
        mappable = ScalarMappable(Normalize(-end, end), colours.resampled(24))
        figure = axes.get_figure(root=True)
        assert figure is not None
        bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
        bar.ax.grid(visible=False)

    return draw


def reach(differences: Sequence[Difference]) -> float:
    """Where the colours end: at the largest difference, but for one far beyond the others."""
    sizes = sorted(abs(each.estimate.mean) for each in differences)
    known = [size for size in sizes if math.isfinite(size) and size > 0]
    if not known:
        return 1.0
    return min(known[-1], OUTLYING * known[len(known) // 2])


def _rate_map(found: Findings, series: str) -> Draw:
    def draw(axes: Axes) -> None:
        cells = found.of_series(series)

        def paint(cell: Cell) -> _Paint:
            each = found.evaluated(cell)
            rate = each.spec.learning_rate
            if rate is None:
                return _Paint(BLANK, "-")
            colour = to_hex(SCALE(0.15 + 0.7 * rate.place(each.options)))
            marker = "D" if "lr" in edges(each) else ""
            return _Paint(colour, f"{each.options['lr']:.2g}", marker)

        _paint_cells(axes, found, cells, paint)

    return draw


@dataclass(frozen=True)
class _Paint:
    """What a cell of a map looks like."""

    colour: str
    text: str
    marker: str = ""  # below the text; the cell is framed then


def _paint_cells(
    axes: Axes, found: Findings, cells: Sequence[Cell], paint: Callable[[Cell], _Paint]
) -> None:
    across, up = found.ablation.axes
    columns, rows = list(across.values), list(up.values)
    if not up.ordered:
        rows.reverse()  # the first named on top
    size = min(7.5, 54 / len(columns))  # of letters: seven columns have room for the usual one
    for cell in cells:
        one, other = cell.at.values()
        _paint_cell(axes, columns.index(one), rows.index(other), paint(cell), size)
    axes.set_xticks(range(len(columns)), [show(value) for value in columns])
    if not across.ordered:
        for name in axes.get_xticklabels():
            name.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [show(value) for value in rows])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.grid(visible=False)
    axes.set_xlabel(across.name)
    axes.set_ylabel(up.name)


def _paint_cell(axes: Axes, column: int, row: int, paint: _Paint, size: float) -> None:
    corner = (column - 0.48, row - 0.48)
    axes.add_patch(Rectangle(corner, 0.96, 0.96, facecolor=paint.colour, edgecolor="none"))
    ink = _readable(paint.colour)
    weight = "bold" if paint.marker else "normal"
    raised = 0.13 if paint.marker else 0.0  # the mark stands below
    axes.text(
        *(column, row + raised, paint.text),
        ha="center",
        va="center",
        color=ink,
        fontsize=size,
        fontweight=weight,
    )
    if paint.marker:
        inner = (column - 0.43, row - 0.43)
        axes.add_patch(Rectangle(inner, 0.86, 0.86, fill=False, edgecolor=ink, linewidth=1.2))
        axes.plot(column, row - 0.27, paint.marker, color=ink, markersize=0.5 * size)


def _readable(background: str) -> str:
    """Dark on light and light on dark."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return DARK if 0.3 * red + 0.59 * green + 0.11 * blue > 125 else LIGHT
