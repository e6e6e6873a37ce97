"""Text as windows: a stretch of symbols, and as targets the same stretch moved on by one."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradmem.lab.tasks.base import Batch

NOTHING = -100  # a target that is none; cross-entropy passes it by


def windows(symbols: Tensor, length: int) -> Batch:
    """Windows that do not know of each other; the last one, if shorter, is filled up.

    >>> found = windows(torch.arange(6), 3)
    >>> found.inputs.tolist(), found.targets.tolist()
    ([[0, 1, 2], [3, 4, 0]], [[1, 2, 3], [4, 5, -100]])
    """
    return Batch(_cut(symbols[:-1], length, 0), _cut(symbols[1:], length, NOTHING))


def streams(symbols: Tensor, count: int, length: int) -> Batch:
    """The text in ``count`` equal stretches, read side by side, a window of each at a time.

    An example is such a window of all of them, of shape (count, length), and the next example goes
    on where it ends. With it comes whether it is the first. The last is filled up if it is shorter;
    fewer than ``count`` symbols at the end of the text are left out.

    >>> found = streams(torch.arange(8), count=2, length=2)
    >>> inputs, first = found.inputs
    >>> inputs.tolist(), first.tolist()
    ([[[0, 1], [3, 4]], [[2, 0], [5, 0]]], [True, False])
    >>> found.targets[1].tolist()
    [[3, -100], [6, -100]]
    """
    steps = (len(symbols) - 1) // count
    inputs, targets = (
        torch.stack([_cut(stretch, length, filler) for stretch in torch.split(part, steps)], dim=1)
        for part, filler in (
            (symbols[: steps * count], 0),
            (symbols[1 : steps * count + 1], NOTHING),
        )
    )
    first = torch.zeros(len(inputs), dtype=torch.bool)
    first[0] = True
    return Batch((inputs, first), targets)


def joined(examples: Tensor) -> Tensor:
    """Consecutive examples of `streams` as one longer window, of shape (streams, steps)."""
    return examples.transpose(0, 1).flatten(1)


def targets_in(batch: Batch) -> int:
    """How many targets there are, without the fillers."""
    return int((batch.targets != NOTHING).sum())


def _cut(symbols: Tensor, length: int, filler: int) -> Tensor:
    """Rows of ``length`` symbols."""
    return pad(symbols, (0, -len(symbols) % length), value=filler).reshape(-1, length)
