"""The fused pass on the CPU: tensors in, one call of a C function (kernels/).

What the kernels take: dense parameters of float32, float64 or bfloat16 on the CPU, whose gradient,
slots, sum and state lie in memory in the same order.
"""

from __future__ import annotations

import functools
import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.memory.ledger import Move
from gradmem.optim.fused.build import BuildError, library
from gradmem.optim.fused.kernel import Kernel, warn_of_fallback
from gradmem.optim.fused.places import (
    Place,
    Watch,
    aliases_of,
    are_apart,
    in_order_of,
    is_plain,
    place_of,
)
from gradmem.optim.state import State

# As the enumeration in kernels/numbers.h.
_TYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.int8: 4,
}
_PARAMETERS = (torch.float32, torch.float64, torch.bfloat16)

# The structures of kernels/memory.h.
_TENSOR = struct.Struct("=q4Q3QQqq")  # size; param, total, slots, scales; states; step, type; row
_MOVE = struct.Struct("=ddQ3q")  # current, stored; weights; capacity, slot, update
_CALL = struct.Struct("=5Q")  # grads, moves, updates, fresh, squares


@functools.cache
def reason_against() -> str | None:
    """Why the kernels cannot be used on this machine; None if they can. Builds them."""
    try:
        kernels = library()
    except BuildError as error:
        return str(error)
    if kernels.gradmem_tensor_bytes() != _TENSOR.size:
        return "the compiled kernels have another layout than this version of the library"
    return None


@functools.cache
def available() -> bool:
    """Whether the kernels can be used; if not, warns once of what is used instead."""
    reason = reason_against()
    if reason is not None:
        warn_of_fallback(reason)
    return reason is None


def takes(parameter: Tensor, slots: torch.dtype) -> bool:
    """Whether the kernels are for such a parameter and slots of such a type."""
    return (
        parameter.device.type == "cpu"
        and parameter.dtype in _PARAMETERS
        and (slots is not torch.float16 or bool(library().gradmem_has_float16()))
        and is_plain(parameter)
    )


class Layout:
    """Where the kernels find parameters and state: found once, looked at again at every step.

    Attributes:
        params: the parameters.
        keys: of the rule's tensors in their state.
        watch: whether the state is as it was; the plan sees to the parameters.
        parts: of the parameters, on this rank.
        fits: every tensor is of the type, shape and order in memory that a kernel goes through,
            and none shares memory with another.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        rows: Sequence[int],
        state: State,
        keys: tuple[str | None, ...],
    ) -> None:
        self.params = params
        self.keys = keys
        self.watch = Watch(params, state, keys)
        places = [place_of(p, row, state[p], keys) for p, row in zip(params, rows, strict=True)]
        self.parts = [place.param for place in places]
        self._aliases = aliases_of(places)
        self.fits = all(place.fits(places[0]) for place in places) and are_apart(self._aliases)
        self.types = _TYPES[self.parts[0].dtype], _TYPES[places[0].store.slots.dtype]
        self.packed = array("B", b"".join(map(_packed, places)) if self.fits else b"")


def _packed(place: Place) -> bytes:
    double = place.step is not None and place.step.dtype is torch.float64
    return _TENSOR.pack(place.param.numel(), *place.addresses(), double, place.row)


class Pass(NamedTuple):
    """What a pass does, ledger by ledger.

    Attributes:
        moves: what each does; where one writes, the gradients enter the memory.
        update: whose parameters take their step, combined with the memory as it was.
    """

    moves: Sequence[Move]
    update: Sequence[bool]


def step(
    kernel: Kernel,
    layout: Layout,
    grads: array[int],
    what: Pass,
    capacity: int,
    *,
    fresh: Sequence[bool] | None = None,
    updates: Sequence[Tensor] | None = None,
    measure: bool = False,
) -> list[float]:
    """One pass: combine with the memory, step along that, and let the memory take the gradients.

    `grads` are `pointers` in the order of the layout. `fresh` says whose state was made just now;
    `updates` take what the rule steps along. With `measure`, returns what `squared_norms` does.
    """
    weights = [_weights(move) for move in what.moves]
    rows = [
        (move.current, move.stored, _address(own), capacity, move.slot if move.write else -1, does)
        for move, own, does in zip(what.moves, weights, what.update, strict=True)
    ]
    table = array("B", b"".join(_MOVE.pack(*row) for row in rows))
    new = None if fresh is None else array("B", fresh)
    out = None if updates is None else pointers(updates)
    squares = _zeros(len(grads)) if measure else None
    call = _CALL.pack(*map(_address, (grads, table, out, new, squares)))
    options = array("d", map(float, kernel.options))
    getattr(library(), f"gradmem_{kernel.name}")(
        _address(layout.packed),
        len(grads),
        call,
        *layout.types,
        _address(options),
        torch.get_num_threads(),
    )
    return [] if squares is None else list(squares)


def squared_norms(tensors: Sequence[Tensor], addresses: array[int]) -> list[float]:
    """Squared L2 norm of each of these dense tensors of one type, which are at these addresses.

    The same for any number of threads.
    """
    sizes, out = _sizes(tensors), _zeros(len(tensors))
    count, kind = len(tensors), _TYPES[tensors[0].dtype]
    library().gradmem_squares(
        _address(addresses), _address(sizes), count, kind, _address(out), torch.get_num_threads()
    )
    return list(out)


def momenta(
    grads: Sequence[Tensor],
    addresses: array[int],
    averages: Sequence[Tensor],
    beta: float,
    share: float,
) -> tuple[list[float], list[float]]:
    """``m = beta m + share g`` in place, with the squared norms of the gradients and of m.

    The gradients are at these addresses.
    """
    written = list(map(in_order_of, grads, averages))  # an average that lies so, or a copy
    arrays = addresses, pointers(written), _sizes(grads)
    out = _zeros(len(grads)), _zeros(len(grads))
    library().gradmem_momenta(
        *map(_address, arrays),
        len(grads),
        _TYPES[grads[0].dtype],
        beta,
        share,
        *map(_address, out),
        torch.get_num_threads(),
    )
    for average, new in zip(averages, written, strict=True):
        if new is not average:
            average.copy_(new)
    return list(out[0]), list(out[1])


def _weights(move: Move) -> array[float] | None:
    return None if move.slots is None else array("d", move.slots)


def pointers(tensors: Sequence[Tensor]) -> array[int]:
    """Where the elements of each begin."""
    return array("Q", [tensor.data_ptr() for tensor in tensors])


def _sizes(tensors: Sequence[Tensor]) -> array[int]:
    return array("q", [tensor.numel() for tensor in tensors])


def _zeros(count: int) -> array[float]:
    return array("d", bytes(8 * count))


def _address(data: array[Any] | None) -> int:
    """Where the numbers lie, as long as the array lives; 0 of none."""
    return 0 if data is None else data.buffer_info()[0]
