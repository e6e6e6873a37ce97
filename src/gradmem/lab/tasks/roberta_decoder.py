"""RoBERTa as a decoder: dialogues of MultiWOZ as one text, the next word from those before it.

With the files of RoBERTa-base in the data folder it starts from these weights; otherwise from a
small configuration, with the lab's own words. transformers is imported when a model is made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradmem.lab.data.dialogues import (
    END,
    GO,
    NONE,
    Dialogue,
    Words,
    numbered,
    numbers,
)
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, seeded
from gradmem.lab.tasks.dialogue import filled, perplexity
from gradmem.lab.tasks.multiwoz import Multiwoz
from gradmem.lab.tasks.windows import NOTHING

if TYPE_CHECKING:
    from transformers import RobertaConfig

INSTALL = "the task multiwoz-roberta needs transformers: pip install 'gradmem[transformers]'"
LAYERS, WIDTH, HEADS = 2, 128, 4  # of the model that is made from a configuration
WORDS = 1000  # its words
PARTS = 50_265  # of words, which RoBERTa-base knows
LONGEST, LONGEST_PRETRAINED = 64, 256  # words, or parts of words, of a text


@dataclass(frozen=True)
class Coder:
    """Words as numbers, and the numbers of what is no word."""

    numbers: Callable[[Words], list[int]]
    size: int
    begin: int
    end: int
    filler: int


class MultiwozRoberta(Multiwoz):
    """What was said in a dialogue so far and the system's answer, as one text.

    Each turn is such a text, cut at its beginning if it is too long; the loss is the mean over all
    its words, those of the context included.
    """

    name = "multiwoz-roberta"
    title = "MultiWOZ (delexicalised), RoBERTa as a decoder"
    metric = perplexity(WORDS)
    budget = Budget(epochs=3, batch_size=4)
    target = 8.2
    clip_norm = 1.0
    evaluate_batch_size = 32

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        home = self.folder / "roberta-base"
        self.pretrained = home if (home / "config.json").is_file() else None
        kind = (
            f"from a configuration ({LAYERS} layers of {WIDTH})"
            if self.pretrained is None
            else "from RoBERTa-base's weights"
        )
        self.title = f"{self.title}, {kind}"
        if self.pretrained is not None:
            self.metric = perplexity(PARTS)

    def missing(self) -> str | None:
        """What to do if transformers or the files are not there."""
        return super().missing() or (INSTALL if find_spec("transformers") is None else None)

    def versions(self) -> dict[str, str]:
        """The data, transformers, and the weights by name and size."""
        there = find_spec("transformers") is not None  # else `missing` says so before any run
        transformers = version("transformers") if there else "not installed"
        return {**super().versions(), "transformers": transformers, "start": self._start()}

    def data(self) -> FixedSplits:
        """The parts, a row a turn."""
        return self._splits

    def model(self, seed: int) -> nn.Module:
        """RoBERTa with a layer that names the next word.

        Pretrained weights are the same for every seed.
        """
        from transformers import RobertaForCausalLM

        if self.pretrained is not None:
            loaded: nn.Module = RobertaForCausalLM.from_pretrained(
                self.pretrained, is_decoder=True, local_files_only=True
            )
            return loaded
        with seeded(seed):
            made: nn.Module = RobertaForCausalLM(configuration(self._coder))
            return made

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of a word, in nats."""
        longest = int((batch.targets != NOTHING).sum(dim=1).max())
        words, targets = batch.inputs[:, :longest], batch.targets[:, :longest]
        logits = model(input_ids=words, attention_mask=(targets != NOTHING).long()).logits
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOTHING)

    @cached_property
    def _coder(self) -> Coder:
        if self.pretrained is None:
            train = self.dialogues().train
            return own_coder([words for each in train for words in _said(each)])
        return pretrained_coder(self.pretrained)

    @cached_property
    def _splits(self) -> FixedSplits:
        longest = LONGEST if self.pretrained is None else LONGEST_PRETRAINED
        parts = self.dialogues()
        return FixedSplits(
            *(
                texts(part, self._coder, longest)
                for part in (parts.train, parts.validation, parts.test)
            )
        )

    def _start(self) -> str:
        if self.pretrained is None:
            return f"{LAYERS} layers of {WIDTH}"
        files = sorted(path for path in self.pretrained.iterdir() if path.is_file())
        return ", ".join(f"{path.name} {path.stat().st_size}" for path in files)


def configuration(coder: Coder) -> "RobertaConfig":
    """A small RoBERTa as a decoder, with as many places as the longest text has."""
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=coder.size,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LONGEST + coder.filler + 1,  # places count from there
        pad_token_id=coder.filler,
        bos_token_id=coder.begin,
        eos_token_id=coder.end,
        type_vocab_size=1,
        is_decoder=True,
    )


def own_coder(said: Sequence[Words]) -> Coder:
    """The most frequent words of these."""
    vocabulary: Mapping[str, int] = numbered(said, WORDS)
    return Coder(
        lambda words: numbers(words, vocabulary),
        len(vocabulary),
        *(vocabulary[sign] for sign in (GO, END, NONE)),
    )


def pretrained_coder(home: Path) -> Coder:
    """RoBERTa's parts of words, from ``vocab.json`` and ``merges.txt`` or ``tokenizer.json``."""
    from transformers import RobertaTokenizer

    tokenizer: Any = RobertaTokenizer.from_pretrained(home, local_files_only=True)

    def parts(words: Words) -> list[int]:
        found: list[int] = tokenizer.encode(" " + " ".join(words), add_special_tokens=False)
        return found

    return Coder(
        parts,
        len(tokenizer),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def texts(dialogues: Sequence[Dialogue], coder: Coder, longest: int) -> Batch:
    """A row a turn: all that was said up to the system's answer, the last ``longest`` words of it.

    After what each of the two says comes the sign for the end.
    """
    rows = [row for dialogue in dialogues for row in _rows(dialogue, coder, longest)]
    return Batch(
        filled([row[:-1] for row in rows], longest, coder.filler),
        filled([row[1:] for row in rows], longest, NOTHING),
    )


def _rows(dialogue: Dialogue, coder: Coder, longest: int) -> Iterator[list[int]]:
    text: list[int] = []
    for number, words in enumerate(_said(dialogue)):
        text += [*coder.numbers(words), coder.end]
        if number % 2:  # the system's
            yield [coder.begin, *text[-longest:]]


def _said(dialogue: Dialogue) -> list[Words]:
    return [words for turn in dialogue.turns for words in (turn.user, turn.response)]
