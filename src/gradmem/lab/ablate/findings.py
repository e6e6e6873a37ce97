"""What the runs say: every cell beside its base, corrected for the number of cells."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gradmem.lab import score
from gradmem.lab.ablate.axis import AXES, Point
from gradmem.lab.ablate.plan import Ablation, Cell
from gradmem.lab.ablate.runs import Outcomes
from gradmem.lab.compare import Comparison, Evaluated, Plan
from gradmem.lab.score import Difference, Score
from gradmem.lab.spaces import LogUniform
from gradmem.lab.tasks.base import Metric

MOST_NAMED = 4  # cells in one sentence


@dataclass(frozen=True)
class Findings:
    """All that the pages and the terminal say.

    Args:
        ablation: what was to be run.
        outcomes: what was.
        scores: by name of every cell that was run.
        differences: by the same name, of those that are not their own base; corrected for their
            number.
        controls: a memory less its base on a larger batch, corrected for their own number.
        toml: the config as a file; None if it is not at hand.
    """

    ablation: Ablation
    outcomes: Outcomes
    scores: Mapping[str, Score]
    differences: Mapping[str, Difference]
    controls: tuple[Difference, ...] = ()
    toml: str | None = None

    @property
    def metric(self) -> Metric:
        """The task's."""
        return self.ablation.plan.task.metric

    @property
    def bases(self) -> tuple[str, ...]:
        """The names of the bases that cells are compared with, once each."""
        return tuple(dict.fromkeys(cell.against for cell in self.ablation.cells))

    def base_at(self, base: str) -> Point:
        """Where a base is: its values on the task's own axes, which alone set it apart."""
        cell = next(each for each in self.ablation.cells if each.against == base)
        return {name: value for name, value in cell.at.items() if name not in AXES}

    def of_series(self, series: str) -> list[Cell]:
        """The cells of one curve or map."""
        return [cell for cell in self.ablation.cells if cell.series == series]

    def evaluated(self, cell: Cell) -> Evaluated:
        """The runs of a cell."""
        return self.outcomes.by_name[cell.entrant]

    def difference(self, cell: Cell) -> Difference | None:
        """Less its base; None if it is its base."""
        return self.differences.get(cell.entrant)


def findings(ablation: Ablation, outcomes: Outcomes, toml: str | None = None) -> Findings:
    """Everything the runs allow one to say."""
    plan = replace(ablation.plan, seeds=outcomes.seeds)
    everyone = tuple(outcomes.by_name.values())
    scored = score.scores(Comparison(plan, everyone))
    pairs = dict.fromkeys(
        (cell.against, cell.entrant) for cell in ablation.cells if not cell.is_base
    )
    compared = compare(plan, outcomes.by_name, tuple(pairs))
    return Findings(
        ablation,
        outcomes,
        {each.spec.name: found for each, found in zip(everyone, scored, strict=True)},
        {each.variant.name: each for each in compared},
        compare(plan, outcomes.by_name, ablation.controls),
        toml,
    )


def compare(
    plan: Plan, by_name: Mapping[str, Evaluated], pairs: Sequence[tuple[str, str]]
) -> tuple[Difference, ...]:
    """The second of every pair less the first, corrected for the number of pairs."""
    if not pairs:
        return ()
    bases = [_rebased(by_name[name], None) for name in dict.fromkeys(base for base, _ in pairs)]
    variants = [_rebased(by_name[name], base) for base, name in pairs]
    return score.differences(Comparison(plan, (*bases, *variants)))


def _rebased(each: Evaluated, base: str | None) -> Evaluated:
    """The same runs, set against another."""
    return replace(each, tuned=replace(each.tuned, spec=replace(each.spec, base=base)))


# Sentences ----------------------------------------------------------------------------------------


def title(found: Findings) -> str:
    """The report's heading."""
    names = " and ".join(axis.name for axis in found.ablation.axes)
    labels = ", ".join(each.variant.label for each in found.ablation.entrants)
    return f"{labels} on {found.ablation.task.name}, by {names}"


def subtitle(found: Findings) -> str:
    """The size of the ablation, in a line."""
    plan, seeds = found.ablation.plan, found.outcomes.seeds
    settings = f"{len(found.outcomes.by_name)} settings, each tuned afresh in"
    return (
        f"{found.ablation.task.title} · {settings} "
        f"{plan.trials} trial{'s' * (plan.trials > 1)}, then {seeds} fresh seed"
        f"{'s' * (seeds > 1)}"
    )


def verdicts(found: Findings) -> list[str]:
    """For every curve or map, how many cells differ from the base beyond noise."""
    said = [_verdict(found, series) for series in found.ablation.series]
    if "kappa" in [axis.name for axis in found.ablation.axes]:
        said += [_by_sign(found, series) for series in found.ablation.series]
    return said + ([_control_verdict(found)] if found.controls else [])


def _verdict(found: Findings, series: str) -> str:
    mine = _differences(found, series)
    base = found.of_series(series)[0].base
    if not mine:
        return f"{series}: every cell is {base} itself."
    decided = [each for each in mine if each.outcome != "tie"]
    if found.outcomes.seeds < 2:
        return f"{series}: a single seed allows no conclusion about any of {_cells(len(mine))}."
    correction = _correction(len(found.differences))
    if not decided:
        return (
            f"{series}: none of {_cells(len(mine))} differs from {base} beyond noise{correction}. "
            f"{_largest(found, mine)}"
        )
    wins = sum(each.outcome == "win" for each in decided)
    return (
        f"{series}: {len(decided)} of {_cells(len(mine))} differ{'s' * (len(decided) == 1)} from "
        f"{base} beyond noise{correction}: {wins} better, {len(decided) - wins} worse; "
        f"{len(mine) - len(decided)} undecided. {_named(found, decided)}"
    )


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"


def _correction(count: int) -> str:
    return f", corrected for {count} comparisons" if count > 1 else ""


def _differences(found: Findings, series: str) -> list[Difference]:
    """Each once, in the order of the cells."""
    return [each for cell in found.of_series(series) if (each := found.difference(cell))]


def _largest(found: Findings, mine: Sequence[Difference]) -> str:
    """The largest difference, so that what was not found can be judged."""
    sized = [each for each in mine if math.isfinite(each.estimate.mean)]
    if not sized:
        return ""
    largest = max(sized, key=lambda each: abs(each.estimate.mean))
    return f"The largest difference: {_brief(found, largest)}."


def _named(found: Findings, decided: Sequence[Difference]) -> str:
    """The decided ones, the largest of each kind first where there are many."""
    ordered = sorted(decided, key=lambda each: -abs(each.estimate.mean))
    shown = [
        each
        for outcome in ("win", "loss")
        for each in [one for one in ordered if one.outcome == outcome][:MOST_NAMED]
    ]
    lead = "" if len(shown) == len(decided) else "Of these the largest: "
    said = "; ".join(f"{_brief(found, each)}, {_word(each)}" for each in shown)
    return f"{lead}{said}."


def _word(each: Difference) -> str:
    return "better" if each.outcome == "win" else "worse"


def _brief(found: Findings, each: Difference) -> str:
    unit = f" {found.metric.difference_unit}" if found.metric.unit else ""
    return f"{each.variant.label}: {show_difference(found, each, unit)}"


def show_difference(found: Findings, each: Difference, unit: str = "") -> str:
    """A mean difference and its interval; where no heading has the unit, it stands between."""
    metric = found.metric
    amount = metric.show_difference(each.estimate.mean) + unit
    if each.estimate.interval is None:
        return amount
    low, high = map(metric.show_difference, each.estimate.interval)
    return f"{amount} ({low} to {high})"


def _by_sign(found: Findings, series: str) -> str:
    """What a memory does that is subtracted, weighted down, or has its full weight."""
    groups: dict[str, list[Difference]] = {}
    for cell in found.of_series(series):
        kappa, difference = cell.at["kappa"], found.difference(cell)
        if isinstance(kappa, float) and difference is not None:
            name = "below 0" if kappa < 0 else "between 0 and 1" if kappa < 1 else "1 and above"
            groups.setdefault(name, []).append(difference)
    said = [f"{name}: {_tally(those)} of {len(those)}" for name, those in groups.items()]
    return f"{series} by the sign and size of kappa, beyond noise: {'; '.join(said)}."


def _tally(those: Sequence[Difference]) -> str:
    outcomes = [each.outcome for each in those]
    return f"{outcomes.count('win')} better, {outcomes.count('loss')} worse"


def _control_verdict(found: Findings) -> str:
    wins, losses = (
        sum(each.outcome == kind for each in found.controls) for kind in ("win", "loss")
    )
    count = len(found.controls)
    return (
        f"A memory of C gradients less its base on a batch (C + 1) times as large: {wins} better, "
        f"{losses} worse, {count - wins - losses} undecided of {count}"
        f"{_correction(count)}."
    )


def warnings(found: Findings) -> list[str]:
    """Whatever makes the numbers less than they seem."""
    return list(_warnings(found))


def _warnings(found: Findings) -> Iterator[str]:
    plan, outcomes = found.ablation.plan, found.outcomes
    if outcomes.outstanding:
        yield (
            f"{outcomes.outstanding} runs are yet to be made; this is about the {outcomes.seeds} "
            "seeds that are finished"
        )
    if plan.task.partial:
        yield plan.task.partial.rstrip(".")
    everyone = list(outcomes.by_name.values())
    edged = [each for each in everyone if edges(each)]
    if edged:
        names = ", ".join(each.spec.label for each in edged[:MOST_NAMED])
        more = f" and {len(edged) - MOST_NAMED} more" if len(edged) > MOST_NAMED else ""
        yield (
            f"the best setting of {len(edged)} of {len(everyone)} lies at the edge of what was "
            f"searched, so a better one may lie beyond it: {names}{more}; the settings say which "
            f"option. Widen it: --space {edged[0].spec.base}.{edges(edged[0])[0]}=LOW:HIGH"
        )
    yield from (said for each in everyone for said in _other_warnings(each))
    yield from _failed_trials(everyone)
    yield from _failed_runs(found)
    yield from _whole_batches(found)


def edges(each: Evaluated) -> list[str]:
    """The options whose chosen value lies at an end of its range, however good it is."""
    if not math.isfinite(each.tuned.best.validation_loss):
        return []
    ranges = (one for one in each.spec.space if isinstance(one, LogUniform))
    return [one.name for one in ranges if one.at_edge(each.options)]


def _other_warnings(each: Evaluated) -> list[str]:
    """What a search warns of beside edges, of which there may be one for every cell."""
    return each.tuned.warnings()[len(edges(each)) :]


def _failed_trials(everyone: Sequence[Evaluated]) -> Iterator[str]:
    """Trials that ended for reasons that say nothing about their setting."""
    for status, phrase in (("crashed", "crashed"), ("timeout", "ran out of time")):
        runs = [run for each in everyone for trial in each.tuned.trials for run in trial.runs]
        failed = [run for run in runs if run.status == status]
        if failed:
            reason = failed[0].reason and f": {failed[0].reason.rstrip('.')}"
            yield f"{len(failed)} of {len(runs)} runs of the search {phrase}{reason}"


def _failed_runs(found: Findings) -> Iterator[str]:
    runs = found.outcomes.seeds
    for scored in found.scores.values():
        for how, count in scored.failed.items():
            crashed = how == score.FAILURES["crashed"]
            counted = "are left out of the scores" if crashed else "count with the worst score"
            yield f"{scored.spec.label}: {count} of {runs} evaluation runs {how}; they {counted}"


def _whole_batches(found: Findings) -> Iterator[str]:
    """A batch cannot be larger than the data."""
    if found.ablation.axes[0].name != "batch":
        return
    count = len(found.ablation.plan.task.data().train)
    whole = [part for part in found.ablation.parts if part.plan.examples_a_step > count]
    if whole:
        yield (
            f"{len({part.plan.examples_a_step for part in whole})} of the larger batches are of "
            f"more than the {count:,} examples there are to train on, so they hold all of them"
        )


def caveat(found: Findings) -> str:
    """What nothing in these runs can tell."""
    plan = replace(found.ablation.plan, seeds=found.outcomes.seeds)
    comparison = Comparison(plan, tuple(found.outcomes.by_name.values()))
    return score.caveat(comparison, tuple(found.differences.values()))
