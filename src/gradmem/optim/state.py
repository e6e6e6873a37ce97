"""What a memory keeps in ``optimizer.state[p]``: keys, and the way from there to ledgers and back.

Every parameter of a scope holds the whole bookkeeping of its ledger, as views of the same tensors:
a few hundred bytes that let any part of a checkpoint stand for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gradmem.errors import CheckpointError
from gradmem.memory.ledger import STEPS, Ledger, empty_ledger
from gradmem.memory.options import MemoryOptions
from gradmem.memory.sharding import local
from gradmem.memory.slots import Store, allocate

# Per parameter, sharded with it.
SLOTS: Final = "memory_slots"  # (C, *shape), the parameter's type or memory_dtype
SUM: Final = "memory_sum"  # (*shape), float32 or wider
SCALES: Final = "memory_scales"  # (C, blocks) float32, with memory_dtype="int8" alone
# Per ledger, the same in each of its parameters.
PRIORITY: Final = "memory_priority"  # (C,) float64
NORM: Final = "memory_norm"  # (C,) float64
BIRTH: Final = "memory_birth"  # (C,) int64
COUNTERS: Final = "memory_counters"  # (4,) int64
DRIFT: Final = "memory_drift"  # () float64

LEDGER_KEYS: Final = {
    PRIORITY: "priority",
    NORM: "norm",
    BIRTH: "birth",
    COUNTERS: "counters",
    DRIFT: "drift",
}
STORE_KEYS: Final = (SLOTS, SUM, SCALES)
MEMORY_KEYS: Final = (*STORE_KEYS, *LEDGER_KEYS)

# Of an optimizer, by parameter, or of a checkpoint, by number.
State = Mapping[Any, dict[str, Any]]
Row = dict[str, Tensor]


def holds_memory(state: State, parameter: Any) -> bool:
    """Whether the parameter has slots and a ledger."""
    return PRIORITY in state.get(parameter, {})


def store_of(entry: Mapping[str, Tensor]) -> Store:
    """This rank's part of what a state entry holds of one parameter."""
    scales = entry.get(SCALES)
    return Store(local(entry[SLOTS]), local(entry[SUM]), None if scales is None else local(scales))


def entry_of(store: Store) -> Row:
    """A new store as a state entry."""
    entries = zip(STORE_KEYS, store, strict=True)
    return {key: tensor for key, tensor in entries if tensor is not None}


def blank_store(part: Tensor, options: MemoryOptions) -> Store:
    """Shapes and types of the store of a plain tensor, without contents."""
    return allocate(part.detach().to("meta"), options.capacity, options.format)


def blank_entry(p: Tensor, options: MemoryOptions) -> Row:
    """Shapes and types of all that the memory keeps of a parameter; of a DTensor, of the whole."""
    whole = torch.empty(p.shape, dtype=p.dtype, device="meta")
    return {**entry_of(blank_store(whole, options)), **blank_row(options.capacity)}


def find_row(parameters: Sequence[Any], state: State) -> Row | None:
    """The bookkeeping that these parameters, of one ledger, hold; None when none holds any.

    One that has seen no gradient other than zero goes by that of the others.
    """
    found: dict[tuple[int, ...], Row] = {}  # by where they lie, as parameters show the same one
    for p in parameters:
        if holds_memory(state, p):
            row = {key: state[p][key] for key in LEDGER_KEYS}
            found.setdefault(tuple(each.data_ptr() for each in row.values()), row)
    rows = list(found.values())
    used = [row for row in rows if len(rows) == 1 or is_used(row)] or rows
    for row in used[1:]:
        if not rows_agree(used[0], row):
            raise CheckpointError(
                "parameters of one scope hold different memories; the state was put together from "
                "different optimizers, or saved with another scope: drop it with "
                "gradmem.forget_memory(state_dict) to start with an empty memory"
            )
    return used[0] if used else None


def is_used(row: Row) -> bool:
    """Whether a ledger has seen a gradient other than zero."""
    return int(row[COUNTERS][STEPS]) > 0


def rows_agree(one: Row, other: Row) -> bool:
    """Whether two ledgers say the same; views of the same storage do, without being read."""
    return all(
        one[key].data_ptr() == other[key].data_ptr()
        or torch.equal(one[key].cpu(), other[key].cpu())
        for key in LEDGER_KEYS
    )


def stack_rows(rows: Sequence[Row | None], capacity: int, device: torch.device) -> Ledger:
    """One Ledger of all rows; a None is an empty one."""
    ledger = empty_ledger(len(rows), capacity, device)
    for i, row in enumerate(rows):
        if row is not None:
            for key, name in LEDGER_KEYS.items():
                getattr(ledger, name)[i].copy_(row[key])
    return ledger


def blank_row(capacity: int) -> Row:
    """Shapes and types of a ledger's entries, without contents."""
    return row_views(empty_ledger(1, capacity, torch.device("meta")), 0)


def row_views(ledger: Ledger, i: int) -> Row:
    """Row i of the ledger as state entries that follow every change of it."""
    return {key: getattr(ledger, name)[i] for key, name in LEDGER_KEYS.items()}
