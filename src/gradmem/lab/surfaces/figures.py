"""The figures: paths on contours, losses by step, and what every learning rate gave."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gradmem.lab.drawing import (
    CSS_COLOURS,
    HUES,
    INK,
    PRINTED,
    STYLE,
    Draw,
    name_ends,
    power,
    printed,
)
from gradmem.lab.surfaces.findings import Findings
from gradmem.lab.surfaces.landscape import View, close_up, heights, levels, whole
from gradmem.lab.surfaces.paths import Array, Path

POINTS = 400  # of a line by step
FINENESS = 700  # places along each side of a picture that a path can be at
LONGEST = 6000  # points of a path in a picture
GAPS = "gap by step"
LOWEST = 1e-16  # of the gap at the start
STOP = 0  # what ends a path of Matplotlib's
Dashes: TypeAlias = str | tuple[float, tuple[float, ...]]
Paint: TypeAlias = Callable[[str], str]  # from the house's stand-in to the colour to draw with
Panel: TypeAlias = tuple[str, Draw, str]  # heading, drawing, caption


@dataclass(frozen=True)
class Look:
    """How an optimizer is drawn; a base and its memory variant share a hue."""

    colour: str
    dashes: Dashes
    filled: bool  # the dot at its end


def looks(found: Findings) -> dict[str, Look]:
    """By name: the house's hue where it has one for the base, else one that is left."""
    specs = [entrant.spec for entrant in found.plan.entrants]
    families = list(dict.fromkeys(spec.base or spec.name for spec in specs))
    spare = cycle([*(HUES[name] for name in HUES if name not in families), *HUES.values()])
    hues = {family: HUES.get(family) or next(spare) for family in families}
    seen = list(hues.values())
    again = {family: seen.index(hues[family]) < i for i, family in enumerate(families)}
    return {
        spec.name: Look(
            hues[spec.base or spec.name],
            _dashes(memory=spec.base is not None, again=again[spec.base or spec.name]),
            filled=spec.base is not None,
        )
        for spec in specs
    }


def _dashes(*, memory: bool, again: bool) -> Dashes:
    """The base is dashed, the memory variant solid; where a hue comes again, with dots."""
    if again:
        return (0, (6, 1.5, 1, 1.5)) if memory else (0, (1, 1.5))
    return "-" if memory else (0, (3, 2))


def panels(found: Findings, paint: Paint = str) -> list[Panel]:
    """All figures there are for these findings."""
    shown: list[Panel] = []
    if found.plan.dimension == 2:
        near = close_up(found.plan.surface, found.paths)
        box = whole(found.plan.surface, found.plan.start)
        caption = (
            "The circle is the start, crosses are minimisers, dots the ends (hollow without a "
            "memory). More ink is higher; each cell shows its lowest value."
        )
        if near is not None:
            shown.append(("where the paths went", _contour(found, near, paint), caption))
            caption = "The same on the whole box; the frame is the part shown before."
        shown.append(("the whole box", _contour(found, box, paint, near), caption))
    caption = (
        "Loss less the minimum. A line is broken while its path is outside the box, and ends where "
        f"it diverges; below {LOWEST:g} of the gap at the start it stays at the lower edge."
    )
    shown.append((GAPS, _gaps(found, paint), caption))
    if found.plan.searched:
        caption = (
            "Every learning rate tried; the chosen one is ringed. On the upper edge: diverged, or "
            "ended outside the box."
        )
        shown.append(("final gap by learning rate", _rates(found, paint), caption))
    return shown


def _contour(found: Findings, view: View, paint: Paint, frame: View | None = None) -> Draw:
    def draw(axes: Axes) -> None:
        x, y, values = heights(found.plan.surface, view)
        lines = levels(values)
        ink = paint(INK)
        axes.set_xlim(*view.x)
        axes.set_ylim(*view.y)
        for line in lines:  # each lies on those below it: what is high gets more ink
            above = axes.contourf(x, y, values, [line, np.inf], colors=[to_rgba(ink, 0.035)])
            _thin(above, axes)
        if lines.size:
            soft = to_rgba(ink, 0.35)
            drawn = axes.contour(
                x, y, values, lines, colors=[soft], linewidths=0.5, linestyles="solid"
            )
            _thin(drawn, axes)
        for name, look in looks(found).items():
            path = next(path for path in found.paths if path.entrant.name == name)
            _draw_path(axes, path, look, view, paint)
        minimisers = found.plan.surface.minimisers(2).numpy()
        axes.plot(*minimisers.T, "x", color=ink, markersize=7, markeredgewidth=1.6, zorder=8)
        start = found.plan.start
        axes.plot(*start, "o", color=ink, markersize=8, fillstyle="none", zorder=8)
        if frame is not None:
            _draw_frame(axes, frame, ink)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("x")
        axes.set_ylabel("y", rotation=0)

    return draw


def _thin(contours: ContourSet, axes: Axes) -> None:
    """Leave out corners that are less than a third of a point off: a tenth of the bytes."""
    with mpl.rc_context({"path.simplify_threshold": 0.3}):
        contours.set_paths([_thinner(path, axes) for path in contours.get_paths()])


def _thinner(path: Outline, axes: Axes) -> Outline:
    fewer = Outline(path.vertices, path.codes).cleaned(axes.transData, simplify=True)
    codes, corners = np.asarray(fewer.codes), np.asarray(fewer.vertices)
    kept = codes != STOP
    return Outline(axes.transData.inverted().transform(corners[kept]), codes[kept])


def _draw_path(axes: Axes, path: Path, look: Look, view: View, paint: Paint) -> None:
    colour = paint(look.colour)
    points = drawable(path.points, view)
    axes.plot(*points.T, color=colour, linestyle=look.dashes, linewidth=1.5, zorder=6)
    if path.diverged:
        return
    face = colour if look.filled else "none"
    axes.plot(*path.points[-1], "o", color=colour, markerfacecolor=face, markersize=5.5, zorder=7)


def drawable(points: Array, view: View) -> Array:
    """A path without what cannot be seen: repeats of a place, and the far side of nowhere.

    Far outside the picture a point is drawn at three times its distance, so that the line leaves
    in about the right direction and the numbers stay small.
    """
    low, high = np.array([view.x, view.y]).T
    size = high - low
    finite = points[np.isfinite(points).all(axis=1)]
    near = np.clip(finite, low - 3 * size, high + 3 * size)
    places = np.round((near - low) / size * FINENESS)
    moved = np.concatenate([[True], (np.diff(places, axis=0) != 0).any(axis=1)])
    kept: Array = near[moved]
    if len(kept) <= LONGEST:
        return kept
    # a path that trembles for very long: all of its beginning, and some of what follows
    half = LONGEST // 2
    later = np.linspace(half, len(kept) - 1, half).astype(int)
    return kept[[*range(half), *later]]


def _draw_frame(axes: Axes, frame: View, ink: str) -> None:
    (x0, x1), (y0, y1) = frame.x, frame.y
    axes.plot(
        [x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=ink, linewidth=0.9, alpha=0.7, zorder=5
    )


def _gaps(found: Findings, paint: Paint) -> Draw:
    def draw(axes: Axes) -> None:
        ends = []
        floor = LOWEST * max(found.paths[0].losses[0] - found.paths[0].least, 1e-300)
        for path in found.paths:
            look = looks(found)[path.entrant.name]
            steps = np.unique(np.geomspace(1, path.steps + 1, POINTS).round().astype(int)) - 1
            gaps = np.where(path.inside, path.losses - path.least, np.nan)[steps]
            gaps[~np.isfinite(gaps)] = np.nan
            gaps = np.fmax(gaps, np.where(np.isnan(gaps), np.nan, floor))
            colour = paint(look.colour)
            axes.plot(steps + 1, gaps, color=colour, linestyle=look.dashes, linewidth=1.7)
            seen = gaps[np.isfinite(gaps)]
            if seen.size:
                name = path.entrant.label + (", diverged" if path.diverged else "")
                ends.append((name, colour, float(seen[-1])))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(1, found.plan.steps + 1)
        axes.set_xlabel("step, from 1 at the start")
        _decades(axes)
        name_ends(axes, ends)

    return draw


def _rates(found: Findings, paint: Paint) -> Draw:
    def draw(axes: Axes) -> None:
        everything = [trial for result in found.results for trial in result.trials]
        start = max(everything[0].losses[0] - everything[0].least, 1e-300)
        finite = [trial.gap for trial in everything if math.isfinite(trial.gap)]
        top = 10 * max([start, *finite])
        for result in found.results:
            look = looks(found)[result.entrant.name]
            colour = paint(look.colour)
            rates = [trial.rate for trial in result.trials]
            gaps = [min(max(trial.gap, LOWEST * start), top) for trial in result.trials]
            axes.plot(
                rates,
                gaps,
                color=colour,
                linestyle=look.dashes,
                linewidth=1.2,
                marker="o",
                markersize=3.2,
            )
            best = rates.index(result.path.rate)
            axes.plot(rates[best], gaps[best], "o", color=colour, markersize=10, fillstyle="none")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("learning rate (the axis is what was tried)")
        _decades(axes)

    return draw


def _decades(axes: Axes) -> None:
    """A logarithmic y axis with a handful of numbers on it: powers of ten, if it is long."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    few, some = (1.0, 2.0, 5.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    subs = (1.0,) if decades > 2.5 else few if decades > 0.7 else some
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def chief(shown: Sequence[Panel]) -> list[Panel]:
    """The two that say most, for a picture to be shown elsewhere."""
    gaps = next(i for i, (heading, _, _) in enumerate(shown) if heading == GAPS)
    return [shown[0], shown[gaps]] if gaps else [shown[gaps]]


def png(shown: Sequence[Panel]) -> bytes:
    """Drawings in printed colours side by side, as pixels."""
    style = {key: printed(value) if value in CSS_COLOURS else value for key, value in STYLE.items()}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.9 * len(shown), 3.5), layout="constrained")
        for i, (heading, draw, _) in enumerate(shown):
            axes = figure.add_subplot(1, len(shown), i + 1)
            axes.set_title(heading, loc="left", fontsize=10)
            draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor=PRINTED["paper"])
    return buffer.getvalue()
