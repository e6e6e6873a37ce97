"""The Schema-Guided Dialogue data set, and MultiWOZ 2.2, which has its form.

A folder a part, in it files of dialogues; a schema says which services there are, and their slots.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gradmem.lab.data.delexicalise import Span, delexicalised, placeholder
from gradmem.lab.data.dialogues import Dialogue, Goal, Turn, Vector, read_json

INDIFFERENT = "dontcare"
RESULTS = (0, 1, 2, 5)  # the most results that still count for each of the first inputs
OFFERED = ("name", "title", "trainid")  # how the slots end that name what is offered

Frame = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """The slots that a belief state is made of, domain by domain."""

    slots: Mapping[str, tuple[str, ...]]

    @cached_property
    def width(self) -> int:
        """How many inputs of belief there are: two a slot, and one a domain."""
        return sum(2 * len(slots) + 1 for slots in self.slots.values())


def read_layout(path: Path, sha256: str | None = None) -> Layout:
    """The slots of a schema; those of all services of a domain together.

    Raises:
        ValueError: the file is damaged, another one, or no schema.
    """
    found = read_json(path, sha256)
    try:
        named = [
            (domain_of(service["service_name"]), slot["name"])
            for service in found
            for slot in service["slots"]
        ]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is no schema of services and slots ({error!r})") from None
    if not named:
        raise ValueError(f"{path} has no slots; get it again")
    slots: dict[str, dict[str, None]] = {}
    for domain, slot in named:
        slots.setdefault(domain, {})[slot_of(slot, domain)] = None
    return Layout({domain: tuple(names) for domain, names in slots.items()})


def read_dialogues(path: Path, layout: Layout, sha256: str | None = None) -> tuple[Dialogue, ...]:
    """The dialogues of a file; a last word of the user without an answer is left out.

    Raises:
        ValueError: the file is damaged, another one, or has not this form; names the dialogue.
    """
    found = read_json(path, sha256)
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} is no list of dialogues; get it again")
    return tuple(_dialogue(path, number, each, layout) for number, each in enumerate(found, 1))


def domain_of(service: str) -> str:
    """The domain of a service: several services may be of one.

    >>> domain_of("Restaurants_2"), domain_of("hotel")
    ('restaurants', 'hotel')
    """
    stem, _, number = service.rpartition("_")
    return (stem if number.isdigit() else service).lower()


def slot_of(slot: str, domain: str) -> str:
    """A slot without its domain, which MultiWOZ 2.2 puts before it.

    >>> slot_of("hotel-name", "hotel"), slot_of("hotel_name", "hotels")
    ('name', 'hotel_name')
    """
    return slot.removeprefix(f"{domain}-")


def belief(state: Mapping[str, Mapping[str, Sequence[str]]], layout: Layout) -> Vector:
    """A belief state by domain and slot: of each slot one of two (known, indifferent), and of each
    domain whether any is one of these. What is not in the layout is left out.

    >>> layout = Layout({"hotel": ("name", "area"), "train": ("day",)})
    >>> belief({"hotel": {"area": ["dontcare"]}, "bus": {"day": ["monday"]}}, layout)
    (0, 0, 0, 1, 1, 0, 0, 0)
    """
    inputs: list[int] = []
    for domain, slots in layout.slots.items():
        values = [state.get(domain, {}).get(slot) for slot in slots]
        for value in values:
            any_will_do = bool(value) and INDIFFERENT in (value or ())
            inputs += [int(bool(value) and not any_will_do), int(any_will_do)]
        inputs.append(int(any(values)))
    return tuple(inputs)


def results(frames: Iterable[Frame]) -> Vector:
    """How many results a service gave in this turn: one of six, the first if none was called.

    >>> results([{}]), results([{"service_call": {}, "service_results": [{}, {}, {}]}])
    ((1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0))
    """
    counts = [len(each.get("service_results", ())) for each in frames if "service_call" in each]
    place = 1 + sum(max(counts) > limit for limit in RESULTS) if counts else 0
    return tuple(int(place == each) for each in range(len(RESULTS) + 2))


def _dialogue(path: Path, number: int, found: Any, layout: Layout) -> Dialogue:
    try:
        turns = found["turns"]
        speakers = [turn["speaker"] for turn in turns]
        if len(turns) < 2 or speakers != (["USER", "SYSTEM"] * len(turns))[: len(turns)]:
            raise ValueError("its turns do not alternate between USER and SYSTEM")
        pairs = list(zip(turns[::2], turns[1::2], strict=False))
        return Dialogue(
            str(found["dialogue_id"]), tuple(_turns(pairs, layout)), tuple(_goals(pairs))
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: dialogue {number} has not the form of the Schema-Guided Dialogue data set "
            f"({error!r}); it is another file or damaged, get it again"
        ) from None


def _turns(pairs: Sequence[tuple[Any, Any]], layout: Layout) -> Iterator[Turn]:
    state: dict[str, dict[str, Sequence[str]]] = {}
    for user, system in pairs:
        for frame in user["frames"]:
            domain = domain_of(frame["service"])
            values = frame["state"]["slot_values"]
            state[domain] = {slot_of(slot, domain): each for slot, each in values.items()}
        yield Turn(
            delexicalised(user["utterance"], _spans(user)),
            delexicalised(system["utterance"], _spans(system)),
            belief(state, layout),
            results(system["frames"]),
        )


def _spans(turn: Mapping[str, Any]) -> list[Span]:
    """What is annotated by the numbers of characters; a value copied from another slot is not."""
    length = len(turn["utterance"])
    found = []
    for frame in turn["frames"]:
        for slot in frame.get("slots", ()):
            if "start" not in slot:
                continue
            if not 0 <= slot["start"] < slot["exclusive_end"] <= length:
                raise ValueError(f"a span of {slot['slot']} lies outside its text")
            name = _name(frame["service"], slot["slot"])
            found.append(Span(slot["start"], slot["exclusive_end"], name))
    return found


def _name(service: str, slot: str) -> str:
    domain = domain_of(service)
    return placeholder(domain, slot_of(slot, domain))


def _goals(pairs: Sequence[tuple[Any, Any]]) -> Iterator[Goal]:
    """Of each domain: what the system named, and which of the slots asked for it told.

    These files have no goals; so the system of the data set fulfils them all.
    """
    asked: dict[str, set[str]] = {}
    told: dict[str, set[str]] = {}
    for user, system in pairs:
        for frame in user["frames"]:
            wanted = frame["state"]["requested_slots"]
            names = {_name(frame["service"], slot) for slot in wanted}
            asked.setdefault(domain_of(frame["service"]), set()).update(names)
        for frame in system["frames"]:
            names = {_name(frame["service"], each["slot"]) for each in frame.get("slots", ())}
            told.setdefault(domain_of(frame["service"]), set()).update(names)
    for domain, names in told.items():
        offers = {name for name in names if name.rstrip("]").endswith(OFFERED)}
        yield Goal(frozenset(offers), frozenset(names & asked.get(domain, set())))
