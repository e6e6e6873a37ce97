"""Answers in dialogues: MultiWOZ and the Schema-Guided Dialogue data set, read by an LSTM."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradmem.lab.data.dialogues import (
    Corpus,
    Dialogue,
    Words,
    numbered,
    numbers,
)
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, seeded
from gradmem.lab.tasks.dialogue_model import FIRST, LAST, NO_WORD, EncoderDecoder
from gradmem.lab.tasks.dialogue_scores import INSTALL, bleu, informs, succeeds
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.windows import NOTHING, targets_in

LONGEST = 50  # words of a turn; what comes after is left out
LARGEST_LOSS = 50.0  # nats; beyond it a perplexity would no longer be a number one can average
AT_ONCE = 256  # turns answered at a time


class Dialogues(FromFiles):
    """Turns of dialogues, their values replaced by placeholders. An example is a turn."""

    @abstractmethod
    def corpus(self) -> Corpus:
        """The dialogues of the files."""

    def dialogues(self) -> Corpus:
        """The same, read once."""
        return self._corpus

    @cached_property
    def _corpus(self) -> Corpus:
        return self.corpus()

    def missing(self) -> str | None:
        """What to do if the files are not all there."""
        said = super().missing()
        if said is None or self.part is None:
            return said
        return (
            f"{said}. `gradmem data {self.part}` fetches a part of it, on which the task runs too"
        )

    def weight(self, batch: Batch) -> int:
        """Its words, so that a split's perplexity is exactly that of all its words."""
        return targets_in(batch)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Perplexity of what is to be said."""
        return math.exp(min(self.loss(model, batch).item(), LARGEST_LOSS))


class DialogueLstm(Dialogues):
    """The next word of the system's answer, from what the user said last and two vectors.

    An encoder-decoder of 150 units with additive attention, embeddings of 50; 400 words on either
    side. The loss and its perplexity are of the words of the data's answers, each from the right
    ones before it. `answers` and `details` let the model speak for itself.
    """

    budget = Budget(epochs=15, batch_size=64)
    clip_norm = 5.0
    evaluate_batch_size = AT_ONCE
    words = 400
    embedding, units = 50, 150

    def data(self) -> FixedSplits:
        """The parts, a row a turn."""
        return self._splits

    def model(self, seed: int) -> nn.Module:
        """Initialised as torch does by default: 519,200 parameters with MultiWOZ's vectors."""
        first = self.dialogues().train[0].turns[0]
        heard, said = self.vocabularies
        with seeded(seed):
            return EncoderDecoder(
                *(len(heard), len(said), len(first.belief), len(first.database)),
                *(self.embedding, self.units),
            )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of a word, in nats."""
        inputs, targets = shortened(batch)
        return cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=NOTHING)

    def missing(self) -> str | None:
        """What to do if the files or sacrebleu are not there."""
        return super().missing() or (INSTALL if find_spec("sacrebleu") is None else None)

    def answers(self, model: nn.Module, batch: Batch) -> list[Words]:
        """What the model itself says, the likeliest word each time."""
        names = list(self.vocabularies[1])
        said: list[Words] = []
        for start in range(0, len(batch), AT_ONCE):
            inputs, _ = shortened(batch[start : start + AT_ONCE])
            rows: list[list[int]] = model.answer(inputs, LONGEST).tolist()  # type: ignore[operator]
            said += [tuple(names[word] for word in _until_the_end(row)) for row in rows]
        return said

    def details(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """BLEU, inform and success of what the model says in whole dialogues, in percent.

        Raises:
            ImportError: sacrebleu is not installed.
        """
        everything = self._everything
        said = self.answers(model, batch)
        places = batch.inputs["place"].tolist()
        references = [everything[number].turns[turn].response for number, turn in places]
        rows = zip((number for number, _ in places), said, strict=True)
        whole = [
            (everything[number].goals, [answer for _, answer in group])
            for number, group in groupby(rows, key=lambda row: row[0])
        ]
        return {
            "BLEU": bleu(said, references),
            "inform": 100 * _share([informs(*each) for each in whole]),
            "success": 100 * _share([succeeds(*each) for each in whole]),
        }

    @cached_property
    def vocabularies(self) -> tuple[dict[str, int], dict[str, int]]:
        """The words of the users and of the system, from the dialogues to train on."""
        turns = [turn for dialogue in self.dialogues().train for turn in dialogue.turns]
        return (
            numbered((turn.user for turn in turns), self.words),
            numbered((turn.response for turn in turns), self.words),
        )

    @cached_property
    def _everything(self) -> tuple[Dialogue, ...]:
        parts = self.dialogues()
        return (*parts.train, *parts.validation, *parts.test)

    @cached_property
    def _splits(self) -> FixedSplits:
        parts = self.dialogues()
        first = (0, len(parts.train), len(parts.train) + len(parts.validation))
        return FixedSplits(
            *(
                encoded(part, number, *self.vocabularies)
                for part, number in zip(
                    (parts.train, parts.validation, parts.test), first, strict=True
                )
            )
        )


def encoded(
    dialogues: Sequence[Dialogue],
    first: int,
    heard: Mapping[str, int],
    said: Mapping[str, int],
) -> Batch:
    """The turns of ``dialogues`` as rows; ``place`` is a dialogue's number, from ``first`` on, and
    the turn's in it."""
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    places = [
        (number, turn)
        for number, dialogue in enumerate(dialogues, first)
        for turn in range(len(dialogue.turns))
    ]
    user = [numbers(turn.user[:LONGEST], heard) or [FIRST] for turn in turns]
    response = [[*numbers(turn.response[:LONGEST], said), LAST] for turn in turns]
    return Batch(
        {
            "user": filled(user, LONGEST, NO_WORD),
            "before": filled([[FIRST, *row[:-1]] for row in response], LONGEST + 1, NO_WORD),
            "belief": torch.tensor([turn.belief for turn in turns], dtype=torch.float32),
            "database": torch.tensor([turn.database for turn in turns], dtype=torch.float32),
            "place": torch.tensor(places),
        },
        filled(response, LONGEST + 1, NOTHING),
    )


def filled(rows: Sequence[Sequence[int]], width: int, filler: int) -> Tensor:
    """Rows of one width, filled up at their ends.

    >>> filled([[5], [6, 7]], 3, 0).tolist()
    [[5, 0, 0], [6, 7, 0]]
    """
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def shortened(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and targets without the columns in which no row has a word."""
    inputs: Mapping[str, Tensor] = batch.inputs
    heard = int((inputs["user"] != NO_WORD).sum(dim=1).max())
    said = int((batch.targets != NOTHING).sum(dim=1).max())
    cut = {"user": inputs["user"][:, :heard], "before": inputs["before"][:, :said]}
    return {**inputs, **cut}, batch.targets[:, :said]


def perplexity(words: int) -> Metric:
    """The metric; ``worst`` is that of guessing among all words alike."""
    return Metric(
        "perplexity", higher_is_better=False, worst=float(words), decimals=2, mean="geometric"
    )


def _until_the_end(row: list[int]) -> list[int]:
    return row[: row.index(LAST)] if LAST in row else row


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
