"""All paths of a plan; learning rates from one grid for all, with equally many trials each."""

from collections.abc import Callable
from dataclasses import dataclass

from gradmem.lab.run import one_thread
from gradmem.lab.surfaces.paths import Path, follow
from gradmem.lab.surfaces.plan import RATES, Entrant, Plan

ROUNDING = 1e-12  # of the gap at the start: final losses closer than that to each other are equal
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """One optimizer: the path shown, and those its learning rate was chosen from, if any."""

    path: Path
    trials: tuple[Path, ...]

    @property
    def entrant(self) -> Entrant:
        """The optimizer."""
        return self.path.entrant

    @property
    def edge(self) -> str | None:
        """Which end of the grid the chosen rate lies at."""
        if self.path.rate not in (RATES[0], RATES[-1]) or len(set(map(score, self.trials))) < 2:
            return None
        return "lower" if self.path.rate == RATES[0] else "upper"


def carry_out(plan: Plan, notify: Notify) -> tuple[Result, ...]:
    """Every optimizer's result."""
    with one_thread():
        return tuple(_result(plan, entrant, notify) for entrant in plan.entrants)


def floor(path: Path) -> float:
    """The gap below which only rounding is left."""
    return ROUNDING * max(abs(float(path.losses[0]) - path.least), abs(path.least))


def score(path: Path) -> tuple[float, float]:
    """What makes a trial the best: the final loss, then how soon it came near the minimum.

    Outside the box a loss says nothing: some surfaces have no lower bound there.
    """
    solved = path.plan.steps + 1 if path.solved is None else path.solved
    return max(path.gap, floor(path)), solved


def _result(plan: Plan, entrant: Entrant, notify: Notify) -> Result:
    if plan.rates is not None:
        path = follow(plan, entrant, plan.rates[entrant.name], plan.seed)
        notify(entrant.label)
        return Result(path, ())
    trials = []
    for rate in RATES:
        trials.append(follow(plan, entrant, rate, plan.seed))
        notify(f"{entrant.label} at learning rate {rate:g}")
    best = min(trials, key=score)
    if plan.noise:
        # a rate chosen on one draw of the noise is shown on another
        best = follow(plan, entrant, best.rate, plan.fresh_seed)
    return Result(best, tuple(trials))
