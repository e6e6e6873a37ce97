"""Comparisons made up from numbers: no training."""

import math
from dataclasses import replace

from gradmem.lab.compare import Comparison, Evaluated, Plan
from gradmem.lab.optimizers import get_optimizers
from gradmem.lab.run import Curves, RunConfig, RunResult
from gradmem.lab.tune import Trial, Tuned, trial_options

from .helpers import Line

EPOCHS = 6


class Made(Line):
    """A task nobody trains on."""

    name = "made-up"
    title = "Numbers made up"
    metric = replace(Line.metric, name="accuracy", higher_is_better=True, worst=0.0, scale=100.0)
    metric = replace(metric, unit="%")
    target = 0.9


def plan(*names, task=None, trials=6, seeds=6, **more):
    return Plan(task or Made(), get_optimizers(names), trials, seeds, EPOCHS, **more)


def run(config: RunConfig, score: float, loss: float, **changes) -> RunResult:
    """A run of a smooth curve that ends at ``loss`` and ``score``."""
    losses = (*(loss * (1 + 2.0**-i) for i in range(EPOCHS - 1)), loss)
    scores = (*(score * (1 - 0.5 ** (i + 1)) for i in range(EPOCHS - 1)), score)
    reached = score >= 0.9
    memory = {
        "name": "model",
        "parameters": 2,
        "steps": 60,
        "capacity": 3,
        "occupied": 3,
        "ages": [1, 4, 17],
        "norms": [1.0, 2.0, 3.0],
        "accepted_share": 0.5,
        "bytes": 24,
    }
    values = {
        "config": config,
        "status": "ok",
        "curves": Curves(losses, losses, scores),
        "steps_per_epoch": 10,
        "best_epoch": EPOCHS,
        "validation_loss": loss,
        "validation_score": score,
        "test_score": score if config.purpose == "evaluate" else None,
        "steps_to_target": 60 if reached else None,
        "seconds_to_target": 0.6 if reached else None,
        "seconds_per_step": 0.02 if config.optimizer.endswith("_c") else 0.01,
        "seconds": 1.2 if config.optimizer.endswith("_c") else 0.6,
        "state_bytes": 32 if config.optimizer.endswith("_c") else 8,
        "memory": (memory,) if config.optimizer.endswith("_c") else (),
    }
    return RunResult(**(values | changes))


def failed(result: RunResult, status: str, error: str | None = None) -> RunResult:
    """The same run, had it ended so."""
    return replace(
        result,
        status=status,
        curves=Curves(),
        best_epoch=None,
        validation_loss=math.inf,
        validation_score=0.0,
        test_score=None if result.test_score is None else 0.0,
        steps_to_target=None,
        seconds_to_target=None,
        seconds_per_step=0.0,
        seconds=0.0,
        state_bytes=0,
        memory=(),
        error=error,
    )


def comparison(scores, task=None, **more) -> Comparison:
    """A comparison in which each optimizer has these test scores, from seed 100 on."""
    seeds = max(map(len, scores.values()))
    made = plan(*scores, task=task, seeds=seeds, **more)
    return Comparison(
        made, tuple(_evaluated(made, spec, scores[spec.name]) for spec in made.optimizers)
    )


def _evaluated(made, spec, scores):
    trials = tuple(
        Trial(tuple(run(config, 0.5, 1.0 + i % 4) for config in made.trial_configs(spec, options)))
        for i, options in enumerate(trial_options(spec, made.trials))
    )
    tuned = Tuned(spec, trials)
    options = tuned.best.options
    runs = tuple(
        run(made.config("evaluate", spec, options, 100 + i), score, 1.1 - score)
        for i, score in enumerate(scores)
    )
    return Evaluated(tuned, runs)


def change_runs(found: Comparison, name: str, change) -> Comparison:
    """The comparison with ``change`` made to the evaluation runs of one optimizer."""
    results = tuple(
        replace(each, runs=tuple(change(list(each.runs)))) if each.spec.name == name else each
        for each in found.results
    )
    return replace(found, results=results)


def change_trials(found: Comparison, name: str, change) -> Comparison:
    """The same for its trials, run by run."""

    def changed(each):
        trials = tuple(Trial(tuple(map(change, trial.runs))) for trial in each.tuned.trials)
        return replace(each, tuned=replace(each.tuned, trials=trials))

    results = tuple(changed(each) if each.spec.name == name else each for each in found.results)
    return replace(found, results=results)
