"""Search: the same number of trials for every optimizer, and the best of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import qmc

from gradmem.lab.optimizers import Options, Spec
from gradmem.lab.run import RunResult, Status
from gradmem.lab.spaces import LogUniform

POINTS_SEED = 0


@dataclass(frozen=True)
class Trial:
    """One setting, on each of the tuning seeds."""

    runs: tuple[RunResult, ...]

    @property
    def options(self) -> Options:
        """The setting."""
        return self.runs[0].config.options

    @property
    def validation_loss(self) -> float:
        """The mean over the seeds: infinite if one of the runs failed."""
        return statistics.fmean(run.validation_loss for run in self.runs)

    @property
    def status(self) -> Status:
        """That of the first run that was not all right, else "ok"."""
        return next((run.status for run in self.runs if run.status != "ok"), "ok")


@dataclass(frozen=True)
class Tuned:
    """The trials of one optimizer."""

    spec: Spec
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial of lowest validation loss; the first of them, so also if all diverged."""
        return min(self.trials, key=lambda trial: trial.validation_loss)

    def count(self, status: Status) -> int:
        """How many trials ended so."""
        return sum(trial.status == status for trial in self.trials)

    def warnings(self) -> list[str]:
        """Sentences on what makes the best setting doubtful."""
        if not math.isfinite(self.best.validation_loss):
            return [self._nothing_worked()]
        dimensions = (each for each in self.spec.space if isinstance(each, LogUniform))
        edges = [self._edge(each) for each in dimensions if each.at_edge(self.best.options)]
        beyond = self._beyond_its_base()
        return [*edges, *([beyond] if beyond else [])]

    def _nothing_worked(self) -> str:
        kinds: tuple[Status, ...] = ("diverged", "timeout", "crashed")
        counts = ", ".join(f"{self.count(kind)} {kind}" for kind in kinds if self.count(kind))
        reason = next((run.reason for trial in self.trials for run in trial.runs if run.error), "")
        return f"{self.spec.label}: no trial succeeded ({counts})" + (reason and f": {reason}")

    def _edge(self, dimension: LogUniform) -> str:
        name = "learning rate" if dimension.name == "lr" else dimension.name
        chosen = self.best.options[dimension.name]
        whose = self.spec.base if self.spec.base and self.spec.shares else self.spec.name
        place = f"{whose}.{dimension.name}"
        return (
            f"{self.spec.label}: the best {name}, {chosen:g}, lies at the edge of the space "
            f"searched ({dimension.low:g} to {dimension.high:g}); a better one may lie beyond it: "
            f"widen it with --space {place}=LOW:HIGH"
        )

    def _beyond_its_base(self) -> str | None:
        """A base must have been tried at what `sum` makes of the variant's learning rate."""
        options, rate = self.best.options, self.spec.learning_rate
        if not self.spec.proportional or rate is None or options.get("aggregate") != "sum":
            return None
        effective = options["lr"] * (1 + options["kappa"])
        if effective <= rate.high:
            return None
        return (
            f"{self.spec.label}: `sum` with kappa {options['kappa']:g} makes its learning rate act "
            f"like {effective:g}, beyond what its base was tried at (up to {rate.high:g}); an "
            "advantage may be one of the learning rate alone"
        )


def trial_options(spec: Spec, trials: int, seed: int = POINTS_SEED) -> Sequence[Options]:
    """``trials`` settings spread evenly over the space of ``spec``.

    Halton points, scrambled with one seed for all: the first coordinates do not depend on how many
    follow, so a memory variant is tried at its base's learning rates, and more trials begin with
    the same ones.
    """
    points = qmc.Halton(len(spec.space), rng=seed).random(trials)
    return [spec.options_at(point) for point in points]
