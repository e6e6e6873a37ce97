"""Sentences of different lengths as rows that can be indexed, and filled up only in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sentences:
    """Rows of symbols; ``starts`` and ``lengths`` say where in ``symbols`` each lies.

    >>> rows = Sentences.of([[5, 6, 7], [8], []])
    >>> [each.tolist() for each in rows[torch.tensor([1, 0])].filled()]
    [[[8, 0, 0], [5, 6, 7]], [1, 3]]
    """

    symbols: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> "Sentences":
        """These; one without any symbol gets a 0, that of an unknown word."""
        rows = [row or (0,) for row in sentences]
        lengths = torch.tensor([len(row) for row in rows])
        symbols = torch.tensor([symbol for row in rows for symbol in row], dtype=torch.int32)
        return cls(symbols, lengths.cumsum(0) - lengths, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Tensor | slice) -> "Sentences":
        return Sentences(self.symbols, self.starts[rows], self.lengths[rows])

    def filled(self) -> tuple[Tensor, Tensor]:
        """A matrix as wide as the longest row, filled up with 0, and the lengths."""
        places = torch.arange(int(self.lengths.max()))
        there = places < self.lengths[:, None]
        symbols = self.symbols[torch.where(there, self.starts[:, None] + places, 0)]
        return torch.where(there, symbols, 0), self.lengths
