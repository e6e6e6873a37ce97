"""Several processes of one command, working on one study.

Each goes through the study's jobs by itself (see `study`); the process that started them only
listens, shows, and looks after those that die.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from gradmem.lab import errors
from gradmem.lab.compare import Progress
from gradmem.lab.errors import LabError
from gradmem.lab.run import RunConfig, broken_off
from gradmem.lab.store import name_of
from gradmem.lab.study import Study, Watcher
from gradmem.lab.training import Epoch

DEATHS = 2  # of its process, after which a run is recorded as crashed
PATIENCE = 10.0  # seconds in which a process that is asked to stop has to

# Opens the study in a process of its own; it says what is told while it works.
Open = Callable[[Watcher, Callable[[str], None]], tuple[Study, Watcher]]


def stop_on_terminate() -> None:
    """Make a polite kill an interruption, so that the run at hand is noted as such."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def work_together(
    count: int, open_study: Open, study: Study, watcher: Watcher, warn: Callable[[str], None]
) -> None:
    """Work on a study with ``count`` processes, until it is done.

    Args:
        count: how many.
        open_study: opens the study in each of them; has to be picklable.
        study: the same, here.
        watcher: told of every run once.
        warn: told what any of them warns of.

    Raises:
        LabError: what one of them raised; the others are stopped.
    """
    crew = Crew(open_study, study, watcher, warn)
    try:
        for _ in range(count):
            crew.hire()
        crew.listen()
    finally:
        crew.dismiss()


class Worker:
    """One process, the line to it, and the run it is at."""

    def __init__(self, open_study: Open) -> None:
        context: Any = _context()
        self.line, theirs = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(target=_work, args=(open_study, theirs))
        self.process.start()
        theirs.close()
        self.at: RunConfig | None = None


def _context() -> BaseContext:
    """How processes are started: by a server that has imported everything already, or anew.

    Not by forking this one: what torch's threads hold is held for ever in a copy.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gradmem.lab.session"])
    return context


class Crew:
    """The processes at work."""

    def __init__(
        self, open_study: Open, study: Study, watcher: Watcher, warn: Callable[[str], None]
    ) -> None:
        self._open = open_study
        self._study = study
        self._watcher = watcher
        self._warn = warn
        self._workers: list[Worker] = []
        self._seen: set[str] = set()
        self._deaths: Counter[str] = Counter()

    def hire(self) -> None:
        """One more."""
        self._workers.append(Worker(self._open))

    def listen(self) -> None:
        """Until all have finished."""
        while self._workers:
            lines: dict[Any, Worker] = {worker.line: worker for worker in self._workers}
            for line in wait(list(lines)):
                worker = lines[line]
                try:
                    kind, content = worker.line.recv()
                except (EOFError, OSError):
                    self._bury(worker)
                else:
                    self._hear(worker, kind, content)

    def dismiss(self) -> None:
        """Stop those that are left."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.line.close()
        self._workers.clear()

    def _hear(self, worker: Worker, kind: str, content: Any) -> None:
        if kind == "begin":
            worker.at = content
            self._watcher.begin(content)
        elif kind == "epoch":
            self._watcher.epoch(*content)
        elif kind == "done":
            self._done(worker, content)
        elif kind == "warn":
            self._warn(content)
        elif kind == "failed":
            name, sentence = content
            raise getattr(errors, name)(sentence)

    def _done(self, worker: Worker, progress: Progress) -> None:
        config = progress.result.config
        if worker.at == config:
            worker.at = None
        if name_of(config) not in self._seen:  # else another of them told of it
            self._seen.add(name_of(config))
            self._watcher.done(progress)

    def _bury(self, worker: Worker) -> None:
        """A process has ended: because there is nothing left, or because it died over a run."""
        worker.process.join()
        worker.line.close()
        self._workers.remove(worker)
        if worker.process.exitcode == 0:
            return
        how = _how(worker.process.exitcode)
        name = name_of(worker.at) if worker.at else ""
        self._deaths[name] += 1
        if self._deaths[name] >= DEATHS:
            if worker.at is None:
                raise LabError(f"the processes at work die before they begin ({how})")
            sentence = f"its process died {DEATHS} times ({how}); was there not enough memory?"
            self._study.store.save(
                broken_off(self._study.plan.task, worker.at, "crashed", sentence)
            )
        self.hire()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


class _Line:
    """Tells the process that started this one."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def begin(self, config: RunConfig) -> None:
        self.send("begin", config)

    def epoch(self, config: RunConfig, epoch: Epoch) -> None:
        self.send("epoch", (config, epoch))

    def done(self, progress: Progress) -> None:
        self.send("done", progress)

    def warn(self, sentence: str) -> None:
        self.send("warn", sentence)

    def send(self, kind: str, content: object) -> None:
        try:
            self._line.send((kind, content))
        except OSError:  # nobody listens any more: `_stop_with` will end this process
            return


def _work(open_study: Open, connection: Connection) -> None:
    """What each process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it decides
    stop_on_terminate()
    line = _Line(connection)
    _stop_with(multiprocessing.parent_process())
    try:
        study, watcher = open_study(line, line.warn)
        study.work(watcher)
    except KeyboardInterrupt:
        os._exit(0)
    except LabError as error:
        line.send("failed", (type(error).__name__, str(error)))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends now anyway


def _stop_with(parent: BaseProcess | None) -> None:
    """Interrupt this process as soon as ``parent`` is gone, however it went."""

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
