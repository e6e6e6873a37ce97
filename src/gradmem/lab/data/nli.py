"""Pairs of sentences, and whether one follows from the other: SNLI's, MultiNLI's, SICK's files."""

import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from gradmem.lab.data.contents import contents
from gradmem.lab.data.words import read_text

LABELS = ("entailment", "neutral", "contradiction")
NO_LABEL = "-"  # where the annotators did not agree
FIELDS = ("gold_label", "sentence1", "sentence2")
SICK_COLUMNS = ("sentence_A", "sentence_B", "entailment_judgment")

# Some files write quotation marks and brackets as the Penn Treebank does.
_AS_TYPED = {"``": '"', "''": '"', "-lrb-": "(", "-rrb-": ")"}
_WORD = re.compile(
    r"n't\b"  # don't is two words, do and n't: so are they in files that were cut up before
    r"|'(?:s|re|ve|ll|d|m)\b"
    r"|\w+?(?=n't\b)"
    r"|\w+"
    r"|[^\w\s]"
)


class Pair(NamedTuple):
    """A premise, a hypothesis, and the number of its label in `LABELS`."""

    premise: str
    hypothesis: str
    label: int


def tokenise(sentence: str) -> list[str]:
    """The words of a sentence in lower case, and each punctuation mark by itself.

    >>> tokenise("The man's dog doesn't bark, they say.")
    ['the', 'man', "'s", 'dog', 'does', "n't", 'bark', ',', 'they', 'say', '.']
    >>> tokenise("He does n't say `` no '' .") == tokenise('He doesn\\'t say "no".')
    True
    """
    text = sentence.lower()
    for written, typed in _AS_TYPED.items():
        text = text.replace(written, typed)
    return _WORD.findall(text)


def read_pairs(path: Path, sha256: str | None = None) -> list[Pair]:
    """The pairs of a file of JSON lines, as SNLI and MultiNLI have; those without a label left out.

    Raises:
        ValueError: the file is truncated or damaged, empty, or a line is not a labelled pair; names
            file and line.
    """
    pairs = []
    for number, line in enumerate(io.BytesIO(contents(path, sha256)), start=1):
        try:
            record = json.loads(line)
            label, premise, hypothesis = (record[field] for field in FIELDS)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number:,} is not a JSON object with {', '.join(FIELDS)} "
                f"({type(error).__name__}: {error}); the file is truncated, damaged or another "
                "one, get it again"
            ) from None
        if label != NO_LABEL:
            pairs.append(_pair(path, number, premise, hypothesis, label))
    return _some(path, pairs)


def read_sick(path: Path, sha256: str | None = None) -> list[Pair]:
    """The pairs of a file of SICK: tabs between the columns, which the first line names.

    Raises:
        ValueError: the file is damaged, empty, or a line is not a labelled pair; names file and
            line.
    """
    text = read_text(path, sha256).replace("\r\n", "\n").removesuffix("\n")
    header, *lines = [line.split("\t") for line in text.split("\n")]
    if not set(SICK_COLUMNS) <= set(header):
        raise ValueError(
            f"{path}: the first line does not name the columns {', '.join(SICK_COLUMNS)}; it is "
            "another file, get the right one"
        )
    places = [header.index(name) for name in SICK_COLUMNS]
    pairs = []
    for number, values in enumerate(lines, start=2):
        if len(values) != len(header):
            raise ValueError(
                f"{path}, line {number:,}: {len(values)} values where there are {len(header)} "
                "columns; the file is truncated or damaged, get it again"
            )
        premise, hypothesis, label = (values[place] for place in places)
        pairs.append(_pair(path, number, premise, hypothesis, label.lower()))
    return _some(path, pairs)


def _pair(path: Path, number: int, premise: object, hypothesis: object, label: object) -> Pair:
    if label not in LABELS or not (isinstance(premise, str) and isinstance(hypothesis, str)):
        raise ValueError(
            f"{path}, line {number:,}: {label!r} is not one of {', '.join(LABELS)}, or a sentence "
            "is not text; the file is damaged or another one, get it again"
        )
    return Pair(premise, hypothesis, LABELS.index(label))


def _some(path: Path, pairs: list[Pair]) -> list[Pair]:
    if not pairs:
        raise ValueError(f"{path} has no labelled pair; it is empty or another file, get it again")
    return pairs
