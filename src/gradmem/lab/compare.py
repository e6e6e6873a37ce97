"""The protocol: equal tuning for all, then the best setting of each on fresh seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradmem.lab.optimizers import Options, Spec
from gradmem.lab.run import Purpose, RunConfig, RunResult, train
from gradmem.lab.store import Store
from gradmem.lab.tasks.base import Task
from gradmem.lab.tune import Tuned, trial_options

TUNING_SEED = 0
FIRST_EVALUATION_SEED = 100  # never the tuning seed, whatever the number of seeds


@dataclass(frozen=True)
class Plan:
    """What a comparison consists of."""

    task: Task
    optimizers: tuple[Spec, ...]
    trials: int
    seeds: int
    epochs: int

    def __post_init__(self) -> None:
        for name in ("trials", "seeds", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def runs(self) -> int:
        """How many runs the whole comparison has."""
        return len(self.optimizers) * (self.trials + self.seeds)

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
            batch_size=self.task.budget.batch_size,
        )


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
        return self.tuned.best.config.options


@dataclass(frozen=True)
class Comparison:
    """All runs of a plan, in its order of optimizers; the order of seeds is the same in each."""

    plan: Plan
    results: tuple[Evaluated, ...]


@dataclass(frozen=True)
class Progress:
    """One more run is there: just trained, or found in the store."""

    result: RunResult
    reused: bool


def compare(plan: Plan, store: Store, notify: Callable[[Progress], None]) -> Comparison:
    """Carry out ``plan``; runs that ``store`` holds are taken from it.

    Seeds are the outer loop of the evaluation, so that a machine that slows down or warms up
    meets every optimizer alike and the times per step stay comparable.
    """

    def run(config: RunConfig) -> RunResult:
        found = store.load(config)
        result = found or train(plan.task, config)
        if not found:
            store.save(result)
        notify(Progress(result, reused=found is not None))
        return result

    tuned = [
        Tuned(
            spec,
            tuple(
                run(plan.config("tune", spec, options, TUNING_SEED))
                for options in trial_options(spec, plan.trials)
            ),
        )
        for spec in plan.optimizers
    ]
    seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + plan.seeds)
    by_seed = [
        [run(plan.config("evaluate", each.spec, each.best.config.options, seed)) for each in tuned]
        for seed in seeds
    ]
    by_optimizer = zip(*by_seed, strict=True)
    return Comparison(
        plan, tuple(Evaluated(*pair) for pair in zip(tuned, by_optimizer, strict=True))
    )
