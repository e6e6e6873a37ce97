"""The report's figures as SVG text that follows the page's colours, light or dark."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.optimizers import Spec
from gradmem.lab.score import Difference, expected_best
from gradmem.lab.tasks.base import Metric

# Matplotlib is given these stand-ins; the page's style sheet says what each looks like.
INK, GRID = "#010101", "#020202"
HUES = {"sgd": "#030303", "rmsprop": "#040404", "adam": "#050505", "adamw": "#060606"}
CSS_COLOURS = {INK: "var(--ink)", GRID: "var(--grid)"} | {
    stand_in: f"var(--{name})" for name, stand_in in HUES.items()
}

# The colours of a picture outside the report, which has no style sheet: the page's in light.
PRINTED = {
    "paper": "#ffffff",
    "ink": "#1d2330",
    "grid": "#e3e6eb",
    "sgd": "#2f7d4f",
    "rmsprop": "#8a55b8",
    "adam": "#1f6fc4",
    "adamw": "#c4551a",
}

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be selected, read aloud, and is small
    "svg.hashsalt": "gradmem",  # the same figure is the same bytes
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
}


def colour(spec: Spec) -> str:
    """A base and its memory variant share a hue."""
    return HUES[spec.base or spec.name]


def css_colour(spec: Spec) -> str:
    """The same hue, as the page's style sheet calls it."""
    return CSS_COLOURS[colour(spec)]


def dashes(spec: Spec) -> str | tuple[float, tuple[float, ...]]:
    """The base is dashed, the memory variant solid."""
    return "-" if spec.base else (0, (3, 2))


Draw = Callable[[Axes], None]


def _render(draws: Sequence[Draw], height: float) -> str:
    """Panels side by side as one SVG element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9 * len(draws), height), layout="constrained")
        for i, draw in enumerate(draws):
            draw(figure.add_subplot(1, len(draws), i + 1))
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _svg(draw: Draw, height: float = 3.3) -> str:
    """One panel for the report: as wide as its place, in the page's colours and font."""
    text = _render([draw], height)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text)
    for stand_in, css in CSS_COLOURS.items():
        text = text.replace(stand_in, css)
    return text


def overview(comparison: Comparison, found: Sequence[Difference]) -> str:
    """Validation loss and, if there are pairs, differences by seed: a picture of its own."""
    metric = comparison.plan.task.metric
    draws = [_titled("validation loss", _draw_curves(comparison, "validation_loss"))]
    if found:
        heading = f"test {metric.name}: memory variant less its base, a dot a seed"
        draws.append(_titled(heading, _draw_differences(found, metric)))
    text = _render(draws, height=3.5)
    paper = f"<style>svg {{ background: {PRINTED['paper']} }}</style>"
    text = text.replace("<defs>", paper + "<defs>", 1)
    for stand_in, css in CSS_COLOURS.items():
        text = text.replace(stand_in, PRINTED[css.removeprefix("var(--").removesuffix(")")])
    return text


def _titled(heading: str, draw: Draw) -> Draw:
    def both(axes: Axes) -> None:
        axes.set_title(heading, loc="left", fontsize=10)
        draw(axes)

    return both


def learning_curves(comparison: Comparison, quantity: str) -> str:
    """One of a run's curves by step: the median over the seeds and the middle four fifths."""
    return _svg(_draw_curves(comparison, quantity))


def _draw_curves(comparison: Comparison, quantity: str) -> Draw:
    def draw(axes: Axes) -> None:
        ends = []
        for each in comparison.results:
            steps, rows = _curves(each, quantity)
            if not len(rows):
                continue
            spec = each.spec
            middle = np.median(rows, axis=0)
            low, high = np.quantile(rows, (0.1, 0.9), axis=0)
            strength = 0.2 if spec.base else 0.09  # so that a base and its variant stay apart
            axes.fill_between(steps, low, high, color=colour(spec), alpha=strength, linewidth=0)
            axes.plot(steps, middle, color=colour(spec), linestyle=dashes(spec), linewidth=1.8)
            ends.append((spec, steps[-1], float(middle[-1])))
        if quantity == "validation_score":
            _zoom(axes, comparison)
            scale = comparison.plan.task.metric.scale
            axes.yaxis.set_major_formatter(lambda value, _: f"{value * scale:g}")
        else:
            _log_scale(axes)
        axes.set_xlabel("steps")
        axes.margins(x=0.01)
        _label_ends(axes, ends)

    return draw


def _curves(
    each: Evaluated, quantity: str
) -> tuple[
    np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int, int], np.dtype[np.float64]]
]:
    finished = [run for run in each.runs if run.status == "finished"]
    rows = np.array([getattr(run.curves, quantity) for run in finished])
    epochs = rows.shape[1] if finished else 0
    return np.arange(1, epochs + 1) * each.runs[0].steps_per_epoch, rows


def trials(comparison: Comparison) -> str:
    """Validation loss of every trial by its learning rate; the best one is ringed."""

    def draw(axes: Axes) -> None:
        worst = _usable_ceiling(comparison)
        for each in comparison.results:
            spec = each.spec
            rates = [trial.config.options["lr"] for trial in each.tuned.trials]
            losses = [trial.validation_loss for trial in each.tuned.trials]
            shown = [min(loss, worst) for loss in losses]
            filled = colour(spec) if spec.base else "none"
            axes.scatter(
                rates, shown, s=22, facecolors=filled, edgecolors=colour(spec), linewidths=1.1
            )
            best = each.tuned.best
            axes.scatter(
                [best.config.options["lr"]],
                [min(best.validation_loss, worst)],
                s=110,
                facecolors="none",
                edgecolors=colour(spec),
                linewidths=1.4,
            )
        axes.set_xscale("log")
        _log_scale(axes)
        low = min(each.spec.learning_rate.low for each in comparison.results)
        high = max(each.spec.learning_rate.high for each in comparison.results)
        axes.set_xlim(low, high)
        axes.set_xlabel("learning rate (the axis is the space searched)")

    return _svg(draw)


def _usable_ceiling(comparison: Comparison) -> float:
    """Losses above this, infinite ones too, are drawn at the upper edge."""
    losses = [t.validation_loss for each in comparison.results for t in each.tuned.trials]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return min(10.0 * float(np.median(finite)), max(finite)) if finite else 1.0


def search_progress(comparison: Comparison) -> str:
    """The best validation loss one may expect after so many trials."""

    def draw(axes: Axes) -> None:
        ends = []
        for each in comparison.results:
            spec = each.spec
            best = expected_best([trial.validation_loss for trial in each.tuned.trials])
            count = np.arange(1, len(best) + 1)
            axes.plot(count, best, color=colour(spec), linestyle=dashes(spec), linewidth=1.8)
            ends.append((spec, float(count[-1]), best[-1]))
        _log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trials")
        axes.margins(x=0.01)
        _label_ends(axes, ends)

    return _svg(draw)


def differences(found: Sequence[Difference], metric: Metric) -> str:
    """Every seed's difference as a dot; the mean and its interval above them."""
    return _svg(_draw_differences(found, metric), height=1.4 + 0.7 * len(found))


def _draw_differences(found: Sequence[Difference], metric: Metric) -> Draw:
    def draw(axes: Axes) -> None:
        for row, each in enumerate(found):
            values = np.array(each.by_seed) * metric.scale
            tint = colour(each.variant)
            axes.scatter(values, _stacked(values, row), s=20, color=tint, alpha=0.45, linewidths=0)
            if each.estimate.interval is not None:
                ends = [edge * metric.scale for edge in each.estimate.interval]
                axes.plot(ends, [row - 0.3] * 2, color=tint, linewidth=2.6, solid_capstyle="round")
            axes.scatter([each.estimate.mean * metric.scale], [row - 0.3], s=46, color=tint)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(
            range(len(found)), [f"{each.variant.label}\n− {each.base.label}" for each in found]
        )
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        reach = max(abs(value) for value in axes.get_xlim())
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(
            f"difference in test {metric.name}" + (", points" if metric.unit == "%" else "")
        )

    return draw


def _stacked(values: np.ndarray[tuple[int], np.dtype[np.float64]], row: int) -> list[float]:
    """Heights that put equal values below each other instead of on top of each other."""
    rounded = values.round(9).tolist()
    gap = min(0.1, 0.5 / max(map(rounded.count, rounded)))
    return [row + gap * rounded[:i].count(value) for i, value in enumerate(rounded)]


def _zoom(axes: Axes, comparison: Comparison) -> None:
    """Leave out the first climb, so that the ends, which are compared, can be told apart."""
    values = [
        value
        for each in comparison.results
        for run in each.runs
        for value in run.curves.validation_score[len(run.curves.validation_score) // 4 :]
    ]
    if not values:
        return
    low, high = float(np.quantile(values, 0.03)), max(values)
    if high > low:
        axes.set_ylim(low, high + 0.06 * (high - low))


def _log_scale(axes: Axes) -> None:
    """A logarithmic y axis with enough plain numbers on it to read a value off."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high / low > 5 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label_ends(axes: Axes, ends: Sequence[tuple[Spec, float, float]]) -> None:
    """Names at the ends of the lines, moved apart just enough to be read."""
    axes.figure.canvas.draw()  # limits are final only now
    inside = axes.transAxes.inverted()
    gap = 0.075
    placed: list[tuple[float, Spec]] = []
    for spec, x, y in ends:
        height = float(inside.transform(axes.transData.transform((x, y)))[1])
        placed.append((min(max(height, 0.0), 1.0) if math.isfinite(height) else 1.0, spec))
    placed.sort(key=lambda item: item[0])
    heights = [height for height, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for height, (_, spec) in zip(heights, placed, strict=True):
        axes.annotate(
            spec.label,
            (1.0, height),
            xytext=(4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=colour(spec),
            fontweight="bold",
            annotation_clip=False,
        )
