"""Clipping by the norm, and what it found, kept for the step that follows.

A memory ranks gradients by their norms after clipping: those before, times what the gradients were
multiplied by. A step takes them from here if every gradient is still the one that was clipped.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from gradmem.errors import GradientError, OptionError, OptionTypeError
from gradmem.memory.norms import ledger_norms
from gradmem.memory.on_device import is_capturing
from gradmem.memory.sharding import is_sharded, local, local_gradient, sum_over_group
from gradmem.optim.plan import Group, Memory, Plan, common_device
from gradmem.optim.remember import Gradients, Norms, gradients_of

if TYPE_CHECKING:
    from gradmem.optim.holder import MemoryHolder

# Added to the norm that divides, as torch does.
EPS = 1e-6

# A gradient and how often it had been changed; None where there was none.
Seen: TypeAlias = "tuple[weakref.ref[Tensor], int] | None"


class Known(NamedTuple):
    """The norms of a memory's rows, (1, R), and the gradients of its parameters they are of.

    `captured`: they are made anew at every replay of a graph, in which the step has to be too.
    """

    norms: Tensor
    seen: list[Seen]
    captured: bool


def checked_max_norm(max_norm: object) -> float:
    """The norm as a float, if gradients can be clipped to it."""
    if isinstance(max_norm, bool) or not isinstance(max_norm, Real):
        raise OptionTypeError(
            f"max_norm must be a number, got {max_norm!r} ({type(max_norm).__name__})"
        )
    try:
        norm = float(max_norm)
    except OverflowError:
        norm = math.nan
    if not norm > 0.0:
        raise OptionError(f"max_norm must be above 0, got {max_norm}; math.inf clips nothing")
    return norm


def clip(holder: MemoryHolder, plan: Plan, max_norm: float, *, check: bool) -> Tensor:
    """Clip all gradients of an optimizer together; returns their norm before, 0-d float64.

    `check`: refuse a norm that is not finite; nothing was changed then.
    """
    groups = holder._memory_groups()
    device = common_device([p.device for group in groups for p in group["params"]])
    plain = _plain_gradients(groups, plan)
    given = [gradients_of(memory) for memory in plan.memories]
    norms = _row_norms(holder, plan.memories, given, plain, device)
    total = _total(norms, holder._peers, device)
    if check and not bool(total.isfinite()):
        raise GradientError(
            f"the gradients' norm is {float(total)}, which cannot be clipped to {max_norm}: leave "
            "out this step; or error_if_nonfinite, and the memory will refuse them"
        )
    share = _share(max_norm, total)
    if not math.isinf(max_norm):
        _multiply(groups, share)
    for memory, own in zip(plan.memories, norms, strict=False):
        memory.known = _known(memory, own, share)
    return total


def _share(max_norm: float, total: Tensor) -> Tensor:
    """What gradients of this norm are multiplied by; without a bound 1, of whatever norm."""
    if math.isinf(max_norm):
        return torch.ones_like(total)
    return (max_norm / (total + EPS)).clamp(max=1.0)


def _known(memory: Memory, before: Tensor, share: Tensor) -> Known | None:
    """What the step may take for the norms of the clipped gradients; None if it asks for others.

    It has to, where parameters are sharded: a rank alone may change its part, unseen by others.
    """
    if memory.options.norm != "l2" or memory.sharded:
        return None
    norms = before * share.to(before.device)
    return Known(norms.to(memory.ledger.priority.device), _seen(memory), is_capturing())


def known_norms(memory: Memory) -> Norms | None:
    """What clipping found, if these are the gradients it left; asked for once."""
    known, memory.known = memory.known, None
    if known is None or known.captured != is_capturing() or not _are_those(memory, known.seen):
        return None
    return lambda memory, vectors: known.norms  # noqa: ARG005


def _plain_gradients(groups: Sequence[Group], plan: Plan) -> dict[Tensor, Tensor]:
    """Gradients of the groups without a memory."""
    found: dict[Tensor, Tensor] = {}
    for index in plan.plain:
        for p in groups[index]["params"]:
            if (grad := p.grad) is not None:
                if grad.layout is not torch.strided:
                    raise GradientError(
                        f"a parameter of shape {tuple(p.shape)} in param group {index} has a "
                        f"gradient of layout {grad.layout}; clip_grad_norm_ measures dense ones "
                        "(torch.strided), as torch's does: use nn.Embedding(sparse=False), or clip "
                        "the others yourself"
                    )
                found[p] = local_gradient(p, grad)
    return found


def _row_norms(
    holder: MemoryHolder,
    memories: Sequence[Memory],
    given: Sequence[Gradients],
    plain: Gradients,
    device: torch.device,
) -> list[Tensor]:
    """L2 norms of every memory's rows, (1, R) each, and at the end of any plain gradients, (1, 1).

    Of this rank's parameters. Where some are spread over a mesh all are measured in one go, which
    gives every rank the same numbers to the last bit: ranks that clip differently decide apart.
    """
    if any(memory.sharded for memory in memories) or any(map(is_sharded, plain)):
        rows = [row for memory in memories for row in memory.rows]
        everything = {p: grad for grads in (*given, plain) for p, grad in grads.items()}
        each = ledger_norms([*rows, list(plain)], [everything], device, l2=True)
        return list(torch.split(each, [*(len(memory.rows) for memory in memories), 1], dim=1))
    found = [_of_memory(holder, *both) for both in zip(memories, given, strict=True)]
    return [*found, ledger_norms([list(plain)], [plain], device, l2=True)] if plain else found


def _of_memory(holder: MemoryHolder, memory: Memory, grads: Gradients) -> Tensor:
    if memory.options.norm == "l2":
        return holder._measured(memory, grads)
    return ledger_norms(memory.rows, [grads], memory.ledger.priority.device, l2=True)


def _total(norms: Sequence[Tensor], peers: Any, device: torch.device) -> Tensor:
    # Nothing has the norm 0, but other ranks wait for that of this one too.
    each = [norm.to(device) for norm in norms]
    each = each or [torch.zeros(1, 1, dtype=torch.float64, device=device)]
    total = torch.linalg.vector_norm(torch.cat(each, dim=1) if each[1:] else each[0])
    return total if peers is None else sum_over_group(peers, total.square()).sqrt()


def _multiply(groups: Sequence[Group], share: Tensor) -> None:
    """Multiply all gradients by the share; a host that sees it is 1 leaves them alone."""
    if share.device.type == "cpu" and float(share) == 1.0:
        return
    found = (p.grad for group in groups for p in group["params"])
    # Parameters may have one gradient, which is multiplied once.
    once = {id(grad): local(grad) for grad in found if grad is not None}
    alike: dict[torch.dtype, list[Tensor]] = {}
    for grad in once.values():
        alike.setdefault(grad.dtype, []).append(grad)
    for dtype, grads in alike.items():
        # A number of the host's goes to any device; one on the device has to be of their type, or
        # there is a launch for each of them.
        factor = float(share) if share.device.type == "cpu" else share.to(dtype)
        torch._foreach_mul_(grads, factor)


def _seen(memory: Memory) -> list[Seen]:
    return [_seen_of(p.grad) for row in memory.rows for p in row]


def _seen_of(grad: Tensor | None) -> Seen:
    if grad is None or grad.is_inference():  # such a tensor does not count its changes
        return None
    return weakref.ref(grad), grad._version


def _are_those(memory: Memory, seen: list[Seen]) -> bool:
    params = (p for row in memory.rows for p in row)
    return all(_is_that(p.grad, before) for p, before in zip(params, seen, strict=True))


def _is_that(grad: Tensor | None, before: Seen) -> bool:
    if before is None or grad is None:
        return before is None and grad is None
    clipped, version = before
    return clipped() is grad and grad._version == version
