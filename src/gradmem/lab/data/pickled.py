"""The batches of CIFAR's python version, which are pickles, as records of the binary version.

A pickle may ask for any function to be called. Here it may ask for numpy's arrays alone, and gets
notes of what it says about them; the rest is numbers, texts and containers.
"""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PIXELS = 3 * 32 * 32

# Where the labels are in CIFAR-10, and in CIFAR-100: in the order of the binary version.
_LABELS = ((b"labels",), (b"coarse_labels", b"fine_labels"))
# What damaged bytes make of the machine that reads them.
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, AssertionError, OverflowError, MemoryError, struct.error),
)


def is_pickled(data: bytes) -> bool:
    """Whether ``data`` begins as a pickle does: no text and no other format here does so.

    >>> is_pickled(pickle.dumps({})), is_pickled(b"text")
    (True, False)
    """
    return data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def records(data: bytes, where: Path) -> bytes:
    """The records that the binary version has: of each image its labels, then its pixels.

    Args:
        data: the pickle.
        where: its file, for messages.

    Raises:
        ValueError: it is damaged, asks for anything but numpy's arrays, or is no such batch.
    """
    try:
        batch = _Careful(io.BytesIO(data), encoding="bytes").load()
    except _ForbiddenError as error:
        raise ValueError(
            f"{where} is a pickle that asks for {error}; a batch of CIFAR's python version holds "
            "arrays, lists and texts alone, so this is another file and was not run; get it again"
        ) from None
    except _DAMAGED as error:
        raise ValueError(
            f"{where}: the pickle is truncated or damaged ({error}); get it again"
        ) from None
    try:
        return _records(batch)
    except _NotABatchError as error:
        raise ValueError(
            f"{where} is a pickle, but no batch of CIFAR's python version: {error}; it is another "
            "file, get the right one"
        ) from None


class _Array:
    """What a pickle says of an array: of the five things in ``state`` the last is its bytes."""

    state: Any = None

    def __init__(self, *about: Any) -> None:
        del about  # that it is an array, and empty until its state is there

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Kind:
    """What a pickle says of the numbers in an array."""

    name: Any = None

    def __init__(self, name: Any = None, *about: Any) -> None:
        del about  # two switches that old and new numpy write differently
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """The order of bytes and the like, which single bytes have not."""


class _ForbiddenError(Exception):
    """A pickle wants something that no batch needs."""


class _NotABatchError(Exception):
    """What was pickled is something else."""


# What a batch asks for, and what it is given.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Careful(pickle._Unpickler):
    # the one that is written in Python: the other sets aside whatever memory a damaged byte says

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _records(batch: Any) -> bytes:
    if not isinstance(batch, dict) or b"data" not in batch:
        raise _NotABatchError("it has no 'data'")
    pixels = _pixels(batch[b"data"])
    for names in _LABELS:
        if all(name in batch for name in names):
            labels = [_labels(name, batch[name], len(pixels)) for name in names]
            return np.column_stack([*labels, pixels]).tobytes()
    raise _NotABatchError("it has neither 'labels' nor 'coarse_labels' and 'fine_labels'")


def _pixels(array: Any) -> npt.NDArray[np.uint8]:
    match array:
        case _Array(
            state=(_, (int(), int(width)), _Kind(name=b"u1" | "u1"), in_columns, bytes(data))
        ):
            if width == PIXELS and not in_columns and not len(data) % PIXELS:
                return np.frombuffer(data, np.uint8).reshape(-1, PIXELS)
    raise _NotABatchError(f"its 'data' are not rows of {PIXELS:,} bytes")


def _labels(name: bytes, labels: Any, count: int) -> npt.NDArray[np.uint8]:
    if not isinstance(labels, list) or len(labels) != count:
        raise _NotABatchError(f"its {name.decode()!r} are not a list of {count:,} numbers")
    if not all(isinstance(label, int) and 0 <= label <= 255 for label in labels):
        raise _NotABatchError(f"its {name.decode()!r} are not whole numbers from 0 to 255")
    return np.array(labels, np.uint8)
