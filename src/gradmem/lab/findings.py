"""What a comparison says, in tables and sentences, for the terminal and every page alike."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.origin import Origin
from gradmem.lab.run import RunResult
from gradmem.lab.score import (
    FAILURES,
    Difference,
    Score,
    differences,
    headline,
    scores,
    verdict,
)
from gradmem.lab.statistics import Estimate
from gradmem.lab.tasks.base import Metric

if TYPE_CHECKING:
    from gradmem.lab.bound.beside import Beside


@dataclass(frozen=True)
class Table:
    """A heading and rows of text; the first column is a name."""

    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Findings:
    """All that the pages and the terminal say."""

    comparison: Comparison
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    origin: Origin = field(default_factory=Origin)

    @property
    def metric(self) -> Metric:
        """The task's."""
        return self.comparison.plan.task.metric

    @property
    def headline(self) -> str:
        """What can be concluded, in a sentence."""
        return headline(self.differences, self.metric)

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each pair."""
        return [verdict(found, self.metric) for found in self.differences] or [self.headline]

    @cached_property
    def theorem(self) -> "Beside | None":
        """What the convergence theorem says of the settings; takes some seconds where it does."""
        from gradmem.lab.bound.beside import beside  # which is said with tables of this module

        return beside(self.comparison)


def findings(comparison: Comparison, origin: Origin | None = None) -> Findings:
    """Everything the runs allow one to say.

    Args:
        comparison: the runs.
        origin: what else lies in their folder.
    """
    found = scores(comparison)
    return Findings(
        comparison=comparison,
        scores=found,
        differences=differences(comparison),
        warnings=tuple(_warnings(comparison, found)),
        origin=origin or Origin(),
    )


def _warnings(comparison: Comparison, found: tuple[Score, ...]) -> Iterator[str]:
    """Whatever makes the numbers less than they seem."""
    plan = comparison.plan
    if comparison.outstanding:
        yield (
            f"{comparison.outstanding} runs are yet to be made; this is about the {plan.seeds} "
            "seeds that are finished"
        )
    if plan.task.partial:
        yield plan.task.partial.rstrip(".")
    for each in comparison.results:
        yield from each.tuned.warnings()
        yield from _failed_trials(each)
    for score in found:
        label, runs = score.spec.label, score.evaluated.runs
        for how, count in score.failed.items():
            crashed = how == FAILURES["crashed"]
            counted = "are left out of the scores" if crashed else "count with the worst score"
            yield (
                f"{label}: {count} of {len(runs)} evaluation runs {how}; they {counted}"
                f"{_reason(runs) if crashed else ''}"
            )
        if len(runs) > 2 and len({run.test_score for run in runs}) == 1 and not score.failed:
            yield (
                f"{label}: the test scores of all {len(runs)} seeds are equal, so either chance "
                "has no part in this task or the score is too coarse to show it"
            )


def _failed_trials(each: Evaluated) -> Iterator[str]:
    """Trials that ended for reasons that say nothing about their setting."""
    if not math.isfinite(each.tuned.best.validation_loss):
        return  # that none succeeded is said already
    runs = [run for trial in each.tuned.trials for run in trial.runs]
    if crashed := each.tuned.count("crashed"):
        of = f"{crashed} of {len(each.tuned.trials)} trials crashed"
        yield f"{each.spec.label}: {of}{_reason(runs)}"
    if late := each.tuned.count("timeout"):
        of = f"{late} of {len(each.tuned.trials)} trials ran out of time"
        yield f"{each.spec.label}: {of}; slow settings are at a disadvantage"


def _reason(runs: tuple[RunResult, ...] | list[RunResult]) -> str:
    reason = next((run.reason for run in runs if run.error), "")
    return reason and f": {reason.rstrip('.')}"


def tracebacks(found: Findings) -> dict[str, str]:
    """For each distinct reason of a crash one traceback, by whose run it was."""
    seen: dict[str, str] = {}
    shown: dict[str, str] = {}
    for each in found.comparison.results:
        tried = [run for trial in each.tuned.trials for run in trial.runs]
        for run in (*each.runs, *tried):
            if run.error and run.reason not in seen:
                seen[run.reason] = run.error
                shown[f"{each.spec.label}, seed {run.config.seed}: {run.reason}"] = run.error
    return shown


def score_table(found: Findings) -> Table:
    """One row per optimizer; it fits the terminal."""
    task, metric = found.comparison.plan.task, found.metric
    unit = f", {metric.unit}" if metric.unit else ""
    heading = (
        "optimizer",
        f"test {metric.name}{unit}",
        f"validation {metric.name}{unit}",
        "validation loss",
        f"steps to {task.target * metric.scale:g}{metric.unit}",
        "step time, base = 1",
        "state, kB",
    )
    rows = (_score_row(each, metric, step_time_ratio(each, found)) for each in found.scores)
    return Table(heading, tuple(rows))


def step_time_ratio(each: Score, found: Findings) -> str:
    """Time of a whole step against the base's in the same comparison; absolute times say little."""
    base = base_of(each, found)
    return show_ratio(each.seconds_per_step, base.seconds_per_step if base else 0.0)


def base_of(each: Score, found: Findings) -> Score | None:
    """Whom its cost is measured by: its base, itself if it has none, None if that is not here."""
    name = each.spec.base or each.spec.name
    return next((other for other in found.scores if other.spec.name == name), None)


def show_ratio(ours: float, theirs: float) -> str:
    """A ratio, or a dash where there is none.

    >>> show_ratio(3.0, 2.0), show_ratio(math.inf, 2.0), show_ratio(1.0, 0.0)
    ('1.5', '-', '-')
    """
    return f"{ours / theirs:.1f}" if 0 < theirs < math.inf and 0 < ours < math.inf else "-"


def _score_row(each: Score, metric: Metric, time_ratio: str) -> tuple[str, ...]:
    seeds = len(each.evaluated.runs)
    return (
        each.spec.label,
        show_estimate(each.test, metric.scale, metric.decimals),
        show_estimate(each.validation, metric.scale, metric.decimals),
        show_estimate(each.validation_loss, 1.0, 3),
        show_steps(each.steps_to_target)
        + (f" ({each.reached}/{seeds})" if each.reached < seeds else ""),
        time_ratio,
        f"{each.state_bytes / 1e3:.1f}",
    )


def show_steps(steps: float) -> str:
    """A number of steps, or that there is none."""
    return "never" if math.isinf(steps) else f"{steps:.0f}"


def show_estimate(estimate: Estimate, scale: float, decimals: int) -> str:
    """A mean and the half width of its interval.

    >>> show_estimate(Estimate(0.95, (0.94, 0.96)), scale=100, decimals=1)
    '95.0 ± 1.0'
    """
    middle = f"{estimate.mean * scale:.{decimals}f}"
    if estimate.interval is None:
        return middle
    low, high = estimate.interval
    return f"{middle} ± {(high - low) / 2 * scale:.{decimals}f}"


def settings_table(found: Findings) -> Table:
    """What was chosen, out of how much."""
    rows = []
    for each in found.comparison.results:
        options = ", ".join(f"{name}={value}" for name, value in each.options.items())
        rate = each.spec.learning_rate
        diverged = each.tuned.count("diverged")
        rows.append(
            (
                each.spec.label,
                options,
                f"{rate.low:g} to {rate.high:g}" if rate else "held fixed",
                str(len(each.spec.space)),
                f"{len(each.tuned.trials)}" + (f" ({diverged} diverged)" if diverged else ""),
            )
        )
    heading = ("optimizer", "best setting", "learning rates searched", "dimensions", "trials")
    return Table(heading, tuple(rows))


def memory_sentences(found: Findings) -> list[str]:
    """What each memory did in its first evaluation run."""
    return [
        _memory_sentence(each.spec.label, scope, each.runs[0])
        for each in found.comparison.results
        for scope in (each.runs[0].memory if each.runs else ())
    ]


def _memory_sentence(label: str, scope: Mapping[str, Any], run: RunResult) -> str:
    where = f"{label}, scope {scope['name']}, seed {run.config.seed}"
    if not scope["occupied"]:
        return f"{where}: nothing was stored."
    return (
        f"{where}: {scope['occupied']} of {scope['capacity']} slots filled at the end, "
        f"{min(scope['ages'])} to {max(scope['ages'])} steps old; {scope['accepted_share']:.0%} of "
        f"{scope['steps']:,} steps changed the memory."
    )


def title(found: Findings) -> str:
    """The report's heading."""
    labels = ", ".join(each.spec.label for each in found.scores)
    return f"{labels} on {found.comparison.plan.task.name}"
