"""Which setting each trial has: quasi-random points, or Optuna's TPE; kept in an Optuna study.

A trial has a number from 0, its *slot*. Whoever holds the claim of a slot decides its setting,
once, and writes it into the study; so a trial that was broken off goes on with the same setting.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from gradmem.lab.errors import ConfigError, StoreError
from gradmem.lab.optimizers import Options, Spec
from gradmem.lab.tune import POINTS_SEED, Trial, trial_options

Sampler = Literal["halton", "tpe"]
Deciding = Callable[[], AbstractContextManager[None]]

SLOT = "slot"


@dataclass(frozen=True)
class SearchPlan:
    """How settings are chosen.

    Args:
        sampler: "halton", points spread evenly; or "tpe", Optuna's TPE after some such points.
        seed: of the points and of TPE.
        startup: quasi-random points before TPE begins.
    """

    sampler: Sampler = "halton"
    seed: int = POINTS_SEED
    startup: int = 12


class Search:
    """The trials of one optimizer.

    Args:
        spec: the optimizer.
        plan: how settings are chosen.
        trials: how many there are to be.
        storage: where they are kept.
        name: what they are kept under.
    """

    def __init__(
        self, spec: Spec, plan: SearchPlan, trials: int, storage: "Storage", name: str
    ) -> None:
        self._spec = spec
        self._plan = plan
        self._storage = storage
        self._name = name
        self._points = trial_options(spec, trials, plan.seed)
        self._decided: dict[int, Options] = {}
        self._told: set[int] = set()

    def known(self, slot: int) -> Options | None:
        """The setting of ``slot``, or None if nobody has decided it yet."""
        if self._is_point(slot):
            return self._points[slot]
        if slot not in self._decided and (trial := self._find(slot)) is not None:
            self._decided[slot] = self._options(trial)
        return self._decided.get(slot)

    def decide(self, slot: int) -> Options:
        """The setting of ``slot``; the caller holds its claim."""
        with storing():
            options = self.known(slot) or self._suggest(slot)
            if self._find(slot) is None:
                self._study.add_trial(self._record(slot, options))
        return options

    def is_told(self, slot: int) -> bool:
        """Whether `finish` was called for ``slot``, here or elsewhere."""
        if slot not in self._told:
            with storing():
                found = self._find(slot)
            if found is None or not found.state.is_finished():
                return False
            self._told.add(slot)
        return True

    def finish(self, slot: int, trial: Trial) -> None:
        """Tell the study what ``slot`` gave; the caller holds its claim."""
        failed = trial.status in ("crashed", "timeout")
        with storing():
            found = self._find(slot)
            if found is None or found.state.is_finished():
                return
            if failed:
                self._study.tell(found.number, state=TrialState.FAIL)
            else:
                self._study.tell(found.number, trial.validation_loss)

    @cached_property
    def _study(self) -> optuna.Study:
        """Opened when it is first asked: quasi-random settings are known without it."""
        return self._storage.study(self._name)

    def _is_point(self, slot: int) -> bool:
        return self._plan.sampler == "halton" or slot < self._plan.startup

    def _suggest(self, slot: int) -> Options:
        """TPE's answer to the trials there are.

        A function of these and of the slot alone, without a state of its own: one process alone
        comes to the same settings however often it was killed in between.
        """
        seed = zlib.crc32(f"{self._plan.seed} {slot}".encode())
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
        copy = optuna.create_study(sampler=sampler)
        copy.add_trials(sorted(self._trials().values(), key=lambda each: each.user_attrs[SLOT]))
        suggested = copy.ask(self._distributions()).params
        options: Options = {}
        for dimension in self._spec.space:
            options |= dimension.options(suggested[dimension.key])
        return options

    def _record(self, slot: int, options: Options) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING,
            params={each.key: each.value(options) for each in self._spec.space},
            distributions=self._distributions(),
            user_attrs={SLOT: slot},
        )

    def _options(self, trial: FrozenTrial) -> Options:
        options: Options = {}
        for dimension in self._spec.space:
            options |= dimension.options(trial.params[dimension.key])
        return options

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {each.key: each.distribution() for each in self._spec.space}

    def _find(self, slot: int) -> FrozenTrial | None:
        return self._trials().get(slot)

    def _trials(self) -> dict[int, FrozenTrial]:
        return {each.user_attrs[SLOT]: each for each in self._study.get_trials(deepcopy=False)}


@contextmanager
def storing() -> Iterator[None]:
    """Turns what a storage raises while it is used into a sentence."""
    try:
        yield
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"the search cannot be written down: {reason}. Finished runs are kept; once that is "
            "put right, the same command goes on"
        ) from error


def study_name(label: str, identity: dict[str, Any]) -> str:
    """A name that changes with anything that decides what a trial gives."""
    canonical = json.dumps(identity, sort_keys=True, default=str)
    return f"{label}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


class Storage:
    """Where the Optuna studies are: a journal in ``folder``, or the data base at ``url``.

    ``deciding`` is a lock that several processes share.
    """

    def __init__(self, folder: Path, url: str | None, deciding: Deciding) -> None:
        self._folder = folder
        self._url = url
        self._deciding = deciding

    def study(self, name: str) -> optuna.Study:
        """The study of this name, made by the first who asks.

        Raises:
            ConfigError: the data base cannot be used.
            StoreError: the journal cannot be.
        """
        with storing(), self._deciding():  # two who make one data base at once trip over each other
            return optuna.create_study(study_name=name, storage=self._opened, load_if_exists=True)

    @cached_property
    def _opened(self) -> BaseStorage:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return self._journal() if self._url is None else _data_base(self._url)

    def _journal(self) -> BaseStorage:
        path = self._folder / "journal.log"
        try:
            _mend(path)
            return JournalStorage(JournalFileBackend(str(path), _Lock(path, self._deciding)))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is damaged ({error}). Move it away: finished runs are kept in the folder "
                "runs, and the same command goes on with them"
            ) from error


def _data_base(url: str) -> BaseStorage:
    try:
        return RDBStorage(url)
    except Exception as error:  # each driver has errors of its own
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the storage {url!r} cannot be used: {reason}") from error


class _Lock(JournalFileOpenLock):
    """Optuna's lock on its journal, but released by the system when its holder dies."""

    def __init__(self, path: Path, deciding: Deciding) -> None:
        super().__init__(str(path))
        self._path = path
        self._deciding = deciding
        self._held: AbstractContextManager[None] | None = None

    def acquire(self) -> bool:
        held = self._deciding()
        held.__enter__()
        self._held = held
        _mend(self._path)  # a line added to half a line would spoil both
        return True

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)


def _mend(path: Path) -> None:
    """Cut off a last line that a full disk or a kill left without its end."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
