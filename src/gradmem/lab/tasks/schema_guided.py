"""The Schema-Guided Dialogue data set: 16 kinds of services to talk to."""

import re
from abc import ABC
from collections.abc import Mapping
from pathlib import Path

from gradmem.lab.data import schema_guided
from gradmem.lab.data.catalogue import ENDINGS, Found, located
from gradmem.lab.data.dialogues import Corpus, Dialogue
from gradmem.lab.tasks.dialogue import DialogueLstm, Dialogues, perplexity

FILE = re.compile(r"dialogues_(\d+)\.json(?:\.gz|\.bz2|\.zip)?")


class SchemaGuided(Dialogues, ABC):
    """A data set in this form: folders ``train``, ``dev`` and ``test`` with files of dialogues."""

    home: str  # its folder in the data folder
    schema: str  # the file that says which slots a belief state has
    counts: Mapping[str, int]  # files of dialogues in each part of the whole set

    def files(self) -> tuple[Found, ...]:
        """The schema, then the files of dialogues; of the whole set all that have to be there.

        Raises:
            FileNotFoundError: some are not; says which.
        """
        found = super().files()
        if self.source == self.part:
            return found
        return (
            Found(self._located(self.schema), None),
            *(
                Found(self._located(f"{part}/dialogues_{number:03}.json"), None)
                for part, count in self.counts.items()
                for number in range(1, count + 1)
            ),
        )

    def corpus(self) -> Corpus:
        """The three parts; the slots are those of the schema."""
        schema, *files = self.files()
        layout = schema_guided.read_layout(schema.path, schema.sha256)
        parts: dict[str, list[Dialogue]] = {part: [] for part in self.counts}
        for file in files:
            if FILE.fullmatch(file.path.name):
                dialogues = schema_guided.read_dialogues(file.path, layout, file.sha256)
                parts[file.path.parent.name] += dialogues
        return Corpus(*(tuple(part) for part in parts.values()))

    def _located(self, name: str) -> Path:
        path = located([f"{self.home}/{name}"], self.folder)
        if path is None:
            raise FileNotFoundError(
                f"the data set {self.needs!r} is not complete in the data folder {self.folder}: "
                f"there is no {self.home}/{name} (nor the like with {', '.join(ENDINGS[1:])}); the "
                f"whole set has {', '.join(f'{n} files in {p}' for p, n in self.counts.items())}"
            )
        return path


class SgdLstm(SchemaGuided, DialogueLstm):
    """The encoder-decoder of MultiWOZ, with a thousand words on either side.

    What a belief state is made of is the training part's schema. The services of the other parts
    are in part unknown there: their slots are left out and their placeholders unknown words.
    """

    name = "sgd-lstm"
    title = (
        "Schema-Guided Dialogue (delexicalised), LSTM encoder-decoder of 150 units with attention"
    )
    needs = "sgd"
    part = "sgd-part"
    words = 1000
    metric = perplexity(1000)
    target = 7.5
    home, schema = "sgd", "train/schema.json"
    counts: Mapping[str, int] = {"train": 127, "dev": 20, "test": 34}

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if self.source == self.part:
            self.partial = (
                "This is a part of the Schema-Guided Dialogue data set: 32 of its 127 files to "
                "train, 9 of 20 to validate, 12 of 34 to test. Scores do not compare with those on "
                "the whole set"
            )
