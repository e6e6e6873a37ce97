"""What every option did to the validation loss, over the trials of a search: pure functions."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradmem.lab.compare import Comparison
from gradmem.lab.optimizers import Spec
from gradmem.lab.spaces import Choice, Dimension, LogUniform
from gradmem.lab.tune import Trial, Tuned

PARTS = 3  # of a range, each as long as the others on its own scale


@dataclass(frozen=True)
class Group:
    """The trials with one value of an option, or with one in a part of its range."""

    value: str
    losses: tuple[float, ...]

    @property
    def best(self) -> float:
        """The lowest validation loss; infinite without a trial."""
        return min(self.losses, default=math.inf)

    @property
    def median(self) -> float:
        """The median validation loss; infinite where most trials failed, or there is none."""
        return statistics.median(self.losses) if self.losses else math.inf


@dataclass(frozen=True)
class Sensitivity:
    """One option of one optimizer, and its trials by value.

    What other options were at is not held fixed: they vary evenly over each group, so a median is
    comparable if there are trials enough, and a best is what one may find there.
    """

    spec: Spec
    option: str
    groups: tuple[Group, ...]


def sensitivities(comparison: Comparison) -> list[Sensitivity]:
    """Every option that was searched, of every optimizer."""
    return [found for each in comparison.results for found in of_search(each.tuned)]


def of_search(tuned: Tuned) -> Iterator[Sensitivity]:
    """Every option that was searched; one held fixed, or alone in its choice, is none."""
    for dimension in tuned.spec.space:
        groups = _groups(dimension, tuned.trials)
        if len(groups) > 1:
            yield Sensitivity(tuned.spec, ", ".join(dimension.names), groups)


def _groups(dimension: Dimension, trials: Sequence[Trial]) -> tuple[Group, ...]:
    if isinstance(dimension, Choice):
        return tuple(
            Group(
                ", ".join(_show(value) for value in setting.values()),
                tuple(
                    trial.validation_loss
                    for trial in trials
                    if all(trial.options.get(name) == value for name, value in setting.items())
                ),
            )
            for setting in dimension.settings
        )
    return tuple(
        Group(
            _show_part(dimension, part),
            tuple(trial.validation_loss for trial in trials if _part(dimension, trial) == part),
        )
        for part in range(PARTS)
    )


def _part(dimension: LogUniform, trial: Trial) -> int | None:
    """In which part of the range a trial lies."""
    if dimension.name not in trial.options:
        return None
    return min(PARTS - 1, max(0, int(dimension.place(trial.options) * PARTS)))


def _show_part(dimension: LogUniform, part: int) -> str:
    low, high = (dimension.at(end / PARTS)[dimension.name] for end in (part, part + 1))
    return f"{low:.2g} to {high:.2g}"


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
