"""Text files of words: one sentence or paragraph a line, blanks between the words."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from gradmem.lab.data.contents import contents

UNKNOWN, END = "<unk>", "<eos>"


def read_text(path: Path, sha256: str | None = None) -> str:
    """The whole of a text file.

    Args:
        path: the file, plain or packed, in UTF-8.
        sha256: checksum of the unpacked contents, if they have to be these.

    Raises:
        ValueError: the file is damaged, another one, empty, or not text.
    """
    try:
        text = contents(path, sha256).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start:,}); it is another file or damaged, get "
            "it again"
        ) from None
    if not text.strip():
        raise ValueError(f"{path} is empty; get it again")
    return text


def read_words(path: Path, sha256: str | None = None) -> list[str]:
    """The words of a file in their order, with `END` after those of every line.

    An empty line, as between two articles, is one `END`.

    Raises:
        ValueError: as `read_text` says, or the last line does not end.
    """
    text = read_text(path, sha256)
    if not text.endswith("\n"):
        raise ValueError(
            f"{path} ends in the middle of a line, after {text[-40:]!r}; it is truncated, get it "
            "again"
        )
    # not splitlines: other characters that end a line occur within words
    return [word for line in text[:-1].split("\n") for word in (*line.split(), END)]


def first_lines(words: list[str], count: int | None) -> list[str]:
    """The words of the first ``count`` lines with their ends; of all if ``count`` is None.

    >>> first_lines(["to", "be", END, "or", END], 1)
    ['to', 'be', '<eos>']
    """
    ends = (place for place, word in enumerate(words) if word == END)
    last = next(islice(ends, count - 1, None), None) if count else None
    return words if last is None else words[: last + 1]


class Vocabulary:
    """Words by number, in the order of their first occurrence; the first is `UNKNOWN`.

    Args:
        words: the training text.
        at_least: how often a word has to occur in it; rarer ones are unknown.

    >>> words = Vocabulary("to be or not to be".split(), at_least=2)
    >>> words.names, words.numbers("to do be".split())
    (('<unk>', 'to', 'be'), [1, 0, 2])
    """

    def __init__(self, words: Iterable[str], at_least: int = 1) -> None:
        counts = Counter(words)
        frequent = (word for word, count in counts.items() if count >= at_least)
        self.names = tuple(dict.fromkeys([UNKNOWN, *frequent]))
        self._number = {word: number for number, word in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, words: Iterable[str]) -> list[int]:
        """The number of each word; 0, that of `UNKNOWN`, for one that is not there."""
        return [self._number.get(word, 0) for word in words]
