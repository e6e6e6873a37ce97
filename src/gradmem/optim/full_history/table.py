"""The table of SAG and SAGA: the last gradient of every term, their sum, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gradmem.errors import OptionError, OptionTypeError, check_integer
from gradmem.optim.full_history.base import Entry, wide

TABLE: Final = "history_table"  # (terms, *shape), the parameter's type or table_dtype
SUM: Final = "history_sum"  # (*shape), float64 or complex128: of the rows of the table
SEEN: Final = "history_seen"  # (terms,) bool: rows that were ever written
STEPS: Final = "history_steps"  # () int64, on the host: steps since the state was made

# Elements of a table that are summed at a time: the sum in float64 makes a copy of them.
BLOCK = 2**16


def table_entries(p: Tensor, terms: int, table_dtype: torch.dtype | None) -> dict[str, Entry]:
    """What a table of `terms` rows keeps for one parameter."""
    shape = tuple(p.shape)
    return {
        TABLE: Entry((terms, *shape), table_dtype or p.dtype, p.device),
        SUM: Entry(shape, wide(p.dtype), p.device),
        SEEN: Entry((terms,), torch.bool, p.device),
        STEPS: Entry((), torch.int64, torch.device("cpu")),
    }


def table_bytes(
    params: Iterable[Any], terms: int, *, table_dtype: torch.dtype | None = None
) -> int:
    """Bytes that SAG or SAGA will hold once it has stepped; allocates nothing.

    Per parameter element `terms` times the size of the table's type and 8 for the running sum (16
    if complex); per tensor ``terms + 8``. Frozen parameters are counted, though they hold nothing
    until they are unfrozen. A step needs besides a few copies of the largest tensor in float64, and
    a copy of all gradients if `table_dtype` is another than theirs.

    Args:
        params: what the optimizer is given: parameters, named parameters, or groups.
        terms: N, an integer from 1.
        table_dtype: type of the table; None for each parameter's own.

    Returns:
        The number, to the byte.

    Raises:
        OptionError: an option is out of range.
        OptionTypeError: an option is of the wrong type, or a group has an iterator for params.

    Example:
        >>> import torch
        >>> from gradmem import table_bytes
        >>> model = torch.nn.Linear(100, 10, bias=False)
        >>> table_bytes(model.parameters(), terms=50)  # 50 x 1000 x 4 + 1000 x 8 + 50 + 8
        208058
    """
    check_terms(terms, "")
    check_table_dtype(table_dtype)
    return sum(
        entry.nbytes
        for p in tensors_of(params)
        for entry in table_entries(p, terms, table_dtype).values()
    )


def check_size(
    name: str,
    params: Iterable[Any],
    terms: int,
    table_dtype: torch.dtype | None,
    max_bytes: int | None,
) -> None:
    """Refuse a table larger than `max_bytes`, before any of it is allocated."""
    tensors = tensors_of(params)
    needed = table_bytes(tensors, terms, table_dtype=table_dtype)
    if max_bytes is None or needed <= max_bytes:
        return
    one, two = (table_bytes(tensors, n, table_dtype=table_dtype) for n in (1, 2))
    fitting = max(0, 1 + (max_bytes - one) // (two - one))
    elements = sum(p.numel() for p in tensors)
    batches = f"let a term be a batch (terms={fitting} would fit), " if fitting else ""
    raise OptionError(
        f"{name} with terms={terms} of {elements:,} parameter elements needs {_readable(needed)}, "
        f"more than max_bytes={max_bytes} ({_readable(max_bytes)}); {batches}take a narrower "
        "table_dtype such as torch.bfloat16, use SVRG, which keeps two copies of the parameters, "
        "or raise max_bytes"
    )


def check_terms(terms: object, where: str) -> None:
    """Refuse a number of terms that is not an integer from 1."""
    check_integer(f"{where}terms", terms, 1, "it is the number N of terms of the finite sum")


def check_table_dtype(dtype: object) -> None:
    """Refuse a type that cannot hold gradients."""
    remark = "take torch.float16, bfloat16, float32 or float64, or None for the parameters' own"
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype):
        raise OptionTypeError(f"table_dtype must be a torch.dtype, got {dtype!r}; {remark}")
    if not (dtype.is_complex or (dtype.is_floating_point and dtype.itemsize >= 2)):
        raise OptionError(f"table_dtype must be a type of 16 bits or more, got {dtype}; {remark}")


def tensors_of(params: Iterable[Any]) -> list[Tensor]:
    """The parameters among parameters, named parameters, or groups of either."""
    items = [params] if isinstance(params, Tensor) else list(params)
    found: list[Tensor] = []
    for item in items:
        if not isinstance(item, Mapping):
            p = item[1] if isinstance(item, tuple) else item
            if not isinstance(p, Tensor):
                raise OptionTypeError(f"params must be tensors, got {type(p).__name__}")
            found.append(p)
            continue
        if not isinstance(item["params"], (Tensor, list, tuple)):
            raise OptionTypeError(
                f"params of a group must be a list here, got {type(item['params']).__name__}: "
                "counting would use an iterator up; write list(...)"
            )
        found.extend(tensors_of(item["params"]))
    return found


def difference(new: Tensor, old: Tensor, out: Tensor, scratch: Tensor) -> Tensor:
    """``out = new - old`` in the type of `out`, without the copies that mixed types would make."""
    return out.copy_(new).sub_(scratch.copy_(old))


def exchange(
    state: Mapping[str, Tensor], term: int, grad: Tensor, keep: Tensor, scratch: Sequence[Tensor]
) -> None:
    """``S += g - row; row = g`` where the zero-dimensional `keep` holds, else nothing.

    It does not wait for the device. Every `terms` steps S is made anew from the rows, which ends
    whatever rounding error it had gathered, at the cost of about one more row a step.
    """
    table, total, seen, steps = (state[key] for key in (TABLE, SUM, SEEN, STEPS))
    row = table[term]
    total.add_(difference(grad, row, *scratch).masked_fill_(keep.logical_not(), 0))
    torch.where(keep, grad, row, out=row)
    seen[term].logical_or_(keep)
    steps.add_(1)
    if int(steps) % len(table) == 0:
        renew(table, total)


def renew(table: Tensor, total: Tensor) -> None:
    """``S`` made anew from the rows, a block at a time."""
    rows = max(1, BLOCK // max(1, total.numel()))
    total.zero_()
    for block in torch.split(table, rows):
        total.add_(block[0] if rows == 1 else block.sum(dim=0, dtype=total.dtype))


def _readable(count: int) -> str:
    """ "3.00 GiB (3,221,225,472 bytes)"."""
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    exact = f"{count:,} bytes"
    return exact if units[0] == "bytes" else f"{size:.2f} {units[0]} ({exact})"
