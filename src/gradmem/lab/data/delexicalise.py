"""Text without its values: what fills a slot becomes a placeholder such as ``[hotel_name]``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from gradmem.lab.data.dialogues import Words

WORD = re.compile(r"\[\w+\]|\d+(?:[:.,]\d+)*|'?\w+(?:'\w+)?|[^\w\s]")
TOKEN = re.compile(r"\S+")


@dataclass(frozen=True)
class Span:
    """The characters from ``start`` to before ``end``, and what to put in their place."""

    start: int
    end: int
    placeholder: str


@cache
def placeholder(domain: str, slot: str) -> str:
    """What stands for a slot's value.

    >>> placeholder("Attraction", "entrance fee")
    '[attraction_entrancefee]'
    """
    return f"[{_plain(domain)}_{_plain(slot)}]"


def delexicalised(text: str, spans: Iterable[Span]) -> Words:
    """The words of ``text`` in small letters, with placeholders where the spans are.

    Of spans that overlap the longest counts, of equally long ones the first.

    >>> delexicalised("It's the Allenbell, 3 stars.", [Span(9, 18, "[hotel_name]")])
    ("it's", 'the', '[hotel_name]', ',', '3', 'stars', '.')
    """
    parts, last = [], 0
    for span in _apart(spans):
        parts += [text[last : span.start], " ", span.placeholder, " "]
        last = span.end
    return words("".join([*parts, text[last:]]))


def words(text: str) -> Words:
    """Words, numbers, placeholders and marks, in small letters.

    >>> words("Arrive by 18:07? I don't, [train_id]!")
    ('arrive', 'by', '18:07', '?', 'i', "don't", ',', '[train_id]', '!')
    """
    return tuple(WORD.findall(text.lower()))


def annotated(text: str, value: str, first: int, last: int, name: str) -> list[Span]:
    """A span that is annotated by the numbers of its first and last token, between blanks.

    Annotations count tokens of a text that was cut up otherwise in some releases, and give values
    in another form ("1" for "one"). So the value is looked for first, nearest to where it should
    be; where it is not to be found the numbers are believed; and if they lie outside, nothing.

    >>> annotated("leave at 5:15 , not 5:15", "5:15", 4, 4, "[train_leave]")
    [Span(start=20, end=24, placeholder='[train_leave]')]
    >>> annotated("for one night", "1", 1, 1, "[hotel_stay]")
    [Span(start=4, end=7, placeholder='[hotel_stay]')]
    """
    tokens = [match.span() for match in TOKEN.finditer(text)]
    inside = 0 <= first <= last < len(tokens)
    wanted = tokens[first][0] if inside else 0
    found = [match.span() for match in _whole(value).finditer(text)] if value.strip() else []
    if found:
        return [Span(*min(found, key=lambda span: abs(span[0] - wanted)), name)]
    return [Span(wanted, tokens[last][1], name)] if inside else []


class Gazetteer:
    """Finds values in a text that has no annotations.

    Args:
        values: placeholder by value; letters of either size.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._by_first: dict[str, list[tuple[Words, str]]] = {}
        for value, name in values.items():
            if parts := words(value):
                self._by_first.setdefault(parts[0], []).append((parts, name))
        for known in self._by_first.values():
            known.sort(key=lambda each: -len(each[0]))

    def spans(self, text: str) -> list[Span]:
        """Every place of a value; the longest where several begin.

        >>> Gazetteer({"Pizza Hut": "[restaurant_name]"}).spans("at pizza hut.")
        [Span(start=3, end=12, placeholder='[restaurant_name]')]
        """
        small = text.lower()
        places = [match.span() for match in WORD.finditer(small)]
        parts = [small[start:end] for start, end in places]
        found = []
        for number, part in enumerate(parts):
            for value, name in self._by_first.get(part, ()):
                if tuple(parts[number : number + len(value)]) == value:
                    end = places[number + len(value) - 1][1]
                    found.append(Span(places[number][0], end, name))
                    break
        return found


def matched(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> list[Span]:
    """Every place of a pattern, with the placeholder that goes with it."""
    return [
        Span(*match.span(), name) for pattern, name in patterns for match in pattern.finditer(text)
    ]


def _whole(value: str) -> re.Pattern[str]:
    """``value`` as whole words, in letters of either size, with any blanks between them."""
    inner = r"\s+".join(re.escape(part) for part in value.split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)


def _apart(spans: Iterable[Span]) -> list[Span]:
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start - each.end, each.start)):
        if all(span.end <= other.start or other.end <= span.start for other in chosen):
            chosen.append(span)
    return sorted(chosen, key=lambda each: each.start)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9_]", "", name.lower())
