"""What MultiWOZ says beside the words, as vectors: 94 inputs of belief, 30 of database."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gradmem.lab.data.dialogues import Vector

# The slots of a belief state: what is asked for of an entity, and what is booked of it.
ASKED: Mapping[str, tuple[str, ...]] = {
    "taxi": ("leaveAt", "destination", "departure", "arriveBy"),
    "restaurant": ("food", "pricerange", "name", "area"),
    "hospital": ("department",),
    "hotel": ("name", "area", "parking", "pricerange", "stars", "internet", "type"),
    "attraction": ("type", "name", "area"),
    "train": ("leaveAt", "destination", "day", "arriveBy", "departure"),
    "police": (),
}
BOOKED: Mapping[str, tuple[str, ...]] = {
    "restaurant": ("people", "day", "time"),
    "hotel": ("people", "day", "stay"),
    "train": ("people", "ticket"),
}
COUNTED = ("restaurant", "hotel", "attraction", "train")  # the domains with a database of entities
# The most entities that still count for each of the first five inputs of a domain.
FEW, FEW_TRAINS = (0, 1, 2, 3, 4), (0, 2, 5, 10, 40)
SILENT = ("", "none", "not mentioned", "not given")
INDIFFERENT = ("dontcare", "dont care", "don't care", "do n't care", "do not care")

Entity = Mapping[str, Any]
Databases = Mapping[str, Sequence[Entity]]  # by domain; empty where the files are not there


def belief(metadata: Mapping[str, Any]) -> Vector:
    """The belief state in 94 inputs.

    Of each domain: whether something is booked, which details of a booking are known, of each slot
    one of three (not mentioned, indifferent, known), and whether any slot is one of these.

    >>> empty = {domain: {"book": {"booked": []}, "semi": {}} for domain in ASKED}
    >>> len(belief(empty)), sum(belief(empty))
    (94, 0)
    """
    return tuple(value for domain in ASKED for value in _domain(domain, metadata[domain]))


def _domain(domain: str, state: Mapping[str, Any]) -> list[int]:
    book, semi = state["book"], state["semi"]
    details = [int(bool(book.get(slot))) for slot in ("booked", *BOOKED.get(domain, ()))]
    slots = [value for slot in ASKED[domain] for value in _slot(str(semi.get(slot, "")))]
    return [*details, *slots, int(any(slots))]


def _slot(value: str) -> tuple[int, int, int]:
    return (
        int(value == "not mentioned"),
        int(value in INDIFFERENT),
        int(value not in (*SILENT, *INDIFFERENT)),
    )


def database(metadata: Mapping[str, Any], databases: Databases) -> Vector:
    """What is found for the belief state, and what has been booked, in 30 inputs.

    Of each of four domains one of six says how many entities fit; all are 0 where there is no
    database. Of restaurants, hotels and trains one of two says whether one is booked.

    >>> empty = {domain: {"book": {"booked": []}, "semi": {}} for domain in ASKED}
    >>> found = database(empty, {"hotel": [{"name": "one"}, {"name": "another"}]})
    >>> found[:6], found[6:12], found[24:]
    ((0, 0, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0), (1, 0, 1, 0, 1, 0))
    """
    counts: list[int] = []
    for domain in COUNTED:
        entities = databases.get(domain)
        if entities is None:
            counts += [0] * 6
        else:
            number = sum(fits(entity, metadata[domain]["semi"]) for entity in entities)
            counts += _one_of_six(number, FEW_TRAINS if domain == "train" else FEW)
    booked = [bool(metadata[domain]["book"].get("booked")) for domain in BOOKED]
    return (*counts, *(value for yes in booked for value in (int(not yes), int(yes))))


def fits(entity: Entity, asked: Mapping[str, Any]) -> bool:
    """Whether an entity has what is asked for; a train leaves not before and arrives not after.

    >>> train = {"leaveAt": "09:15", "day": "monday"}
    >>> fits(train, {"leaveAt": "9:00", "day": "Monday"}), fits(train, {"leaveAt": "10:00"})
    (True, False)
    """
    return all(
        _agrees(slot, str(entity[slot]), str(wanted))
        for slot, wanted in asked.items()
        if slot in entity and wanted not in (*SILENT, *INDIFFERENT)
    )


def _agrees(slot: str, value: str, wanted: str) -> bool:
    if slot == "leaveAt":
        return value.zfill(5) >= wanted.zfill(5)
    if slot == "arriveBy":
        return value.zfill(5) <= wanted.zfill(5)
    return _bare(value) == _bare(wanted)


def _bare(value: str) -> str:
    """So that "guest house" is "guesthouse"."""
    return "".join(value.lower().split())


def _one_of_six(number: int, limits: Iterable[int]) -> list[int]:
    place = sum(number > limit for limit in limits)
    return [int(place == each) for each in range(6)]
