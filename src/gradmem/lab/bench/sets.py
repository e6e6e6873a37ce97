"""The sets of parameters a step is measured on: shapes and types, nothing trained."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from types import MappingProxyType

import torch
from torch import nn

from gradmem.lab.errors import ConfigError, hint

Shape = tuple[int, ...]
MILLION, BILLION = 10**6, 10**9


@dataclass(frozen=True)
class Facts:
    """What is written down of a set."""

    title: str
    tensors: int
    elements: int
    bytes: int
    dtypes: str
    digest: str  # equal for equal tensors alone

    def describe(self) -> str:
        """In a line.

        >>> SETS["mlp"].facts.describe()
        '0.24M float32 parameters in 6 tensors, the MLP for MNIST'
        """
        count = "1 tensor" if self.tensors == 1 else f"{self.tensors} tensors"
        return f"{size(self.elements)} {self.dtypes} parameters in {count}, {self.title}"


@dataclass(frozen=True)
class ParameterSet:
    """Tensors by shape and type, under a name."""

    name: str
    title: str
    tensors: tuple[tuple[Shape, torch.dtype], ...]
    accelerator: bool = False  # too large for a step on a processor to be of use

    @property
    def elements_of(self) -> dict[torch.dtype, int]:
        """Elements of each type."""
        found: dict[torch.dtype, int] = {}
        for shape, dtype in self.tensors:
            found[dtype] = found.get(dtype, 0) + prod(shape)
        return found

    @property
    def facts(self) -> Facts:
        """What is written down of it."""
        counts = self.elements_of
        return Facts(
            title=self.title,
            tensors=len(self.tensors),
            elements=sum(counts.values()),
            bytes=sum(count * dtype.itemsize for dtype, count in counts.items()),
            dtypes=", ".join(str(dtype).removeprefix("torch.") for dtype in counts),
            digest=hashlib.sha256(repr(self.tensors).encode()).hexdigest()[:16],
        )

    def make(self, device: torch.device) -> list[nn.Parameter]:
        """Parameters with gradients, the same numbers at every call.

        A gradient stays as it is from step to step, so that all have the same norm to the bit.
        """
        generator = torch.Generator(device).manual_seed(0)
        made = []
        for shape, dtype in self.tensors:
            draws = [
                torch.randn(shape, generator=generator, device=device, dtype=dtype)
                for _ in range(2)
            ]
            parameter = nn.Parameter(draws[0].mul_(0.02))
            parameter.grad = draws[1].mul_(0.01)
            made.append(parameter)
        return made


def size(elements: int) -> str:
    """How many, to two digits or more.

    >>> size(79), size(1_290), size(235_146), size(11_689_512), size(1_100_048_384)
    ('79', '1.3k', '0.24M', '11.7M', '1.10B')
    """
    if elements >= BILLION:
        return f"{elements / BILLION:.2f}B"
    if elements >= MILLION:
        return f"{elements / MILLION:.1f}M"
    if elements >= MILLION // 10:
        return f"{elements / MILLION:.2f}M"
    return f"{elements / 1000:.1f}k" if elements >= 1000 else str(elements)


def _mlp(*widths: int) -> Iterator[Shape]:
    """Weight and bias of every layer."""
    for inputs, outputs in pairwise(widths):
        yield from ((outputs, inputs), (outputs,))


def _normalised(outputs: int, inputs: int, kernel: int) -> Iterator[Shape]:
    """A convolution, and scale and shift of the normalisation after it."""
    yield from ((outputs, inputs, kernel, kernel), (outputs,), (outputs,))


def _resnet18() -> Iterator[Shape]:
    yield from _normalised(64, 3, 7)
    inputs = 64
    for width in (64, 128, 256, 512):
        yield from _normalised(width, inputs, 3)
        yield from _normalised(width, width, 3)
        if inputs != width:
            yield from _normalised(width, inputs, 1)
        for _ in range(2):
            yield from _normalised(width, width, 3)
        inputs = width
    yield from ((1000, 512), (1000,))


def _resnet50_without_some() -> Iterator[Shape]:
    """ResNet-50 but for the normalisations of stem and shortcuts and the last bias: 11 of 161."""
    yield (64, 3, 7, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from _normalised(width, inputs, 1)
            yield from _normalised(width, width, 3)
            yield from _normalised(4 * width, width, 1)
            if block == 0:
                yield (4 * width, inputs, 1, 1)
            inputs = 4 * width
    yield (1000, 2048)


def _language_model(layers: int, width: int, inner: int, keys: int, words: int) -> Iterator[Shape]:
    """A decoder with grouped queries, gated inner layers, and a head of its own."""
    yield (words, width)
    for _ in range(layers):
        yield from ((width, width), (keys, width), (keys, width), (width, width))
        yield from ((inner, width), (inner, width), (width, inner), (width,), (width,))
    yield from ((width,), (words, width))


def _table() -> Iterator[ParameterSet]:
    single = torch.float32
    for name, title, shapes, dtype in (
        ("mlp", "the MLP for MNIST", _mlp(784, 256, 128, 10), single),
        ("11m", "those of ResNet-18", _resnet18(), single),
        ("25m", "those of ResNet-50 but for 11 small ones", _resnet50_without_some(), single),
        ("100m", "equal matrices", [(2048, 4096)] * 12, single),
        (
            *("1b", "those of a language model of 22 layers"),
            *(_language_model(22, 2048, 5632, 256, 32_000), torch.bfloat16),
        ),
    ):
        tensors = tuple((shape, dtype) for shape in shapes)
        yield ParameterSet(name, title, tensors, accelerator=name == "1b")


SETS: Mapping[str, ParameterSet] = MappingProxyType({each.name: each for each in _table()})


def get_sets(names: Sequence[str], device: torch.device) -> list[ParameterSet]:
    """The sets of these names, in this order.

    Raises:
        ConfigError: there is no such set, it is named twice, or it is not for this device.
    """
    for name in names:
        if name not in SETS:
            raise ConfigError(
                f"unknown set {name!r}; {hint(name, SETS)} Your own: --model package:function"
            )
        if SETS[name].accelerator and device.type == "cpu":
            raise ConfigError(f"the set {name} is for an accelerator; add --device cuda")
    if len(set(names)) < len(names):
        raise ConfigError(f"a set is named twice in {' '.join(names)!r}")
    return [SETS[name] for name in names]
