"""What was measured, kept in one JSON file that is whole after every measurement."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gradmem.lab.bench.contestants import CONTESTANTS, Entry
from gradmem.lab.bench.machine import Machine
from gradmem.lab.bench.measure import Measurement, Settings
from gradmem.lab.bench.sets import Facts, ParameterSet
from gradmem.lab.errors import StoreError
from gradmem.lab.files import write_atomically

NAME = "bench.json"
FORMAT = 1


@dataclass
class Book:
    """The measurements of one machine with one kind of settings, in the order they were made."""

    machine: Machine
    settings: Settings
    measurements: dict[tuple[str, str], Measurement] = field(default_factory=dict)
    sets: dict[str, Facts] = field(default_factory=dict)
    path: Path | None = None

    def get(self, on: ParameterSet, entry: Entry) -> Measurement | None:
        """What was measured of this before; not what failed, which is tried again."""
        found = self.measurements.get((on.name, entry.key))
        return found if found is not None and found.status == "measured" else None

    def add(self, on: ParameterSet, found: Measurement) -> None:
        """Keep it, on the disk if there is a file.

        Raises:
            StoreError: the file cannot be written.
        """
        self.sets[on.name] = on.facts
        self.measurements[found.key] = found
        if self.path is not None:
            write_atomically(self.path, json.dumps(self.to_json(), indent=1, allow_nan=False))

    @property
    def entries(self) -> list[Entry]:
        """Everybody who was measured on anything, in the order of the table of contestants."""
        found = {each.entry.key: each.entry for each in self.measurements.values()}
        names = list(CONTESTANTS)
        return sorted(found.values(), key=lambda entry: names.index(entry.contestant.name))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, with ratios for those who read the file."""
        return {
            "format": FORMAT,
            "machine": asdict(self.machine),
            "settings": asdict(self.settings),
            "sets": {name: asdict(facts) for name, facts in self.sets.items()},
            "measurements": [_plain(each) for each in self.measurements.values()],
        }


def _plain(found: Measurement) -> dict[str, Any]:
    plain = {each.name: getattr(found, each.name) for each in fields(found)}
    plain["entry"] = {
        "optimizer": found.entry.contestant.name,
        "condition": found.entry.condition,
        "options": dict(found.entry.options),
        "smaller": found.entry.smaller,
    }
    for other in ("reference", "base", "lesser"):
        if (ratio := found.to(other)) is not None:
            plain[f"ratio_to_{other}"] = asdict(ratio)
    return plain


def open_book(
    folder: Path | None, machine: Machine, settings: Settings, sets: Iterable[ParameterSet]
) -> Book:
    """The book in ``folder`` to go on with, or a new one; one without a file if there is none.

    Raises:
        StoreError: the file there cannot be read, or was made on another machine, with other
            settings or of other parameters, so that its numbers do not go with new ones.
    """
    book = Book(machine, settings, path=None if folder is None else folder / NAME)
    if book.path is None or not book.path.exists():
        return book
    kept = _read(book.path)
    mine = book.to_json()
    differing = [
        *_differences(kept["machine"], mine["machine"]),
        *_differences(asdict(Settings(**kept["settings"])), mine["settings"]),
    ]
    for on in sets:
        if on.name in kept["sets"] and kept["sets"][on.name]["digest"] != on.facts.digest:
            differing.append(f"the parameters of {on.name}")
    if differing:
        raise StoreError(
            f"{book.path} is of another kind: {', '.join(differing)}. Name another folder with "
            "--out, or remove this one"
        )
    book.sets = {name: Facts(**facts) for name, facts in kept["sets"].items()}
    found = [_measurement(each) for each in kept["measurements"]]
    book.measurements = {each.key: each for each in found}
    return book


def _differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``rounds 20 -> 30`` for each that is another."""
    return [
        f"{name} {kept.get(name)} -> {now.get(name)}"
        for name in dict.fromkeys((*kept, *now))
        if kept.get(name) != now.get(name)
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["format"] != FORMAT:
            raise ValueError(f"its format is {kept['format']}, not {FORMAT}")
        for each in kept["measurements"]:
            _measurement(each)
        for each in kept["sets"].values():
            Facts(**each)
        dict(kept["machine"])
        Settings(**kept["settings"])
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{path} is not what gradmem bench writes ({error}); name another folder with --out, "
            "or remove it"
        ) from None
    return kept


def _measurement(plain: Mapping[str, Any]) -> Measurement:
    known = {each.name: plain[each.name] for each in fields(Measurement)}
    named = known["entry"]
    known["entry"] = Entry(
        *(CONTESTANTS[named["optimizer"]], named["condition"], named["options"], named["smaller"])
    )
    known["seconds"] = {
        whose: [(float(there), float(back)) for there, back in times]
        for whose, times in known["seconds"].items()
    }
    return Measurement(**known)
