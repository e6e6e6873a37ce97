"""The figures of a comparison."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.drawing import CSS_COLOURS, HUES, INK, Draw, name_ends, panel, picture
from gradmem.lab.optimizers import Spec
from gradmem.lab.score import Difference, expected_best
from gradmem.lab.tasks.base import Metric


def colour(spec: Spec) -> str:
    """A base and its memory variant share a hue."""
    return HUES[spec.base or spec.name]


def css_colour(spec: Spec) -> str:
    """The same hue, as the page's style sheet calls it."""
    return CSS_COLOURS[colour(spec)]


def dashes(spec: Spec) -> str | tuple[float, tuple[float, ...]]:
    """The base is dashed, the memory variant solid."""
    return "-" if spec.base else (0, (3, 2))


def overview(comparison: Comparison, found: Sequence[Difference]) -> str:
    """Validation loss and, if there are pairs, differences by seed: a picture of its own."""
    metric = comparison.plan.task.metric
    panels = [("validation loss", _draw_curves(comparison, "validation_loss"))]
    if found:
        heading = f"test {metric.name}: memory variant less its base, a dot a seed"
        panels.append((heading, _draw_differences(found, metric)))
    return picture(panels)


def learning_curves(comparison: Comparison, quantity: str) -> str:
    """One of a run's curves by step: the median over the seeds and the middle four fifths."""
    return panel(_draw_curves(comparison, quantity))


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
            ends.append((spec.label, colour(spec), float(middle[-1])))
        if quantity == "validation_score":
            _zoom(axes, comparison)
            scale = comparison.plan.task.metric.scale
            axes.yaxis.set_major_formatter(lambda value, _: f"{value * scale:g}")
        else:
            _log_scale(axes)
        axes.set_xlabel("steps")
        axes.margins(x=0.01)
        name_ends(axes, ends)

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

    return panel(draw)


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
            ends.append((spec.label, colour(spec), best[-1]))
        _log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trials")
        axes.margins(x=0.01)
        name_ends(axes, ends)

    return panel(draw)


def differences(found: Sequence[Difference], metric: Metric) -> str:
    """Every seed's difference as a dot; the mean and its interval above them."""
    return panel(_draw_differences(found, metric), height=1.4 + 0.7 * len(found))


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
