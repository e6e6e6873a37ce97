"""What tasks have in common whose data lies in files of the data folder."""

import hashlib
from pathlib import Path

from gradmem.lab.data import catalogue
from gradmem.lab.data.paths import data_folder
from gradmem.lab.tasks.base import Task


class FromFiles(Task):
    """A task that reads the data set ``needs`` of the catalogue, checked at every reading.

    Args:
        folder: the data folder; None for ``GRADMEM_DATA`` or the user's cache.
    """

    needs: str

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = data_folder(folder)

    def files(self) -> tuple[catalogue.Found, ...]:
        """The files; FileNotFoundError with what to do if they are not all there."""
        return catalogue.find(self.needs, self.folder)

    def missing(self) -> str | None:
        """What to do if the files are not all there."""
        return catalogue.missing(self.needs, self.folder)

    def versions(self) -> dict[str, str]:
        """A digest of the checksums."""
        checksums = "".join(file.sha256 for file in catalogue.DATA_SETS[self.needs].files)
        return {"data": hashlib.sha256(checksums.encode()).hexdigest()[:12]}
