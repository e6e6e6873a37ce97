"""What makes one vector of a sentence, and a model that compares two of them.

An encoder takes word vectors of shape (sentences, longest, width) with the lengths; what fills a
shorter sentence up has no effect on its vector.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradmem.lab.tasks.sentences import Sentences
from gradmem.lab.tasks.supervised import perceptron


class Encoder(nn.Module):
    """Makes vectors that are ``size`` long."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class LastState(Encoder):
    """The last state of an LSTM."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__(units)
        self.recurrent = nn.LSTM(width, units, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """One vector a sentence."""
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        hidden: Tensor = self.recurrent(packed)[1][0]
        return hidden[0]


class InferSent(Encoder):
    """The largest of each state of an LSTM that reads both ways, ``units`` in each direction."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__(2 * units)
        self.recurrent = nn.LSTM(width, units, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """One vector a sentence."""
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return states.masked_fill(~_there(states, lengths), -torch.inf).amax(dim=1)


class Convolutions(Encoder):
    """Four convolutions over three words, one on the other; of each the largest values."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__(4 * units)
        self.layers = nn.ModuleList(
            nn.Conv1d(inputs, units, 3, padding=1) for inputs in (width, units, units, units)
        )

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """One vector a sentence."""
        there = _there(words, lengths).transpose(1, 2)
        states = words.transpose(1, 2) * there
        largest = []
        for layer in self.layers:
            states = layer(states).relu() * there  # what is largest is at least zero
            largest.append(states.amax(dim=2))
        return torch.cat(largest, dim=1)


class Comparison(nn.Module):
    """Both sentences through one encoder; then a network on u, v, |u - v| and u v.

    Args:
        words: embedding of words.
        width: of the word vectors.
        encoder: makes the encoder, given ``width`` and ``units``.
        units: of the encoder, and of the network's two hidden layers.
        classes: how many.
        dropout: share of the hidden units left out.
    """

    def __init__(
        self,
        words: nn.Module,
        width: int,
        encoder: Callable[[int, int], Encoder],
        *,
        units: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = words
        self.encoder = encoder(width, units)
        self.head = perceptron((4 * self.encoder.size, units, units, classes), dropout)

    def forward(self, sentences: tuple[Sentences, Sentences]) -> Tensor:
        """A number for each class."""
        u, v = (self._encoded(each) for each in sentences)
        classes: Tensor = self.head(torch.cat([u, v, (u - v).abs(), u * v], dim=1))
        return classes

    def _encoded(self, sentences: Sentences) -> Tensor:
        symbols, lengths = sentences.filled()
        vectors: Tensor = self.encoder(self.words(symbols), lengths)
        return vectors


class FixedEmbedding(nn.Module):
    """Word vectors that are not trained, and stand in no checkpoint."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.table: Tensor

    def forward(self, symbols: Tensor) -> Tensor:
        """The vectors of ``symbols``."""
        return self.table[symbols]


def _there(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Which places of each sentence are its own, with a last dimension of one."""
    return (torch.arange(vectors.shape[1]) < lengths[:, None]).unsqueeze(2)
