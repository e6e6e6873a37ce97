"""The protocol: equal tuning for all, then the best setting of each on fresh seeds."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from gradmem.lab.errors import ConfigError
from gradmem.lab.optimizers import Options, Spec
from gradmem.lab.run import Purpose, RunConfig, RunResult, versions
from gradmem.lab.search import SearchPlan, study_name
from gradmem.lab.tasks.base import Task
from gradmem.lab.tune import Tuned

FIRST_TUNING_SEED = 0
FIRST_EVALUATION_SEED = 100  # never a tuning seed, of which there are at most a hundred


@dataclass(frozen=True)
class Plan:
    """What a comparison consists of.

    Args:
        task: the task.
        optimizers: who takes part, in the order of the report.
        trials: settings tried for each.
        seeds: fresh seeds at the best setting; 0 for a search alone.
        epochs: of every run.
        batch_size: examples a step; None for the task's own.
        tuning_seeds: runs of each setting, whose mean decides.
        search: how settings are chosen.
        timeout: seconds a run may take.
    """

    task: Task
    optimizers: tuple[Spec, ...]
    trials: int
    seeds: int
    epochs: int
    batch_size: int | None = None
    tuning_seeds: int = 1
    search: SearchPlan = field(default_factory=SearchPlan)
    timeout: float | None = None

    def __post_init__(self) -> None:
        least = {"trials": 1, "seeds": 0, "epochs": 1, "tuning_seeds": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name} must be at least {bound}, not {getattr(self, name)}")
        if self.tuning_seeds > FIRST_EVALUATION_SEED:
            raise ConfigError(
                f"tuning_seeds must be at most {FIRST_EVALUATION_SEED}, not {self.tuning_seeds}: "
                "the seeds of the evaluation come after them"
            )

    @property
    def runs(self) -> int:
        """How many runs the whole comparison has."""
        return len(self.optimizers) * (self.trials * self.tuning_seeds + self.seeds)

    @property
    def evaluation_seeds(self) -> range:
        """The fresh seeds."""
        return range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + self.seeds)

    @property
    def examples_a_step(self) -> int:
        """The batch size."""
        return self.batch_size or self.task.budget.batch_size

    def config(self, purpose: Purpose, spec: Spec, options: Options, seed: int) -> RunConfig:
        """One run of this comparison."""
        return RunConfig(
            task=self.task.name,
            task_version=self.task.version,
            purpose=purpose,
            optimizer=spec.name,
            options=options,
            seed=seed,
            epochs=self.epochs,
            batch_size=self.examples_a_step,
            versions={**versions(), **self.task.versions(), **spec.versions},
        )

    def trial_configs(self, spec: Spec, options: Options) -> list[RunConfig]:
        """The runs of one setting, a run for each tuning seed."""
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + self.tuning_seeds)
        return [self.config("tune", spec, options, seed) for seed in seeds]

    def search_name(self, spec: Spec) -> str:
        """What the search for ``spec`` is called: another name if its runs are others."""
        first = asdict(self.config("tune", spec, {}, FIRST_TUNING_SEED))
        identity = {
            **first,
            "tuning_seeds": self.tuning_seeds,
            "search": asdict(self.search),
            "space": [str(dimension) for dimension in spec.space],
        }
        return study_name(f"{self.task.name}-{spec.name}", identity)


@dataclass(frozen=True)
class Evaluated:
    """One optimizer at its best setting, on the fresh seeds; what it took to find it."""

    tuned: Tuned
    runs: tuple[RunResult, ...]

    @property
    def spec(self) -> Spec:
        """The optimizer."""
        return self.tuned.spec

    @property
    def options(self) -> dict[str, Any]:
        """The setting chosen on validation."""
        return self.tuned.best.options


def version_sentence(results: Iterable[Evaluated]) -> str:
    """What the runs were made with."""
    runs = [run for each in results for run in each.runs]
    found = {name: number for run in runs for name, number in run.config.versions.items()}
    return "Versions: " + ", ".join(f"{name} {number}" for name, number in found.items()) + "."


@dataclass(frozen=True)
class Comparison:
    """All runs of a plan, in its order of optimizers; the order of seeds is the same in each.

    ``outstanding`` is how many runs of the plan as it was asked for are missing. If some are, the
    plan here has as many seeds as every optimizer has finished, counted from the first.
    """

    plan: Plan
    results: tuple[Evaluated, ...]
    outstanding: int = 0


@dataclass(frozen=True)
class Progress:
    """One more run is there: just trained, or found in the store."""

    result: RunResult
    reused: bool
