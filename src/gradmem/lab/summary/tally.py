"""Wins, ties and losses over the tasks, ranks, profiles: pure functions of the comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradmem.lab.errors import ConfigError, hint
from gradmem.lab.optimizers import OPTIMIZERS, Spec, find
from gradmem.lab.own_optimizers import known_as
from gradmem.lab.statistics import (
    Outcome,
    friedman,
    holm,
    mean_ranks,
    profile_area,
    ratios_to_best,
    sign_test,
)
from gradmem.lab.summary.reading import Compared


@dataclass(frozen=True)
class Tally:
    """One kind of pair over all tasks that have it.

    Args:
        variant: with a memory.
        base: without.
        wins, ties, losses: tasks by what the comparison there concluded.
        ahead, behind: tasks by the sign of the mean difference, whatever it is worth.
        p: two-sided sign test of ahead against behind, corrected for the number of kinds (Holm).
    """

    variant: Spec
    base: Spec
    wins: int
    ties: int
    losses: int
    ahead: int
    behind: int
    p: float

    @property
    def tasks(self) -> int:
        """How many there are."""
        return self.wins + self.ties + self.losses


def tallies(compared: Sequence[Compared]) -> tuple[Tally, ...]:
    """One for each kind of pair, in the order of their first tasks."""
    kinds: dict[tuple[str, str], list[tuple[Outcome, float]]] = {}
    for each in compared:
        for pair in each.pairs:
            found = kinds.setdefault((pair.variant.name, pair.base.name), [])
            found.append((pair.outcome, each.improvement(pair.difference)))
    counted = [_counted(kind, found) for kind, found in kinds.items()]
    corrected = holm([each.p for each in counted])
    return tuple(replace(each, p=p) for each, p in zip(counted, corrected, strict=True))


def _counted(kind: tuple[str, str], found: Sequence[tuple[Outcome, float]]) -> Tally:
    outcomes = [outcome for outcome, _ in found]
    ahead, behind = sum(by > 0 for _, by in found), sum(by < 0 for _, by in found)
    return Tally(
        variant=find(kind[0]),
        base=find(kind[1]),
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        ahead=ahead,
        behind=behind,
        p=sign_test(ahead, behind),
    )


@dataclass(frozen=True)
class Entry:
    """One optimizer of a field.

    Args:
        spec: the optimizer.
        rank: 1 for the best test score of a task, as the mean over the tasks.
        first: tasks on which nobody was better.
        reached: tasks on which the median seed reached the target.
        ratios: of the steps to the target to the least of the field, by task.
    """

    spec: Spec
    rank: float
    first: int
    reached: int
    ratios: tuple[float, ...]

    @property
    def area(self) -> float:
        """Under the performance profile, from 0 to 1."""
        return profile_area(self.ratios)


@dataclass(frozen=True)
class Field:
    """Optimizers that met on the same tasks.

    Args:
        entries: in the order in which they are named.
        tasks: those that have them all.
        p: Friedman's test that ranks are a matter of chance.
    """

    entries: tuple[Entry, ...]
    tasks: tuple[Compared, ...]
    p: float


def field(names: Sequence[str], compared: Sequence[Compared]) -> Field:
    """The optimizers ``names`` on the tasks that have them all.

    Raises:
        ConfigError: there are not two, one is unknown or named twice, or no task has them all.
    """
    names = list(map(known_as, names))
    taking_part = {name for each in compared for name in each.standings}
    for name in names:
        if name not in OPTIMIZERS.keys() | taking_part:
            raise ConfigError(f"--field names no optimizer {name!r}; {hint(name, OPTIMIZERS)}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--field takes two optimizers or more, each once, not {','.join(names)}")
    met = tuple(each for each in compared if set(names) <= each.standings.keys())
    if not met:
        raise ConfigError(f"no comparison has all of {', '.join(names)}; name fewer")
    costs = [[each.cost(name) for each in met] for name in names]
    steps = [[each.standings[name].steps for each in met] for name in names]
    best = [min(column) for column in zip(*costs, strict=True)]
    ranks, ratios = mean_ranks(costs, higher_is_better=False), ratios_to_best(steps)
    entries = tuple(
        Entry(
            spec=find(name),
            rank=ranks[i],
            first=sum(cost == least for cost, least in zip(costs[i], best, strict=True)),
            reached=sum(map(math.isfinite, steps[i])),
            ratios=tuple(ratios[i]),
        )
        for i, name in enumerate(names)
    )
    return Field(entries, met, friedman(costs))


def in_all(compared: Sequence[Compared]) -> tuple[str, ...]:
    """The optimizers that every comparison has, in the order of the first."""
    first, *others = (each.standings for each in compared)
    return tuple(name for name in first if all(name in other for other in others))
