"""A folder with one small JSON file per finished run."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from gradmem.lab.run import RunConfig, RunResult

Warn = Callable[[str], None]


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
        canonical = json.dumps(asdict(config), sort_keys=True)
        key = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        return self.folder / f"{config.optimizer}-{config.purpose}-seed{config.seed}-{key}.json"

    def load(self, config: RunConfig) -> RunResult | None:
        """The result of ``config``, or None if it is yet to run or its file cannot be read."""
        path = self.path(config)
        try:
            result = RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._warn(f"{path.name} cannot be read ({error}); the run is repeated")
            return None
        return result

    def save(self, result: RunResult) -> None:
        """Write ``result`` under its config's name."""
        write_atomically(
            self.path(result.config), json.dumps(result.to_json(), allow_nan=False, indent=1)
        )


def write_atomically(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one move; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
