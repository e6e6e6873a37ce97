"""A language model, character by character, on the source text of Python's standard library."""

import hashlib
import math
import platform
import sysconfig
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task, seeded

# Modules that are one file in every Python from 3.10 on, and longer than what is taken of them.
TRAIN = ("argparse", "difflib", "inspect", "pickletools", "statistics", "subprocess", "tarfile")
VALIDATION = ("configparser", "textwrap")
TEST = ("optparse", "shutil")
TRAIN_CHARACTERS, HELD_OUT_CHARACTERS = 20_480, 12_288  # of each module, so that no run is longer

WINDOW = 64
FIRST, LAST = 32, 126  # printable ASCII; a line's end and all others follow
NEW_LINE, OTHER = LAST - FIRST + 1, LAST - FIRST + 2
SYMBOLS = OTHER + 1


class PythonText(Task):
    """The next character from those before it, in windows of 64 characters.

    The alphabet is printable ASCII, the end of a line and one sign for all else, so no text decides
    it. Training, validation and test text come from different modules. The text, and so the
    task, changes with Python's version.
    """

    name = "python-text"
    title = (
        f"characters of the standard library's sources (Python {platform.python_version()}), "
        "GRU of 96 units"
    )
    metric = Metric("bits per character", False, worst=math.log2(SYMBOLS), decimals=3)
    budget = Budget(epochs=6, batch_size=32)
    target = 2.85
    clip_norm = 1.0
    evaluate_batch_size = 128
    variations: ClassVar = {"depth": (1, 2, 4)}

    def __init__(self, depth: int = 1) -> None:
        self.layers = depth
        if depth > 1:
            self.name = f"{self.name}-depth{depth}"
            self.title = f"{self.title} in each of {depth} layers"

    def at(self, depth: int) -> "PythonText":
        """The same with so many GRU layers; with one it is the task itself."""
        return PythonText(depth)

    def data(self) -> FixedSplits:
        """Windows of the modules' beginnings."""
        return _splits()

    def model(self, seed: int) -> nn.Module:
        """An embedding of 32, GRU layers of 96, initialised as torch does by default."""
        with seeded(seed):
            return CharacterModel(embedding=32, units=96, layers=self.layers)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next character, in nats."""
        return cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())

    def score(self, model: nn.Module, batch: Batch) -> float:
        """The same in bits."""
        return self.loss(model, batch).item() / math.log(2)

    def versions(self) -> dict[str, str]:
        """Python's version and a digest of the text."""
        return {"python": platform.python_version(), "text": _digest()}


class CharacterModel(nn.Module):
    """Embedding, GRU, linear layer: from symbols (examples, window) to logits of the next ones."""

    def __init__(self, embedding: int, units: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, embedding)
        self.recurrent = nn.GRU(embedding, units, layers, batch_first=True)
        self.output = nn.Linear(units, SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits at every place, each from the symbols up to there."""
        states, _ = self.recurrent(self.embedding(symbols))
        logits: Tensor = self.output(states)
        return logits


def encode(text: str) -> Tensor:
    """The symbols of a text.

    >>> encode("a b").tolist(), encode("é").item() == OTHER
    ([65, 0, 66], True)
    """
    codes = torch.tensor([ord(character) for character in text])
    symbols = torch.where((codes >= FIRST) & (codes <= LAST), codes - FIRST, OTHER)
    return torch.where(codes == ord("\n"), NEW_LINE, symbols)


def windows(text: str) -> Batch:
    """Stretches of 64 characters, and the same moved on by one; what is left over is dropped."""
    symbols = encode(text)
    count = (len(symbols) - 1) // WINDOW
    return Batch(
        symbols[: count * WINDOW].reshape(count, WINDOW),
        symbols[1 : count * WINDOW + 1].reshape(count, WINDOW),
    )


def beginning(module: str, characters: int) -> str:
    """The first ``characters`` of a module's source, with a blank after them for the last target.

    Raises:
        FileNotFoundError: this Python comes without its sources.
        ValueError: the module is shorter.
    """
    path = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    if not path.is_file():
        raise FileNotFoundError(
            f"the task python-text reads the source of {module!r}, but there is no {path}: "
            "this Python comes without the sources of its standard library; take another one"
        )
    text = path.read_text(encoding="utf-8")
    if len(text) < characters:
        raise ValueError(
            f"{path} has {len(text):,} characters; the task python-text needs {characters:,}"
        )
    return text[:characters] + " "


def _texts() -> tuple[list[str], ...]:
    return tuple(
        [beginning(module, characters) for module in modules]
        for modules, characters in (
            (TRAIN, TRAIN_CHARACTERS),
            (VALIDATION, HELD_OUT_CHARACTERS),
            (TEST, HELD_OUT_CHARACTERS),
        )
    )


@cache
def _digest() -> str:
    joined = "".join(text for texts in _texts() for text in texts)
    return hashlib.sha256(joined.encode()).hexdigest()[:12]


@cache
def _splits() -> FixedSplits:
    return FixedSplits(*(_joined([windows(text) for text in texts]) for texts in _texts()))


def _joined(parts: list[Batch]) -> Batch:
    return Batch(
        torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])
    )
