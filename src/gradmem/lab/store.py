"""A folder with one small JSON file per finished run."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from gradmem.lab.config import file_name
from gradmem.lab.errors import StoreError
from gradmem.lab.files import write_atomically
from gradmem.lab.run import RunConfig, RunResult

__all__ = ["Store", "Warn", "name_of", "write_atomically"]

Warn = Callable[[str], None]

INTERRUPTED = ".interrupted"  # before the suffix: such a record tells, but is no result


def name_of(config: RunConfig) -> str:
    """What everything that belongs to this run is called, and to no other."""
    canonical = json.dumps(asdict(config), sort_keys=True)
    key = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    return f"{file_name(config.optimizer)}-{config.purpose}-seed{config.seed}-{key}"


class Store:
    """Finished runs under ``folder``, found again by their config.

    A file appears whole or not at all, so a run killed at any moment leaves either its result or
    nothing. A run of another config has another name and is never mistaken for this one.
    """

    def __init__(self, folder: Path, warn: Warn = warnings.warn) -> None:
        self.folder = folder
        self._warn = warn

    def path(self, config: RunConfig) -> Path:
        """Where the result of ``config`` lies, if it is finished."""
        return self.folder / f"{name_of(config)}.json"

    def load(self, config: RunConfig) -> RunResult | None:
        """The result of ``config``, or None if it is yet to run or its file cannot be understood.

        Raises:
            StoreError: the file is there but the system does not let it be read.
        """
        path = self.path(config)
        try:
            return RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._warn(f"{path.name} cannot be read ({error}); the run is repeated")
            return None

    def save(self, result: RunResult) -> None:
        """Write ``result`` under its config's name.

        Raises:
            StoreError: it cannot be written; nothing else is touched.
        """
        path = self.path(result.config)
        record = path.with_suffix(f"{INTERRUPTED}.json")
        target = record if result.status == "interrupted" else path
        write_atomically(target, json.dumps(result.to_json(), allow_nan=False, indent=1))
        if target is path:
            record.unlink(missing_ok=True)

    def written(self, config: RunConfig) -> float:
        """When its file was last written, in seconds of the system clock; infinite without one."""
        try:
            return self.path(config).stat().st_mtime
        except OSError:
            return math.inf
