"""What a step has changed before it was decided, put back where an error ends it then."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from gradmem.optim.state import MEMORY_KEYS


@contextmanager
def put_back(
    state: MutableMapping[Tensor, dict[str, Any]], params: Sequence[Tensor], key: str
) -> Iterator[None]:
    """A block that an error leaves with ``state[p][key]`` as it was, or without what it made."""
    before = {p: _copy(state.get(p, {}).get(key)) for p in params}
    try:
        yield
    except BaseException:
        for p, old in before.items():
            if old is not None:
                state[p][key].copy_(old)
            elif p in state:
                _unmake(state, p)
        raise


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()


def _unmake(state: MutableMapping[Tensor, dict[str, Any]], p: Tensor) -> None:
    """Leave what the memory keeps of the parameter, and nothing else."""
    kept = {name: value for name, value in state[p].items() if name in MEMORY_KEYS}
    state[p].clear()
    state[p].update(kept)
    if not kept:
        del state[p]
