"""Every error the lab raises on purpose; the command line shows them as a sentence.

LabError
├── ConfigError (ValueError)    an option is unknown, of the wrong type or outside its range
├── StoreError                  a file of the study cannot be written or read
├── TaskError                   the task cannot be used: its data are missing, or it raised
├── CrashedError                every run crashed, so there is nothing to go on with
└── NoResultsError              there is nothing to report yet
"""

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Base of the errors that are a sentence to the user; finished runs are kept."""


class ConfigError(LabError, ValueError):
    """An option is unknown, of the wrong type or outside its range."""


class StoreError(LabError):
    """A file of the study cannot be written or read."""


class TaskError(LabError):
    """The task cannot be used: its data are missing, or it raised before any run."""


class CrashedError(LabError):
    """Every run crashed, so there is nothing to go on with."""


class NoResultsError(LabError):
    """There is nothing to report yet."""


def hint(name: str, known: Iterable[str]) -> str:
    """What to say of an unknown name: the known one it resembles, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(names)}."
