"""LIBSVM files: a label and ``index:value`` pairs a line; plain, gzip or bzip2.

Parsed by scikit-learn. What is here says in which line a file is broken, and reduces two labels,
whatever they are called, to -1 and +1.
"""

import bz2
import gzip
import io
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.datasets import load_svmlight_file

from gradmem.lab.data.paths import find

SUFFIXES = (".gz", ".bz2")
PAGE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html"
HINT = f"Get a data set from {PAGE},"

Labels = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """One example a row: features (sparse) and the labels of the file."""

    features: sparse.csr_matrix
    labels: Labels


def find_file(name: str, folder: Path) -> Path:
    """The LIBSVM file of this name or path; FileNotFoundError says where it is looked for."""
    return find(name, "libsvm", SUFFIXES, folder, HINT)


def read(path: Path) -> Examples:
    """The examples of a LIBSVM file, whatever compression its first bytes show.

    Raises:
        ValueError: the file is truncated, empty, or a line cannot be read; names file and line.
    """
    lines = _lines(path)
    try:
        features, labels = _parse(b"".join(lines))
    except (ValueError, OverflowError) as error:
        raise ValueError(_blame(path, lines, error)) from None
    if not len(labels):
        raise ValueError(f"{path} holds no examples")
    if not (np.isfinite(features.data).all() and np.isfinite(labels).all()):
        number = next(i for i, line in enumerate(lines, 1) if not _is_finite(line))
        raise ValueError(f"{path}, line {number}: a number is not finite")
    return Examples(features, labels)


def signs(labels: Labels, where: str) -> Labels:
    """-1 for the smaller of the two labels there are, +1 for the larger.

    >>> signs(np.array([1.0, 2.0, 2.0]), "here")
    array([-1.,  1.,  1.])

    Raises:
        ValueError: there are not exactly two labels.
    """
    kinds = np.unique(labels)
    if len(kinds) != 2:
        named = ", ".join(f"{kind:g}" for kind in kinds[:6]) + (", ..." if len(kinds) > 6 else "")
        raise ValueError(
            f"{where} has {len(kinds)} label{'s' if len(kinds) > 1 else ''} ({named}); "
            "a logistic regression needs exactly two"
        )
    return np.where(labels == kinds[1], 1.0, -1.0)


def _lines(path: Path) -> list[bytes]:
    lines: list[bytes] = []
    try:
        with _opened(path) as file:
            for line in file:
                lines.append(line)
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        where = f"{path}, line {len(lines) + 1}"
        raise ValueError(
            f"{where}: the compressed file is truncated or damaged ({error}); get it again"
        ) from None
    return lines


def _opened(path: Path) -> gzip.GzipFile | bz2.BZ2File | BufferedReader:
    with path.open("rb") as file:
        start = file.read(3)
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(path)
    return bz2.BZ2File(path) if start == b"BZh" else path.open("rb")


def _parse(text: bytes) -> tuple[sparse.csr_matrix, Labels]:
    features, labels = load_svmlight_file(io.BytesIO(text), zero_based="auto")
    return features, labels


def _blame(path: Path, lines: list[bytes], error: Exception) -> str:
    """The first line that cannot be read by itself, and why."""
    for number, line in enumerate(lines, 1):
        try:
            _parse(line)
        except (ValueError, OverflowError) as reason:
            shown = line.strip()[:60].decode("ascii", "replace")
            return f"{path}, line {number}: {shown!r} is not 'label index:value ...' ({reason})"
    return f"{path} cannot be read: {error}"


def _is_finite(line: bytes) -> bool:
    features, labels = _parse(line)
    return bool(np.isfinite(features.data).all() and np.isfinite(labels).all())
