"""Where the kernels of an accelerator find everything: tables of addresses in its own memory.

They are made of Python numbers and sent from pinned memory, so that nothing waits for the device;
and never written over: what a captured CUDA graph reads stays as it was when it was captured.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradmem.memory.on_device import is_capturing
from gradmem.optim.fused.kernel import Kernel
from gradmem.optim.fused.places import (
    Place,
    Watch,
    aliases_of,
    all_in_order,
    are_apart,
    forms_of,
)
from gradmem.optim.remember import Gradients
from gradmem.optim.state import State

BLOCK = 1024  # elements a program takes; a multiple of those that share a scale
PARAMETERS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# What is sent with a rule's options: weights of the gradient, and of each in a memory that is full.
WEIGHTS = ("current", "stored")

# What captured graphs read, and what they send at every replay. Nobody tells when a graph is gone,
# so it is kept for good: some 120 bytes a tensor and 8 a block of one, for every capture.
_CAPTURED: list[Any] = []


def keep_for_graph(*things: Any) -> None:
    """Let these live as long as a graph that is being captured, if one is."""
    if is_capturing():
        _CAPTURED.extend(things)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A copy there, without waiting: the allocator of pinned memory knows when it has been made."""
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def column(values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """A tensor of this type at whose address all of these lie, one after the other.

    The first where they are the rows of one, as those of a decision are; else a copy.
    """
    first, size = values[0], values[0].nbytes
    begin = first.data_ptr()
    if first.dtype is dtype and all(
        value.is_contiguous() and value.data_ptr() == begin + i * size
        for i, value in enumerate(values)
    ):
        return first
    return torch.stack(list(values)).to(dtype)


class Inputs:
    """What the host says anew at a step: where gradients are, and the options of the rule.

    They are sent together, and only if one is another than at the last step.
    """

    def __init__(self, gradients: int, options: int, device: torch.device) -> None:
        self._gradients = gradients
        self._device = device
        self._last: Any = None
        self._stream: Any = None
        self._sent = torch.empty(0)
        # While a graph is captured, older versions of torch cannot pin memory. A clipped step may
        # send twice.
        spare = torch.empty(2, gradients + options, dtype=torch.int64)
        self._spare = list((spare if device.type == "cpu" else spare.pin_memory()).unbind())

    def send(
        self, addresses: array[int], options: Sequence[float | Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The addresses, int64, and the options, float64, on the device.

        An option that is a tensor there is read there, by every replay of a graph too.
        """
        known = array("d", [0.0 if _is_away(option) else float(option) for option in options])
        now, capturing = (addresses, known), is_capturing()
        # Memory that is freed on one stream may be in use on another: what is sent is used on one.
        stream = self._stream if capturing else _stream_of(self._device)
        sent = self._sent
        if (now, stream) != (self._last, self._stream):
            numbers = torch.tensor(known, dtype=torch.float64).view(torch.int64)
            host = torch.cat([torch.tensor(addresses, dtype=torch.int64), numbers])
            if capturing:
                sent = self._send_in_graph(host)
            else:
                sent = self._sent = to_device(host, self._device)
                self._last, self._stream = now, stream
        keep_for_graph(sent)
        return sent[: self._gradients], _with_tensors(sent[self._gradients :], options)

    def _send_in_graph(self, host: Tensor) -> Tensor:
        """Sent at every replay, from memory that nothing else is written to."""
        # None is left for a second graph from the same state.
        pinned = self._spare.pop() if self._spare else host.pin_memory()
        pinned.copy_(host)
        keep_for_graph(pinned)
        return pinned.to(self._device, non_blocking=True)


def _stream_of(device: torch.device) -> Any:
    """The one that work for the device is put on at present."""
    return None if device.type == "cpu" else torch.get_device_module(device).current_stream(device)


def _is_away(option: float | Tensor) -> bool:
    return isinstance(option, Tensor) and option.device.type != "cpu"


def _with_tensors(sent: Tensor, options: Sequence[float | Tensor]) -> Tensor:
    """The options sent, and those that are tensors on the device."""
    numbers = sent.view(torch.float64)
    if any(map(_is_away, options)):
        numbers = numbers.clone()
        for number, option in zip(numbers.unbind(), options, strict=True):
            if isinstance(option, Tensor) and _is_away(option):
                number.copy_(option.detach().reshape(()))
    return numbers


class Ends(NamedTuple):
    """Where parts end in lists that begin with the first part, after a zero."""

    tensors: Tensor  # in chunks
    rows: Tensor  # in chunks
    row_tensors: Tensor  # in tensors


def line(place: Place) -> list[int]:
    """A place's line in the table of tensors."""
    return [place.param.numel(), place.row, *place.addresses()]


def _fit(places: Sequence[Place]) -> bool:
    """Whether these are places that the kernels go through, of one kind."""
    first = places[0]
    return first.param.dtype in PARAMETERS and all(
        place.fits(first) and (place.step is None or place.step.dtype is first.step.dtype)
        for place in places
    )


class Layout:
    """Where a run is: found once, looked at again at every step.

    Attributes:
        places: of the parameters that hold a memory.
        params: these.
        keys: of the rule's tensors in the state.
        watch: whether the state is as it was.
        fits: every place fits, and no two tensors share memory. Only then there is what follows.
        table: all addresses, as triton_kernels.py has them; on the device, as all that follows.
        chunks: tensor and block of each, those of a tensor and those of a row together.
        ends: where the chunks of each tensor end, those of each row, and its tensors.
        inputs: what is sent at a step.
        corrections: room for two numbers a tensor.
        every_row, no_row: masks of ledgers.
    """

    def __init__(self, places: Sequence[Place], state: State, kernel: Kernel, ledgers: int) -> None:
        self.places = places
        self.params = [place.param for place in places]
        self.keys = kernel.states
        self.watch = Watch(self.params, state, kernel.states)
        self._aliases = aliases_of(places)
        self.fits = _fit(places) and are_apart(self._aliases)
        if not self.fits:
            return
        device = self.params[0].device
        self._forms = forms_of(self.params)
        lines = torch.tensor([line(place) for place in places], dtype=torch.int64)
        self.table = to_device(lines, device)
        chunks = _chunks(self.params)
        self.chunks = to_device(chunks, device)
        ends = _ends(chunks, [place.row for place in places], ledgers)
        self.ends = Ends(*(to_device(each, device) for each in ends))
        self.inputs = Inputs(len(places), len(kernel.options) + len(WEIGHTS), device)
        self.corrections = torch.empty(len(places), 2, dtype=torch.float64, device=device)
        self.every_row = torch.ones(ledgers, dtype=torch.bool, device=device)
        self.no_row = torch.zeros(ledgers, dtype=torch.bool, device=device)

    def kept(self) -> tuple[Tensor, ...]:
        """What a graph reads of it; not what it has the addresses of, which is not its own."""
        return self.table, self.chunks, *self.ends, self.corrections, self.every_row, self.no_row

    def in_order(self, gradients: Gradients) -> list[Tensor | None]:
        """What the parameters are offered: as it lies, or a copy in their own order and type."""
        return all_in_order(self.params, self._forms, list(map(gradients.get, self.params)))


def addresses(tensors: Sequence[Tensor | None]) -> array[int]:
    """Where each begins; 0 for none, and not for one that is empty, which no kernel reads."""
    return array("q", [0 if tensor is None else tensor.data_ptr() or 1 for tensor in tensors])


def _chunks(params: Sequence[Tensor]) -> Tensor:
    """Tensor and block of every program, (programs, 2) int32."""
    counts = torch.tensor([-(-p.numel() // BLOCK) for p in params])
    tensors = torch.repeat_interleave(torch.arange(len(params)), counts)
    before = counts.cumsum(0) - counts
    blocks = torch.arange(len(tensors)) - before[tensors]
    return torch.stack([tensors, blocks], dim=1).to(torch.int32)


def _ends(chunks: Tensor, rows: Sequence[int], ledgers: int) -> Ends:
    numbers = chunks[:, 0].contiguous().to(torch.int64)
    tensors = torch.searchsorted(numbers, torch.arange(len(rows) + 1))
    row_tensors = torch.searchsorted(torch.tensor(rows), torch.arange(ledgers + 1))
    return Ends(tensors, tensors[row_tensors], row_tensors)
