"""What language models on words have in common, and two such models: an LSTM and a transformer."""

import math
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradmem.lab.data.words import Vocabulary, first_lines, read_words
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, seeded
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.transformer import Transformer
from gradmem.lab.tasks.windows import NOTHING, joined, streams, targets_in, windows

LARGEST_LOSS = 50.0  # nats; beyond it a perplexity would no longer be a number one can average


class Words(FromFiles):
    """The next word from those before it.

    The vocabulary is that of the training text; another word is ``<unk>``. The end of a line is a
    word too. The three parts are the data set's own files.
    """

    clip_norm = 0.25
    tokens: tuple[int, int, int] | None = None  # of the parts, where no checksum is known
    lines: int | None = None  # of the training text, its first; None: all

    def data(self) -> FixedSplits:
        """The parts, each cut up by itself."""
        return self._splits

    @property
    def vocabulary(self) -> Vocabulary:
        """The words of the training text."""
        return self._read[0]

    def cut(self, symbols: Tensor) -> Batch:
        """A text as examples."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next word, in nats."""
        return cross_entropy(
            model(batch.inputs).flatten(0, 1), self.targets(batch).flatten(), ignore_index=NOTHING
        )

    def targets(self, batch: Batch) -> Tensor:
        """The words to predict, in the order in which the model gives its logits."""
        return batch.targets

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Perplexity: how many words it hesitates between, so to speak."""
        return math.exp(min(self.loss(model, batch).item(), LARGEST_LOSS))

    def weight(self, batch: Batch) -> int:
        """Its words, so that a split's perplexity is exactly that of all its words."""
        return targets_in(batch)

    @cached_property
    def _read(self) -> tuple[Vocabulary, list[Tensor]]:
        texts = [read_words(file.path, file.sha256) for file in self.files()]
        for file, text, expected in zip(self.files(), texts, self.tokens or (), strict=False):
            if len(text) != expected:
                raise ValueError(
                    f"{file.path} has {len(text):,} words with the ends of lines, where that of "
                    f"{self.needs} has {expected:,}; it is truncated or another file, get it again"
                )
        texts[0] = first_lines(texts[0], self.lines)
        vocabulary = Vocabulary(texts[0])
        return vocabulary, [torch.tensor(vocabulary.numbers(text)) for text in texts]

    @cached_property
    def _splits(self) -> FixedSplits:
        return FixedSplits(*(self.cut(symbols) for symbols in self._read[1]))


class LstmWords(Words):
    """The paper's model: the text in 20 streams, 35 words of each a step, the state carried on.

    An embedding of 64, one LSTM layer of 128, a linear layer; no dropout, no shared weights.
    Gradients reach back to the beginning of the step. A stream begins, in every epoch and every
    evaluation, with a state of zero.
    """

    ordered = True
    budget = Budget(epochs=50, batch_size=1)
    evaluate_batch_size = 4
    streams, window = 20, 35
    variations: ClassVar = {"depth": (1, 2, 4)}

    def __init__(self, folder: Path | None = None, depth: int = 1) -> None:
        super().__init__(folder)
        self.layers = depth
        if depth > 1:
            self.name, self.title = f"{self.name}-depth{depth}", f"{self.title}, {depth} layers"

    def at(self, depth: int) -> "LstmWords":
        """The same with so many LSTM layers; with one it is the task itself."""
        return type(self)(self.folder, depth)

    def cut(self, symbols: Tensor) -> Batch:
        """Windows of all streams, in their order."""
        return streams(symbols, self.streams, self.window)

    def model(self, seed: int) -> nn.Module:
        """Initialised as torch does by default."""
        with seeded(seed):
            return CarriedLstm(len(self.vocabulary), 64, 128, self.layers)

    def targets(self, batch: Batch) -> Tensor:
        """Those of consecutive windows, one behind the other."""
        return joined(batch.targets)


class CarriedLstm(nn.Module):
    """Embedding, LSTM, linear layer; what it knows of a text it takes along to the next window.

    The state is forgotten where a text begins, which the batch says. So it is where an epoch
    begins or an evaluation, and need not be in a checkpoint, which is made between epochs.
    """

    def __init__(self, symbols: int, embedding: int, units: int, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.recurrent = nn.LSTM(embedding, units, layers, batch_first=True)
        self.output = nn.Linear(units, symbols)
        self._state: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Logits of shape (streams, steps, symbols) for consecutive examples of `streams`."""
        examples, first = inputs
        if first[0]:
            self._state = None
        states, (hidden, cell) = self.recurrent(self.embedding(joined(examples)), self._state)
        self._state = hidden.detach(), cell.detach()
        logits: Tensor = self.output(states)
        return logits


class TransformerWords(Words):
    """Windows of 64 words, each by itself, in any order, and a small transformer."""

    budget = Budget(epochs=10, batch_size=20)
    evaluate_batch_size = 20
    window, width, blocks, heads = 64, 128, 2, 4

    def cut(self, symbols: Tensor) -> Batch:
        """Windows one behind the other."""
        return windows(symbols, self.window)

    def model(self, seed: int) -> nn.Module:
        """Two blocks of width 128 with four heads; 1.68 million parameters at 10,000 words."""
        with seeded(seed):
            return Transformer(
                len(self.vocabulary), self.window, self.width, self.blocks, self.heads
            )


def perplexity(words: int) -> Metric:
    """The metric; ``worst`` is that of guessing among all words alike."""
    return Metric(
        "perplexity", higher_is_better=False, worst=float(words), decimals=1, mean="geometric"
    )
