"""Search: the same number of trials for every optimizer, at the same quasi-random points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import qmc

from gradmem.lab.optimizers import Options, Spec
from gradmem.lab.run import RunResult

POINTS_SEED = 0
EDGE = 0.1  # a best learning rate within this share of the space's length from an end is "at" it


@dataclass(frozen=True)
class Tuned:
    """The trials of one optimizer."""

    spec: Spec
    trials: tuple[RunResult, ...]

    @property
    def best(self) -> RunResult:
        """The trial of lowest validation loss; the first of them, so also if all diverged."""
        return min(self.trials, key=lambda trial: trial.validation_loss)

    def edge_warning(self) -> str | None:
        """A sentence if the best learning rate lies at an end of the space."""
        rate = self.spec.learning_rate
        chosen = self.best.config.options[rate.name]
        place = math.log(chosen / rate.low) / math.log(rate.high / rate.low)
        if EDGE <= place <= 1 - EDGE:
            return None
        return (
            f"{self.spec.label}: the best learning rate, {chosen:g}, lies at the edge of the space "
            f"searched ({rate.low:g} to {rate.high:g}); a better one may lie beyond it"
        )


def trial_options(spec: Spec, trials: int) -> Sequence[Options]:
    """``trials`` settings spread evenly over the space of ``spec``.

    Halton points, scrambled with one seed for all: the first coordinates do not depend on how many
    follow, so a memory variant is tried at its base's learning rates, and more trials begin with
    the same ones.
    """
    points = qmc.Halton(len(spec.space), rng=POINTS_SEED).random(trials)
    return [spec.options_at(point) for point in points]
