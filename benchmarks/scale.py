"""What a memory costs on many accelerators: bytes a rank and traffic a step, by formulas.

    python benchmarks/scale.py

Prints the tables of docs/scale.md. Nothing is measured here: bytes come from the library's own
`memory_bytes`, on shapes without contents, and `tests/distributed/test_traffic.py` holds both
bytes and traffic against what two processes really keep and send.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import torch

from gradmem import memory_bytes

Shape: TypeAlias = tuple[int, ...]
RANKS = 8, 64, 256, 1024
CAPACITIES = 5, 10, 20
LAYOUTS = {"ddp": "DDP", "zero1": "ZeRO-1", "fsdp": "FSDP2"}
# The rows of the tables: a memory_dtype, or "host" for memory_device="cpu".
STORAGES = {"`None`": None, "bfloat16": "bfloat16", "int8": "int8", "in the host's RAM": "host"}
# What of an accelerator's memory is taken for these; the rest is for activations and the like.
DEVICES = {80: 72e9, 141: 127e9}


class Decoder(NamedTuple):
    """The shapes of a decoder-only language model; `keys` is the width of keys and values."""

    layers: int
    width: int
    hidden: int
    keys: int
    vocabulary: int = 32_000

    def shapes(self) -> list[Shape]:
        w, h, k = self.width, self.hidden, self.keys
        layer = [(w, w), (k, w), (k, w), (w, w), (h, w), (h, w), (w, h), (w,), (w,)]
        ends = [(self.vocabulary, w), (w,), (self.vocabulary, w)]
        return [*ends, *(shape for _ in range(self.layers) for shape in layer)]


MODELS = {"7B": Decoder(32, 4096, 11_008, 4096), "70B": Decoder(80, 8192, 28_672, 1024)}


# Bytes --------------------------------------------------------------------------------------------


def elements(shapes: Sequence[Shape]) -> int:
    return sum(map(math.prod, shapes))


def state_shapes(shapes: Sequence[Shape], layout: str, ranks: int) -> list[Shape]:
    """Shapes of the optimizer's state on the rank that has most of it.

    DDP: all. ZeRO-1: whole tensors, each, the largest first, to the rank that has least so far.
    FSDP2: every tensor cut into equal numbers of rows, rounded up.
    """
    if layout == "fsdp":
        return [(-(-first // ranks), *rest) for first, *rest in shapes]
    if layout == "zero1":
        parts: list[list[Shape]] = [[] for _ in range(ranks)]
        sizes = [0] * ranks
        for shape in sorted(shapes, key=math.prod, reverse=True):
            least = sizes.index(min(sizes))
            parts[least].append(shape)
            sizes[least] += math.prod(shape)
        return parts[sizes.index(max(sizes))]
    return list(shapes)


class Bytes(NamedTuple):
    """What one rank holds on its accelerator, and in the host's memory, which is no part of it."""

    parameters: int
    gradients: int
    moments: int
    slots: int
    sums: int
    buffer: int
    host: int = 0

    @property
    def device(self) -> int:
        return sum(self) - self.host


@cache
def _memory(shape: Shape, dtype: torch.dtype, capacity: int, stored: str | None) -> tuple[int, int]:
    blank = torch.empty(shape, dtype=dtype, device="meta")
    cost = memory_bytes([blank], capacity, memory_dtype=stored)  # type: ignore[arg-type]
    return cost.slots, cost.sums


def bytes_of(
    shapes: Sequence[Shape],
    layout: str,
    ranks: int,
    *,
    dtype: torch.dtype = torch.float32,
    capacity: int = 0,
    stored: str | None = None,
) -> Bytes:
    """What the rank that holds most holds, with Adam; `stored` a memory_dtype, or "host".

    The ledgers, some hundred bytes, are left out. Parameters, gradients and moments are all of
    `dtype`.
    """
    own = state_shapes(shapes, layout, ranks)
    weights = (elements(own) if layout == "fsdp" else elements(shapes)) * dtype.itemsize
    chosen = None if stored == "host" else stored
    each = [(n, *_memory(shape, dtype, capacity, chosen)) for shape, n in Counter(own).items()]
    slots, sums = (sum(row[0] * row[k] for row in each) for k in (1, 2))
    # Working memory of a step on an accelerator, in the sum's type and in the parameter's.
    together = max(min(elements(own), 2**26), max(map(math.prod, own)))
    widths = 4 if dtype is torch.float32 else 4 + dtype.itemsize
    buffer = together * widths if capacity else 0
    moments = 2 * elements(own) * dtype.itemsize
    apart = stored == "host"
    return Bytes(
        weights, weights, moments, 0 if apart else slots, sums, buffer, slots if apart else 0
    )


# Traffic ------------------------------------------------------------------------------------------


def numbers_reduced(
    *, ledgers: int, critical: bool = False, directional: bool = False, tensors: int | None = None
) -> list[int]:
    """How many float64 numbers each all-reduce of a step has, one after another.

    It is one such list for every dimension of a mesh along which parameters are sharded, or for the
    group that decides together. Given the number of `tensors`, norm="sum" of sharded parameters.
    """
    measured = 2 if critical else 1  # momenta have norms of their own
    norms = measured * (ledgers + (tensors or 0))
    return [norms, 3 * ledgers] if directional else [norms]


def sent_in_all_reduce(size: float, ranks: int) -> float:
    """Bytes each rank sends, by the ring algorithm: reduce-scatter, then all-gather."""
    return 2 * sent_in_all_gather(size, ranks)


def sent_in_all_gather(size: float, ranks: int) -> float:
    """Bytes each rank sends so that all have `size` bytes; a reduce-scatter is its reverse."""
    return size * (ranks - 1) / ranks


def sent_in_training(
    count: int, layout: str, ranks: int, *, weight: int = 4, moved: int = 2
) -> float:
    """Bytes each rank sends in a step without any memory, of so many parameters.

    DDP: gradients reduced, `weight` bytes each. ZeRO-1: new weights to all besides. FSDP2: weights
    gathered for the forward and again for the backward pass, `moved` bytes each, and gradients
    reduced and scattered in `weight` bytes.
    """
    gathered = sent_in_all_gather(count, ranks)
    return {
        "ddp": 2 * weight * gathered,
        "zero1": 3 * weight * gathered,
        "fsdp": (2 * moved + weight) * gathered,
    }[layout]


# Tables -------------------------------------------------------------------------------------------


def main() -> None:
    print("\n\n".join(tables()))


def tables() -> Iterator[str]:
    yield _ddp_table()
    for dtype in (torch.float32, torch.bfloat16):
        for name in MODELS:
            yield _sharing_table(name, dtype)
    yield _traffic_table()


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])


def _ddp_table() -> str:
    kinds = [(name, dtype) for dtype in (torch.float32, torch.bfloat16) for name in MODELS]
    rows = [["DDP, GB a rank", *(f"{name}, {_name(dtype)}" for name, dtype in kinds)]]
    rows.append(["no memory", *(_gigabytes(_total(n, "ddp", 1, d)) for n, d in kinds)])
    for label, stored in STORAGES.items():
        rows.append([label, *(_cell(name, "ddp", 1, dtype, stored) for name, dtype in kinds)])
    return _table(rows)


def _sharing_table(name: str, dtype: torch.dtype) -> str:
    rows = [[f"{name}, {_name(dtype)}, GB a rank", *(f"{n} ranks" for n in RANKS)]]
    for layout, label in (("zero1", "ZeRO-1"), ("fsdp", "FSDP2")):
        base = (_gigabytes(_total(name, layout, n, dtype)) for n in RANKS)
        rows.append([f"{label}, no memory", *base])
        for storage, stored in STORAGES.items():
            refused = layout == "fsdp" and stored in ("int8", "host")
            if not refused and stored != _name(dtype):
                cells = (_cell(name, layout, n, dtype, stored) for n in RANKS)
                rows.append([f"{label}, {storage}", *cells])
    return _table(rows)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cell(name: str, layout: str, ranks: int, dtype: torch.dtype, stored: str | None) -> str:
    """The totals at all capacities; one, where none of it is on the accelerator."""
    capacities = CAPACITIES[:1] if stored == "host" else CAPACITIES
    return " / ".join(_gigabytes(_total(name, layout, ranks, dtype, c, stored)) for c in capacities)


@cache
def _total(
    name: str,
    layout: str,
    ranks: int,
    dtype: torch.dtype,
    capacity: int = 0,
    stored: str | None = None,
) -> int:
    shapes = MODELS[name].shapes()
    return bytes_of(shapes, layout, ranks, dtype=dtype, capacity=capacity, stored=stored).device


def _gigabytes(size: float) -> str:
    """In units of 10^9 bytes; bold if 80 GB hold it, in italics if 141 GB do."""
    small, large = DEVICES.values()
    text = f"{size / 1e9:.1f}" if size < 99.95e9 else f"{size / 1e9:,.0f}"
    return f"**{text}**" if size <= small else f"*{text}*" if size <= large else text


def _traffic_table() -> str:
    rows = [["sent by each rank in a step", *(f"{n} ranks" for n in RANKS)]]
    for name, model in MODELS.items():
        for layout, label in LAYOUTS.items():
            sizes = (sent_in_training(elements(model.shapes()), layout, n) for n in RANKS)
            rows.append([f"{name}, {label}: GB", *(f"{size / 1e9:.1f}" for size in sizes)])
    for label, critical, directional in (
        ("a memory: bytes", False, False),
        ("critical momenta: bytes", True, False),
        ("a policy of directions: bytes", False, True),
    ):
        numbers = numbers_reduced(ledgers=1, critical=critical, directional=directional)
        sent = (sum(sent_in_all_reduce(8 * count, n) for count in numbers) for n in RANKS)
        rows.append([label, *(f"{size:.1f}" for size in sent)])
    return _table(rows)


if __name__ == "__main__":
    main()
