"""All runs of a plan, by several processes, each in a file as soon as it is finished."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from gradmem.lab.errors import CrashedError
from gradmem.lab.sparsify.plan import Plan, Setting
from gradmem.lab.sparsify.problem import Problem, get_problem
from gradmem.lab.sparsify.runs import Result, Store, train

Notify = Callable[[Result], None]

_stop: Any = None  # set in a worker: an event of the process that started it


def carry_out(
    plan: Plan,
    settings: Sequence[Setting],
    folder: Path,
    data: Path | None,
    workers: int,
    notify: Notify,
) -> list[Result]:
    """The results in the order of ``settings``; what is in ``folder`` already is not run again.

    Args:
        plan: whose runs they are.
        settings: the runs.
        folder: where the files are.
        data: the data folder.
        workers: processes; 1 for this one alone.
        notify: told of every result once.

    Raises:
        LabError: a file cannot be written, or a process died.
    """
    store = Store(folder)
    found: dict[int, Result] = {}
    for i, setting in enumerate(settings):
        if (kept := store.load(setting)) is not None:
            found[i] = kept
            notify(kept)
    waiting = [i for i in range(len(settings)) if i not in found]
    if workers == 1 or len(waiting) < 2:
        for i in waiting:
            found[i] = run(plan.problem, settings[i], store)
            notify(found[i])
    else:
        _together(plan.problem, settings, waiting, found, folder, data, workers, notify)
    return [found[i] for i in range(len(settings))]


def run(
    problem: Problem, setting: Setting, store: Store, stop: Callable[[], bool] = lambda: False
) -> Result:
    """Train, and write down what came out."""
    result, weights = train(problem, setting, stop)
    store.save(result, weights)
    return result


def _together(
    problem: Problem,
    settings: Sequence[Setting],
    waiting: Sequence[int],
    found: dict[int, Result],
    folder: Path,
    data: Path | None,
    workers: int,
    notify: Notify,
) -> None:
    context: Any = multiprocessing.get_context(_start_method())
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)), mp_context=context, initializer=_begin, initargs=(stop,)
    )
    try:
        jobs: dict[Future[Result], int] = {
            pool.submit(
                _run_elsewhere, problem.name, data, problem.examples, settings[i], folder
            ): i
            for i in waiting
        }
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            notify(found[jobs[job]])
    except BrokenProcessPool:
        raise CrashedError(
            "a process at work died; was there not enough memory? Finished runs are kept"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start_method() -> str:
    """Not by forking: what torch's threads hold is held for ever in a copy."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def _begin(stop: Any) -> None:
    """What each process does first."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it decides
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """End as soon as the process that started this one is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # files appear whole or not at all


def _run_elsewhere(
    name: str, data: Path | None, examples: int | None, setting: Setting, folder: Path
) -> Result:
    problem = get_problem(name, data, examples)
    return run(problem, setting, Store(folder), _stop.is_set)
