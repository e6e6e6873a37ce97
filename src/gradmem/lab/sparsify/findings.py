"""What the runs say: points of the curves, the penalty each method is judged at, sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from gradmem.lab.findings import Table
from gradmem.lab.sparsify.methods import METHODS, Method
from gradmem.lab.sparsify.plan import Plan
from gradmem.lab.sparsify.runs import Result
from gradmem.lab.sparsify.speed import Speed
from gradmem.lab.statistics import (
    Estimate,
    bootstrap_interval,
    mean,
    paired_differences,
    student_interval,
)
from gradmem.lab.tasks import Metric


@dataclass(frozen=True)
class Point:
    """A method at a penalty, over the seeds.

    A channel counts as zero if every weight of it is; for a subgradient, which makes none, if it is
    up to the threshold, and its weights are then set to zero before the scores are taken.

    Attributes:
        results: one run for each seed.
        share: of the hidden channels that are zero.
        exact: of those that are zero before anything is set to zero.
        score: of the test split.
        change: of the test score beside the base without penalty, seed by seed.
        validation: the same on the validation split, the mean alone: what penalties are chosen by.
    """

    method: Method
    penalty: float
    results: tuple[Result, ...]
    share: Estimate
    exact: Estimate
    score: Estimate
    change: Estimate
    validation: float

    @property
    def diverged(self) -> int:
        """How many of the runs did."""
        return sum(each.status == "diverged" for each in self.results)


@dataclass(frozen=True)
class Tried:
    """A learning rate that was tried for a base."""

    base: str
    lr: float
    loss: float | None  # mean over the seeds of the validation loss; None if one diverged


@dataclass(frozen=True)
class Findings:
    """All that the pages and the terminal say.

    Attributes:
        plan: what was run.
        rates: the learning rate of each base.
        tried: those it was chosen from; empty if it was given.
        points: by method, in the order of the penalties.
        speeds: by method, of its chosen point.
    """

    plan: Plan
    rates: Mapping[str, float]
    tried: tuple[Tried, ...]
    points: Mapping[str, tuple[Point, ...]]
    speeds: Mapping[str, Speed]

    @property
    def metric(self) -> Metric:
        """The task's."""
        return self.plan.problem.metric

    @property
    def penalised(self) -> list[Method]:
        """The methods with a penalty."""
        return [METHODS[name] for name in self.points if METHODS[name].kind != "none"]

    def chosen(self, method: Method) -> Point | None:
        """The point of most zeros among those within the allowed loss, on the validation split."""
        least = -self.plan.within / self.metric.scale
        near = [each for each in self.points[method.name] if each.validation >= least - 1e-12]
        return max(near, key=lambda each: each.share.mean, default=None)


def tried_rates(results: Sequence[Result]) -> tuple[Tried, ...]:
    """What each learning rate gave each base, from the runs that tune."""
    found = []
    ordered = sorted(results, key=lambda each: (each.setting.method, each.setting.lr))
    for (base, lr), runs in groupby(ordered, lambda each: (each.setting.method, each.setting.lr)):
        losses = [each.validation_loss for each in runs]
        known = [loss for loss in losses if loss is not None]
        found.append(Tried(base, lr, mean(known) if len(known) == len(losses) else None))
    return tuple(found)


def best_rates(plan: Plan, tried: Sequence[Tried]) -> dict[str, float]:
    """For each base the rate of lowest validation loss; the smallest if all diverge."""
    if not tried:
        return dict.fromkeys(plan.bases, plan.rates[0])
    infinite = float("inf")

    def loss(each: Tried) -> float:
        return infinite if each.loss is None else each.loss

    return {
        base: min((each for each in tried if each.base == base), key=loss).lr for base in plan.bases
    }


def points(plan: Plan, results: Sequence[Result]) -> dict[str, tuple[Point, ...]]:
    """The curves, from the runs that are evaluated, given in any order."""
    found: dict[tuple[str, float, int], Result] = {
        (each.setting.method, each.setting.penalty, each.setting.seed): each for each in results
    }
    return {
        method.name: tuple(
            _point(
                *(method, penalty),
                [found[method.name, penalty, seed] for seed in plan.seed_range],
                [found[method.base, 0.0, seed] for seed in plan.seed_range],
            )
            for penalty in plan.points(method)
        )
        for method in plan.methods
    }


def _point(
    method: Method, penalty: float, runs: Sequence[Result], bases: Sequence[Result]
) -> Point:
    zeroed = method.kind == "subgradient"
    tests = [_known(each.zero_test_score if zeroed else each.test_score) for each in runs]
    base_tests = [_known(each.test_score) for each in bases]
    validations = [each.zero_validation_score if zeroed else each.validation_score for each in runs]
    return Point(
        method=method,
        penalty=penalty,
        results=tuple(runs),
        share=student_interval([e.small_share if zeroed else e.zero_share for e in runs]),
        exact=student_interval([each.zero_share for each in runs]),
        score=student_interval(tests),
        change=bootstrap_interval(paired_differences(tests, base_tests)),
        validation=mean(paired_differences(validations, [e.validation_score for e in bases])),
    )


def _known(score: float | None) -> float:
    if score is None:
        raise ValueError("a run that is evaluated has no test score")
    return score


# Sentences and tables ----------------------------------------------------------------------------


def verdicts(found: Findings) -> list[str]:
    """A sentence for each method with a penalty."""
    return [_verdict(found, method) for method in found.penalised]


def _verdict(found: Findings, method: Method) -> str:
    within = f"{found.plan.within:g} {'point' if found.plan.within == 1 else 'points'}"
    point = found.chosen(method)
    if point is None:
        return (
            f"{method.label}: no penalty tried keeps the validation {found.metric.name} within "
            f"{within} of {method.base_label} without penalty."
        )
    if not point.share.mean:
        return f"{method.label}: no channel is zero within {within} of {method.base_label}'s own."
    how = "zero" if method.proximal else "small enough to be set to zero"
    return (
        f"{method.label}: {percent(point.share)} of the channels {how} within {within} "
        f"(penalty {point.penalty:g}); test {found.metric.name} "
        f"{show(point.score, found.metric)}, {show_change(point.change, found.metric)} beside "
        f"{method.base_label} without penalty."
    )


def warnings(found: Findings) -> list[str]:
    """What a reader should know before believing a number."""
    said = [found.plan.problem.partial] if found.plan.problem.partial else []
    if found.tried:
        ends = found.plan.rates[0], found.plan.rates[-1]
        said += [
            f"The learning rate of {METHODS[base].base_label}, {rate:g}, is an end of those tried"
            for base, rate in found.rates.items()
            if rate in ends
        ]
    for method in found.penalised:
        best = found.chosen(method)
        ends_of = found.points[method.name]
        if best is not None and len(ends_of) > 1 and best is ends_of[-1]:
            said.append(f"The penalty chosen for {method.label} is the largest tried")
        if best is None and len(ends_of) > 1:
            said.append(f"The smallest penalty tried for {method.label} already loses too much")
    for each in (each for group in found.points.values() for each in group if each.diverged):
        said.append(
            f"{each.diverged} of {len(each.results)} runs diverged: {each.method.label}, penalty "
            f"{each.penalty:g}"
        )
    return said


def summary_table(found: Findings) -> Table:
    """A row for each method with a penalty, at the penalty chosen for it."""
    metric = found.metric
    rows = []
    for method in found.penalised:
        point = found.chosen(method)
        if point is None:
            rows.append((method.label, "-", "-", "-", "-"))
            continue
        rows.append(
            (
                method.label,
                f"{point.penalty:g}",
                percent(point.share),
                show(point.score, metric),
                show_change(point.change, metric),
            )
        )
    heading = ("method", "penalty", "channels zero", f"test {metric.name}, %", "less its base")
    return Table(heading, tuple(rows))


def point_table(found: Findings) -> Table:
    """All points."""
    metric = found.metric
    rows = tuple(
        (
            method.label,
            f"{point.penalty:g}",
            percent(point.share),
            percent(point.exact),
            show(point.score, metric),
            show_change(point.change, metric),
            "chosen" if method.kind != "none" and point is found.chosen(method) else "",
        )
        for method in (METHODS[name] for name in found.points)
        for point in found.points[method.name]
    )
    return Table(
        (
            *("method", "penalty", "channels zero", "exactly zero"),
            *(f"test {metric.name}, %", "less its base", ""),
        ),
        rows,
    )


def speed_table(found: Findings) -> Table:
    """The smaller model beside the whole one, for each method that lost channels."""
    heading = ("method", "channels", "parameters", "time, batch 1", "time, batch 256")
    rows = tuple(
        (
            name,
            f"{speed.channels_left}/{speed.channels}",
            f"{speed.parameters_left:,} ({speed.parameters_left / speed.parameters:.0%})",
            *(str(speed.ratios[size]) for size in sorted(speed.ratios)),
        )
        for name, speed in found.speeds.items()
    )
    return Table(heading, rows)


def rate_table(found: Findings) -> Table:
    """The learning rates tried, and what they gave."""
    rows = tuple(
        (
            METHODS[each.base].base_label,
            f"{each.lr:g}",
            "diverged" if each.loss is None else f"{each.loss:.4f}",
            "chosen" if found.rates[each.base] == each.lr else "",
        )
        for each in found.tried
    )
    return Table(("base", "learning rate", "validation loss", ""), rows)


def percent(found: Estimate) -> str:
    """A share and its interval, in per cent: ``41% (35 to 47)``."""
    if found.interval is None:
        return f"{100 * found.mean:.0f}%"
    low, high = (max(0.0, min(1.0, end)) for end in found.interval)
    return f"{100 * found.mean:.0f}% ({100 * low:.0f} to {100 * high:.0f})"


def show(found: Estimate, metric: Metric) -> str:
    """A score and its interval."""
    if found.interval is None:
        return metric.show(found.mean)
    low, high = (metric.show(end) for end in found.interval)
    return f"{metric.show(found.mean)} ({low} to {high})"


def show_change(found: Estimate, metric: Metric) -> str:
    """A difference and its interval, with signs."""
    if found.interval is None:
        return metric.show_difference(found.mean)
    low, high = (metric.show_difference(end) for end in found.interval)
    return f"{metric.show_difference(found.mean)} ({low} to {high})"


def method_sentences(found: Findings) -> list[str]:
    """How it was made, for who wants to judge it."""
    plan = found.plan
    data = plan.problem.data()
    rates = ", ".join(f"{METHODS[base].base_label} {rate:g}" for base, rate in found.rates.items())
    chosen = (
        f"the one of {', '.join(f'{rate:g}' for rate in plan.rates)} with the lowest validation "
        f"loss at the end of training without penalty, mean of {plan.tuning_seeds} other seeds"
        if found.tried
        else "as given"
    )
    return [
        f"{plan.problem.title}: {len(data.train):,} examples to train, {len(data.validation):,} to "
        f"validate, {len(data.test):,} to test. {plan.epochs} epochs, batches of "
        f"{plan.batch_size}, constant learning rate, all other options the optimizers' own; "
        f"{plan.seeds} seeds, the same for every method and penalty; one thread.",
        f"Penalty: {plan.regularizer} on what makes each output channel of every layer but the "
        "last, times the square root of the channel's weights. Biases have no penalty.",
        f"Learning rate: {rates}; {chosen}. A base's methods all train with its rate: how much "
        "accuracy a zero is worth is not for a rate to decide.",
        "Scores are of the weights at the end of training: no epoch is chosen. The penalty of the "
        "sentences and of the summary is chosen on the validation split, the test score is read "
        "there. Differences are paired by seed. Intervals are Student's, 95%, of the mean over "
        "seeds; not corrected for their number.",
        "A proximal method's channel counts as zero if all its weights are exactly zero. A "
        "subgradient makes no exact zeros: there a channel counts if the root mean square of its "
        f"weights is at most {plan.threshold:g} times the learning rate, which is about how far "
        "Adam moves a weight in a step, and its scores are those after these weights were set to "
        "zero.",
    ]
