"""Bytes an optimizer holds, and the most a step allocates on top of them."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile, record_function

from gradmem.lab.bench.turns import Steps

STEP = "gradmem.bench.step"


def state_bytes(optimizer: Optimizer, kind: str | None = None) -> int:
    """Bytes of the tensors in the optimizer's state, those that are shared counted once.

    Args:
        optimizer: whose.
        kind: of the device they are on, "cpu" or "cuda"; None for all.
    """
    return _storage_bytes(_tensors_in(optimizer.state), optimizer, kind)


def held_bytes(optimizer: Optimizer, kind: str | None = None) -> int:
    """Bytes of all tensors the optimizer holds: its state, and buffers it keeps for the next step.

    Parameters and gradients are not counted. Arguments as for `state_bytes`.
    """
    return _storage_bytes(_tensors_in(optimizer), optimizer, kind)


def _storage_bytes(tensors: Iterable[Tensor], optimizer: Optimizer, kind: str | None) -> int:
    """Bytes of the storages under tensors, but for those of the parameters and gradients."""
    params = (p for group in optimizer.param_groups for p in group["params"])
    own = {_storage(t) for p in params for t in (p, p.grad) if t is not None}
    found = {_storage(t): t.untyped_storage().nbytes() for t in tensors}
    return sum(
        size
        for storage, size in found.items()
        if storage not in own and kind in (None, storage[0].type)
    )


def _storage(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _tensors_in(root: object) -> Iterator[Tensor]:
    """Every tensor that containers and attributes lead to; code is not entered."""
    waiting, seen = [root], {id(root)}
    while waiting:
        found = waiting.pop()
        if isinstance(found, Tensor):
            yield found
            continue
        for each in _inside(found):
            if id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)


def _inside(found: Any) -> list[object]:
    if isinstance(found, (type, ModuleType, str, bytes)):
        return []
    inside = [*_slots(found), *getattr(found, "__dict__", {}).values()]
    if isinstance(found, dict):
        inside += [*found.keys(), *found.values()]
    elif isinstance(found, (list, tuple, set, frozenset)):
        inside += found
    return inside


def _slots(found: object) -> Iterator[object]:
    for cls in type(found).__mro__:
        names = cls.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(found, name):
                yield getattr(found, name)


def step_bytes(optimizer: Steps, device: torch.device) -> int:
    """The most bytes that a step has allocated at any moment, beyond what was there before it.

    The optimizer takes two steps on a processor, one on an accelerator. What it keeps in place of
    something it frees counts for the difference only; see `held_bytes` for what stays.
    """
    return _on_cuda(optimizer) if device.type == "cuda" else _on_cpu(optimizer)


def _on_cuda(optimizer: Steps) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    optimizer.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _on_cpu(optimizer: Steps) -> int:
    """From the profiler's record of every allocation and release of torch's own allocator.

    It does not know the size of what was allocated before it began, so a first step goes before the
    one that is looked at: what that one frees in place of its own, the first has allocated.
    """
    with _profiler_silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        optimizer.step()
        with record_function(STEP):
            optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        run.export_chrome_trace(str(path))
        return peak(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


def peak(events: Iterable[dict[str, Any]]) -> int:
    """Of a profiler's trace, the most bytes allocated during the marked step above its beginning.

    >>> step = {"name": STEP, "ph": "X", "ts": 10, "dur": 10}
    >>> changes = [(5, 100), (11, 40), (12, -100), (13, 70), (19, -110), (30, 999)]
    >>> peak([step, *({"name": "[memory]", "ts": t, "args": {"Bytes": b}} for t, b in changes)])
    40
    """
    listed = list(events)
    (step,) = (each for each in listed if each.get("name") == STEP and each.get("ph") == "X")
    end = step["ts"] + step["dur"]
    changes = sorted(
        (each["ts"], each["args"]["Bytes"])
        for each in listed
        if each.get("name") == "[memory]" and step["ts"] <= each["ts"] <= end
    )
    highest = now = 0
    for _, change in changes:
        now += change
        highest = max(highest, now)
    return highest


@contextmanager
def _profiler_silent() -> Iterator[None]:
    """Without the lines about itself that the profiler's library writes past Python to stderr."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            caught.seek(0)
            said = [line for line in caught if not line.startswith(b"USDT:")]
            os.write(2, b"".join(said))
