"""Small runs for the lab's tests."""

from typing import Any

from gradmem.lab.compare import Comparison, Plan, compare
from gradmem.lab.optimizers import get_optimizers
from gradmem.lab.run import RunConfig, RunResult
from gradmem.lab.store import Store
from gradmem.lab.tasks.digits import Digits


def config(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "task": "digits",
        "task_version": 1,
        "purpose": "evaluate",
        "optimizer": "adam",
        "options": {"lr": 0.01},
        "seed": 100,
        "epochs": 2,
        "batch_size": 32,
    }
    return RunConfig(**(values | changes))


def tiny_plan(*names: str, trials: int = 2, seeds: int = 2, epochs: int = 2) -> Plan:
    return Plan(Digits(), get_optimizers(names or ("adam", "adam_c")), trials, seeds, epochs)


def tiny_comparison(folder, *names: str, **sizes: int) -> Comparison:
    return compare(tiny_plan(*names, **sizes), Store(folder), lambda event: None)


def untimed(result: RunResult) -> dict[str, Any]:
    """All of a result but what the clock decides."""
    plain = result.to_json()
    del plain["seconds_per_step"]
    return plain
