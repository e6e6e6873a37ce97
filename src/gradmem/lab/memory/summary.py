"""Records of a memory's steps as the numbers one asks for: pure functions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gradmem import StepRecord

Records: TypeAlias = Sequence[StepRecord]


@dataclass(frozen=True)
class Summary:
    """What one ledger did over all its recorded steps; NaN where there was nothing to count.

    Attributes:
        scope: name of the ledger.
        capacity: its slots.
        steps: recorded steps that it saw: the gradient was finite and not zero.
        entered: how many of their gradients entered the memory.
        left: how many stored ones had to go for them.
        early, median, late: the ages at which they went: a tenth went at `early` or before, half at
            `median` or before, a tenth at `late` or after.
        oldest: the largest age of a gradient used; 0 if none was.
        recent: share of the gradients used that were among the last `capacity` ones, which is what
            ``fifo`` would have held.
        cosine: mean of the cosine of gradient and update.
        lowest_cosine: its smallest.
        ratio: median of the gradient's norm over the mean norm of the stored ones.
    """

    scope: str
    capacity: int
    steps: int
    entered: int
    left: int
    early: float
    median: float
    late: float
    oldest: int
    recent: float
    cosine: float
    lowest_cosine: float
    ratio: float

    @property
    def accepted_share(self) -> float:
        """Share of the steps whose gradient entered."""
        return self.entered / self.steps if self.steps else math.nan


def summarise(records: Iterable[StepRecord]) -> tuple[Summary, ...]:
    """One summary for each ledger, in the order in which they appear."""
    scopes: dict[str, list[StepRecord]] = {}
    for record in records:
        scopes.setdefault(record.scope, []).append(record)
    return tuple(_summary(scope, some) for scope, some in scopes.items())


def of_scope(records: Records, scope: str | None = None) -> list[StepRecord]:
    """The records of one ledger; without a name, of the first.

    Raises:
        ValueError: there is none of this name.
    """
    names = dict.fromkeys(record.scope for record in records)
    if scope is None:
        scope = next(iter(names), None)
    elif scope not in names:
        raise ValueError(f"there is no ledger {scope!r}; there are: {', '.join(names)}")
    return [record for record in records if record.scope == scope]


def eviction_ages(records: Iterable[StepRecord]) -> list[int]:
    """How long each gradient that had to go had lain in the memory."""
    return [record.left_age for record in records if record.left_age is not None]


def used_ages(record: StepRecord) -> list[int]:
    """Ages, in the step to come, of what is held after this one: 1 for the newest."""
    return [record.step + 1 - birth for birth in record.held if birth]


def _summary(scope: str, records: Records) -> Summary:
    seen = [record for record in records if record.seen]
    capacity = len(records[0].held)
    gone, used = eviction_ages(seen), [age for record in seen for age in used_ages(record)]
    cosines = [record.cosine for record in seen if math.isfinite(record.cosine)]
    early, median, late = np.quantile(gone, (0.1, 0.5, 0.9)) if gone else (math.nan,) * 3
    return Summary(
        scope=scope,
        capacity=capacity,
        steps=len(seen),
        entered=sum(record.entered for record in seen),
        left=len(gone),
        early=float(early),
        median=float(median),
        late=float(late),
        oldest=max(used, default=0),
        recent=_mean([age <= capacity for age in used]),
        cosine=_mean(cosines),
        lowest_cosine=min(cosines, default=math.nan),
        ratio=_median([r.norm / r.stored_norm for r in seen if r.stored_norm > 0]),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
