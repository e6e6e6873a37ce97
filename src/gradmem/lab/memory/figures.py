"""Figures of what a memory does; each is drawn from records alone.

The drawings (`map_drawing` and so on) are for a page; `memory_map` and its companions are the same
as figures in printed colours.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from gradmem.lab.axes import log_scale
from gradmem.lab.drawing import CSS_COLOURS, HUES, INK, PRINTED, STYLE, Draw, name_ends, printed
from gradmem.lab.memory.summary import Records, eviction_ages, of_scope, used_ages

Array: TypeAlias = NDArray[np.float64]
Paint: TypeAlias = Callable[[str], str]  # from the house's stand-in to the colour to draw with
Panel: TypeAlias = tuple[str, Draw, str]  # heading, drawing, caption
Drawing: TypeAlias = Callable[..., Draw]

COLUMNS = 150  # of a map, and points of a line: more steps than this are taken together
LINEAR_AGES = 30  # up to this age, a map has a row for every age
LOG_ROWS = 14  # rows from one power of ten to the next beyond that
INKS = (0.1, 0.25, 0.45, 0.7, 1.0)  # a cell of a map has one of these

MAP_HUE, GRADIENT_HUE, STORED_HUE, SHARE_HUE = (
    *(HUES["adam"], HUES["adamw"], HUES["adam"]),
    HUES["sgd"],
)


@dataclass(frozen=True)
class Evictions:
    """One run beside others: its records, and what is compared."""

    decay: float
    capacity: int
    records: Records


# As figures --------------------------------------------------------------------------------------


def memory_map(records: Records, scope: str | None = None) -> Figure:
    """Which steps' gradients lay in memory: by step, the ages of what was held.

    Ink is the share of gradients of that age, or of an age up to the next row's, that were held. A
    gradient that enters comes in at age 1; a row full of ink from 1 to C is what fifo would show.

    Args:
        records: of one run, of any number of steps.
        scope: the ledger; None for the first.

    Raises:
        ValueError: no record is of this ledger.
    """
    return _printed(map_drawing, records, scope)


def norms_figure(records: Records, scope: str | None = None) -> Figure:
    """The gradient's norm and the mean norm of those stored, by step."""
    return _printed(norms_drawing, records, scope)


def acceptance_figure(records: Records, scope: str | None = None) -> Figure:
    """The share of steps whose gradient entered the memory, by step."""
    return _printed(acceptance_drawing, records, scope)


def cosine_figure(records: Records, scope: str | None = None) -> Figure:
    """The cosine of gradient and update, by step."""
    return _printed(cosine_drawing, records, scope)


def eviction_figure(runs: Sequence[Evictions]) -> Figure:
    """Age at eviction by decay and capacity."""
    return _printed(eviction_drawing, runs)


def _printed(drawing: Drawing, *given: Any) -> Figure:
    style = {key: printed(value) if value in CSS_COLOURS else value for key, value in STYLE.items()}
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.4, 3.5), layout="constrained", facecolor=PRINTED["paper"])
        drawing(*given, paint=printed)(figure.add_subplot())
        return figure


# The map -----------------------------------------------------------------------------------------


def map_drawing(
    records: Records, scope: str | None = None, paint: Paint = str, oldest: int | None = None
) -> Draw:
    """`memory_map` for a page; rows up to the age `oldest`, so that maps can be compared."""
    found = [record for record in of_scope(records, scope) if record.seen]

    def draw(axes: Axes) -> None:
        if not found:
            _nothing(axes)
            return
        sides, ages, shares = _cells(found, oldest)
        for ink, shape in _shapes(sides, ages, shares):
            colour = to_rgba(paint(MAP_HUE), ink)
            axes.add_patch(PathPatch(shape, facecolor=colour, edgecolor="none", linewidth=0))
        capacity = len(found[0].held)
        axes.axhline(capacity + 0.5, color=paint(INK), linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_xlim(sides[0], sides[-1])
        axes.set_ylim(ages[0], max(ages[-1], capacity + 1.5))
        _ages_axis(axes, logarithmic=ages[-1] > LINEAR_AGES + 1)
        _steps_axis(axes)
        axes.set_ylabel("age of what is held")
        axes.grid(visible=False)

    return draw


def _cells(records: Records, oldest: int | None = None) -> tuple[Array, Array, Array]:
    """Sides of the columns in steps, of the rows in ages, and the share held in each cell."""
    steps = [record.step for record in records]
    sides = _sides(min(steps), max(steps))
    held = [(record.step, age) for record in records for age in used_ages(record)]
    ages = _age_sides(oldest or max((age for _, age in held), default=1))
    at, olds = np.array(held, dtype=float).reshape(-1, 2).T
    counts, _, _ = np.histogram2d(at, olds, bins=(sides, ages))
    taken = np.histogram(steps, sides)[0]
    widths = np.diff(np.ceil(ages))  # whole ages in a row
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / (taken[:, None] * widths[None, :])
    return sides, ages, np.nan_to_num(shares).T


def _sides(first: int, last: int) -> Array:
    """Sides of at most COLUMNS columns of as many whole steps each."""
    width = math.ceil((last - first + 1) / COLUMNS)
    count = math.ceil((last - first + 1) / width)
    return np.asarray(first - 0.5 + width * np.arange(count + 1), dtype=float)


def _age_sides(oldest: int) -> Array:
    """Sides of rows: one an age, or, if there are many ages, ever more ages a row."""
    if oldest <= LINEAR_AGES:
        return np.arange(1, oldest + 2, dtype=np.float64) - 0.5
    count = math.ceil(LOG_ROWS * math.log10(oldest + 1)) + 1
    whole = np.unique(np.geomspace(1, oldest + 1, count).round())
    return np.asarray(whole - 0.5, dtype=float)


def _shapes(sides: Array, ages: Array, shares: Array) -> Iterator[tuple[float, Path]]:
    """For every ink one outline of all its cells, neighbours in a row as one rectangle."""
    levels = np.ceil(np.sqrt(shares) * len(INKS)).clip(0, len(INKS)).astype(int)
    for level, ink in enumerate(INKS, start=1):
        corners = [
            corner
            for row, cells in enumerate(levels == level)
            for start, end in _runs(cells)
            for corner in (
                *((sides[start], ages[row]), (sides[end], ages[row])),
                *((sides[end], ages[row + 1]), (sides[start], ages[row + 1])),
                (sides[start], ages[row]),
            )
        ]
        if corners:
            codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * (len(corners) // 5)
            yield ink, Path(corners, codes)


def _runs(cells: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Beginning and end of every stretch of cells that are set."""
    for is_set, some in groupby(range(len(cells)), key=lambda i: bool(cells[i])):
        stretch = list(some)
        if is_set:
            yield stretch[0], stretch[-1] + 1


# By step -----------------------------------------------------------------------------------------


def norms_drawing(records: Records, scope: str | None = None, paint: Paint = str) -> Draw:
    """`norms_figure` for a page."""
    found = [record for record in of_scope(records, scope) if record.seen]
    lines = {
        "|g|": (GRADIENT_HUE, [record.norm for record in found]),
        "stored": (STORED_HUE, [record.stored_norm for record in found]),
    }

    def draw(axes: Axes) -> None:
        _lines(axes, found, lines, paint)
        if axes.has_data():
            log_scale(axes)
            _name_lines(axes)

    return draw


def acceptance_drawing(records: Records, scope: str | None = None, paint: Paint = str) -> Draw:
    """`acceptance_figure` for a page."""
    found = [record for record in of_scope(records, scope) if record.seen]

    def draw(axes: Axes) -> None:
        if not found:
            _nothing(axes)
            return
        # A share needs several steps to be one of.
        count = max(1, min(40, len(found) // 10))
        parts = [part for part in np.array_split(np.arange(len(found)), count) if part.size]
        sides = [found[part[0]].step - 0.5 for part in parts] + [found[-1].step + 0.5]
        shares = [float(np.mean([found[i].entered for i in part])) for part in parts]
        axes.stairs(shares, sides, color=paint(SHARE_HUE), linewidth=2, baseline=None)
        axes.set_ylim(0, 1.04)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xlim(sides[0], sides[-1])
        _steps_axis(axes)

    return draw


def cosine_drawing(records: Records, scope: str | None = None, paint: Paint = str) -> Draw:
    """`cosine_figure` for a page."""
    found = of_scope(records, scope)
    lines = {"cosine": (MAP_HUE, [record.cosine for record in found])}

    def draw(axes: Axes) -> None:
        _lines(axes, found, lines, paint)
        if axes.has_data():
            low = axes.get_ylim()[0]
            axes.set_ylim(-1.04 if low < -0.5 else -0.54 if low < 0 else 0.0, 1.04)

    return draw


def _lines(
    axes: Axes, records: Records, lines: Mapping[str, tuple[str, Sequence[float]]], paint: Paint
) -> None:
    """Medians of the columns, and where there are several steps a column, bands around them."""
    if not any(math.isfinite(value) for _, values in lines.values() for value in values):
        _nothing(axes)
        return
    steps = np.array([record.step for record in records])
    sides = _sides(int(steps.min()), int(steps.max()))
    column = np.digitize(steps, sides) - 1
    for name, (hue, values) in lines.items():
        at, low, middle, high = _columns(np.array(values), column, sides)
        colour = paint(hue)
        if sides[1] - sides[0] > 1:
            axes.fill_between(at, low, high, color=to_rgba(colour, 0.2), linewidth=0)
        axes.plot(at, middle, color=colour, linewidth=1.6, label=name)
    axes.set_xlim(sides[0], sides[-1])
    _steps_axis(axes)


def _columns(values: Array, column: NDArray[np.int64], sides: Array) -> tuple[Array, ...]:
    """Middles of columns, and the 10%, 50% and 90% quantiles of their finite values."""
    rows = []
    for k in range(len(sides) - 1):
        some = values[(column == k) & np.isfinite(values)]
        if some.size:
            rows.append(((sides[k] + sides[k + 1]) / 2, *np.quantile(some, (0.1, 0.5, 0.9))))
    return tuple(np.array(rows, dtype=float).reshape(-1, 4).T)


def _name_lines(axes: Axes) -> None:
    """Names at the ends, in the colours of the lines."""
    ends = [
        (str(line.get_label()), str(line.get_color()), float(np.asarray(line.get_ydata())[-1]))
        for line in axes.get_lines()
        if len(np.asarray(line.get_ydata()))
    ]
    name_ends(axes, ends)


# Runs side by side -------------------------------------------------------------------------------


def eviction_drawing(runs: Sequence[Evictions], paint: Paint = str) -> Draw:
    """`eviction_figure` for a page."""
    hues = [HUES[name] for name in ("sgd", "adam", "rmsprop", "adamw")]
    decays = sorted({run.decay for run in runs})
    capacities = sorted({run.capacity for run in runs})

    def draw(axes: Axes) -> None:
        ends, gap = [], 0.7 / max(1, len(decays))
        for run in sorted(runs, key=lambda run: run.decay):
            i, gone = decays.index(run.decay), eviction_ages(run.records)
            at = capacities.index(run.capacity) + gap * (i - (len(decays) - 1) / 2)
            if not gone:
                continue
            low, early, median, late, high = np.quantile(gone, (0, 0.1, 0.5, 0.9, 1))
            colour = paint(hues[i % len(hues)])
            axes.plot([at, at], [low, high], color=colour, linewidth=1)
            axes.plot([at, at], [early, late], color=colour, linewidth=6, solid_capstyle="butt")
            axes.plot(at, median, "o", color=paint(INK), markersize=5, zorder=5)
            if run.capacity == capacities[-1]:
                ends.append((f"decay {run.decay:g}", colour, float(median)))
        for k, capacity in enumerate(capacities):
            axes.hlines(
                capacity, k - 0.45, k + 0.45, paint(INK), linewidth=1.0, linestyle=(0, (4, 3))
            )
        axes.xaxis.set_major_locator(FixedLocator(range(len(capacities))))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{capacities[round(k)]}"))
        axes.set_xlim(-0.55, len(capacities) - 0.45)
        axes.set_xlabel("capacity")
        axes.set_ylabel("age at eviction")
        _ages_axis(axes, logarithmic=True)
        if len(decays) > 1:
            name_ends(axes, ends)

    return draw


_ROUND_AGES = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]


# Axes --------------------------------------------------------------------------------------------


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing recorded", ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()


def _steps_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _ages_axis(axes: Axes, *, logarithmic: bool) -> None:
    """Whole ages, on a logarithmic axis if there are many."""
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(_ROUND_AGES))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
