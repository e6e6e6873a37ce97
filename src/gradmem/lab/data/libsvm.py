"""LIBSVM files: a label and ``index:value`` pairs a line; plain, gzip or bzip2.

Parsed by scikit-learn. What is here says in which line a file is broken, and reduces two labels,
whatever they are called, to -1 and +1.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.datasets import load_svmlight_file

from gradmem.lab.data.contents import contents
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


def read(path: Path, sha256: str | None = None) -> Examples:
    """The examples of a LIBSVM file, whatever compression its first bytes show.

    Args:
        path: the file.
        sha256: checksum of its unpacked contents, if they have to be these.

    Raises:
        ValueError: the file is truncated, empty, another one, or a line cannot be read; names file
            and line.
    """
    return parsed(contents(path, sha256), path)


def parsed(text: bytes, path: Path) -> Examples:
    """The same of unpacked contents, which were at ``path``."""
    try:
        features, labels = _parse(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(_blame(path, text.splitlines(), error)) from None
    if not len(labels):
        raise ValueError(f"{path} holds no examples")
    if not (np.isfinite(features.data).all() and np.isfinite(labels).all()):
        lines = enumerate(text.splitlines(), 1)
        number = next(number for number, line in lines if not _is_finite(line))
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
