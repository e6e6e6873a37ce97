"""The figures of the bound and of the noise floor, in the lab's look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gradmem.lab.bound.findings import Findings, NoiseFindings
from gradmem.lab.bound.noise import METHODS, RATES
from gradmem.lab.drawing import HUES, INK, Draw, name_ends, power

# Colours by what made the run; the bound has the ink's.
LOOKS: dict[str, dict[str, Any]] = {
    "memory": {"color": HUES["adam"], "linewidth": 2.2, "zorder": 5},
    "descent": {"color": HUES["sgd"], "linewidth": 1.5, "linestyle": (0, (3, 2))},
    "oldest": {"color": HUES["rmsprop"], "linewidth": 1.5},
    "largest": {"color": HUES["rmsprop"], "linewidth": 1.5, "linestyle": (0, (1, 1.5))},
    "greedy": {"color": HUES["adamw"], "linewidth": 1.5},
}
METHOD_COLOURS = dict(zip(METHODS, (HUES["sgd"], HUES["adam"], HUES["adamw"]), strict=True))
DOTS: dict[str, Any] = {"linewidth": 2, "linestyle": (0, (1, 1.5))}
POINTS = 400  # a line of more steps than this is thinned out


def gaps(found: Findings) -> Draw:
    """The gaps of all runs and the bound, on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        steps = np.unique(np.linspace(0, found.steps, POINTS).round().astype(int))
        ends = []
        if found.bound is not None:
            style = "-" if found.promise.applies else (0, (4, 3))
            axes.plot(steps, found.bound[steps], color=INK, linewidth=2, linestyle=style)
            ends.append((found.bound_name, INK, float(found.bound[-1])))
        floor = max(found.problem.resolution, 1e-300)
        for run in found.runs:
            seen = np.where(run.gaps > floor, run.gaps, np.nan)[steps]
            axes.plot(steps, seen, **LOOKS[run.kind])
            finite = seen[np.isfinite(seen)]
            if finite.size:
                ends.append((run.label, LOOKS[run.kind]["color"], float(finite[-1])))
        _decades(axes)
        _steps_axis(axes)
        name_ends(axes, ends)

    return draw


@dataclass(frozen=True)
class Line:
    """A run of which the gaps are drawn, and how."""

    found: Findings
    label: str
    style: dict[str, Any]

    @property
    def colour(self) -> str:
        """Of the line and its name."""
        return str(self.style["color"])


def gaps_and_bounds(lines: Sequence[Line]) -> Draw:
    """The gaps of several settings' runs, each with its bound as dots where it is a promise."""

    def draw(axes: Axes) -> None:
        ends = []
        for line in lines:
            found = line.found
            steps = np.unique(np.linspace(0, found.steps, POINTS).round().astype(int))
            gaps = found.runs[0].gaps
            seen = np.where(gaps > found.problem.resolution, gaps, np.nan)[steps]
            axes.plot(steps, seen, **line.style)
            finite = seen[np.isfinite(seen)]
            if finite.size:
                ends.append((line.label, line.colour, float(finite[-1])))
            if found.promise.applies and found.bound is not None:
                axes.plot(steps, found.bound[steps], color=line.colour, **DOTS)
                ends.append((f"{line.label}: bound", line.colour, float(found.bound[-1])))
        _decades(axes)
        _steps_axis(axes)
        name_ends(axes, ends)

    return draw


def against_descent(found: Findings) -> Draw:
    """Each run's gap over gradient descent's, early on, where old gradients make a difference."""

    def draw(axes: Axes) -> None:
        last = early(found)
        base = next(run for run in found.runs if run.kind == "descent").gaps[: last + 1]
        clear = base > 100 * found.problem.resolution
        ends = []
        for run in found.runs:
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.where(clear, run.gaps[: last + 1] / base, np.nan)
            ratio[~np.isfinite(ratio)] = np.nan
            axes.plot(np.arange(last + 1), ratio, **LOOKS[run.kind])
            finite = ratio[np.isfinite(ratio)]
            if finite.size:
                ends.append((run.label, LOOKS[run.kind]["color"], float(finite[-1])))
        low, high = axes.get_ylim()
        if high > 20:
            _decades(axes)
        elif high - low < 0.02:
            axes.set_ylim(0.98, 1.02)
        _steps_axis(axes)
        name_ends(axes, ends)

    return draw


def base_name(found: Findings) -> str:
    """What the runs are compared with, beside the bound."""
    return next(run.label for run in found.runs if run.kind == "descent")


def early(found: Findings) -> int:
    """How many steps count as early: some windows of the largest age."""
    return min(found.steps, max(60, 12 * ((found.promise.age_limit or found.plan.capacity) + 1)))


def noise_floor(found: NoiseFindings) -> Draw:
    """The level of excess loss by learning rate, with 95% intervals."""

    def draw(axes: Axes) -> None:
        ends = []
        for i, method in enumerate(METHODS):
            levels = found.of(method)
            means = np.array([level.mean for level in levels])
            reach = np.array(
                [(level.mean - level.low, level.high - level.mean) for level in levels]
            )
            # SGD and fifo nearly coincide: a little apart, both can be seen
            at = np.array(RATES) * (1 + 0.03 * (i - 1))
            axes.errorbar(
                at,
                means,
                yerr=np.minimum(reach, 0.95 * means[:, None]).T,
                color=METHOD_COLOURS[method],
                linestyle=(0, (3, 2)) if method == "SGD" else "-",
                linewidth=1.8,
                marker="o",
                markersize=5,
                capsize=3,
            )
            ends.append((method, METHOD_COLOURS[method], float(means[0])))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(RATES)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        _decades(axes)
        axes.set_xlabel("learning rate, in units of 1/L")
        axes.margins(x=0.06)
        name_ends(axes, ends)

    return draw


def bound_panels(found: Findings) -> list[tuple[str, Draw, str]]:
    """Heading, drawing and caption of each figure about a setting."""
    promise = (
        "No line may cross the bound. Runs that coincide here are told apart beside."
        if found.promise.applies
        else "The dashed line is the theorem's formula, which is not a promise here."
        if found.bound is not None
        else "There is no bound to draw."
    )
    whole = ("gap f(x) − f* by step", gaps(found), promise)
    nearby = (
        f"first {early(found):,} steps: gap / gap of {base_name(found)}",
        against_descent(found),
        f"Below 1 a run is ahead of {base_name(found)} at the same step.",
    )
    return [whole, nearby]


def noise_panels(found: NoiseFindings) -> list[tuple[str, Draw, str]]:
    """Heading, drawing and caption of the figure about noise."""
    heading = "excess loss that remains under rare, large noise"
    caption = f"Mean over {found.plan.seeds} seeds and its 95% interval."
    return [(heading, noise_floor(found), caption)]


def _steps_axis(axes: Axes) -> None:
    axes.set_xlabel("steps")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.01)


def _decades(axes: Axes) -> None:
    """A logarithmic y axis with a handful of powers of ten on it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axes.yaxis.set_minor_locator(NullLocator())
