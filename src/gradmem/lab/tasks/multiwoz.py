"""MultiWOZ: the paper's dialogue task, on the whole data set or on the part that is there."""

import hashlib
from abc import ABC
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradmem.lab.data import multiwoz
from gradmem.lab.data.catalogue import Found, find, located
from gradmem.lab.data.contents import contents
from gradmem.lab.data.dialogues import Corpus
from gradmem.lab.tasks.dialogue import DialogueLstm, Dialogues, perplexity
from gradmem.lab.tasks.schema_guided import SchemaGuided
from gradmem.lab.tasks.splitting import hold_out

HELD_OUT = 200  # dialogues that validate, of the 999 that do in the whole data set
NO_DATABASE = (
    "there are no database files, so the 24 inputs that say how many entities fit are 0 in every "
    "turn"
)
PART = (
    "This is a part of MultiWOZ 2.1: the training dialogues are not there, so 799 of the 999 "
    "validation dialogues train and 200 validate; the test dialogues are the whole set's 1,000. "
    "Scores do not compare with those on the whole set"
)


class Multiwoz(Dialogues, ABC):
    """MultiWOZ 2.0 or 2.1, by the lists of the release.

    Where only ConvLab's validation and test files are there, 799 of the validation dialogues train
    and 200 validate; ``partial`` says so in every report.
    """

    needs = "multiwoz"
    part = "multiwoz-part"

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        said = [PART] if self.source == self.part else []
        said += [] if self._database_files() else [NO_DATABASE[0].upper() + NO_DATABASE[1:]]
        self.partial = ". ".join(said) or None

    def files(self) -> tuple[Found, ...]:
        """All that is read, but for the databases."""
        found = super().files()
        if self.source == self.part:
            return found
        (first,) = found
        if first.path.name.startswith("train"):
            return (first, *find("multiwoz-part", self.folder))
        return (first, *(self._list(name) for name in ("valListFile", "testListFile")))

    def versions(self) -> dict[str, str]:
        """The data, and the databases if there are any."""
        digest = hashlib.sha256()
        for path in self._database_files():
            digest.update(contents(path))
        databases = {"databases": digest.hexdigest()[:12]} if self._database_files() else {}
        return {**super().versions(), **databases}

    def corpus(self) -> Corpus:
        """The three parts."""
        files = self.files()
        if self.source == self.part:
            validation, test = (multiwoz.read_dialogues(each.path, each.sha256) for each in files)
            parts: tuple[dict[str, Any], ...] = (*without(validation, held_out(validation)), test)
        elif files[0].path.name.startswith("train"):
            parts = tuple(multiwoz.read_dialogues(each.path, each.sha256) for each in files)
        else:
            everything = multiwoz.read_dialogues(files[0].path)
            lists = [(each.path, multiwoz.read_names(each.path)) for each in files[1:]]
            parts = divided(everything, lists)
        databases = multiwoz.read_databases(self.folder / "multiwoz")
        return Corpus(*(multiwoz.dialogues_of(part, databases) for part in parts))

    def _list(self, name: str) -> Found:
        places = (f"multiwoz/{name}{ending}" for ending in ("", ".txt", ".json"))
        path = located(places, self.folder)
        if path is None:
            raise FileNotFoundError(
                f"the data set 'multiwoz' is not complete in the data folder {self.folder}: there "
                f"is no multiwoz/{name} (.txt, .json); it comes with data.json, put it there too"
            )
        return Found(path, None)

    def _database_files(self) -> list[Path]:
        return multiwoz.database_files(self.folder / "multiwoz")


class MultiwozLstm(Multiwoz, DialogueLstm):
    """The paper's encoder-decoder."""

    name = "multiwoz-lstm"
    title = "MultiWOZ (delexicalised), LSTM encoder-decoder of 150 units with attention"
    metric = perplexity(DialogueLstm.words)
    target = 6.3


class Multiwoz22Lstm(SchemaGuided, DialogueLstm):
    """The same on MultiWOZ 2.2, whose belief states come in the form of the Schema-Guided set."""

    name = "multiwoz22-lstm"
    title = "MultiWOZ 2.2 (delexicalised), LSTM encoder-decoder of 150 units with attention"
    needs = "multiwoz22"
    metric = perplexity(DialogueLstm.words)
    target = 6.3
    home, schema = "multiwoz-2.2", "schema.json"
    counts: Mapping[str, int] = {"train": 17, "dev": 2, "test": 2}


def held_out(dialogues: Iterable[str]) -> set[str]:
    """The names of 200 of these dialogues, drawn by a fixed seed."""
    names = sorted(dialogues)
    return {names[row] for row in hold_out(np.arange(len(names)), HELD_OUT)[1]}


def without(
    everything: Mapping[str, Any], names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dialogues that are not named, and those that are; both in their order."""
    named = set(names)
    return (
        {name: each for name, each in everything.items() if name not in named},
        {name: each for name, each in everything.items() if name in named},
    )


def divided(
    everything: Mapping[str, Any], lists: Iterable[tuple[Path, list[str]]]
) -> tuple[dict[str, Any], ...]:
    """What no list names, and then what each list does.

    Raises:
        ValueError: a list names what is not there, or what another one does, or all.
    """
    rest, parts = dict(everything), []
    for path, names in lists:
        if absent := [name for name in names if name not in rest]:
            raise ValueError(
                f"{path} names {len(absent)} dialogues that are not in data.json or stand in "
                f"another list too, first {absent[0]}; the files are not of one release"
            )
        rest, part = without(rest, names)
        parts.append(part)
    if not rest:
        raise ValueError("the lists leave no dialogue of data.json to train on")
    return (rest, *parts)
