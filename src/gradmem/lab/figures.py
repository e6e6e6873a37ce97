"""The figures of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

from gradmem.lab.axes import log_scale, plain, rate_axis, zoom
from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.drawing import HUES, INK, Draw, name_ends, panel, picture
from gradmem.lab.optimizers import Spec
from gradmem.lab.score import Difference, Score
from gradmem.lab.sensitivity import Group, Sensitivity
from gradmem.lab.statistics import TAU, best_after, profile
from gradmem.lab.tasks.base import Metric

Dashes: TypeAlias = str | tuple[float, tuple[float, ...]]
Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]

LOW, HIGH = 0.1, 0.9  # ends of the bands
MOST_BANDS = 8


@dataclass(frozen=True)
class Look:
    """How an optimizer is drawn; a base and its memory variant share a hue."""

    colour: str
    dashes: Dashes
    filled: bool


def looks(comparison: Comparison) -> dict[str, Look]:
    """Those of its optimizers."""
    return looks_of([each.spec for each in comparison.results])


def looks_of(specs: Sequence[Spec]) -> dict[str, Look]:
    """By name: the house's hue where it has one for the base, else one that is left."""
    families = list(dict.fromkeys(spec.base or spec.name for spec in specs))
    spare = cycle([*(HUES[name] for name in HUES if name not in families), *HUES.values()])
    hues = {family: HUES.get(family) or next(spare) for family in families}
    seen = list(hues.values())
    rounds = {family: seen[:i].count(hues[family]) for i, family in enumerate(families)}
    return {spec.name: _look(spec, specs, hues, rounds) for spec in specs}


# The base is dashed, its first memory variant solid; another, or a hue that comes again, has dots.
BASES: tuple[Dashes, ...] = ((0, (3, 2)), (0, (1, 1.5)), (0, (1, 3.5)))
VARIANTS: tuple[Dashes, ...] = (
    "-",
    (0, (9, 1.5, 1, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (9, 1.5)),
    (0, (9, 1.5, 3, 1.5)),
)


def _look(
    spec: Spec, specs: Sequence[Spec], hues: Mapping[str, str], rounds: Mapping[str, int]
) -> Look:
    if spec.base is None:
        return Look(hues[spec.name], BASES[rounds[spec.name] % len(BASES)], filled=False)
    siblings = [other.name for other in specs if other.base == spec.base]
    place = 2 * rounds[spec.base] + siblings.index(spec.name)
    return Look(hues[spec.base], VARIANTS[place % len(VARIANTS)], filled=True)


def overview(
    comparison: Comparison,
    found: Sequence[Difference],
    more: Sequence[tuple[str, Draw]] = (),
) -> str:
    """Validation loss and, if there are pairs, differences by seed: a picture of its own.

    ``more`` are further drawings with their headings.
    """
    metric = comparison.plan.task.metric
    panels = [("validation loss", curves(comparison, "validation_loss"))]
    if found:
        whose = "variant less base" if found[0].variant.base else "less the first named"
        heading = f"test {plain(metric.name)}: {whose}"
        panels.append((heading, differences(comparison, found)))
    return picture([*panels, *more])


def has_bands(comparison: Comparison) -> bool:
    """Whether lines have bands: of too many, they would cover each other."""
    return len(comparison.results) <= MOST_BANDS


def curves(comparison: Comparison, quantity: str, less: float = 0.0) -> Draw:
    """One of a run's curves by step: the median over the seeds and the middle four fifths.

    ``less`` is taken off all values.
    """
    look = looks(comparison)

    def draw(axes: Axes) -> None:
        ends = []
        for each in comparison.results:
            steps, rows = _rows(each, quantity)
            if not len(rows):
                continue
            mine = look[each.spec.name]
            low, middle, high = np.quantile(rows, (LOW, 0.5, HIGH), axis=0) - less
            strength = 0.2 if mine.filled else 0.09  # so that a base and its variant stay apart
            if has_bands(comparison):
                axes.fill_between(steps, low, high, color=mine.colour, alpha=strength, linewidth=0)
            axes.plot(steps, middle, color=mine.colour, linestyle=mine.dashes, linewidth=1.8)
            ends.append((plain(each.spec.label), mine.colour, float(middle[-1])))
        if quantity == "validation_score":
            metric = comparison.plan.task.metric
            zoom(axes, _late_scores(comparison), upper=metric.higher_is_better)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value * metric.scale:g}")
        else:
            log_scale(axes)
        axes.set_xlabel("steps")
        axes.margins(x=0.01)
        name_ends(axes, ends)

    return draw


def _rows(each: Evaluated, quantity: str) -> tuple[Vector, Matrix]:
    """Steps at the ends of epochs, and the curves of the runs that came to their end."""
    finished = [run for run in each.runs if run.status == "ok"]
    rows = np.array([getattr(run.curves, quantity) for run in finished], dtype=float)
    if not rows.size:
        return np.empty(0), np.empty((0, 0))
    return np.arange(1.0, rows.shape[1] + 1) * finished[0].steps_per_epoch, rows


def _late_scores(comparison: Comparison) -> list[float]:
    """Validation scores without the first climb."""
    return [
        value
        for each in comparison.results
        for run in each.runs
        for value in run.curves.validation_score[len(run.curves.validation_score) // 4 :]
    ]


def trials(comparison: Comparison) -> Draw:
    """Validation loss of every trial by its learning rate; the best one is ringed."""
    look = looks(comparison)

    def draw(axes: Axes) -> None:
        worst = usable_ceiling(comparison.results)
        for each in comparison.results:
            tried = [trial for trial in each.tuned.trials if "lr" in trial.options]
            rates = [trial.options["lr"] for trial in tried]
            losses = [min(trial.validation_loss, worst) for trial in tried]
            mine = look[each.spec.name]
            _dots(axes, rates, losses, mine, 22)
            best = each.tuned.best
            if best in tried:
                at = tried.index(best)
                ring = Look(mine.colour, mine.dashes, filled=False)
                _dots(axes, [rates[at]], [losses[at]], ring, 110)
        log_scale(axes)
        spaces = [rate for each in comparison.results if (rate := each.spec.learning_rate)]
        rate_axis(axes, [(rate.low, rate.high) for rate in spaces])
        axes.set_xlabel("learning rate (the axis is the space searched)")

    return draw


def _dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], look: Look, size: float, alpha: float = 1.0
) -> None:
    axes.scatter(
        x,
        y,
        s=size,
        facecolors=look.colour if look.filled else "none",
        edgecolors=look.colour,
        linewidths=1.2,
        alpha=alpha,
    )


def usable_ceiling(results: Sequence[Evaluated]) -> float:
    """Losses above this, infinite ones too, are drawn at the upper edge."""
    losses = [t.validation_loss for each in results for t in each.tuned.trials]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return 1.0
    middle = float(np.median(finite))
    return min(10.0 * middle, max(finite)) if middle > 0 else max(finite)


def search_progress(comparison: Comparison) -> Draw:
    """The best validation loss one may expect after so many trials, and how far luck moves it."""
    look = looks(comparison)

    def draw(axes: Axes) -> None:
        ends, worst = [], usable_ceiling(comparison.results)
        for each in comparison.results:
            losses = [trial.validation_loss for trial in each.tuned.trials]
            low, middle, high = (
                np.minimum(best_after(losses, share), worst) for share in (LOW, 0.5, HIGH)
            )
            mine, count = look[each.spec.name], np.arange(1, len(losses) + 1)
            strength = 0.16 if mine.filled else 0.07
            if has_bands(comparison):
                axes.fill_between(count, low, high, color=mine.colour, alpha=strength, linewidth=0)
            axes.plot(count, middle, color=mine.colour, linestyle=mine.dashes, linewidth=1.8)
            ends.append((plain(each.spec.label), mine.colour, float(middle[-1])))
        log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trials")
        axes.margins(x=0.01)
        name_ends(axes, ends)

    return draw


def differences(comparison: Comparison, found: Sequence[Difference]) -> Draw:
    """Every seed's difference as a dot; the mean and its interval above them."""
    metric, look = comparison.plan.task.metric, looks(comparison)

    def draw(axes: Axes) -> None:
        for row, each in enumerate(found):
            finite = [value for value in each.by_seed if math.isfinite(value)]
            values = np.array(finite) * metric.scale
            tint = look[each.variant.name].colour
            heights = _stacked(values, row)
            axes.scatter(values, heights, s=20, color=tint, alpha=0.45, linewidths=0)
            if each.estimate.interval is not None:
                ends = [edge * metric.scale for edge in each.estimate.interval]
                axes.plot(ends, [row - 0.3] * 2, color=tint, linewidth=2.6, solid_capstyle="round")
            if math.isfinite(each.estimate.mean):
                axes.scatter([each.estimate.mean * metric.scale], [row - 0.3], s=46, color=tint)
        axes.axvline(0, color=INK, linewidth=1)
        names = [f"{plain(each.variant.label)}\n− {plain(each.base.label)}" for each in found]
        axes.set_yticks(range(len(found)), names)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        reach = max(abs(value) for value in axes.get_xlim())
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(_difference_label(metric))

    return draw


def _difference_label(metric: Metric) -> str:
    unit = metric.difference_unit
    return f"difference in test {plain(metric.name)}" + (f", {plain(unit)}" if unit else "")


def differences_panel(comparison: Comparison, found: Sequence[Difference]) -> str:
    """The same for a page, as high as there are pairs."""
    return panel(differences(comparison, found), height=1.4 + 0.7 * len(found))


def _stacked(values: Vector, row: int) -> list[float]:
    """Heights that put equal values below each other instead of on top of each other."""
    rounded = values.round(9).tolist()
    gap = min(0.1, 0.5 / max(map(rounded.count, rounded), default=1))
    return [row + gap * rounded[:i].count(value) for i, value in enumerate(rounded)]


def profiles(scores: Sequence[Score], by: str) -> Draw:
    """Performance profiles by "steps" or by "time"."""
    ratios = [each.step_ratios if by == "steps" else each.time_ratios for each in scores]
    return performance_profile([each.spec for each in scores], ratios, by)


def performance_profile(specs: Sequence[Spec], ratios: Sequence[Sequence[float]], by: str) -> Draw:
    """Shares of the problems on which each was within so many times the least cost."""
    look = looks_of(specs)

    def draw(axes: Axes) -> None:
        ends = []
        for spec, own in zip(specs, ratios, strict=True):
            jumps = sorted({1.0, *(ratio for ratio in own if ratio <= TAU), TAU})
            shares = [profile(own, tau) for tau in jumps]
            mine = look[spec.name]
            axes.step(
                *(jumps, shares),
                where="post",
                color=mine.colour,
                linestyle=mine.dashes,
                linewidth=1.8,
            )
            ends.append((plain(spec.label), mine.colour, shares[-1]))
        axes.set_xlim(1, TAU)
        axes.set_ylim(-0.02, 1.04)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel(f"{by} to the target, as a multiple of the least")
        name_ends(axes, ends)

    return draw


def sensitivity(comparison: Comparison, found: Sequence[Sensitivity]) -> Draw:
    """Validation losses of the trials by the value of one option, side by side where several had
    it; the best and the median of each value as lines.
    """
    look = looks(comparison)
    names = list(dict.fromkeys(group.value for each in found for group in each.groups))
    width = 0.7 / max(1, len(found))

    def draw(axes: Axes) -> None:
        worst = usable_ceiling(comparison.results)
        for i, each in enumerate(found):
            mine = look[each.spec.name]
            for group in each.groups:
                at = names.index(group.value) + width * (i - (len(found) - 1) / 2)
                _column(axes, at, 0.36 * width, group, mine, worst)
        log_scale(axes)
        axes.xaxis.set_major_locator(FixedLocator(range(len(names))))
        axes.xaxis.set_major_formatter(lambda k, _: plain(names[round(k)]))
        axes.set_xlim(-0.55, len(names) - 0.45)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(plain(found[0].option))

    return draw


def _column(axes: Axes, at: float, half: float, group: Group, look: Look, worst: float) -> None:
    """The dots of one value, with its best (thick) and its median (thin)."""
    losses = [min(loss, worst) for loss in group.losses]
    dots = Look(look.colour, look.dashes, filled=True)
    _dots(axes, [at] * len(losses), losses, dots, 14, alpha=0.45)
    for level, strength in ((group.best, 2.8), (group.median, 1.2)):
        height = min(level, worst)
        axes.plot([at - half, at + half], [height] * 2, color=look.colour, linewidth=strength)


def held_at_end(comparison: Comparison) -> Draw:
    """Ages of the gradients in memory when each evaluation run ended, one column a run."""
    look = looks(comparison)
    columns = [
        (each.spec, run.memory[0]) for each in comparison.results for run in each.runs if run.memory
    ]

    def draw(axes: Axes) -> None:
        for i, (spec, scope) in enumerate(columns):
            ages = [age for age in scope["ages"] if age > 0]
            mine = look[spec.name]
            _dots(axes, [i] * len(ages), ages, mine, 16, alpha=0.6)
            axes.plot([i - 0.4, i + 0.4], [scope["capacity"]] * 2, color=INK, linewidth=1.1)
        log_scale(axes)
        axes.set_ylabel("age in steps")
        axes.grid(visible=False, axis="x")
        specs = [spec.name for spec, _ in columns]
        labels = {spec.name: spec.label for spec, _ in columns}
        middles = [specs.index(name) + (specs.count(name) - 1) / 2 for name in dict.fromkeys(specs)]
        axes.set_xticks(middles, [plain(label) for label in labels.values()])
        axes.set_xlim(-0.8, len(columns) - 0.2)

    return draw
