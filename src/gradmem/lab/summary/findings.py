"""What the comparisons say together, in tables and sentences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradmem.lab.findings import Table
from gradmem.lab.score import show_p
from gradmem.lab.statistics import SIGNIFICANCE, TAU
from gradmem.lab.summary.reading import Compared, Pair
from gradmem.lab.summary.tally import Field, Tally, tallies

WORDS = {"win": "better", "tie": "", "loss": "worse"}


@dataclass(frozen=True)
class Findings:
    """All that the page says.

    Args:
        compared: the comparisons, in the order of the report.
        tallies: of the pairs.
        fields: optimizers ranked against each other.
    """

    compared: tuple[Compared, ...]
    tallies: tuple[Tally, ...]
    fields: tuple[Field, ...]


def findings(compared: Sequence[Compared], fields: Sequence[Field]) -> Findings:
    """Everything the comparisons allow one to say."""
    return Findings(tuple(compared), tallies(compared), tuple(fields))


def title(found: Findings) -> str:
    """The heading."""
    return f"{len(found.compared)} tasks together"


def verdicts(found: Findings) -> Iterator[str]:
    """The counts, what goes one way more often than chance would have it, and ranks."""
    won, open_, lost = (
        sum(getattr(each, which) for each in found.tallies) for which in ("wins", "ties", "losses")
    )
    if found.tallies:
        yield (
            f"{won + open_ + lost} pairs of a memory variant and its base on "
            f"{len(found.compared)} tasks: {won} better, {lost} worse, {open_} undecided."
        )
    lasting = [each for each in found.tallies if each.p < SIGNIFICANCE]
    for each in lasting:
        more, fewer = max(each.ahead, each.behind), min(each.ahead, each.behind)
        yield (
            f"{_name(each)}: {'ahead' if each.ahead > each.behind else 'behind'} on {more} tasks "
            f"against {fewer}, more than chance allows (sign test, p = {show_p(each.p)}, "
            f"corrected for {len(found.tallies)} kinds of pairs)."
        )
    if found.tallies and not lasting:
        yield (
            "No variant is ahead of its base, or behind, on more tasks than chance allows (sign "
            f"tests, corrected for {len(found.tallies)} kinds of pairs)."
        )
    yield from map(_ranked, found.fields)


def _ranked(field: Field) -> str:
    first, *_, last = sorted(field.entries, key=lambda each: each.rank)
    return (
        f"Among {len(field.entries)} optimizers on {_tasks(len(field.tasks))}, by mean rank of the "
        f"test score: {first.spec.label} first ({first.rank:.2f}), {last.spec.label} last "
        f"({last.rank:.2f}); {_chance(field.p)}."
    )


def _chance(p: float) -> str:
    if math.isnan(p):
        return "too few to tell ranks from chance"
    said = f"Friedman's test, p {show_p(p)}" if p < 1e-3 else f"Friedman's test, p = {show_p(p)}"
    return f"the ranks {'differ' if p < SIGNIFICANCE else 'do not differ'} beyond chance ({said})"


def _tasks(count: int) -> str:
    return f"{count} task{'s' * (count != 1)}"


def warnings(found: Findings) -> Iterator[str]:
    """Data sets of which only a part was there."""
    for each in found.compared:
        if each.task.partial:
            yield f"{each.name}: {each.task.partial.rstrip('.')}"


def tally_table(found: Findings) -> Table:
    """A row for each kind of pair."""
    heading = ("pair", "tasks", "better", "undecided", "worse", "ahead / behind", "p, sign test")
    return Table(
        heading,
        tuple(
            (
                _name(each),
                *map(str, (each.tasks, each.wins, each.ties, each.losses)),
                f"{each.ahead} / {each.behind}",
                show_p(each.p),
            )
            for each in found.tallies
        ),
    )


def field_table(field: Field) -> Table:
    """A row for each optimizer, the best first."""
    heading = ("optimizer", "mean rank", "first on", "target reached on", "profile, steps")
    ordered = sorted(field.entries, key=lambda each: each.rank)
    return Table(
        heading,
        tuple(
            (
                each.spec.label,
                f"{each.rank:.2f}",
                str(each.first),
                f"{each.reached} of {len(field.tasks)}",
                f"{each.area:.2f}",
            )
            for each in ordered
        ),
    )


def pair_table(found: Findings) -> Table:
    """Every pair of every comparison."""
    heading = ("task", "pair", "base", "with memory", "difference", "")
    rows = (_pair_row(each, pair) for each in found.compared for pair in each.pairs)
    return Table(heading, tuple(rows))


def _pair_row(each: Compared, pair: Pair) -> tuple[str, ...]:
    metric = each.task.metric
    unit = f" {metric.unit}" if metric.unit else ""
    scores = (metric.show(each.standings[spec.name].test) for spec in (pair.base, pair.variant))
    amount = metric.show_difference(pair.difference)
    if pair.interval is not None:
        amount += " ({} to {})".format(*map(metric.show_difference, pair.interval))
    return (
        each.name,
        f"{pair.variant.label} - {pair.base.label}",
        *(f"{score}{unit}" for score in scores),
        amount,
        WORDS[pair.outcome],
    )


def task_table(found: Findings) -> Table:
    """A row for each comparison: what it was about, and its budget."""
    heading = ("folder", "task", "metric", "trials", "seeds", "epochs", "optimizers")
    return Table(heading, tuple(map(_task_row, found.compared)))


def _task_row(each: Compared) -> tuple[str, ...]:
    task, config = each.task, each.config
    epochs, own = config.epochs or task.budget.epochs, task.budget.epochs
    metric = task.metric
    return (
        each.name,
        task.title,
        f"{metric.name}{f', {metric.unit}' if metric.unit else ''}, "
        f"{'more' if metric.higher_is_better else 'less'} is better",
        str(config.trials),
        str(max(standing.seeds for standing in each.standings.values())),
        str(epochs) if epochs == own else f"{epochs} of {own}",
        str(len(each.standings)),
    )


def _name(tally: Tally) -> str:
    return f"{tally.variant.label} - {tally.base.label}"


PAIRS_NOTE = (
    "Better and worse are the verdicts of the single comparisons: an interval without zero and a "
    "test below .05, both corrected for the pairs of that comparison. Ahead and behind count the "
    "signs of the mean differences, whatever they are worth; equal ones count for neither."
)
FIELD_NOTE = (
    "The rank is that of the mean test score, 1 for the best. The profile is by the median seed's "
    "steps to the task's target: the share of tasks on which an optimizer is within a factor tau "
    f"of the fastest, averaged over tau from 1 to {TAU:g}; a missed target is never within."
)
METHOD = (
    "Each comparison gives a base and its memory variant equal numbers of trials at the same "
    "learning rates, chooses by validation loss, and runs the chosen settings on fresh seeds; its "
    "own report in its folder has intervals, curves, the space searched and how to repeat it.",
    "Tasks count alike, however large they are, and were not drawn at random: what holds on these "
    "says little of others. Where an optimizer's best setting lies at the edge of its space, the "
    "task's own report says so.",
)
