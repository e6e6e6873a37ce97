"""Triton's kernels as functions of tensors: made once for a device and form, and launched."""

from __future__ import annotations

import functools
import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.memory.on_device import is_capturing
from gradmem.optim.fused.kernel import warn_of_fallback
from gradmem.optim.fused.tables import BLOCK, Layout, keep_for_graph

# Programs of a launch, at most: some four times as many as a large device runs at once, so that the
# last ones leave it idle for little, and soon done where there is nothing to do for any.
PROGRAMS = 2**11

# As Triton calls them.
TYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8",
}


class Form(NamedTuple):
    """What a kernel is compiled for, besides the device.

    Attributes:
        rule: the base rule.
        states: which of its tensors there are, a bit each.
        kind: type of the parameters.
        slot_kind: type of the slots.
        count_kind: type of the counts of steps; None of a rule that reads none.
        uniform: all stored gradients weigh alike.
    """

    rule: str
    states: int
    kind: torch.dtype
    slot_kind: torch.dtype
    count_kind: torch.dtype | None
    uniform: bool

    def constants(self, module: Any, *names: str) -> dict[str, Any]:
        """As the kernels take them: those of these names, or all."""
        kinds = {"kind": self.kind, "slot_kind": self.slot_kind}
        types = {name: getattr(module.tl, TYPES[kind]) for name, kind in kinds.items()}
        own = {"rule": self.rule, "states": self.states, "uniform": self.uniform}
        everything = {**own, **types, "block": BLOCK}
        return {name: everything[name] for name in names or everything}


class Orders(NamedTuple):
    """What every ledger does in a pass, by row; on the device."""

    current: Tensor
    stored: Tensor  # one weight, or one a slot
    slot: Tensor
    update: Tensor
    write: Tensor


# Whether the kernels of a form could be made, by device and form, once it was tried.
_MADE: dict[tuple[torch.device, Form], bool] = {}


def kernels() -> Any:
    """The module of the kernels; imported late, as it imports Triton."""
    return importlib.import_module("gradmem.optim.fused.triton_kernels")


@functools.cache
def available() -> bool:
    """Whether there is Triton; if not, warns once of what is used instead."""
    try:
        kernels()
    except ImportError as error:
        warn_of_fallback(f"Triton cannot be imported: {error}")
        return False
    return True


def are_made(form: Form, layout: Layout, capacity: int) -> bool:
    """Whether there are kernels of this form; they are made by launches that change nothing.

    Whatever goes wrong then, no compiler or one that fails, has changed nothing, and is warned of.
    Not while a graph is captured: what loads a kernel must not go into it.
    """
    key = layout.params[0].device, form
    if key not in _MADE:
        if is_capturing():
            return False
        try:
            _rehearse(form, layout, capacity)
        except Exception as error:  # of Triton, its compilers, or the driver that loads the result
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            warn_of_fallback(f"Triton failed with {type(error).__name__}: " + " / ".join(lines[:3]))
            _MADE[key] = False
        else:
            _MADE[key] = True
    return _MADE[key]


def _rehearse(form: Form, layout: Layout, capacity: int) -> None:
    nothing, table, numbers = layout.no_row, layout.table, layout.corrections
    orders = Orders(numbers, numbers, table, update=nothing, write=nothing)
    if form.count_kind is not None:
        count_steps(form, layout, (table, numbers), nothing)
    one_pass(form, layout, (table, numbers), orders, capacity)
    measure(form, layout, table, nothing)
    renew(form, layout, nothing, capacity)
    nowhere = torch.zeros_like(layout.ends.tensors)
    for roots in (False, True):
        add_up(numbers, nowhere, roots=roots)


def count_steps(form: Form, layout: Layout, given: tuple[Tensor, Tensor], update: Tensor) -> None:
    """Raise the counts of steps of these ledgers' tensors, and make what Adam divides by."""
    module, device = kernels(), layout.params[0].device
    kind = getattr(module.tl, TYPES[form.count_kind or torch.float32])
    with _on(device):
        module.count_steps[(len(layout.places),)](
            layout.table,
            *given,
            layout.corrections,
            update,
            kind=kind,
            num_warps=1,  # a count is read before any thread writes it
            enable_fp_fusion=False,
        )


def one_pass(
    form: Form,
    layout: Layout,
    given: tuple[Tensor, Tensor],
    orders: Orders,
    capacity: int,
    squares: Tensor | None = None,
) -> None:
    """Do what is ordered with gradients at the addresses given; options are given beside them.

    `squares` takes the sums of squares of chunks that are stepped along.
    """
    measures = squares is not None
    _over_chunks(
        "one_pass",
        layout,
        (*given, layout.corrections, *orders, layout.corrections if squares is None else squares),
        (len(layout.no_row), capacity, int(measures)),
        form.constants(kernels()),
    )


def measure(form: Form, layout: Layout, grads: Tensor, due: Tensor) -> Tensor:
    """Sums of squares of the gradients at these addresses, by chunk, of ledgers that are due."""
    squares = torch.empty(len(layout.chunks), dtype=torch.float64, device=due.device)
    kinds = form.constants(kernels(), "kind", "block")
    _over_chunks("measure", layout, (grads, due, squares), (len(due),), kinds)
    return squares


def renew(form: Form, layout: Layout, due: Tensor, capacity: int) -> None:
    """Make the running sums of these ledgers anew from their slots."""
    kinds = form.constants(kernels(), "kind", "slot_kind", "block")
    _over_chunks("renew", layout, (due,), (len(due), capacity), kinds)


def _over_chunks(
    name: str,
    layout: Layout,
    tensors: tuple[Tensor, ...],
    numbers: tuple[int, ...],
    constants: dict[str, Any],
) -> None:
    """Launch a kernel whose programs share the chunks."""
    count = len(layout.chunks)
    keep_for_graph(*layout.kept())
    if count > 0:
        with _on(layout.params[0].device):
            getattr(kernels(), name)[(min(count, PROGRAMS),)](
                *(layout.chunks, layout.table, *tensors, count, *numbers),
                **constants,
                num_warps=4,
                enable_fp_fusion=False,  # as on the CPU, a product is rounded before it is added
            )


def add_up(values: Tensor, ends: Tensor, *, roots: bool = False) -> Tensor:
    """Sums of neighbours, or their roots: of those up to each end, from the one before."""
    module, count = kernels(), len(ends) - 1
    sums = torch.empty(count, dtype=torch.float64, device=values.device)
    if count > 0:
        with _on(values.device):
            module.add_up[(count,)](
                values, ends, sums, roots=roots, block=BLOCK, num_warps=4, enable_fp_fusion=False
            )
    return sums


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, on torch's current stream there."""
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.get_device_module(device).device(device)
    return context
