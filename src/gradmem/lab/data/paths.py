"""Where data files are looked for. gradmem brings none along; `gradmem data` fetches some."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "GRADMEM_DATA"


def data_folder(given: Path | None = None) -> Path:
    """The folder given, else the one ``GRADMEM_DATA`` names, else the user's cache."""
    if given is not None:
        return given
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else cache_folder()


def cache_folder() -> Path:
    """Where this system keeps what a program may fetch again."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gradmem"


def find(name: str, kind: str, suffixes: Sequence[str], folder: Path, hint: str) -> Path:
    """The file called ``name``: a path as it stands, else in ``folder/kind``, suffixed or not.

    Args:
        name: a path, or the name of a data set.
        kind: the format, which has a folder of its own.
        suffixes: what may follow a data set's name, as in ``a1a.gz``.
        folder: the data folder.
        hint: a sentence on how to get it, for the message.

    Raises:
        FileNotFoundError: there is none; says where it looked and what to do.
    """
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_absolute():
        raise FileNotFoundError(f"there is no file {name}")
    home = folder / kind
    for suffix in ("", *suffixes):
        if (home / (name + suffix)).is_file():
            return home / (name + suffix)
    tried = ", ".join(name + suffix for suffix in ("", *suffixes))
    raise FileNotFoundError(
        f"there is no {name!r} here, nor {tried} in {home}. {hint} put it into {home}, or say with "
        f"--data or {VARIABLE} which folder has a subfolder {kind!r} with it"
    )
