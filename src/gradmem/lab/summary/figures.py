"""The figures of a summary."""

from collections.abc import Mapping
from itertools import cycle

from matplotlib.axes import Axes

from gradmem.lab.axes import plain
from gradmem.lab.drawing import GRID, INK, Draw
from gradmem.lab.figures import Look, looks_of, performance_profile
from gradmem.lab.summary.findings import Findings
from gradmem.lab.summary.reading import Compared, Pair

WIDEST = 4.0  # half widths; what lies farther out is drawn there
LANES = (0.0, 0.12, -0.12, 0.24, -0.24)  # so that dots of one row do not hide each other


def panels(found: Findings) -> list[tuple[str, Draw, str]]:
    """Heading, drawing and caption of each."""
    shown: list[tuple[str, Draw, str]] = []
    if any(pair.interval for each in found.compared for pair in each.pairs):
        shown.append(
            (
                "with a memory, less its base",
                differences(found),
                "One dot a task: the mean difference in test score as a multiple of half its 95% "
                "interval, better to the right; filled where the comparison calls it better or "
                f"worse. What is more than {WIDEST:g} away lies on the edge.",
            )
        )
    for field in found.fields:
        heading = f"performance profile, {len(field.tasks)} tasks"
        caption = (
            "Share of the tasks on which the target was reached within so many times the steps of "
            "whoever of these was first there."
        )
        specs, ratios = zip(*((each.spec, each.ratios) for each in field.entries), strict=True)
        shown.append((heading, performance_profile(specs, ratios, "steps"), caption))
    return shown


def differences(found: Findings) -> Draw:
    """A row for each kind of pair, a dot for each task."""
    kinds = [(each.variant.name, each.base.name) for each in found.tallies]
    specs = {
        spec.name: spec for each in found.tallies for spec in (each.base, each.variant)
    }.values()
    look = looks_of(list(specs))
    labels = [f"{plain(each.variant.label)} ({each.tasks})" for each in found.tallies]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for end in (-1, 1):
            axes.axvline(end, color=GRID, linewidth=1.2, linestyle=(0, (3, 2)))
        lanes = {kind: cycle(LANES) for kind in kinds}
        for each in found.compared:
            for pair in each.pairs:
                kind = (pair.variant.name, pair.base.name)
                if (at := _place(each, pair)) is not None:
                    row = len(kinds) - 1 - kinds.index(kind) + next(lanes[kind])
                    _dot(axes, at, row, pair, look)
        axes.set_yticks(range(len(kinds)), list(reversed(labels)))
        axes.set_ylim(-0.6, len(kinds) - 0.4)
        axes.set_xlim(-WIDEST - 0.3, WIDEST + 0.3)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("difference / half its interval, better to the right")

    return draw


def _place(each: Compared, pair: Pair) -> float | None:
    if pair.interval is None:
        return None
    half = (pair.interval[1] - pair.interval[0]) / 2
    by = each.improvement(pair.difference)
    return max(-WIDEST, min(WIDEST, by / half)) if half else 0.0


def _dot(axes: Axes, at: float, row: float, pair: Pair, look: Mapping[str, Look]) -> None:
    colour = look[pair.variant.name].colour
    decided = pair.outcome != "tie"
    axes.scatter(
        *([at], [row]),
        s=26,
        facecolors=colour if decided else "none",
        edgecolors=colour,
        linewidths=1.3,
        zorder=3,
    )
