"""What `gradmem compare` left in its folders: config.toml, and summary.csv with a row an optimizer.

These two files are enough, so that folders can be kept, sent and put together without their runs.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradmem.lab import config as configs
from gradmem.lab.config import CompareConfig
from gradmem.lab.errors import ConfigError, NoResultsError, StoreError
from gradmem.lab.optimizers import Spec, find, load_own
from gradmem.lab.session import task_of
from gradmem.lab.statistics import Outcome
from gradmem.lab.tasks.base import Task

TABLE = "summary.csv"
OUTCOMES: Mapping[str, Outcome] = {"win": "win", "tie": "tie", "loss": "loss"}


@dataclass(frozen=True)
class Standing:
    """One optimizer on one task.

    Args:
        spec: the optimizer.
        seeds: how many runs were evaluated.
        test: their mean test score; NaN if there is none.
        steps: to the target, the median; infinite if it was missed.
    """

    spec: Spec
    seeds: int
    test: float
    steps: float


@dataclass(frozen=True)
class Pair:
    """A memory variant less its base on one task, in the metric's own unit."""

    variant: Spec
    base: Spec
    difference: float
    interval: tuple[float, float] | None
    outcome: Outcome


@dataclass(frozen=True)
class Compared:
    """One comparison.

    Args:
        name: of its folder.
        task: what it was about.
        config: with what budget.
        standings: by optimizer.
        pairs: as the comparison judged them, corrected for their number there.
    """

    name: str
    task: Task
    config: CompareConfig
    standings: Mapping[str, Standing]
    pairs: tuple[Pair, ...]

    def improvement(self, difference: float) -> float:
        """A difference in the score with its sign turned so that more is better."""
        return difference if self.task.metric.higher_is_better else -difference

    def cost(self, name: str) -> float:
        """An optimizer's test score, turned so that less is better."""
        return -self.improvement(self.standings[name].test)


def read_all(folders: Sequence[Path]) -> tuple[Compared, ...]:
    """The comparisons in ``folders``, or in the folders within one that is none itself.

    Raises:
        ConfigError: a folder is named twice, or is none, or its config cannot be read.
        NoResultsError: there is no finished comparison in one.
        StoreError: a table cannot be read.
    """
    found = [each for folder in folders for each in _comparisons(folder)]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two of the folders are called {name!r}; name each once, and apart")
    return tuple(map(read, found))


def _comparisons(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    if (folder / TABLE).is_file():
        return [folder]
    within = sorted(path.parent for path in folder.glob(f"*/{TABLE}"))
    if not within:
        raise NoResultsError(
            f"there is no {TABLE} in {folder}, nor in a folder within it; name folders that "
            "`gradmem compare` has finished"
        )
    return within


def read(folder: Path) -> Compared:
    """One comparison; errors as `read_all`."""
    config = configs.read(folder)
    if not isinstance(config, CompareConfig):
        raise ConfigError(f"{folder} is a folder of `gradmem {config.command}`, not of `compare`")
    try:
        load_own(config.optimizers)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    path = folder / TABLE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [_whole(row) for row in csv.DictReader(file)]
        standings = tuple(map(_standing, rows))
        pairs = tuple(_pair(row) for row in rows if row["against"])
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}: {error}); "
            f"`gradmem report {folder}` makes it anew from the runs"
        ) from None
    if not standings:
        raise NoResultsError(f"there is no optimizer in {path}")
    by_name = {each.spec.name: each for each in standings}
    return Compared(folder.resolve().name, task_of(config), config, by_name, pairs)


def _whole(row: dict[str, str]) -> dict[str, str]:
    if None in row.values():
        raise ValueError(f"the row of {row['optimizer']} is too short")
    return row


def _standing(row: Mapping[str, str]) -> Standing:
    return Standing(
        find(row["optimizer"]),
        int(row["runs"]),
        float(row["test_mean"]),
        float(row["steps_to_target"]),
    )


def _pair(row: Mapping[str, str]) -> Pair:
    ends = row["difference_low"], row["difference_high"]
    return Pair(
        find(row["optimizer"]),
        find(row["against"]),
        float(row["difference"]),
        (float(ends[0]), float(ends[1])) if all(ends) else None,
        OUTCOMES[row["outcome"]],
    )
