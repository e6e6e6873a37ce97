"""What a memory holds, for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gradmem.errors import OptionTypeError
from gradmem.jax.float64 import to_numpy
from gradmem.jax.ledger import Ledger
from gradmem.jax.transform import MemoryState


@dataclass(frozen=True)
class ScopeReport:
    """One ledger.

    Attributes:
        name: "model", or the tensor.
        tensors: how many share it.
        steps: steps it has seen; those with a zero or non-finite gradient are not counted.
        capacity: slots.
        occupied: slots in use.
        ages: per gradient held, in the order of slots: steps since it was stored; 1 for the newest.
        norms: their norms when they came.
        priorities: their decayed priorities.
        accepted_share: share of the steps that changed the memory; NaN before the first.
        oldest_used: the largest age that ever entered an update.
        bytes: bytes held, on all devices together.
    """

    name: str
    tensors: int
    steps: int
    capacity: int
    occupied: int
    ages: tuple[int, ...]
    norms: tuple[float, ...]
    priorities: tuple[float, ...]
    accepted_share: float
    oldest_used: int
    bytes: int


@dataclass(frozen=True)
class MemoryReport:
    """All ledgers in a state; ``print`` it for a table."""

    scopes: tuple[ScopeReport, ...]

    @property
    def bytes(self) -> int:
        """Bytes held in all scopes."""
        return sum(scope.bytes for scope in self.scopes)

    def __str__(self) -> str:
        if not self.scopes:
            return "no memory (capacity or kappa is 0)"
        head = ("scope", "tensors", "steps", "fill", "oldest", "norms", "changed", "bytes")
        rows = [head, *(_cells(scope) for scope in self.scopes)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def memory_report(state: Any) -> MemoryReport:
    """What the memories in an optimizer's state hold; reads numbers from their device.

    Args:
        state: of `remember_gradients`, or any pytree with such states in it, as those of
            ``optax.chain``, ``optax.multi_transform`` or ``optax.inject_hyperparams`` are.

    Returns:
        A scope for every ledger, in the order of the states; none where nothing is remembered.

    Raises:
        OptionTypeError: the state has axes in front, from ``jax.vmap``.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradmem.jax import memory_report, remember_gradients
        >>> remember = remember_gradients(capacity=2)
        >>> state = remember.init(jnp.zeros(3))
        >>> _, state = remember.update(jnp.array([3.0, 0.0, 4.0]), state)
        >>> print(memory_report(state))
        scope  tensors  steps  fill  oldest  norms  changed  bytes
        model  1        1      1/2   1       5..5   100%     84
        >>> memory_report(state).scopes[0].priorities
        (3.5,)
    """
    found = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, MemoryState))
    memories = [part for part in found if isinstance(part, MemoryState)]
    return MemoryReport(tuple(scope for memory in memories for scope in _describe(memory)))


def _describe(memory: MemoryState) -> Iterator[ScopeReport]:
    ledger: Ledger = jax.tree.map(np.asarray, memory.ledger)
    if ledger.birth.ndim != 2:
        raise OptionTypeError(
            f"state must be of one memory, got {ledger.birth.shape[:-2]} of them from jax.vmap; "
            "take one: jax.tree.map(lambda part: part[0], state)"
        )
    stores = jax.tree.leaves_with_path(memory.slots)
    sizes = [
        slots.nbytes + total.nbytes
        for (_, slots), total in zip(stores, jax.tree.leaves(memory.total), strict=True)
    ]
    if len(ledger.birth) == 1:
        yield _describe_row(ledger, 0, "model", len(stores), sum(sizes))
        return
    for row, ((path, _), size) in enumerate(zip(stores, sizes, strict=True)):
        yield _describe_row(ledger, row, jax.tree_util.keystr(path), 1, size)


def _describe_row(ledger: Ledger, row: int, name: str, tensors: int, size: int) -> ScopeReport:
    birth, steps = ledger.birth[row], int(ledger.steps[row])
    held = birth > 0
    return ScopeReport(
        name=name,
        tensors=tensors,
        steps=steps,
        capacity=len(birth),
        occupied=int(held.sum()),
        ages=tuple((steps + 1 - birth[held]).tolist()),
        norms=tuple(ledger.norm[row][held].tolist()),
        priorities=tuple(to_numpy(ledger.priority[row])[held].tolist()),
        accepted_share=int(ledger.accepted[row]) / steps if steps else float("nan"),
        oldest_used=int(ledger.oldest_used[row]),
        bytes=size + sum(part[row].nbytes for part in ledger),
    )


def _cells(scope: ScopeReport) -> tuple[str, ...]:
    norms = f"{min(scope.norms):.3g}..{max(scope.norms):.3g}" if scope.norms else "-"
    return (
        scope.name,
        str(scope.tensors),
        str(scope.steps),
        f"{scope.occupied}/{scope.capacity}",
        str(max(scope.ages, default=0)),
        norms,
        f"{scope.accepted_share:.0%}" if scope.steps else "-",
        f"{scope.bytes:,}",
    )
