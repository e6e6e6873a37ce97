"""The data sets the tasks read: their files, checksums, and where these can be fetched.

They stand in ``catalogue.json``. A checksum is that of the unpacked contents: a file may lie in the
data folder plain, gzip, bzip2 or zip. Files that are offered in a tar file alone are taken out of
it: the archive has addresses, its members have checksums. A data set that its publisher offers in a
zip file of many is put into the folder by hand. Where nobody could give a checksum there is none,
and the task counts what it reads instead.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradmem.lab.data.contents import SUFFIXES
from gradmem.lab.data.paths import VARIABLE

ENDINGS = ("", *SUFFIXES.values())
NOT_FETCHED = "There is no address to fetch it from; make it as docs/tasks.md says"


@dataclass(frozen=True)
class File:
    """One file: its place in the data folder, checksum, and addresses to try in this order.

    ``also`` is another place where its contents may lie, in another form that `contents` knows.
    """

    path: str
    sha256: str | None
    urls: tuple[str, ...]
    also: str | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Where it may lie, without the endings of packed files."""
        return (self.path,) if self.also is None else (self.path, self.also)

    def locate(self, folder: Path) -> Path | None:
        """Where it lies in the data folder, packed or not; None if it does not."""
        return located(self.places, folder)


@dataclass(frozen=True)
class Archive:
    """A tar file with the files of a data set, each in it as in the archive's own folder."""

    path: str
    urls: tuple[str, ...]
    sha256: None = None  # its members have checksums

    def locate(self, folder: Path) -> Path | None:
        """Where it lies in the data folder, packed or not; None if it does not."""
        return located((self.path,), folder)


@dataclass(frozen=True)
class DataSet:
    """Files that belong together."""

    name: str
    files: tuple[File, ...]
    archive: Archive | None = None
    by_hand: str | None = None  # where to get it, if it is for a person to unpack

    @property
    def can_be_fetched(self) -> bool:
        """Whether there are addresses for all of it."""
        return self.archive is not None or all(file.urls for file in self.files)


@dataclass(frozen=True)
class Found:
    """A file that is there, and what its contents have to be."""

    path: Path
    sha256: str | None


def find(name: str, folder: Path) -> tuple[Found, ...]:
    """The files of a data set, in the catalogue's order.

    Raises:
        FileNotFoundError: not all of them are there; says which, and what to do.
    """
    sentence = missing(name, folder)
    if sentence is not None:
        raise FileNotFoundError(sentence)
    located = ((file.locate(folder), file.sha256) for file in DATA_SETS[name].files)
    return tuple(Found(path, sha256) for path, sha256 in located if path is not None)


def missing(name: str, folder: Path) -> str | None:
    """A sentence if a file of the data set is not in the data folder."""
    data_set = DATA_SETS[name]
    absent = [" or ".join(each.places) for each in data_set.files if each.locate(folder) is None]
    if not absent:
        return None
    return (
        f"the data set {name!r} is not complete in the data folder {folder}: there is no "
        f"{', no '.join(absent)} (nor the like with {', '.join(ENDINGS[1:])}). "
        f"{_how_to_get(data_set)}, or name with {VARIABLE} the folder that has it"
    )


def _how_to_get(data_set: DataSet) -> str:
    """What to do for a data set that is not there."""
    if data_set.by_hand is not None:
        return f"Get it from {data_set.by_hand} and put these files there"
    if data_set.can_be_fetched:
        return f"Fetch it with `gradmem data {data_set.name}`"
    return NOT_FETCHED


def located(places: Iterable[str], folder: Path) -> Path | None:
    """The first of these places in ``folder`` at which there is a file, packed or not."""
    tried = (folder / (place + ending) for place in places for ending in ENDINGS)
    return next((path for path in tried if path.is_file()), None)


def _data_sets() -> Iterator[DataSet]:
    text = Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8")
    for name, entry in json.loads(text).items():
        # a list of files, or a table that says beside them where they come from
        about: dict[str, Any] = {"files": entry} if isinstance(entry, list) else entry
        archive = about.get("archive")
        yield DataSet(
            name,
            tuple(map(_file, about["files"])),
            archive and Archive(archive["path"], tuple(archive["urls"])),
            about.get("by_hand"),
        )


def _file(entry: dict[str, Any]) -> File:
    urls = tuple(entry.get("urls", ()))
    return File(entry["path"], entry["sha256"], urls, entry.get("also"))


DATA_SETS: Mapping[str, DataSet] = MappingProxyType({each.name: each for each in _data_sets()})
