"""GloVe's vectors of words: a word and its numbers a line, blanks between them."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

WIDTH = 300
NAMES = ("glove.840B.300d.txt", "glove.6B.300d.txt")

Vector = npt.NDArray[np.float32]


def find(folder: Path) -> Path | None:
    """The file, in the data folder or its subfolder ``glove``; None if there is none."""
    places = (home / name for home in (folder, folder / "glove") for name in NAMES)
    return next((path for path in places if path.is_file()), None)


def read(path: Path, words: Collection[str], width: int = WIDTH) -> dict[str, Vector]:
    """The vectors of those of ``words`` that the file has; read line by line, for it is large.

    Raises:
        ValueError: a line has too few numbers, or one that is none; names file and line.
    """
    wanted = {word.encode() for word in words}
    found: dict[str, Vector] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            # from the right, since a few of its words have blanks in them
            word, *values = line.rstrip().rsplit(b" ", width)
            if len(values) != width or not line.endswith(b"\n"):
                raise ValueError(
                    f"{path}, line {number:,}: not a word and {width} numbers; the file is "
                    "truncated or another one, get it again"
                )
            if word in wanted:
                found[word.decode()] = _vector(path, number, values)
    return found


def _vector(path: Path, number: int, values: list[bytes]) -> Vector:
    try:
        return np.array([float(value) for value in values], dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path}, line {number:,}: {error}; get the file again") from None
