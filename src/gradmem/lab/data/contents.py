"""The bytes of a data file: unpacked if it is packed, and the right ones."""

import bz2
import gzip
import hashlib
import io
import zipfile
import zlib
from pathlib import Path

from gradmem.lab.data import pickled

# How a packed file begins, and what its name then ends in.
SUFFIXES = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"PK\x03\x04": ".zip"}


def contents(path: Path, sha256: str | None = None) -> bytes:
    """What ``path`` holds, whatever compression its first bytes show.

    Args:
        path: a file, plain, gzip, bzip2, or zip with one file in it. Of a pickled batch of CIFAR
            the contents are the records that the binary version has, so that it does not matter
            either which of the two lies there.
        sha256: checksum of the unpacked contents, so that it does not matter how a file is packed.
            Hashing costs less than unpacking, so it is compared at every reading.

    Raises:
        ValueError: the file is truncated or damaged, or its contents are others.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = unpacked(packed)
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: the compressed file is truncated or damaged ({error}); delete it and get it "
            "again"
        ) from None
    if pickled.is_pickled(text):
        text = pickled.records(text, path)
    check(path, text, sha256)
    return text


def packing(data: bytes) -> str:
    """The suffix that tells how ``data`` is packed; empty if it is not.

    >>> packing(gzip.compress(b"one")), packing(b"one")
    ('.gz', '')
    """
    return next((suffix for magic, suffix in SUFFIXES.items() if data.startswith(magic)), "")


def unpacked(data: bytes) -> bytes:
    """``data``, decompressed if it is packed.

    >>> unpacked(gzip.compress(b"one")) == unpacked(bz2.compress(b"one")) == unpacked(b"one")
    True
    """
    unpack = {".gz": gzip.decompress, ".bz2": _bunzip2, ".zip": _unzip}.get(packing(data))
    return unpack(data) if unpack else data


def check(path: Path, text: bytes, sha256: str | None) -> None:
    """ValueError unless ``text``, the contents of ``path``, has this checksum, if one is known."""
    if sha256 is None:
        return
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is not the file it should be: its contents ({len(text):,} bytes) have the "
            f"sha256 {found} instead of {sha256}; delete it and get it again"
        )


def _bunzip2(data: bytes) -> bytes:
    # bz2.decompress says of a truncated file ValueError, and of a damaged one OSError
    decompressor = bz2.BZ2Decompressor()
    text = decompressor.decompress(data)
    if not decompressor.eof:
        raise EOFError("compressed file ended before the end-of-stream marker was reached")
    return text


def _unzip(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise zipfile.BadZipFile(f"it holds {len(names)} files instead of one")
        return archive.read(names[0])
