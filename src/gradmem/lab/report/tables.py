"""The report's tables beside those that the terminal shows."""

import math
import statistics

from gradmem.lab.findings import (
    Findings,
    Table,
    base_of,
    show_ratio,
    show_steps,
    step_time_ratio,
)
from gradmem.lab.score import Difference, Score, show_p
from gradmem.lab.sensitivity import Sensitivity, sensitivities

OUTCOMES = {"win": "better", "tie": "no difference found", "loss": "worse"}


def comparison_table(found: Findings) -> Table:
    """One row per pair: the difference, what the tests say, and how it counts."""
    metric = found.metric
    unit = metric.difference_unit
    heading = (
        "pair",
        "outcome",
        f"difference in test {metric.name}" + (f", {unit}" if unit else ""),
        "95% interval",
        "p, corrected",
        "p, Welch",
        "p, Wilcoxon",
        "seeds ahead / equal / behind",
    )
    return Table(heading, tuple(_comparison_row(each, found) for each in found.differences))


def _comparison_row(each: Difference, found: Findings) -> tuple[str, ...]:
    metric, interval = found.metric, each.estimate.interval
    return (
        f"{each.variant.label} − {each.base.label}",
        OUTCOMES[each.outcome] if len(each.by_seed) > 1 else "one seed says nothing",
        metric.show_difference(each.estimate.mean) if each.by_seed else "-",
        "-" if interval is None else " to ".join(map(metric.show_difference, interval)),
        show_p(each.p),
        show_p(each.welch),
        show_p(each.wilcoxon),
        " / ".join(map(str, _seeds(each, higher_is_better=metric.higher_is_better))),
    )


def _seeds(each: Difference, *, higher_is_better: bool) -> tuple[int, int, int]:
    """On how many seeds the variant is ahead, equal and behind."""
    signs = [(value > 0) - (value < 0) for value in each.by_seed]
    more, equal, less = (signs.count(sign) for sign in (1, 0, -1))
    return (more, equal, less) if higher_is_better else (less, equal, more)


def standing_table(found: Findings) -> Table:
    """Ranks, and what it took to reach the target."""
    heading = (
        "optimizer",
        "mean rank",
        "reached",
        "steps, median",
        "time, base = 1",
        "profile, steps",
        "profile, time",
    )
    return Table(heading, tuple(_standing_row(each, found) for each in found.scores))


def _standing_row(each: Score, found: Findings) -> tuple[str, ...]:
    base = base_of(each, found)
    return (
        each.spec.label,
        _number(each.rank),
        f"{each.reached} of {len(each.evaluated.runs)}",
        show_steps(each.steps_to_target),
        show_ratio(each.seconds_to_target, base.seconds_to_target if base else 0.0),
        *map(_number, each.areas),
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def cost_table(found: Findings) -> Table:
    """Time and memory, beside those of the base."""
    heading = (
        "optimizer",
        "time of a step, base = 1",
        "time of a run, base = 1",
        "state, bytes",
        "of it, stored gradients",
    )
    return Table(heading, tuple(_cost_row(each, found) for each in found.scores))


def _cost_row(each: Score, found: Findings) -> tuple[str, ...]:
    base = base_of(each, found)
    stored = max(
        (sum(scope["bytes"] for scope in run.memory) for run in each.evaluated.runs), default=0
    )
    return (
        each.spec.label,
        step_time_ratio(each, found),
        show_ratio(_run_time(each), _run_time(base) if base else 0.0),
        f"{each.state_bytes:,}",
        f"{stored:,}" if stored else "-",
    )


def _run_time(each: Score) -> float:
    return statistics.median([run.seconds for run in each.evaluated.runs] or [0.0])


def sensitivity_table(found: Findings) -> Table:
    """Best and median validation loss by value of every option searched."""
    rows = [row for each in sensitivities(found.comparison) for row in _sensitivity_rows(each)]
    heading = ("optimizer", "option", "value", "trials", "best loss", "median loss")
    return Table(heading, tuple(rows))


def _sensitivity_rows(each: Sensitivity) -> list[tuple[str, ...]]:
    return [
        (
            each.spec.label,
            each.option,
            group.value,
            str(len(group.losses)),
            _loss(group.best, group.losses),
            _loss(group.median, group.losses),
        )
        for group in each.groups
    ]


def _loss(value: float, losses: tuple[float, ...]) -> str:
    if not losses:
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "failed"
