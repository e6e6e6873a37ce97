"""The memory map of a study: one evaluation run of each memory variant, again and recorded.

Recording takes time, so it is no part of the runs that are compared; a run made again from the same
setting and seed is the same run.
"""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gradmem import Recorder
from gradmem.lab.compare import Comparison, Evaluated
from gradmem.lab.config import file_name
from gradmem.lab.files import cannot_write
from gradmem.lab.run import one_thread
from gradmem.lab.store import name_of
from gradmem.lab.tasks.base import Task, seeded
from gradmem.lab.training import Diverged, Training

STEPS = 2000  # about as many as a map can show; whole epochs


def record_first_runs(comparison: Comparison, folder: Path, tell: Callable[[str], None]) -> None:
    """Record the first evaluation run of every optimizer with a memory, unless that was done.

    Args:
        comparison: finished runs.
        folder: of the study; gets ``records-OPTIMIZER.KEY.jsonl``, the key that of the run.
        tell: told the label of each optimizer before it is recorded.

    Raises:
        StoreError: a file cannot be written.
    """
    for each in comparison.results:
        if not each.runs or not each.runs[0].memory:
            continue
        name = f"records-{file_name(each.spec.name)}"
        path = folder / f"{name}.{name_of(each.runs[0].config)[-16:]}.jsonl"
        if path.exists():
            continue
        draft = path.with_suffix(f".{os.getpid()}.part")
        try:
            draft.unlink(missing_ok=True)
            training = _begin(comparison.plan.task, each)
            if not hasattr(training.optimizer, "memory_report"):
                continue  # made of several, of which one has a memory
            tell(each.spec.label)
            _record(training, each, draft)
            for old in folder.glob(f"{name}.*.jsonl"):  # of another setting
                old.unlink()
            draft.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            draft.unlink(missing_ok=True)


def _begin(task: Task, each: Evaluated) -> Training:
    config = each.runs[0].config
    options = dict(config.options)
    return Training(task, each.spec, options, seed=config.seed, batch_size=config.batch_size)


def _record(training: Training, each: Evaluated, path: Path) -> None:
    config = each.runs[0].config
    epochs = min(config.epochs, math.ceil(STEPS / training.steps_per_epoch))
    recorder = Recorder(training.optimizer, path)
    with one_thread(), seeded(config.seed, "training"), recorder, suppress(Diverged):
        for _ in range(epochs):
            training.epoch(of=config.epochs)
