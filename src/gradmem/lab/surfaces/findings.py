"""What came out, in numbers, sentences and tables, for the terminal and the page alike."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradmem.lab.findings import Table
from gradmem.lab.run import versions
from gradmem.lab.surfaces.paths import Path
from gradmem.lab.surfaces.plan import RATES, Entrant, Plan
from gradmem.lab.surfaces.search import Result, floor, score

CSV_HEADING = (
    *("optimizer", "learning_rate", "shown", "seed", "steps", "start_loss", "final_loss"),
    *("best_loss", "minimum", "distance", "solved_step", "left_step", "diverged"),
)
GAP_NOTE = (
    "A gap is a loss less the surface's minimum; the lowest is over the points in the box. The "
    "distance is from the end of the path to the nearest minimiser."
)
CAVEAT = (
    "One start on one formula of a few numbers: it shows how an optimizer moves, not how it trains "
    "a network."
)


@dataclass(frozen=True)
class Findings:
    """All that the page and the terminal say."""

    plan: Plan
    results: tuple[Result, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that are shown."""
        return tuple(result.path for result in self.results)


def title(found: Findings) -> str:
    """The page's heading."""
    return f"{_listed(path.entrant.label for path in found.paths)} on {found.plan.surface.title}"


def subtitle(found: Findings) -> str:
    """Where and how long."""
    plan = found.plan
    noise = f" · noise {plan.noise:g}" if plan.noise else ""
    return f"from {point(plan.start)} · {plan.steps:,} steps{noise}"


def verdicts(found: Findings) -> list[str]:
    """Who ended lowest, who was soonest, and what that means."""
    return [_lowest(found), _soonest(found), CAVEAT]


def _lowest(found: Findings) -> str:
    inside = [path for path in found.paths if path.ends_inside]
    if not inside:
        return "No path ended in the box, so none has a final loss to compare."
    least = min(inside, key=score)
    equal = [path for path in inside if score(path)[0] == score(least)[0]]
    if len(equal) == 1 or least.gap > floor(least):
        names = _listed(path.entrant.label for path in equal)
        return f"Lowest at the end: {names}, {number(least.gap)} above the minimum."
    names = _listed(path.entrant.label for path in equal)
    return f"At the minimum, to rounding: {names}."


def _soonest(found: Findings) -> str:
    share = f"{_percent(found.plan)} of the gap at the start"
    steps = {path.entrant.label: path.solved for path in found.paths}
    solved = {label: step for label, step in steps.items() if step is not None}
    if not solved:
        return f"None came within {share}."
    soonest = min(solved.values())
    names = _listed(label for label, step in solved.items() if step == soonest)
    return f"First within {share}: {names}, at step {soonest:,}."


def warnings(found: Findings) -> list[str]:
    """What the reader must know before comparing."""
    lines = []
    for result in found.results:
        path, label = result.path, result.entrant.label
        if result.edge is not None:
            lines.append(
                f"{label}: the chosen learning rate, {path.rate:g}, is the {result.edge} end of "
                "those tried; a better one may lie beyond"
            )
        if path.diverged:
            lines.append(f"{label} diverged: not finite at step {path.steps:,}")
        elif not path.ends_inside:
            lines.append(
                f"{label} left the box at step {path.left:,} and ended outside, where the "
                "minimum and the final loss mean nothing"
            )
    return [*lines, *_unequal_steps(found.paths)]


def _unequal_steps(paths: Sequence[Path]) -> Iterable[str]:
    """`sum` lengthens the step: at an equal learning rate that alone is a difference."""
    for path in paths:
        factor = path.entrant.factor
        plain = [
            other.entrant.label
            for other in paths
            if other.rate == path.rate
            and other.entrant.spec.proportional
            and other.entrant.factor == 1
        ]
        if factor != 1 and plain:
            yield (
                f"{path.entrant.label} adds its memory's mean to the gradient (aggregate sum, "
                f"kappa {factor - 1:g}), which makes its step about {factor:g} times as long "
                f"as that of {_listed(plain)} at the same learning rate, {path.rate:g}: compare "
                f"with a base at {factor * path.rate:g} as well"
            )


def result_table(found: Findings) -> Table:
    """A row an optimizer."""
    heading = (
        *("optimizer", "learning rate", "final loss", "final gap", "lowest gap", "distance"),
        f"steps to {_percent(found.plan)}",
        "left the box",
    )
    return Table(heading, tuple(_row(path) for path in found.paths))


def _row(path: Path) -> tuple[str, ...]:
    return (
        path.entrant.label,
        f"{path.rate:g}",
        number(path.final),
        number(path.final - path.least),
        number(path.best - path.least),
        number(path.distance),
        "never" if path.solved is None else f"{path.solved:,}",
        _leaving(path),
    )


def _leaving(path: Path) -> str:
    if path.diverged:
        return f"diverged at {path.steps:,}"
    if path.left is None:
        return "no"
    return f"at {path.left:,}" + (", back" if path.ends_inside else "")


def settings_table(found: Findings) -> Table:
    """Everything that would give the same paths again."""
    plan = found.plan
    surface, n = plan.surface, plan.dimension
    minimisers = surface.minimisers(n)
    formula = " ".join((surface.function.__doc__ or "").split())
    rows = {
        "surface": f"{surface.title}: {formula}",
        "described in": surface.reference,
        "box": _box(plan),
        "minimum": f"{surface.minimum(n):.10g} at {point(minimisers[0].tolist())}"
        + (f" and {len(minimisers) - 1} more" if len(minimisers) > 1 else ""),
        "start": f"{point(plan.start)}, loss {number(float(found.paths[0].losses[0]))}",
    }
    if surface.note:
        rows["note"] = surface.note
    if plan.noise:
        rows["noise"] = (
            f"normal, standard deviation {plan.noise:g} in every coordinate of every gradient, "
            f"seed {plan.fresh_seed}, the same for all"
        )
    rows |= {each.label: _options(each) for each in plan.entrants}
    return Table(("setting", "value"), tuple(rows.items()))


def _options(entrant: Entrant) -> str:
    shown = {k: v for k, v in entrant.options.items() if k not in ("seed", "weight_decay")}
    return ", ".join(f"{k}={v}" for k, v in (shown | entrant.memory).items()) or "as it comes"


def _box(plan: Plan) -> str:
    box = plan.surface.box(plan.dimension)
    sides = [f"[{low:.6g}, {high:.6g}]" for low, high in box]
    return f"{sides[0]} in every coordinate" if len(set(sides)) == 1 else " x ".join(sides)


def method_sentences(found: Findings) -> list[str]:
    """How the numbers were made, so that the page can be judged by itself."""
    plan = found.plan
    gradients = "noisy gradients" if plan.noise else "exact gradients"
    return [
        f"Every optimizer starts at the same point and sees {gradients} in float64; weight decay "
        "is off, for it would move the minimum. The box is not enforced: a path may leave it and "
        "come back, but what it finds outside does not count.",
        _rates_sentence(plan),
        f"Solved is the first step in the box whose gap is at most {_percent(plan)} of the gap "
        "at the start.",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + ".",
    ]


def _rates_sentence(plan: Plan) -> str:
    if not plan.searched:
        return "The learning rates were given, not searched for: a ranking may be theirs."
    shown = " The path shown is on another draw of the noise than the search." if plan.noise else ""
    return (
        f"Learning rates: the same {len(RATES)} for every optimizer, from {RATES[0]:g} to "
        f"{RATES[-1]:g}, half a decade apart, each run for {plan.steps:,} steps on this surface "
        "from this start. The lowest final loss in the box is chosen; among those at the minimum "
        f"to rounding, the soonest.{shown} All other options are as they come."
    )


def rates_line(found: Findings) -> str | None:
    """What the search did, in a line for the terminal."""
    if not found.plan.searched:
        return None
    chosen = ", ".join(f"{path.entrant.label} {path.rate:g}" for path in found.paths)
    tried = f"{len(RATES)} tried for each, {RATES[0]:g} to {RATES[-1]:g}"
    return f"Learning rates: {tried}; best {chosen}."


def csv_page(found: Findings) -> str:
    """One line a path: those shown, and those the learning rates were chosen from."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADING)
    plan = found.plan
    for result in found.results:
        for path in result.trials:
            if path is not result.path:
                writer.writerow(_csv_row(path, "no", plan.seed))
        writer.writerow(_csv_row(result.path, "yes", plan.fresh_seed))
    return buffer.getvalue()


def _csv_row(path: Path, shown: str, seed: int) -> tuple[object, ...]:
    return (
        *(path.entrant.name, path.rate, shown, seed, path.steps, float(path.losses[0])),
        *(path.final, path.best, path.least, path.distance, path.solved, path.left),
        "yes" if path.diverged else "no",
    )


def number(value: float) -> str:
    """Three digits, short; not below zero by a rounding.

    >>> number(0.0001234), number(12345.6), number(-959.6406), number(math.inf)
    ('1.23e-04', '1.23e+04', '-960', 'inf')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.2e}" if not 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def point(coordinates: Sequence[float]) -> str:
    """A point in brackets, the first few coordinates of a long one.

    >>> point([1.0, 0.5]), point([0.0] * 30)
    ('(1, 0.5)', '(0, 0, 0, 0, ... 30 in all)')
    """
    shown = ", ".join(f"{c:.7g}" for c in coordinates[:4])
    more = f", ... {len(coordinates)} in all" if len(coordinates) > 4 else ""
    return f"({shown}{more})"


def _percent(plan: Plan) -> str:
    return f"{100 * plan.tolerance:.3g}%"


def _listed(names: Iterable[str]) -> str:
    *head, last = names
    return f"{', '.join(head)} and {last}" if head else last
