"""What a comparison says, in tables and sentences, for the terminal and every page alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradmem.lab.compare import FIRST_EVALUATION_SEED, Comparison
from gradmem.lab.run import RunResult
from gradmem.lab.score import Difference, Estimate, Score, difference, pairs, score, verdict
from gradmem.lab.tasks.base import Metric


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

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each pair."""
        metric = self.comparison.plan.task.metric
        return [verdict(found, metric) for found in self.differences] or [
            "One optimizer alone: nothing to compare it with."
        ]


def findings(comparison: Comparison) -> Findings:
    """Everything the runs allow one to say."""
    edges = [each.tuned.edge_warning() for each in comparison.results]
    scores = tuple(score(each) for each in comparison.results)
    diverged = [
        f"{each.spec.label}: {each.diverged} of {len(each.evaluated.runs)} evaluation runs "
        "diverged; they count with the worst score"
        for each in scores
        if each.diverged
    ]
    return Findings(
        comparison=comparison,
        scores=scores,
        differences=tuple(difference(base, variant) for base, variant in pairs(comparison)),
        warnings=(*(edge for edge in edges if edge is not None), *diverged),
    )


def score_table(found: Findings) -> Table:
    """One row per optimizer."""
    task = found.comparison.plan.task
    metric = task.metric
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
    seconds = {each.spec.name: each.seconds_per_step for each in found.scores}
    rows = (_score_row(each, metric, _time_ratio(each, seconds)) for each in found.scores)
    return Table(heading, tuple(rows))


def _time_ratio(each: Score, seconds: Mapping[str, float]) -> str:
    """Time of a whole step against the base's in the same comparison; absolute times say little."""
    base = seconds.get(each.spec.base or each.spec.name)
    return f"{each.seconds_per_step / base:.1f}" if base else "-"


def _score_row(each: Score, metric: Metric, time_ratio: str) -> tuple[str, ...]:
    seeds = len(each.evaluated.runs)
    steps = "never" if math.isinf(each.steps_to_target) else f"{each.steps_to_target:.0f}"
    return (
        each.spec.label,
        show_estimate(each.test, metric.scale, metric.decimals),
        show_estimate(each.validation, metric.scale, metric.decimals),
        show_estimate(each.validation_loss, 1.0, 3),
        steps + (f" ({each.reached}/{seeds})" if each.reached < seeds else ""),
        time_ratio,
        f"{each.state_bytes / 1e3:.1f}",
    )


def show_estimate(estimate: Estimate, scale: float, decimals: int) -> str:
    """A mean and the half width of its interval.

    >>> show_estimate(Estimate(0.95, (0.94, 0.96)), scale=100, decimals=1)
    '95.0 ± 1.0'
    """
    mean = f"{estimate.mean * scale:.{decimals}f}"
    if estimate.interval is None:
        return mean
    low, high = estimate.interval
    return f"{mean} ± {(high - low) / 2 * scale:.{decimals}f}"


def settings_table(found: Findings) -> Table:
    """What was chosen, out of how much."""
    rows = []
    for each in found.comparison.results:
        options = ", ".join(f"{name}={value}" for name, value in each.options.items())
        rate = each.spec.learning_rate
        diverged = sum(trial.status == "diverged" for trial in each.tuned.trials)
        rows.append(
            (
                each.spec.label,
                options,
                f"{rate.low:g} to {rate.high:g}",
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
        for scope in each.runs[0].memory
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


def method_sentences(found: Findings) -> list[str]:
    """The protocol, so that the page can be judged by itself."""
    plan = found.comparison.plan
    first = FIRST_EVALUATION_SEED
    versions = found.comparison.results[0].runs[0].config.versions
    return [
        f"Task: {plan.task.title}. {plan.epochs} epochs, batches of "
        f"{plan.task.budget.batch_size}, constant learning rate. The split into training, "
        "validation and test is fixed and stratified.",
        f"Tuning: {plan.trials} quasi-random settings for every optimizer, the same number whether "
        "its space is small or large; a memory variant searches its base's space and the memory's "
        "options on top. The setting with the lowest validation loss wins.",
        f"Evaluation: fresh seeds {first} to {first + plan.seeds - 1} at that setting. The test "
        "split is read once a run, with the weights of the epoch of lowest validation loss. A run "
        "that diverges counts with the worst score.",
        "Means carry Student's 95% intervals; paired differences a percentile bootstrap over "
        "seeds. Steps to the target are medians to a whole epoch, a missed target counting as "
        "infinite. Step time is the median of forward, backward and update on one thread, as a "
        "ratio to the base's in the same comparison.",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
    ]


SETTINGS_NOTE = (
    "A memory variant pays for its extra dimensions out of the same number of trials. A best "
    "learning rate at an end of its space would be warned of above."
)


def title(found: Findings) -> str:
    """The report's heading."""
    labels = ", ".join(each.spec.label for each in found.scores)
    return f"{labels} on {found.comparison.plan.task.name}"
