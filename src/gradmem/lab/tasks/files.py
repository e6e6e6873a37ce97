"""What tasks have in common whose data lies in files of the data folder."""

import hashlib
from functools import cached_property
from pathlib import Path

from gradmem.lab.data import catalogue
from gradmem.lab.data.contents import contents
from gradmem.lab.data.paths import data_folder
from gradmem.lab.errors import TaskError
from gradmem.lab.tasks.base import Task


class FromFiles(Task):
    """A task that reads the data set ``needs`` of the catalogue, checked at every reading.

    Args:
        folder: the data folder; None for ``GRADMEM_DATA`` or the user's cache.
    """

    needs: str
    part: str | None = None  # a data set that is a part of that one, read where that is not there

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = data_folder(folder)

    @property
    def source(self) -> str:
        """The data set that is read: the one it needs, or a part of it if only that is there."""
        absent = self.part and catalogue.missing(self.needs, self.folder)
        if self.part and absent and not catalogue.missing(self.part, self.folder):
            return self.part
        return self.needs

    def files(self) -> tuple[catalogue.Found, ...]:
        """The files; FileNotFoundError with what to do if they are not all there."""
        return catalogue.find(self.source, self.folder)

    def missing(self) -> str | None:
        """What to do if the files are not all there."""
        return catalogue.missing(self.source, self.folder)

    def versions(self) -> dict[str, str]:
        """A digest of the checksums: those of the catalogue, or else of the files as they are."""
        return {"data": self._digest}

    @cached_property
    def _digest(self) -> str:
        known = [file.sha256 for file in catalogue.DATA_SETS[self.source].files]
        checksums = "".join(sha256 for sha256 in known if sha256 is not None)
        if None in known:
            if sentence := self.missing():
                raise TaskError(f"the runs of {self.name} are known by its files, but {sentence}")
            files = (contents(file.path) for file in self.files())
            checksums = "".join(hashlib.sha256(file).hexdigest() for file in files)
        return hashlib.sha256(checksums.encode()).hexdigest()[:12]
