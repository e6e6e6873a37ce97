"""The data sets the tasks read: their files, checksums, and where these can be fetched.

They stand in ``catalogue.json``. A checksum is that of the unpacked contents: a file may lie in the
data folder plain, gzip, bzip2 or zip.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gradmem.lab.data.contents import SUFFIXES
from gradmem.lab.data.paths import VARIABLE

ENDINGS = ("", *SUFFIXES.values())


@dataclass(frozen=True)
class File:
    """One file: its place in the data folder, checksum, and addresses to try in this order."""

    path: str
    sha256: str
    urls: tuple[str, ...]

    def locate(self, folder: Path) -> Path | None:
        """Where it lies in the data folder, packed or not; None if it does not."""
        tried = (folder / (self.path + ending) for ending in ENDINGS)
        return next((path for path in tried if path.is_file()), None)


@dataclass(frozen=True)
class DataSet:
    """Files that belong together."""

    name: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Found:
    """A file that is there, and what its contents have to be."""

    path: Path
    sha256: str


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
    absent = [file.path for file in DATA_SETS[name].files if file.locate(folder) is None]
    if not absent:
        return None
    return (
        f"the data set {name!r} is not complete in the data folder {folder}: there is no "
        f"{', no '.join(absent)} (nor the like with {', '.join(ENDINGS[1:])}). Fetch it with "
        f"`gradmem data {name}`, or name with {VARIABLE} the folder that has it"
    )


def _data_sets() -> Iterator[DataSet]:
    text = Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8")
    for name, files in json.loads(text).items():
        yield DataSet(
            name, tuple(File(each["path"], each["sha256"], tuple(each["urls"])) for each in files)
        )


DATA_SETS: Mapping[str, DataSet] = MappingProxyType({each.name: each for each in _data_sets()})
