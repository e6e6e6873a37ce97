"""Fetch a data set: to a draft first, which is checked, and only then put in its place."""

import os
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import gradmem
from gradmem.lab.data.archive import unpack
from gradmem.lab.data.catalogue import DATA_SETS, NOT_FETCHED, Archive, DataSet, File, missing
from gradmem.lab.data.contents import contents, packing
from gradmem.lab.data.paths import data_folder
from gradmem.lab.errors import hint

CHUNK = 1 << 16
TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[str, int, int | None], None]


class DownloadError(Exception):
    """A file could not be fetched; says from where, why, and what to do."""


class _RefusedError(Exception):
    """One address did not give the file."""


def download(
    name: str, folder: Path | None = None, progress: Progress | None = None
) -> tuple[Path, ...]:
    """Put the files of a data set into the data folder; those that are there and right stay.

    A file appears whole and checked or not at all. What an interrupted download has got is kept
    beside it, and the next one goes on from there if the server can.

    Args:
        name: the data set, as the catalogue has it.
        folder: the data folder; None for ``GRADMEM_DATA`` or the user's cache.
        progress: called with the file's name, the bytes there so far and, if known, in all.

    Raises:
        ValueError: there is no such data set, or a file lies there with the wrong contents.
        DownloadError: no address gave a file with the right checksum, or it cannot be written.
    """
    if name not in DATA_SETS:
        said = hint(name, sorted(DATA_SETS))
        raise ValueError(f"unknown data set {name!r}; {said} `gradmem data` lists them")
    home = data_folder(folder)
    data_set, tell = DATA_SETS[name], progress or (lambda *_: None)
    if data_set.by_hand is not None and (sentence := missing(name, home)):
        raise DownloadError(sentence)
    if data_set.archive is not None and any(not file.locate(home) for file in data_set.files):
        _from_archive(data_set, data_set.archive, home, tell)
    return tuple(_obtain(file, home, tell) for file in data_set.files)


def _from_archive(data_set: DataSet, archive: Archive, folder: Path, progress: Progress) -> None:
    """Take the files out of the archive, which stays only if it was there before."""
    fetched = archive.locate(folder) is None
    packed = _obtain(archive, folder, progress)
    try:
        unpack(packed, archive, data_set.files, folder)
    except OSError as error:
        raise _not_written(error, packed) from None
    except ValueError as error:
        if not fetched:
            raise
        packed.unlink()
        raise DownloadError(f"what came is not the archive it should be ({error})") from None
    if fetched:
        packed.unlink()


def _obtain(file: File | Archive, folder: Path, progress: Progress) -> Path:
    there = file.locate(folder)
    if there is not None:
        contents(there, file.sha256)
        return there
    if not file.urls:
        raise DownloadError(f"{file.path} could not be fetched. {NOT_FETCHED}")
    reasons = []
    for url in file.urls:
        draft = folder / f"{file.path}.{zlib.crc32(url.encode()):08x}.part"
        try:
            return _from_one_address(file, url, draft, progress)
        except _RefusedError as reason:
            reasons.append(f"{url}: {reason}")
    raise DownloadError(
        f"{file.path} could not be fetched. {'; '.join(reasons)}. Try again later, or put the file "
        f"into {(folder / file.path).parent} yourself"
    )


def _from_one_address(file: File | Archive, url: str, draft: Path, progress: Progress) -> Path:
    """Fetch, check, move; a draft that was continued and turns out wrong is fetched anew, once."""
    continued = _size(draft) > 0
    try:
        _fetch(url, draft, lambda done, total: progress(file.path, done, total))
        return _accept(file, draft)
    except _WrongFileError as error:
        if continued:
            return _from_one_address(file, url, draft, progress)
        raise _RefusedError(str(error)) from None
    except OSError as error:
        raise _not_written(error, draft) from None


def _not_written(error: OSError, path: Path) -> DownloadError:
    return DownloadError(
        f"{error.filename or path} cannot be written: {error.strerror}. What was fetched is "
        "kept; the same command goes on from there"
    )


class _WrongFileError(Exception):
    """What was fetched is not the file; the draft is gone."""


def _accept(file: File | Archive, draft: Path) -> Path:
    try:
        contents(draft, file.sha256)
    except ValueError as error:
        draft.unlink()
        raise _WrongFileError(f"what came is not the file ({error})") from None
    with draft.open("rb") as handle:
        suffix = packing(handle.read(4))
        os.fsync(handle.fileno())
    # The draft is called <path>.<address>.part
    final = draft.with_name(Path(file.path).name + suffix)
    return draft.replace(final)


def _fetch(url: str, draft: Path, progress: Callable[[int, int | None], None]) -> None:
    """Bring ``draft`` up to the whole of what ``url`` gives."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    done = _size(draft)
    headers = {"User-Agent": f"gradmem/{gradmem.__version__}"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing after what is there: it is whole, or not of this file
            return
        raise _RefusedError(f"the server answers {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _RefusedError(f"no connection ({getattr(error, 'reason', error)})") from None
    with response:
        if response.status != 206:  # the server starts from the beginning
            done = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with draft.open("ab" if done else "wb") as file:
            while chunk := _read(response, done):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total is not None and done < total:
        raise _RefusedError(f"the connection ended after {done:,} of {total:,} bytes")


def _read(response: object, done: int) -> bytes:
    try:
        chunk: bytes = response.read(CHUNK)  # type: ignore[attr-defined]
    except (OSError, HTTPException) as error:
        raise _RefusedError(f"the connection broke after {done:,} bytes ({error})") from None
    return chunk


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
