"""IDX files, the format of MNIST: big-endian header, then unsigned bytes."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradmem.lab.data.contents import contents

IMAGES, LABELS = 2051, 2049  # 0x0803, 0x0801: unsigned bytes in three dimensions, and in one

Bytes = npt.NDArray[np.uint8]


def read_images(path: Path, sha256: str | None = None) -> Bytes:
    """Images of shape (count, rows, columns), 0 to 255.

    Raises:
        ValueError: not an IDX file of images, or shorter or longer than its header says.
    """
    return _read(path, IMAGES, "images", 3, sha256)


def read_labels(path: Path, classes: int, sha256: str | None = None) -> Bytes:
    """Labels from 0 to ``classes`` - 1.

    Raises:
        ValueError: not an IDX file of labels, of the wrong length, or a label is out of range.
    """
    labels = _read(path, LABELS, "labels", 1, sha256)
    if len(labels) and labels.max() >= classes:
        place = int(labels.argmax())
        raise ValueError(
            f"{path}: label {labels[place]} of example {place + 1} is not from 0 to {classes - 1}"
        )
    return labels


def read_pair(
    images: Path, labels: Path, classes: int, checksums: tuple[str | None, str | None]
) -> tuple[Bytes, Bytes]:
    """Images and as many labels."""
    pixels = read_images(images, checksums[0])
    kinds = read_labels(labels, classes, checksums[1])
    if len(pixels) != len(kinds):
        raise ValueError(
            f"{images} holds {len(pixels):,} images, but {labels} holds {len(kinds):,} labels: "
            "they do not belong together; get both again"
        )
    return pixels, kinds


def _read(path: Path, magic: int, what: str, dimensions: int, sha256: str | None) -> Bytes:
    text = contents(path, sha256)
    header = 4 + 4 * dimensions
    if len(text) < header:
        raise ValueError(
            f"{path} has {len(text)} bytes, too few for the header of an IDX file of {what}; "
            "get it again"
        )
    found, *shape = struct.unpack(f">{1 + dimensions}I", text[:header])
    if found != magic:
        raise ValueError(
            f"{path} begins with the number {found} where an IDX file of {what} has {magic}; it is "
            "another file, get the right one"
        )
    expected = header + int(np.prod(shape, dtype=object))
    if len(text) != expected:
        raise ValueError(
            f"{path} has {len(text):,} bytes where its header, {' x '.join(map(str, shape))}, asks "
            f"for {expected:,}; it is {'truncated' if len(text) < expected else 'damaged'}, get it "
            "again"
        )
    return np.frombuffer(text, np.uint8, offset=header).reshape(shape).copy()  # writable
