"""Dialogues as the dialogue tasks take them, whatever files they come from."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradmem.lab.data.contents import contents

Vector = tuple[int, ...]  # of zeros and ones
Words = tuple[str, ...]

NONE, GO, END, UNKNOWN = "<none>", "<go>", "<end>", "<unk>"
SIGNS = (NONE, GO, END, UNKNOWN)  # what is no word, by number


@dataclass(frozen=True)
class Turn:
    """What the user said, what the system is to answer, and what it knows beside the words."""

    user: Words
    response: Words
    belief: Vector  # what the user has asked for so far, as annotated
    database: Vector  # how much there is of that, and what has been booked


@dataclass(frozen=True)
class Goal:
    """What a user wants of one domain, as placeholders in what the system says.

    ``offers``: one of them has to occur, unless there are none. ``requests``: all have to.
    """

    offers: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Dialogue:
    """Turns, and the goals that a user had in them."""

    name: str
    turns: tuple[Turn, ...]
    goals: tuple[Goal, ...]


@dataclass(frozen=True)
class Corpus:
    """The three parts of a data set of dialogues."""

    train: tuple[Dialogue, ...]
    validation: tuple[Dialogue, ...]
    test: tuple[Dialogue, ...]


def read_json(path: Path, sha256: str | None = None) -> Any:
    """What a JSON file holds, plain or packed.

    Raises:
        ValueError: it is damaged, another one, or no JSON.
    """
    text = contents(path, sha256)
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); it is truncated or another file, get it again"
        ) from None


def numbered(words: Iterable[Words], count: int) -> dict[str, int]:
    """The ``count`` most frequent words by number, `SIGNS` included, which come first.

    Of equally frequent ones the first in the alphabet.

    >>> numbered([("so", "be", "it"), ("be", "so", "be")], 6)
    {'<none>': 0, '<go>': 1, '<end>': 2, '<unk>': 3, 'be': 4, 'so': 5}
    """
    found = Counter(word for each in words for word in each)
    frequent = sorted(found, key=lambda word: (-found[word], word))[: count - len(SIGNS)]
    return {word: number for number, word in enumerate([*SIGNS, *frequent])}


def numbers(words: Sequence[str], vocabulary: Mapping[str, int]) -> list[int]:
    """The number of each word; that of `UNKNOWN` for one that is not there."""
    unknown = vocabulary[UNKNOWN]
    return [vocabulary.get(word, unknown) for word in words]
