"""MultiWOZ 2.0 and 2.1: dialogues about a stay in Cambridge, with belief states and goals.

The releases have all dialogues in ``data.json`` and lists of those that validate and test;
ConvLab's edition of 2.1 has a file for each part. `schema_guided` reads 2.2.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from gradmem.lab.data.contents import contents
from gradmem.lab.data.delexicalise import (
    Gazetteer,
    Span,
    annotated,
    delexicalised,
    matched,
    placeholder,
)
from gradmem.lab.data.dialogues import Dialogue, Goal, Turn, read_json
from gradmem.lab.data.multiwoz_state import (
    ASKED,
    BOOKED,
    COUNTED,
    INDIFFERENT,
    SILENT,
    Databases,
    belief,
    database,
)

# What the acts call the slots, where it is not the name that belief states and goals have.
NAMES = {
    "addr": "address",
    "arrive": "arriveby",
    "depart": "departure",
    "dest": "destination",
    "fee": "entrancefee",
    "id": "trainid",
    "leave": "leaveat",
    "post": "postcode",
    "price": "pricerange",
    "ref": "reference",
    "ticket": "price",
}
NOT_A_DOMAIN = ("booking", "general")  # acts of this kind are about the domain at hand
REQUESTED = ("phone", "address", "postcode")  # what can be told in one placeholder
# What is known without a list, in texts without annotations; of the domain at hand.
PATTERNS = {
    "phone": re.compile(r"\b0\d{10}\b"),
    "postcode": re.compile(r"\b[Cc][Bb]\d{1,2},? ?\d[A-Za-z]{2}\b"),
    "reference": re.compile(r"\b(?=[A-Z0-9]*[0-9])(?=[A-Z0-9]*[A-Z])[A-Z0-9]{8}\b"),
}
TRAIN = re.compile(r"\b[Tt][Rr]\d{4}\b")

Metadata = Mapping[str, Any]
Log = Mapping[str, Any]


def read_dialogues(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """The dialogues of a file by name, as they stand there.

    Raises:
        ValueError: the file is damaged, another one, or has not the form of MultiWOZ.
    """
    found = read_json(path, sha256)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} has no dialogues by name; it is not a file of MultiWOZ")
    dialogues = {name.removesuffix(".json"): each for name, each in found.items()}
    for name, each in dialogues.items():
        if reason := _wrong(each):
            raise ValueError(f"{path}: dialogue {name} {reason}; it is not MultiWOZ 2.0 or 2.1")
    return dialogues


def read_names(path: Path) -> list[str]:
    """The names in a list file, one a line.

    Raises:
        ValueError: there are none, or the file cannot be read.
    """
    names = contents(path).decode("utf-8", "replace").split()
    if not names:
        raise ValueError(f"{path} names no dialogues; get it again")
    return [name.removesuffix(".json") for name in names]


def database_files(folder: Path) -> list[Path]:
    """The ``*_db.json`` of the domains that have entities, in ``folder`` or in its ``db``."""
    names = [f"{domain}_db.json" for domain in COUNTED]
    places = ((folder / name, folder / "db" / name) for name in names)
    found = (next((path for path in each if path.is_file()), None) for each in places)
    return [path for path in found if path is not None]


def read_databases(folder: Path) -> Databases:
    """The entities of each domain whose file is there.

    Raises:
        ValueError: a file is damaged or no list of entities.
    """
    found = {}
    for path in database_files(folder):
        entities = read_json(path)
        if not isinstance(entities, list) or not all(isinstance(each, dict) for each in entities):
            raise ValueError(f"{path} is not a list of entities; get it again")
        found[path.name.removesuffix("_db.json")] = entities
    return found


def dialogues_of(found: Mapping[str, Any], databases: Databases) -> tuple[Dialogue, ...]:
    """Dialogues as the tasks take them; a last word of the user without an answer is left out."""
    entities = Gazetteer(dict(_entity_values(databases)))
    return tuple(
        Dialogue(name, tuple(_turns(each["log"], databases, entities)), goals_of(each["goal"]))
        for name, each in found.items()
    )


def goals_of(goal: Mapping[str, Any]) -> tuple[Goal, ...]:
    """What the user wanted of each domain.

    A restaurant, hotel or attraction that the user did not name has to be offered by name, and a
    train by its number if that was asked for. Requested are phone, address and postcode, as the
    goal says, the train's number, and a reference where something was to be booked.

    >>> (found,) = goals_of({"hotel": {"info": {"area": "east"}, "reqt": ["phone"], "book": {}}})
    >>> sorted(found.offers), sorted(found.requests)
    (['[hotel_name]'], ['[hotel_phone]'])
    """
    return tuple(
        _goal(domain, goal[domain])
        for domain in ASKED
        if isinstance(goal.get(domain), Mapping) and "info" in goal[domain]
    )


def _goal(domain: str, wanted: Mapping[str, Any]) -> Goal:
    asked = wanted.get("reqt", ())
    requests = {slot for slot in REQUESTED if slot in asked}
    requests |= {"trainid"} if "trainID" in asked else set()
    requests |= {"reference"} if wanted.get("book") else set()
    offers = requests & {"trainid"}
    if domain in COUNTED and domain != "train" and "name" not in wanted["info"]:
        offers = {"name"}
    return Goal(
        frozenset(placeholder(domain, slot) for slot in offers),
        frozenset(placeholder(domain, slot) for slot in requests),
    )


def _turns(log: list[Log], databases: Databases, entities: Gazetteer) -> Iterator[Turn]:
    domain = "general"
    before: Metadata = {}
    whole = _state_values(log[1::2], ASKED)
    for user, system in zip(log[::2], log[1::2], strict=False):
        metadata = system["metadata"]
        domain = _domain_at_hand(user, system, before) or domain
        lists: list[Gazetteer] = []
        if "span_info" not in system:
            # a value of several domains is that of the domain at hand
            at_hand = _state_values([system], [domain] if domain in ASKED else [])
            lists = [Gazetteer({**whole, **at_hand}), entities]
        said, answer = (
            delexicalised(each["text"], _spans(each, domain, lists)) for each in (user, system)
        )
        yield Turn(said, answer, belief(metadata), database(metadata, databases))
        before = metadata


def _spans(turn: Log, domain: str, lists: Iterable[Gazetteer]) -> list[Span]:
    """Where values are: as annotated, or in a release without annotations as lists know them."""
    text = turn["text"]
    if "span_info" in turn:
        return [
            span
            for act, slot, value, first, last in turn["span_info"]
            for span in annotated(text, str(value), first, last, _name(act, slot, domain))
        ]
    patterns = [(each, placeholder(domain, slot)) for slot, each in PATTERNS.items()]
    patterns.append((TRAIN, placeholder("train", "trainid")))
    return [*matched(text, patterns), *(span for each in lists for span in each.spans(text))]


def _name(act: str, slot: str, domain: str) -> str:
    about, small = act.split("-")[0].lower(), slot.lower()
    return placeholder(domain if about in NOT_A_DOMAIN else about, NAMES.get(small, small))


def _domain_at_hand(user: Log, system: Log, before: Metadata) -> str | None:
    """The domain a turn is about: the last an act names, else one of which more is known now."""
    acts = [act.split("-")[0].lower() for each in (user, system) for act in _acts(each)]
    changed = [
        domain for domain in ASKED if before and system["metadata"][domain] != before[domain]
    ]
    first = [domain for domain in ASKED if not before and _is_known(system["metadata"][domain])]
    named = [act for act in acts if act not in NOT_A_DOMAIN]
    return next(iter((named or changed or first)[-1:]), None)


def _acts(turn: Log) -> Iterable[str]:
    acts = turn.get("dialog_act")
    return acts if isinstance(acts, Mapping) else ()  # some releases have a sentence instead


def _is_known(state: Mapping[str, Any]) -> bool:
    return any(state["book"].values()) or any(
        value not in SILENT for value in state["semi"].values()
    )


def _state_values(lines: Iterable[Log], domains: Iterable[str]) -> dict[str, str]:
    """Placeholders by the values of belief states, and by what names and refers to a booking."""
    found = {}
    for line, domain in product(lines, domains):
        book, semi = line["metadata"][domain]["book"], line["metadata"][domain]["semi"]
        slots = {**semi, **{slot: book.get(slot, "") for slot in BOOKED.get(domain, ())}}
        told = [
            *slots.items(),
            *(pair for each in book.get("booked") or () for pair in each.items()),
        ]
        for slot, value in told:
            if _is_telling(value):
                found[value] = placeholder(domain, slot)
    return found


def _is_telling(value: object) -> bool:
    """Whether a word in a text that is this value is likely to be it."""
    return isinstance(value, str) and value not in (*SILENT, *INDIFFERENT, "yes", "no")


def _entity_values(databases: Databases) -> Iterator[tuple[str, str]]:
    for domain, entities in databases.items():
        for entity in entities:
            for slot in ("name", "address", "phone", "postcode", "trainID"):
                if _is_telling(entity.get(slot)):
                    yield str(entity[slot]), placeholder(domain, slot)


def _wrong(dialogue: object) -> str | None:
    """What is wrong with the form of a dialogue."""
    if not isinstance(dialogue, dict) or not {"goal", "log"} <= dialogue.keys():
        return "has no goal and log"
    log = dialogue["log"]
    if not isinstance(log, list) or len(log) < 2:
        return "has no turn"
    for number, turn in enumerate(log):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            return f"has no text in line {number + 1}"
        if not _are_spans(turn.get("span_info", [])):
            return f"has spans without act, slot, value and two numbers in line {number + 1}"
        if number % 2 and not _is_state(turn.get("metadata")):
            return f"has no belief state of all domains in line {number + 1}"
    return None


def _are_spans(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(span, list) and len(span) == 5 and all(isinstance(at, int) for at in span[3:])
        for span in found
    )


def _is_state(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(
        isinstance(metadata.get(domain), dict) and {"book", "semi"} <= metadata[domain].keys()
        for domain in ASKED
    )
