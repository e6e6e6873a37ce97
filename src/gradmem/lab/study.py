"""A study in a folder: its jobs, done by as many processes as care to work on it.

    config.toml      what was asked for
    runs/            one file per finished run: the truth, everything else can be made again
    claims/          who is at work on what, right now
    checkpoints/     runs in the middle, from epoch to epoch
    journal.log      the Optuna studies, one per optimizer, unless they are in a data base

A *job* is one trial of an optimizer, or one evaluation run. It is done when its runs are in the
store; whoever holds its claim does it. Every process goes through the same jobs in the same order
and leaves out what is done or claimed, so it makes no difference who started it, or where.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.claims import Claims
from gradmem.lab.compare import Comparison, Evaluated, Plan, Progress
from gradmem.lab.config import file_name
from gradmem.lab.errors import CrashedError, NoResultsError
from gradmem.lab.files import remove_abandoned_drafts
from gradmem.lab.optimizers import Spec
from gradmem.lab.run import RunConfig, RunResult, broken_off, train
from gradmem.lab.search import Search, Storage
from gradmem.lab.store import Store, Warn, name_of
from gradmem.lab.training import Epoch
from gradmem.lab.tune import Trial, Tuned

POLL = 0.2  # seconds between two looks at what others are at work on
GIVE_UP_AFTER = 5  # crashes for one and the same reason, if they are all there is


class Watcher(Protocol):
    """What a study tells while it works."""

    def begin(self, config: RunConfig) -> None:
        """A run is about to be trained here."""

    def epoch(self, config: RunConfig, epoch: Epoch) -> None:
        """One more epoch of it."""

    def done(self, progress: Progress) -> None:
        """A run is there."""


@dataclass(frozen=True)
class Job:
    """A trial, by its slot, or an evaluation run, by its config; ``name`` is its claim's."""

    name: str
    spec: Spec
    slot: int | None = None
    config: RunConfig | None = None


class Study:
    """The runs of ``plan`` in ``folder``.

    Args:
        plan: what is to be done.
        folder: where; several processes may have it open.
        storage: the address of a data base for the Optuna studies; None for a file in the folder.
        checkpoint_seconds: the least time between two checkpoints of a run.
        retry_before: make runs again that crashed before this time, in seconds of the system clock.
        warn: told in a sentence what is wrong but no reason to stop.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        storage: str | None = None,
        checkpoint_seconds: float = 10.0,
        retry_before: float = 0.0,
        warn: Warn = print,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.store = Store(folder / "runs", warn)
        self.claims = Claims(folder / "claims")
        self._checkpoints = Checkpoints(folder / "checkpoints", checkpoint_seconds, warn)
        self._retry_before = retry_before
        keep = Storage(folder, storage, self.claims.deciding)
        self._searches = {
            spec.name: Search(spec, plan.search, plan.trials, keep, plan.search_name(spec))
            for spec in plan.optimizers
        }

    def work(self, watcher: Watcher) -> None:
        """Do what is not done, until all of it is, here or elsewhere.

        Raises:
            CrashedError: every run crashed.
            StoreError: something cannot be written.
        """
        for part in ("runs", "checkpoints"):
            remove_abandoned_drafts(self.folder / part)
        self._work(self._tuning_jobs(), watcher)
        tuned = self.tuned()
        self._refuse_if_all_crashed([r for each in tuned for t in each.trials for r in t.runs])
        self._work(self._evaluation_jobs(tuned), watcher)
        self.claims.sweep()

    def single(self, config: RunConfig, watcher: Watcher) -> RunResult:
        """One run, made here unless it is there or another process is at it."""
        self._work([Job(name_of(config), self.plan.optimizers[0], config=config)], watcher)
        result = self._load(config)
        assert result is not None
        return result

    def tuned(self) -> tuple[Tuned, ...]:
        """The finished search.

        Raises:
            NoResultsError: it is not finished.
        """
        trials: dict[str, list[Trial]] = {spec.name: [] for spec in self.plan.optimizers}
        missing = 0
        for job in self._tuning_jobs():
            if (found := self._found(job)) is None:
                missing += 1
            else:
                trials[job.spec.name].append(Trial(tuple(each.result for each in found)))
        if missing:
            total = len(self.plan.optimizers) * self.plan.trials
            raise NoResultsError(
                f"{missing} of {total} trials in {self.folder} are yet to be made, so no setting "
                f"is chosen and there is nothing to report; {self._how_to_go_on()}"
            )
        return tuple(Tuned(spec, tuple(trials[spec.name])) for spec in self.plan.optimizers)

    def comparison(self) -> Comparison:
        """What the finished runs amount to, also if some are outstanding.

        Raises:
            NoResultsError: there is no seed that every optimizer has finished.
        """
        tuned = self.tuned()
        by_optimizer = [
            [self._load(self._evaluation_config(each, seed)) for seed in self.plan.evaluation_seeds]
            for each in tuned
        ]
        complete = min(_leading(runs) for runs in by_optimizer)
        outstanding = sum(run is None for runs in by_optimizer for run in runs)
        if not complete:
            raise NoResultsError(
                f"the search in {self.folder} is done, but no fresh seed is finished for every "
                f"optimizer, so there is nothing to report; {self._how_to_go_on()}"
            )
        results = tuple(
            Evaluated(each, tuple(run for run in runs[:complete] if run is not None))
            for each, runs in zip(tuned, by_optimizer, strict=True)
        )
        return Comparison(replace(self.plan, seeds=complete), results, outstanding)

    def run(self, config: RunConfig, watcher: Watcher) -> RunResult:
        """Train one run and keep it; the caller holds its claim."""
        watcher.begin(config)
        try:
            result = train(
                self.plan.task,
                config,
                timeout=self.plan.timeout,
                checkpoint=self._checkpoints.of(name_of(config)),
                onlooker=lambda epoch: watcher.epoch(config, epoch),
            )
        except KeyboardInterrupt:
            self.store.save(broken_off(self.plan.task, config, "interrupted", None))
            raise
        self.store.save(result)
        return result

    def _how_to_go_on(self) -> str:
        at_work = self.claims.living()
        beside = f" (processes at work on it now: {at_work})" if at_work else ""
        return f"go on with: gradmem resume {self.folder}{beside}"

    def _work(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        waiting = deque(jobs)
        seen: list[RunResult] = []
        while waiting:
            before = len(waiting)
            for _ in range(before):
                job = waiting.popleft()
                done = self._found(job) if self._is_told(job) else None
                progress = done or self._attempt(job, watcher)
                if progress is None:
                    waiting.append(job)
                    continue
                for each in progress:
                    watcher.done(each)
                    seen.append(each.result)
                if len(seen) >= GIVE_UP_AFTER and len({run.reason for run in seen}) == 1:
                    self._refuse_if_all_crashed(seen)
            if len(waiting) == before:
                time.sleep(POLL)

    def _found(self, job: Job) -> list[Progress] | None:
        """The runs of a job, if they are all there."""
        configs = self._configs(job)
        if configs is None:
            return None
        runs = [self._load(config) for config in configs]
        found = [Progress(run, reused=True) for run in runs if run is not None]
        return found if len(found) == len(runs) else None

    def _is_told(self, job: Job) -> bool:
        """Whether the search knows what a trial gave: it must, before it chooses the next."""
        return job.slot is None or self._searches[job.spec.name].is_told(job.slot)

    def _attempt(self, job: Job, watcher: Watcher) -> list[Progress] | None:
        """Do a job, unless somebody else is at it."""
        with self.claims.take(job.name) as ours:
            if not ours:
                return None
            configs = self._configs(job, decide=True)
            progress = [self._made(config, watcher) for config in configs or ()]
            if job.slot is not None:
                trial = Trial(tuple(each.result for each in progress))
                self._searches[job.spec.name].finish(job.slot, trial)
        return progress

    def _made(self, config: RunConfig, watcher: Watcher) -> Progress:
        """A run that was made in the meantime, or makes it."""
        found = self._load(config)
        return Progress(found or self.run(config, watcher), reused=found is not None)

    def _configs(self, job: Job, *, decide: bool = False) -> list[RunConfig] | None:
        """The runs of a job; None if the setting of the trial is not decided, nor to be."""
        if job.config is not None:
            return [job.config]
        assert job.slot is not None
        search = self._searches[job.spec.name]
        options = search.decide(job.slot) if decide else search.known(job.slot)
        return None if options is None else self.plan.trial_configs(job.spec, options)

    def _load(self, config: RunConfig) -> RunResult | None:
        """The finished run, unless it is to be made again."""
        found = self.store.load(config)
        if found is None:
            return None
        limit = self.plan.timeout
        if found.status == "timeout" and (limit is None or limit > (found.limit or 0.0)):
            return None
        if found.status == "crashed" and self.store.written(config) < self._retry_before:
            return None
        return found

    def _tuning_jobs(self) -> list[Job]:
        return [
            Job(file_name(f"{self.plan.search_name(spec)}-{slot:05d}"), spec, slot=slot)
            for slot in range(self.plan.trials)
            for spec in self.plan.optimizers
        ]

    def _evaluation_jobs(self, tuned: Sequence[Tuned]) -> list[Job]:
        """Seeds are the outer loop, so that a machine that slows down or warms up meets every
        optimizer alike and the times per step stay comparable.
        """
        return [
            Job(name_of(config), each.spec, config=config)
            for seed in self.plan.evaluation_seeds
            for each in tuned
            if (config := self._evaluation_config(each, seed))
        ]

    def _evaluation_config(self, each: Tuned, seed: int) -> RunConfig:
        return self.plan.config("evaluate", each.spec, each.best.options, seed)

    def _refuse_if_all_crashed(self, runs: Sequence[RunResult]) -> None:
        if any(run.status != "crashed" for run in runs):
            return
        last = runs[-1]
        raise CrashedError(
            f"every run so far, {len(runs)} of them, crashed: {last.reason}. The traceback is in "
            f"{self.store.path(last.config)}; once the cause is put right, start again with "
            "--retry-crashed"
        )


def _leading(runs: Sequence[RunResult | None]) -> int:
    """How many are there before the first that is missing.

    >>> _leading([None]), _leading([])
    (0, 0)
    """
    return next((i for i, run in enumerate(runs) if run is None), len(runs))
