"""From runs to statements: pure functions, no files, no printing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.optimizers import Spec
from gradmem.lab.run import RunResult
from gradmem.lab.statistics import (
    Estimate,
    Outcome,
    bootstrap_interval,
    holm,
    mean_ranks,
    median_reached,
    outcome,
    paired_differences,
    profile_area,
    ratios_to_best,
    student_interval,
    welch,
    wilcoxon,
)
from gradmem.lab.tasks.base import Metric

MOST_SHOWN = 4  # pairs in one sentence
FAILURES = {"diverged": "diverged", "timeout": "ran out of time", "crashed": "crashed"}


@dataclass(frozen=True)
class Score:
    """One optimizer over its evaluation seeds, alone and among the others."""

    evaluated: Evaluated
    test: Estimate
    validation: Estimate
    validation_loss: Estimate
    steps_to_target: float  # median; infinite when most seeds miss the target
    seconds_to_target: float
    reached: int
    failed: dict[str, int]  # what befell runs that have no result, and how many
    seconds_per_step: float
    state_bytes: int
    rank: float  # on the test score, the mean over the seeds
    step_ratios: tuple[float, ...]  # steps to the target over the least any needed, seed by seed
    time_ratios: tuple[float, ...]

    @property
    def spec(self) -> Spec:
        """The optimizer."""
        return self.evaluated.spec

    @property
    def areas(self) -> tuple[float, float]:
        """Under the performance profiles by steps and by time, from 0 to 1."""
        return profile_area(self.step_ratios), profile_area(self.time_ratios)


@dataclass(frozen=True)
class Difference:
    """Test scores of ``variant`` less those of ``base``, seed by seed, beside the other pairs.

    The interval holds together with those of the other pairs; ``p`` is that of Welch's test, or of
    Wilcoxon's where Welch's is not defined, corrected for the number of pairs.
    """

    base: Spec
    variant: Spec
    by_seed: tuple[float, ...]
    estimate: Estimate
    welch: float
    wilcoxon: float
    p: float
    outcome: Outcome
    pairs: int


def scores(comparison: Comparison) -> tuple[Score, ...]:
    """Sum up every optimizer, in the plan's order."""
    by_seed = [seedwise(each, comparison) for each in comparison.results]
    ranks = mean_ranks(
        [[math.nan if run is None else final_score(run) for run in runs] for runs in by_seed],
        higher_is_better=comparison.plan.task.metric.higher_is_better,
    )
    steps = ratios_to_best([[run.steps_to_target if run else None for run in r] for r in by_seed])
    times = ratios_to_best([[run.seconds_to_target if run else None for run in r] for r in by_seed])
    return tuple(map(_score, comparison.results, ranks, steps, times))


def _score(
    evaluated: Evaluated, rank: float, steps: Sequence[float], times: Sequence[float]
) -> Score:
    runs = evaluated.runs
    return Score(
        evaluated=evaluated,
        test=_estimate([final_score(run) for run in runs]),
        validation=_estimate([run.validation_score for run in runs]),
        validation_loss=_estimate([run.validation_loss for run in runs]),
        steps_to_target=median_reached(run.steps_to_target for run in runs),
        seconds_to_target=median_reached(run.seconds_to_target for run in runs),
        reached=sum(run.steps_to_target is not None for run in runs),
        failed={
            phrase: count
            for status, phrase in FAILURES.items()
            if (count := sum(run.status == status for run in runs))
        },
        seconds_per_step=median_step_time(evaluated),
        state_bytes=max((run.state_bytes for run in runs), default=0),
        rank=rank,
        step_ratios=tuple(steps),
        time_ratios=tuple(times),
    )


def median_step_time(evaluated: Evaluated) -> float:
    """Of the runs that finished an epoch; 0 if none did."""
    timed = [run.seconds_per_step for run in evaluated.runs if run.seconds_per_step > 0]
    return statistics.median(timed or [0.0])


def final_score(run: RunResult) -> float:
    """The test score of an evaluation run; NaN if it has none, or crashed.

    A run that diverges or is too slow is the optimizer's doing, and counts with the worst score;
    one that crashes says nothing about it.
    """
    return math.nan if run.test_score is None or run.status == "crashed" else run.test_score


def _estimate(values: Sequence[float]) -> Estimate:
    return student_interval([value for value in values if not math.isnan(value)])


def seedwise(evaluated: Evaluated, comparison: Comparison) -> list[RunResult | None]:
    """The run of every seed that any optimizer has; None where this one has none."""
    seeds = sorted({run.config.seed for each in comparison.results for run in each.runs})
    found = {run.config.seed: run for run in evaluated.runs}
    return [found.get(seed) for seed in seeds]


def pairs(comparison: Comparison) -> list[tuple[Evaluated, Evaluated]]:
    """Who is set against whom: a memory variant against its base, where both took part.

    Without such a pair, all others against the first named.
    """
    by_name = {each.spec.name: each for each in comparison.results}
    families = [
        (by_name[each.spec.base], each)
        for each in comparison.results
        if each.spec.base is not None and each.spec.base in by_name
    ]
    first, *others = comparison.results
    return families or [(first, other) for other in others]


def differences(comparison: Comparison) -> tuple[Difference, ...]:
    """What every pair's test scores say, corrected for the number of pairs."""
    metric, who = comparison.plan.task.metric, pairs(comparison)
    sides = [_common_scores(base, variant) for base, variant in who]
    by_seed = [paired_differences(ours, theirs) for ours, theirs in sides]
    welchs = [welch(ours, theirs) for ours, theirs in sides]
    wilcoxons = [wilcoxon(values) for values in by_seed]
    deciding = [signed if math.isnan(p) else p for p, signed in zip(welchs, wilcoxons, strict=True)]
    corrected = holm(deciding)
    found = []
    for i, (base, variant) in enumerate(who):
        estimate = bootstrap_interval(by_seed[i], comparisons=len(who))
        found.append(
            Difference(
                base=base.spec,
                variant=variant.spec,
                by_seed=by_seed[i],
                estimate=estimate,
                welch=welchs[i],
                wilcoxon=wilcoxons[i],
                p=corrected[i],
                outcome=outcome(estimate, corrected[i], higher_is_better=metric.higher_is_better),
                pairs=len(who),
            )
        )
    return tuple(found)


def _common_scores(base: Evaluated, variant: Evaluated) -> tuple[list[float], list[float]]:
    """Test scores of the variant and of the base on the seeds that both have."""
    theirs = {run.config.seed: final_score(run) for run in base.runs}
    ours = {run.config.seed: final_score(run) for run in variant.runs}
    seeds = [
        seed
        for seed in ours
        if seed in theirs and not (math.isnan(ours[seed]) or math.isnan(theirs[seed]))
    ]
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def show_p(p: float) -> str:
    """A p value as it is read.

    >>> [show_p(p) for p in (0.2345, 0.0456, 0.0004, 1.0, math.nan)]
    ['0.23', '0.046', '< 0.001', '1', '-']
    """
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def show_amount(found: Difference, metric: Metric) -> str:
    """The mean difference in the metric's unit."""
    unit = f"{metric.difference_unit} of " if metric.unit else ""
    return f"{metric.show_difference(found.estimate.mean)} {unit}test {metric.name}"


def _show_evidence(found: Difference, metric: Metric) -> str:
    """Interval and corrected p, as far as there are any."""
    said = []
    if found.estimate.interval is not None:
        low, high = map(metric.show_difference, found.estimate.interval)
        said.append(f"95% interval {low} to {high}")
    if not math.isnan(found.p):
        p = show_p(found.p)
        said.append(f"p {p}" if p.startswith("<") else f"p = {p}")
    if found.pairs > 1 and said:
        said.append(f"corrected for {found.pairs} comparisons")
    return ", ".join(said)


def verdict(found: Difference, metric: Metric) -> str:
    """What the paired differences allow one to say, in a sentence."""
    base, variant = found.base.label, found.variant.label
    if not found.by_seed:
        return f"{variant} against {base}: no seed is finished for both."
    amount = show_amount(found, metric)
    if len(found.by_seed) == 1:
        return f"{variant} against {base}: {amount} on a single seed, which allows no conclusion."
    measured = f"{amount} over {len(found.by_seed)} paired seeds ({_show_evidence(found, metric)})"
    if found.outcome == "tie":
        return f"{variant} against {base}: {measured}; {_why_open(found)}."
    better = "better" if found.outcome == "win" else "worse"
    return f"{variant} is {better} than {base} here: {measured}."


def _why_open(found: Difference) -> str:
    nothing = "no difference can be concluded"
    if found.estimate.interval is None:
        return nothing
    low, high = found.estimate.interval
    if low <= 0 <= high:
        return f"the interval contains zero, so {nothing}"
    return f"the interval excludes zero, but the test does not confirm it, so {nothing}"


def headline(found: Sequence[Difference], metric: Metric) -> str:
    """What can be concluded from all pairs, with its numbers."""
    if not found:
        return "One optimizer alone: nothing to compare it with."
    if len(found) == 1:
        return verdict(found[0], metric)
    if all(len(each.by_seed) < 2 for each in found):
        return "A single seed allows no conclusion about any pair."
    level = f"Test {metric.name}, at .05 and corrected for {len(found)} comparisons"
    decided = [each for each in found if each.outcome != "tie"]
    if not decided:
        return f"{level}: no difference can be concluded for any pair. {_all_open(found, metric)}."
    wins = sum(each.outcome == "win" for each in found)
    said = "; ".join(_decision(each, metric) for each in decided)
    return (
        f"{level}: {wins} better, {len(decided) - wins} worse, {len(found) - len(decided)} "
        f"undecided. {said[0].upper()}{said[1:]}."
    )


def _all_open(found: Sequence[Difference], metric: Metric) -> str:
    """Every difference with its interval, or the largest where there are many."""
    unit = " in points" if metric.unit == "%" else f" in {metric.unit}" if metric.unit else ""
    shown = list(found)
    if len(shown) > MOST_SHOWN:
        shown = [max(shown, key=lambda each: abs(each.estimate.mean))]
    numbers = ", ".join(f"{each.variant.label} {_brief(each, metric)}" for each in shown)
    if len(shown) < len(found):
        return f"Largest difference{unit}, with its 95% interval: {numbers}"
    return f"Differences{unit}, with 95% intervals: {numbers}"


def _decision(found: Difference, metric: Metric) -> str:
    how = "better" if found.outcome == "win" else "worse"
    evidence = f"{show_amount(found, metric)} ({_show_evidence(found, metric)})"
    return f"{found.variant.label} is {how} than {found.base.label}: {evidence}"


def _brief(found: Difference, metric: Metric) -> str:
    amount = metric.show_difference(found.estimate.mean)
    if found.estimate.interval is None:
        return f"{amount} (no interval)"
    low, high = map(metric.show_difference, found.estimate.interval)
    return f"{amount} ({low} to {high})"


def caveat(comparison: Comparison, found: Sequence[Difference] | None = None) -> str:
    """What nothing in these runs can tell."""
    plan = comparison.plan
    made = differences(comparison) if found is None else found
    size = _test_size(comparison)
    examples = "the test examples" if size is None else f"the {size:,} test examples"
    return (
        "This is one task with one network, one split and one setting per optimizer, chosen "
        f"in {plan.trials} trial{'s' * (plan.trials > 1)}. The intervals cover initial weights and "
        f"batch order only: not the choice of {examples}, not the luck of the search, not other "
        "tasks." + _unseen(made, plan.task.metric)
    )


def _unseen(found: Sequence[Difference], metric: Metric) -> str:
    """How large a difference these seeds may have missed."""
    widths = [
        (each.estimate.interval[1] - each.estimate.interval[0]) / 2
        for each in found
        if each.outcome == "tie" and each.estimate.interval is not None
    ]
    if not widths or not float(metric.show(max(widths))):
        return ""
    if metric.unit == "%" and max(widths) >= 1:
        return " That no difference was found means nothing: any could have stayed unseen."
    unit = f" {metric.difference_unit}" if metric.unit else ""
    return (
        " That no difference was found does not make them equal: one of up to about "
        f"{metric.show(max(widths))}{unit} could have stayed unseen."
    )


def _test_size(comparison: Comparison) -> int | None:
    """Examples in the test split; None if the data cannot be read now, as they could once."""
    try:
        return len(comparison.plan.task.data().test)
    except Exception:
        return None
