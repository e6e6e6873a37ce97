"""Files that appear whole or not at all."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gradmem.lab.errors import StoreError

ABANDONED = 3600.0  # seconds after which an unfinished draft belongs to no living process


def write_atomically(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one move; a reader sees the old file or the new one.

    Raises:
        StoreError: it cannot be written; what was at ``path`` is still there.
    """
    with drafted(path) as file:
        file.write(text.encode())


@contextmanager
def drafted(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place at ``path`` when the block ends well."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        _remove(draft)
        raise cannot_write(path, error) from error
    except BaseException:
        _remove(draft)
        raise


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The sentence for a disk that is full, a folder that may not be written to, and the like."""
    return StoreError(
        f"{path} cannot be written: {error.strerror or error}. Finished runs are kept; once that "
        "is put right, the same command goes on"
    )


def remove_abandoned_drafts(folder: Path) -> None:
    """Drafts that a killed process left behind."""
    for draft in folder.glob(".*.tmp"):
        try:
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()
        except OSError:  # another process was faster, or it may not be removed: it does no harm
            continue


def _remove(draft: Path) -> None:
    try:
        draft.unlink(missing_ok=True)
    except OSError:  # the disk that refused the writing may refuse this too
        return
