"""An option's values on one axis: differences to the base as a curve, or as dots by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

from matplotlib.axes import Axes

from gradmem.lab.ablate.axis import AXES, Axis, show
from gradmem.lab.ablate.findings import Findings, edges
from gradmem.lab.ablate.plan import LARGER
from gradmem.lab.axes import plain
from gradmem.lab.drawing import HUES, INK, Draw
from gradmem.lab.score import Difference
from gradmem.lab.statistics import Estimate

Panel: TypeAlias = tuple[str, Draw, str]  # heading, drawing, caption

MARKERS = {"win": "^", "tie": "o", "loss": "v"}
ROOM = 0.5  # between two values of an axis, for the curves of several series
OUTLYING = 4.0  # medians; what is farther off is named at the edge of the figure


@dataclass(frozen=True)
class Look:
    """How a series is drawn."""

    colour: str
    solid: bool  # a memory; the base on a larger batch is dashed
    shift: float  # along the axis, so that intervals do not cover each other


def looks(found: Findings) -> dict[str, Look]:
    """By series: the hue of its base, or of another if that is taken."""
    names = found.ablation.series
    own = {cell.series: cell.against.partition(",")[0] for cell in found.ablation.cells}
    spare = cycle([hue for name, hue in HUES.items() if name not in own.values()])
    used: set[str] = set()
    shown = {}
    for i, series in enumerate(names):
        hue = HUES.get(own[series])
        colour = hue if hue is not None and hue not in used else next(spare)
        used.add(colour)
        shift = ROOM * ((i + 0.5) / len(names) - 0.5)
        shown[series] = Look(colour, LARGER not in series, shift)
    return shown


def curves(found: Findings) -> list[Panel]:
    """Differences, scores where each value has a base of its own, and the learning rates chosen."""
    metric = found.metric
    which = "up" if metric.higher_is_better else "down"
    axis = found.ablation.axes[0]
    scores = (
        f"test {plain(metric.name)}",
        _scores(found),
        "Mean over the seeds with its interval. Dashed and hollow: the base, tuned afresh at every "
        "value like the memory.",
    )
    better = which if axis.ordered else {"up": "right", "down": "left"}[which]
    return [
        (
            _heading(found),
            _differences(found),
            f"Mean over the seeds with its interval; better is {better}. A filled triangle differs "
            "from the base (the line at 0) beyond noise, up for better and down for worse; a "
            "hollow dot does not. The cross is the base itself. What lies far off is named at "
            "the edge.",
        ),
        *([scores] if _bases_vary(axis) else []),
        (
            "learning rate chosen",
            _rates(found),
            "One search for every value, at the same settings. The dashed line is the base's; the "
            "axis is what was searched.",
        ),
    ]


def _heading(found: Findings) -> str:
    cell, *_ = found.ablation.cells
    if len(found.ablation.series) > 1:
        return f"test {plain(found.metric.name)}, less the base"
    return f"test {plain(found.metric.name)}, {plain(cell.series)} less {plain(cell.base)}"


def _differences(found: Findings) -> Draw:
    axis, metric = found.ablation.axes[0], found.metric
    look = looks(found)

    def draw(axes: Axes) -> None:
        place = _Places(axes, axis)
        place.level(0.0)
        place.limits(_reach(found))
        for series in found.ablation.series:
            mine = look[series]
            middles = []
            for i, cell in enumerate(found.of_series(series)):
                each = found.difference(cell)
                at = i + mine.shift
                if each is None:
                    place.dot(at, 0.0, "x", INK, hollow=False)
                    middles.append((at, 0.0))
                elif math.isfinite(each.estimate.mean):
                    middle = metric.scale * each.estimate.mean
                    _mark(place, at, each, mine.colour, metric.scale)
                    place.name_if_far(at, middle, metric.show_difference(each.estimate.mean))
                    middles.append((at, middle))
            if axis.ordered:
                place.line(middles, mine.colour, dashed=not mine.solid)
        place.finish(_label(found))
        _legend(axes, look)

    return draw


def _mark(place: "_Places", at: float, each: Difference, colour: str, scale: float) -> None:
    place.interval(at, each.estimate, scale, colour)
    middle = scale * each.estimate.mean
    place.dot(at, middle, MARKERS[each.outcome], colour, hollow=each.outcome == "tie")


def _reach(found: Findings) -> float:
    """How far the figure goes to either side of 0: to the farthest interval that is none."""
    ends = [
        max(abs(each.estimate.mean), *map(abs, each.estimate.interval or (0.0,)))
        for each in found.differences.values()
    ]
    known = sorted(end for end in ends if math.isfinite(end) and end > 0)
    if not known:
        return 1.0
    return found.metric.scale * min(known[-1], OUTLYING * known[len(known) // 2])


def _label(found: Findings) -> str:
    metric = found.metric
    unit = metric.difference_unit
    return f"difference in test {plain(metric.name)}" + (f", {plain(unit)}" if unit else "")


def _bases_vary(axis: Axis) -> bool:
    """Whether every value has a base of its own, as those of a task's own axis have."""
    return axis.name not in AXES


def _scores(found: Findings) -> Draw:
    axis, metric, look = found.ablation.axes[0], found.metric, looks(found)

    def draw(axes: Axes) -> None:
        place = _Places(axes, axis)
        for series in found.ablation.series:
            cells = found.of_series(series)
            _score_curve(place, found, [each.against for each in cells], look[series], base=True)
            _score_curve(place, found, [each.entrant for each in cells], look[series], base=False)
        unit = f", {plain(metric.unit)}" if metric.unit else ""
        place.finish(f"test {plain(metric.name)}{unit}")
        _legend(axes, look)

    return draw


def _score_curve(
    place: "_Places", found: Findings, names: Sequence[str], look: Look, *, base: bool
) -> None:
    scale = found.metric.scale
    tests = [(i + look.shift, found.scores[name].test) for i, name in enumerate(names)]
    known = [(at, each) for at, each in tests if math.isfinite(each.mean)]
    for at, each in known:
        place.interval(at, each, scale, look.colour)
        place.dot(at, scale * each.mean, "o", look.colour, hollow=base)
    if found.ablation.axes[0].ordered:
        place.line([(at, scale * each.mean) for at, each in known], look.colour, dashed=base)


def _rates(found: Findings) -> Draw:
    axis, look = found.ablation.axes[0], looks(found)

    def draw(axes: Axes) -> None:
        place = _Places(axes, axis)
        spaces = []
        for series in found.ablation.series:
            mine, middles = look[series], []
            for i, cell in enumerate(found.of_series(series)):
                chosen = found.evaluated(cell)
                if (rate := chosen.spec.learning_rate) is None:
                    continue
                spaces.append((rate.low, rate.high))
                lr = chosen.options["lr"]
                middles.append((i + mine.shift, lr))
                hollow = "lr" not in edges(chosen)
                place.dot(i + mine.shift, lr, "o" if hollow else "D", mine.colour, hollow=hollow)
            if axis.ordered:
                place.line(middles, mine.colour, dashed=not mine.solid)
            bases = [found.outcomes.by_name[cell.against] for cell in found.of_series(series)]
            if "lr" not in bases[0].options:
                continue
            if not _bases_vary(axis):
                place.level(bases[0].options["lr"], mine.colour, dashed=True)
            elif axis.ordered:
                line = [(i + mine.shift, base.options["lr"]) for i, base in enumerate(bases)]
                place.line(line, mine.colour, dashed=True)
        place.finish("learning rate")
        place.logarithmic(spaces)

    return draw


class _Places:
    """Values along one axis of a drawing, what they gave along the other.

    Values in an order go from left to right, names from top to bottom, where there is room.

    Args:
        axes: what is drawn on.
        axis: whose values.
    """

    def __init__(self, axes: Axes, axis: Axis) -> None:
        self._axes = axes
        self._upright = axis.ordered
        self._name = axis.title
        self._names = [show(value) for value in axis.values]
        self._end = math.inf

    def _turned(self, along: Sequence[float], up: Sequence[float]) -> tuple[Sequence[float], ...]:
        return (along, up) if self._upright else (up, along)

    def dot(self, at: float, height: float, marker: str, colour: str, *, hollow: bool) -> None:
        """One value."""
        x, y = self._turned([at], [height])
        dot = self._axes.plot(x, y, marker, color=colour, markersize=6, zorder=5)[0]
        if hollow:
            dot.set(markerfacecolor="none", markersize=5)

    def interval(self, at: float, found: Estimate, scale: float, colour: str) -> None:
        """Its interval."""
        if found.interval is not None:
            ends = [scale * end for end in found.interval]
            self._axes.plot(*self._turned([at, at], ends), color=colour, linewidth=1.7, alpha=0.6)

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool) -> None:
        """What joins neighbours."""
        x, y = self._turned([at for at, _ in points], [height for _, height in points])
        style = (0, (3, 2)) if dashed else "-"
        self._axes.plot(x, y, color=colour, linewidth=1, linestyle=style, alpha=0.75)

    def level(self, height: float, colour: str = INK, *, dashed: bool = False) -> None:
        """A line through all values."""
        draw = self._axes.axhline if self._upright else self._axes.axvline
        style = (0, (3, 2)) if dashed else "-"
        draw(height, color=colour, linewidth=0.9, linestyle=style, zorder=1)

    def limits(self, end: float) -> None:
        """Show what lies up to ``end`` on either side of 0."""
        self._end = end
        set_limits = self._axes.set_ylim if self._upright else self._axes.set_xlim
        set_limits(-1.06 * end, 1.06 * end)

    def name_if_far(self, at: float, height: float, text: str) -> None:
        """The number, at the edge that hides it."""
        if abs(height) <= self._end:
            return
        x, y = self._turned([at], [math.copysign(self._end, height)])
        self._axes.text(x[0], y[0], text, ha="center", va="center", fontsize=8, color=INK)

    def finish(self, what: str) -> None:
        """Names of the values and of both axes."""
        ticks = range(len(self._names))
        if self._upright:
            self._axes.set_xticks(ticks, self._names)
            self._axes.set_xlim(-0.6, len(self._names) - 0.4)
            self._axes.grid(visible=False, axis="x")
            self._axes.set_xlabel(self._name)
            self._axes.set_ylabel(what)
        else:
            self._axes.set_yticks(ticks, self._names)
            self._axes.set_ylim(len(self._names) - 0.4, -0.6)
            self._axes.grid(visible=False, axis="y")
            self._axes.set_xlabel(what)

    def logarithmic(self, spaces: Sequence[tuple[float, float]]) -> None:
        """What they gave on a logarithmic axis that shows all of the spaces."""
        if not spaces:
            return
        ends = min(low for low, _ in spaces), max(high for _, high in spaces)
        if self._upright:
            self._axes.set_yscale("log")
            self._axes.set_ylim(*ends)
        else:
            self._axes.set_xscale("log")
            self._axes.set_xlim(*ends)
        axis = self._axes.yaxis if self._upright else self._axes.xaxis
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda _value, _place: "")


def _legend(axes: Axes, look: dict[str, Look]) -> None:
    if len(look) < 2:
        return
    for series, mine in look.items():
        style = "-" if mine.solid else (0, (3, 2))
        axes.plot([], [], color=mine.colour, linestyle=style, label=series)
    axes.legend(loc="best", frameon=False, fontsize=8)
