"""What a fused pass goes through of each parameter: where it is, and whether it is still there.

A kernel takes addresses. What lies there has to be of the types, shapes and order in memory that it
goes through, at every step anew: state may be replaced, moved or cast by others.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from gradmem.memory.formats import blocks_of, is_dense, sum_dtype
from gradmem.memory.sharding import local
from gradmem.memory.slots import Store
from gradmem.optim.state import PRIORITY, STORE_KEYS, Row, State, store_of

Gradient = TypeVar("Gradient", Tensor, Tensor | None)

COUNTS = (torch.float32, torch.float64)  # types of a count of steps


class Place(NamedTuple):
    """All that a kernel goes through of one parameter, of this rank's part.

    Attributes:
        param: the parameter.
        row: which ledger it belongs to.
        capacity: slots of that.
        store: its part of the memory.
        states: the rule's three tensors, None for one it does without.
        step: its count of steps; None if it has none.
    """

    param: Tensor
    row: int
    capacity: int
    store: Store
    states: tuple[Any, ...]
    step: Any

    def tensors(self) -> tuple[Any, ...]:
        """In the order that kernels have them in."""
        slots, total, scales = self.store
        return self.param, total, slots, scales, *self.states, self.step

    def addresses(self) -> list[int]:
        """Where these lie, 0 for None."""
        return [0 if tensor is None else tensor.data_ptr() for tensor in self.tensors()]

    def fits(self, like: Place) -> bool:
        """Whether all is of the type, shape and order in memory that a kernel goes through, the
        types being those of another place.
        """
        p, store, step = self.param, self.store, self.step
        present = [tensor for tensor in self.tensors() if tensor is not None]
        return (
            all(isinstance(tensor, Tensor) and tensor.device == p.device for tensor in present)
            and is_plain(p)
            and (p.dtype, p.device) == (like.param.dtype, like.param.device)
            and store.slots.dtype is like.store.slots.dtype
            and _lies_as(store.total, p, sum_dtype(p.dtype))
            and all(state is None or _lies_as(state, p, p.dtype) for state in self.states)
            and _is_table(store.slots, p, self.capacity)
            and (store.slots.dtype is not torch.int8 or _has_scales(store.slots, store.scales))
            and (step is None or (step.numel() == 1 and step.dtype in COUNTS))
        )


def place_of(p: Tensor, row: int, entry: Row, keys: Sequence[str | None]) -> Place:
    """Where a parameter is, and its state under these keys, three at most."""
    three = (*keys, None, None, None)[:3]
    states = tuple(None if key is None else _local(entry.get(key)) for key in three)
    return Place(local(p), row, len(entry[PRIORITY]), store_of(entry), states, entry.get("step"))


def _local(value: Any) -> Any:
    return local(value) if isinstance(value, Tensor) else value


class Watch:
    """Tensors in the state of parameters: whether they are still the same, and where they were."""

    def __init__(self, params: Sequence[Tensor], state: State, keys: Sequence[str | None]) -> None:
        self._params = params
        self._entries = [state[p] for p in params]
        used = [key for key in (*STORE_KEYS, *keys, "step") if key is not None]
        found = [
            (entry, key)
            for entry in self._entries
            for key in used
            if isinstance(entry.get(key), Tensor)
        ]
        self._holders: list[Mapping[str, Any]] = [entry for entry, _ in found]
        self._keys = [key for _, key in found]
        self._seen = list(map(operator.getitem, self._holders, self._keys))
        self._pointers = list(map(Tensor.data_ptr, self._seen))

    def is_current(self, state: State) -> bool:
        """Whether they are."""
        entries = map(state.get, self._params)
        if not all(map(operator.is_, entries, self._entries)):
            return False
        try:
            now = map(operator.getitem, self._holders, self._keys)
            same = all(map(operator.is_, now, self._seen))
        except KeyError:
            return False
        return same and list(map(Tensor.data_ptr, self._seen)) == self._pointers


# Shape, order in memory, type and device of a tensor.
Form: TypeAlias = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


def forms_of(tensors: Sequence[Tensor]) -> list[Form]:
    """The form of each."""
    return [(t.shape, t.stride(), t.dtype, t.device) for t in tensors]


def in_order_of(parameter: Tensor, grad: Tensor) -> Tensor:
    """The gradient as it lies, or a copy in the parameter's order and type.

    Its shape may differ too: the parameter's data can have been replaced since it was made.
    """
    if (
        grad.shape == parameter.shape
        and (
            (grad.is_contiguous() and parameter.is_contiguous())
            or grad.stride() == parameter.stride()
        )
        and grad.dtype is parameter.dtype
        and grad.device == parameter.device
        and not grad.is_neg()
    ):
        return grad
    return torch.empty_like(parameter).copy_(grad)


def all_in_order(
    parameters: Sequence[Tensor], forms: Sequence[Form], grads: Sequence[Gradient]
) -> list[Gradient]:
    """`in_order_of` for each, sooner where a gradient has the parameter's very form."""
    return [
        grad
        if grad is None
        or ((grad.shape, grad.stride(), grad.dtype, grad.device) == form and not grad.is_neg())
        else in_order_of(p, grad)
        for p, form, grad in zip(parameters, forms, grads, strict=True)
    ]


def is_plain(p: Tensor) -> bool:
    """Whether a parameter has data of its own, without gaps, as it is to be read."""
    return (
        (is_dense(p) or p.numel() == 0)
        and not p.is_neg()
        and type(p).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def aliases_of(places: Iterable[Place]) -> list[Tensor]:
    """Of all tensors there. While these live nothing else can come to lie where one of them did."""
    tensors = itertools.chain.from_iterable(place.tensors() for place in places)
    return [tensor.detach() for tensor in tensors if isinstance(tensor, Tensor)]


def are_apart(tensors: Sequence[Tensor]) -> bool:
    """Whether no two of these dense tensors share memory: all are written to at once."""
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors if t.numel() > 0)
    return all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def _lies_as(tensor: Tensor, p: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor has an element of this type for each of the parameter's, in their order."""
    alike = tensor.shape == p.shape and (tensor.stride() == p.stride() or p.numel() == 0)
    return alike and tensor.dtype is dtype and not tensor.is_neg()


def _is_table(slots: Tensor, p: Tensor, capacity: int) -> bool:
    """Whether these are slots of the parameter's elements, in their order, one after the other."""
    if slots.shape != (capacity, *p.shape):
        return False
    one_by_one = capacity < 2 or slots.stride(0) == p.numel()
    return p.numel() == 0 or (slots.stride()[1:] == p.stride() and one_by_one)


def _has_scales(slots: Tensor, scales: Tensor | None) -> bool:
    """Whether every block of every slot has its scale."""
    shape = len(slots), blocks_of(slots[0].numel())
    return (
        scales is not None
        and scales.shape == shape
        and scales.is_contiguous()
        and scales.dtype is torch.float32
    )
