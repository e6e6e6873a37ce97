"""What a step has changed before it was decided, put back where an error ends it then."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def put_back(
    state: MutableMapping[Tensor, dict[str, Any]], params: Sequence[Tensor], key: str
) -> Iterator[None]:
    """A block that an error leaves with ``state[p][key]`` as it was, or without what it made."""
    names = {p: set(state.get(p, {})) for p in params}
    before = {
        p: state[p][key].clone() for p in params if names[p] and state[p].get(key) is not None
    }
    try:
        yield
    except BaseException:
        for p in params:
            if p in before:
                state[p][key].copy_(before[p])
            elif p in state:
                _unmake(state, p, names[p])
        raise


def _unmake(state: MutableMapping[Tensor, dict[str, Any]], p: Tensor, names: set[str]) -> None:
    """Take away what has come to the parameter's state."""
    for name in set(state[p]) - names:
        del state[p][name]
    if not state[p]:
        del state[p]
