"""What tasks have in common that say of two sentences whether one follows from the other.

The paper's three encoders, on GloVe's word vectors where the user has their file, else on vectors
that are trained with the rest: the title says which.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from gradmem.lab.data import glove
from gradmem.lab.data.nli import LABELS, Pair, read_pairs, tokenise
from gradmem.lab.data.words import Vocabulary
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.encoders import (
    Comparison,
    Convolutions,
    Encoder,
    FixedEmbedding,
    InferSent,
    LastState,
)
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.sentences import Sentences
from gradmem.lab.tasks.supervised import Classifier

ENCODERS: Mapping[str, tuple[Callable[[int, int], Encoder], str]] = {
    "infersent": (InferSent, "InferSent encoder of 2 x 200 units"),
    "lstm": (LastState, "LSTM encoder of 200 units"),
    "convnet": (Convolutions, "encoder of 4 convolutions with 200 channels"),
}
UNITS, DROPOUT = 200, 0.2
TRAINED_AT_LEAST = 2  # a word that occurs only once is unknown, so that this vector is trained too

Parts = tuple[list[Pair], list[Pair], list[Pair]]


class Inference(FromFiles, Classifier):
    """Entailment, neutral or contradiction, from a premise and a hypothesis.

    The vocabulary is that of the training text. Sentences are read whole.
    """

    budget = Budget(epochs=20, batch_size=128)
    clip_norm = 5.0
    evaluate_batch_size = 256
    encoder: str
    read: ClassVar[Callable[..., list[Pair]]] = staticmethod(read_pairs)
    # How many pairs with a label each file has, in a data set without checksums; and in the part.
    pairs: tuple[int, ...] | None = None
    part_pairs: tuple[int, ...] | None = None
    part_says: str | None = None  # what `partial` is where only the part is there
    part_target: float | None = None  # what can be reached with it

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.vectors = glove.find(self.folder)
        known = (
            "trained word vectors" if self.vectors is None else f"vectors of {self.vectors.name}"
        )
        self.title = f"{self.title}, {known}"
        if self.source == self.part:
            self.partial = self.part_says
            self.target = self.part_target or self.target

    def data(self) -> FixedSplits:
        """The data set's own parts."""
        return self._splits

    def model(self, seed: int) -> nn.Module:
        """Initialised as torch does by default."""
        vocabulary, table = self._words
        encoder, _ = ENCODERS[self.encoder]
        with seeded(seed):
            words = (
                nn.Embedding(len(vocabulary), glove.WIDTH)
                if table is None
                else FixedEmbedding(table)
            )
            return Comparison(
                words,
                glove.WIDTH,
                encoder,
                units=UNITS,
                classes=len(LABELS),
                dropout=DROPOUT,
            )

    def versions(self) -> dict[str, str]:
        """The data, and the file of word vectors by its name and size."""
        if self.vectors is None:
            return super().versions()
        size = self.vectors.stat().st_size
        return {**super().versions(), "vectors": f"{self.vectors.name}, {size} bytes"}

    def divide(self, files: list[list[Pair]]) -> Parts:
        """What trains, validates and tests, of the pairs of each file."""
        train, validation, test = files
        return train, validation, test

    @cached_property
    def _parts(self) -> Parts:
        read = [type(self).read(file.path, file.sha256) for file in self.files()]
        counts = self.part_pairs if self.source == self.part else self.pairs
        for file, pairs, count in zip(self.files(), read, counts or (), strict=False):
            if len(pairs) != count:
                raise ValueError(
                    f"{file.path} has {len(pairs):,} labelled pairs where that of {self.source} "
                    f"has {count:,}; it is truncated or another file, get it again"
                )
        return self.divide(read)

    @cached_property
    def _words(self) -> tuple[Vocabulary, Tensor | None]:
        """The vocabulary, and the vectors if they are not trained."""
        if self.vectors is None:
            return Vocabulary(self._training_words(), TRAINED_AT_LEAST), None
        found = glove.read(self.vectors, set(self._training_words()))
        vocabulary = Vocabulary(word for word in self._training_words() if word in found)
        unknown = torch.zeros(glove.WIDTH)
        rows = [torch.from_numpy(found[word]) for word in vocabulary.names[1:]]
        return vocabulary, torch.stack([unknown, *rows])

    def _training_words(self) -> Iterator[str]:
        """One after the other: as a list the words of all of SNLI would fill a gigabyte."""
        for pair in self._parts[0]:
            yield from tokenise(pair.premise)
            yield from tokenise(pair.hypothesis)

    @cached_property
    def _splits(self) -> FixedSplits:
        return FixedSplits(*(self._batch(pairs) for pairs in self._parts))

    def _batch(self, pairs: list[Pair]) -> Batch:
        numbers = self._words[0].numbers
        sides = ([pair.premise for pair in pairs], [pair.hypothesis for pair in pairs])
        inputs = tuple(Sentences.of([numbers(tokenise(each)) for each in side]) for side in sides)
        return Batch(inputs, torch.tensor([pair.label for pair in pairs]))
