"""Slots in the host's memory while their sums are on an accelerator: how they go there and back.

Each device has one `Lane`, a stream of its own beside that of the computation, on which all
transfers go in order: a slot is never read before the transfer that filled it is over. The
computation waits for a slot it asked for; for what it sends away nobody waits but the host, where
it looks at slots itself: `settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gradmem.memory.formats import flat

# One slot, and its scales if it has any.
Row: TypeAlias = tuple[Tensor, Tensor | None]

# Devices whose transfers go beside the computation, from and to pinned memory. Others wait.
STREAMING = ("cuda", "xpu")

# Bytes that may be on their way to a device before they are asked for: about a portion of a step.
UNDERWAY = 2**28


def is_apart(slots: Tensor, total: Tensor) -> bool:
    """Whether slots lie elsewhere than their sum."""
    return slots.device != total.device


def host_zeros(shape: Sequence[int], dtype: torch.dtype, beside: torch.device) -> Tensor:
    """Zeros in the host's memory, pinned if it is for such a device."""
    return torch.zeros(tuple(shape), dtype=dtype, pin_memory=beside.type in STREAMING)


def host_copy(tensor: Tensor, beside: torch.device) -> Tensor:
    """A copy in the host's memory, pinned if it is for such a device."""
    pinned = beside.type in STREAMING
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned).copy_(tensor)


class Upload(NamedTuple):
    """A slot on its way to a device.

    Attributes:
        slot: its number.
        version: of the slots when it was read: how often anyone had written to them.
        row: where it arrives.
        arrived: an event, or None where transfers wait.
    """

    slot: int
    version: int
    row: Row
    arrived: Any


class Lane:
    """Transfers between the host's memory and one device, in the order in which they are begun."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams: Any = None
        self._side: Any = None
        if device.type in STREAMING:
            self._streams = torch.get_device_module(device)
            self._side = self._streams.Stream(device)
        self._uploads: Any = WeakIdKeyDictionary()  # by the table of slots

    def start(self, slots: Tensor, scales: Tensor | None, slot: int) -> None:
        """Begin to bring a slot here, for a `fetch` that will follow."""
        self._uploads[slots] = self._upload(slots, scales, slot)

    @property
    def underway(self) -> int:
        """Bytes that were started, and not fetched yet."""
        rows = [upload.row for upload in self._uploads.values()]
        return sum(part.nbytes for row in rows for part in row if part is not None)

    def fetch(self, slots: Tensor, scales: Tensor | None, slot: int) -> Row:
        """A copy of a slot here, for the computation that follows."""
        upload = self._uploads.pop(slots, None)
        # One that was started in a step that failed may be of another slot, or of what it was.
        if upload is None or (upload.slot, upload.version) != (slot, slots._version):
            upload = self._upload(slots, scales, slot)
        self._await(upload)
        row: Row = upload.row
        return row

    def put(
        self,
        slots: Tensor,
        scales: Tensor | None,
        slot: int,
        new: Tensor,
        new_scales: Tensor | None,
    ) -> None:
        """Begin to write to a slot what was computed here; the caller may change it afterwards."""
        self._download(new, slots[slot])
        if scales is not None and new_scales is not None:
            self._download(new_scales, scales[slot])

    def settle(self) -> None:
        """Wait on the host until all transfers are over."""
        if self._side is not None:
            self._side.synchronize()

    def _upload(self, slots: Tensor, scales: Tensor | None, slot: int) -> Upload:
        row = self._copied(slots[slot]), None if scales is None else self._copied(scales[slot])
        return Upload(slot, slots._version, row, self._mark())

    def _copied(self, host: Tensor) -> Tensor:
        # Made on the side stream: of memory that is free there, whatever the computation still
        # does to what it has given back.
        with self._beside():
            here = torch.empty_strided(
                host.shape, host.stride(), dtype=host.dtype, device=self.device
            )
        self._copy(here, host)
        return here

    def _download(self, new: Tensor, host: Tensor) -> None:
        # A copy of its own: `new` may be a gradient, which is written over while this is on its
        # way. In the slot's order, so that one block of memory goes.
        ready = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device=self.device)
        ready.copy_(new)
        self._follow()
        self._copy(host, ready)
        if self._side is not None:
            self._keep(ready, self._side)

    # The streams; where there are none, all is done at once -----------------------------------

    def _beside(self) -> AbstractContextManager[Any]:
        """A block of what is done on the side stream."""
        if self._streams is None:
            return nullcontext()
        context: AbstractContextManager[Any] = self._streams.stream(self._side)
        return context

    def _copy(self, target: Tensor, source: Tensor) -> None:
        """On the side stream; of two tensors of one layout."""
        with self._beside():
            flat(target).copy_(flat(source), non_blocking=self._side is not None)

    def _mark(self) -> Any:
        """An event that comes when all that was begun so far is over."""
        return None if self._side is None else self._side.record_event()

    def _await(self, upload: Upload) -> None:
        """Let the computation wait for an upload, whose memory it may use to its end."""
        if self._streams is not None:
            stream = self._streams.current_stream(self.device)
            stream.wait_event(upload.arrived)
            for part in upload.row:
                if part is not None:
                    self._keep(part, stream)

    def _follow(self) -> None:
        """Let what is begun from now on wait for the computation so far."""
        if self._streams is not None:
            self._side.wait_stream(self._streams.current_stream(self.device))

    def _keep(self, tensor: Tensor, stream: Any) -> None:
        """Memory that another stream uses too: given back only when that is through with it."""
        tensor.record_stream(stream)


_LANES: dict[torch.device, Lane] = {}


def lane_of(device: torch.device) -> Lane:
    """The lane of a device."""
    if device not in _LANES:
        _LANES[device] = Lane(device)
    return _LANES[device]


def settle() -> None:
    """Wait until slots in the host's memory are what they were last said to be.

    Whoever reads or writes them there calls it first; where nothing is on its way it costs nothing.
    """
    for lane in _LANES.values():
        lane.settle()
