"""A run in the middle, kept after an epoch so that an interruption costs little."""

import errno
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gradmem.lab.files import cannot_write, drafted


class Checkpoints:
    """Checkpoints of runs in ``folder``, one a run, each written as a whole.

    ``every`` is how many seconds must have passed since the last one, or since the run began: a run
    shorter than that never pays for one.
    """

    def __init__(self, folder: Path, every: float, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._every = every
        self._warn = warn

    def of(self, name: str) -> "Checkpoint":
        """That of the run called ``name``."""
        return Checkpoint(self._folder / f"{name}.pt", self._every, self._warn)


class Checkpoint:
    """The checkpoint of one run."""

    def __init__(self, path: Path, every: float, warn: Callable[[str], None]) -> None:
        self._path = path
        self._every = every
        self._warn = warn
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() - self._last >= self._every

    def save(self, state: dict[str, Any]) -> None:
        """Keep ``state`` instead of what was kept before.

        Raises:
            StoreError: it cannot be written.
        """
        with drafted(self._path) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch's writer, on a full disk
                raise OSError(errno.EIO, str(error)) from error
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was kept; None if there is nothing, or it cannot be understood."""
        if not self._path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            self._warn(f"{self._path.name} cannot be read ({reason}); the run begins anew")
            return None
        return state

    def remove(self) -> None:
        """The run is over."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self._path, error) from error
