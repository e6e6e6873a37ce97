"""CIFAR-10 and CIFAR-100: records of label bytes and 32x32 pixels, or pickles of the same."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradmem.lab.data.contents import contents
from gradmem.lab.data.pickled import PIXELS

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """What stands before the pixels: of each label, how many values it can have.

    The last label is the class; the one before it, in CIFAR-100, is the class's kind.
    """

    name: str
    labels: tuple[int, ...]

    @property
    def record(self) -> int:
        """Bytes an image."""
        return len(self.labels) + PIXELS


CIFAR10 = Layout("CIFAR-10", (10,))
CIFAR100 = Layout("CIFAR-100", (20, 100))


def read(path: Path, layout: Layout, sha256: str | None = None) -> tuple[Bytes, Bytes]:
    """Images of shape (count, 3, 32, 32), 0 to 255, and the class of each.

    Args:
        path: a file of the binary version (``data_batch_1.bin``) or of the python version
            (``data_batch_1``).
        layout: of which data set.
        sha256: checksum of the records, whichever version the file is of.

    Raises:
        ValueError: the file is truncated, damaged, or another one.
    """
    text = contents(path, sha256)
    if not text or len(text) % layout.record:
        raise ValueError(
            f"{path} has {len(text):,} bytes of records, which is no whole number of "
            f"{layout.name}'s records of {layout.record:,}; it is truncated or another file, get "
            "it again"
        )
    records = np.frombuffer(text, np.uint8).reshape(-1, layout.record)
    for column, values in enumerate(layout.labels):
        _check(path, records[:, column], values)
    first = len(layout.labels)
    pixels = records[:, first:].reshape(-1, 3, 32, 32)
    return pixels.copy(), records[:, first - 1].copy()  # writable, and without the labels between


def read_all(files: Iterable[tuple[Path, str | None]], layout: Layout) -> tuple[Bytes, Bytes]:
    """The images and classes of several files, one after the other."""
    parts = [read(path, layout, sha256) for path, sha256 in files]
    pixels, labels = zip(*parts, strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def _check(path: Path, labels: Bytes, values: int) -> None:
    if labels.max() >= values:
        place = int(labels.argmax())
        raise ValueError(
            f"{path}: label {labels[place]} of image {place + 1:,} is not from 0 to {values - 1}; "
            "it is another file, get the right one"
        )
