"""A language model, character by character, on a part of Shakespeare's plays."""

import math
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradmem.lab.data.words import Vocabulary, read_text
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, seeded
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.transformer import Transformer
from gradmem.lab.tasks.windows import NOTHING, targets_in, windows

TRAIN, VALIDATION = 0.90, 0.05  # shares of the text, from its beginning; the rest tests
WINDOW = 64
SYMBOLS = 66  # 65 characters, and one sign for any other


class TinyShakespeare(FromFiles):
    """The next character from those before it, in windows of 64.

    The first 90 percent of the text train, the next 5 validate, the last 5 test: what is tested
    comes after what is learnt. The alphabet is that of the training text.
    """

    name = "tiny-shakespeare"
    title = "tiny Shakespeare (1,115,394 characters), transformer, 4 blocks of width 128"
    needs = "tiny-shakespeare"
    metric = Metric("bits per character", False, worst=math.log2(SYMBOLS), decimals=3)
    budget = Budget(epochs=5, batch_size=32)
    target = 2.65
    clip_norm = 1.0
    evaluate_batch_size = 64
    width, blocks, heads = 128, 4, 4

    def data(self) -> FixedSplits:
        """The three parts of the text as windows."""
        return self._read[1]

    def model(self, seed: int) -> nn.Module:
        """Four blocks of width 128 with four heads: 0.81 million parameters."""
        with seeded(seed):
            return Transformer(len(self._read[0]), WINDOW, self.width, self.blocks, self.heads)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next character, in nats."""
        logits = model(batch.inputs).flatten(0, 1)
        return cross_entropy(logits, batch.targets.flatten(), ignore_index=NOTHING)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """The same in bits."""
        return self.loss(model, batch).item() / math.log(2)

    def weight(self, batch: Batch) -> int:
        """Its characters."""
        return targets_in(batch)

    @cached_property
    def _read(self) -> tuple[Vocabulary, FixedSplits]:
        (file,) = self.files()
        parts = divided(read_text(file.path, file.sha256))
        alphabet = Vocabulary(parts[0])
        symbols = (torch.tensor(alphabet.numbers(part)) for part in parts)
        return alphabet, FixedSplits(*(windows(each, WINDOW) for each in symbols))


def divided(text: str) -> tuple[str, str, str]:
    """What trains, validates and tests, in this order.

    >>> [len(part) for part in divided("a" * 40)]
    [36, 2, 2]
    """
    first, second = round(TRAIN * len(text)), round((TRAIN + VALIDATION) * len(text))
    return text[:first], text[first:second], text[second:]
