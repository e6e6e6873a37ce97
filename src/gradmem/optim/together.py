"""One memory over ranks that hold different parameters: ZeRO, pipelines, parts of one's own."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from gradmem.errors import (
    CheckpointError,
    GradmemError,
    OptionError,
    OptionTypeError,
    StepError,
)
from gradmem.memory.options import OPTION_NAMES
from gradmem.optim.checkpoint import name_of
from gradmem.optim.holder import MemoryHolder
from gradmem.optim.state import Row, rows_agree

Optimizer = TypeVar("Optimizer")


def decide_together(optimizer: Optimizer, group: Any = None) -> Optimizer:
    """Let the ranks of a process group, each with other parameters of one model, have one memory.

    A gradient is kept or refused as a whole: where W ranks have its parts g_1, ..., g_W, each
    decides by ``|g|^2 = |g_1|^2 + ... + |g_W|^2``, as one process that has them all would, and
    keeps the slots of its own parameters.

    It is a collective: call it on every rank, after the optimizer was made and again after a
    checkpoint was loaded or the optimizer copied, before the next step. Sharded parameters
    (DTensor) need none of it, nor does DDP, where every rank has every gradient.

    Every rank takes a step or none does: a rank that leaves one out lets the others wait for ever.
    With float16 use torch's ``ShardedGradScaler`` with this group, which shares overflows.

    Args:
        optimizer: one of this package's, or a ``ZeroRedundancyOptimizer`` around one.
        group: a process group; None for all ranks. Every rank must have the same param groups, in
            the same order and with the same memory options; a group may be empty on some.

    Returns:
        The optimizer.

    State added: none. Ranks that hold no part of a ledger yet are told what it says.

    Bytes a step: one all-reduce of 8 R, R being the number of ledgers that are shared: 1 with scope
    "model", the groups with scope "group"; 16 R for critical momenta, and another of 24 R for the
    policies that compare directions. With scope "tensor" nothing is shared.

    Raises:
        OptionTypeError: the optimizer has no memory.
        OptionError: the ranks have other groups or options.
        StepError: there is no process group yet.
        CheckpointError: the ranks hold different memories.

    Numerics: the sum of squares is the same on every rank to the last bit. Policies that draw
    numbers draw the same ones on every rank; with several ledgers not those that one process draws.

    Departs from the authors' programs, which know one process.

    Example, for each rank that torchrun starts (here one that is alone):
        >>> import torch, torch.distributed as dist
        >>> import gradmem
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> stage = torch.nn.Linear(3, 1)  # this rank's part of the model
        >>> optimizer = gradmem.Adam_C(stage.parameters(), lr=1e-3, capacity=10)
        >>> optimizer = gradmem.decide_together(optimizer)
        >>> stage(torch.ones(5, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.memory_report().scopes[0].occupied
        1
        >>> dist.destroy_process_group()
    """
    holder = _holder_of(optimizer)
    if not (dist.is_available() and dist.is_initialized()):
        raise StepError(
            "decide_together needs a process group: call torch.distributed.init_process_group first"
        )
    before, holder._peers = holder._peers, dist.group.WORLD if group is None else group
    holder._plan = None
    holder._claim_state()
    try:
        _agree(holder)
    except BaseException:
        holder._peers, holder._plan = before, None
        raise
    return optimizer


class _Said(NamedTuple):
    """What the ranks tell each other: options by group, and the ledgers that parameters show."""

    options: list[dict[str, Any]]
    ledgers: dict[tuple[int, int], Row]  # by memory and row


def _holder_of(optimizer: object) -> MemoryHolder:
    inner = getattr(optimizer, "optim", optimizer)  # as ZeroRedundancyOptimizer has it
    if not isinstance(inner, MemoryHolder):
        raise OptionTypeError(
            "decide_together takes an optimizer with a memory, or a ZeroRedundancyOptimizer around "
            f"one, got {type(optimizer).__name__}"
        )
    return inner


def _agree(holder: MemoryHolder) -> None:
    """Check that the ranks fit together, and copy the ledgers that nothing shows here yet."""
    mine: _Said | GradmemError
    try:
        mine = _say(holder)
    except GradmemError as error:
        mine = error  # the others wait to be told
    everyone: list[Any] = [None] * dist.get_world_size(holder._peers)
    dist.all_gather_object(everyone, mine, group=holder._peers)
    for said in everyone:
        if isinstance(said, GradmemError):
            raise said
    _check_options([said.options for said in everyone])
    memories = holder._current_plan().memories
    for (number, row), ledger in _agreed([said.ledgers for said in everyone]).items():
        for key, tensor in memories[number].views[row].items():
            tensor.copy_(ledger[key])


def _say(holder: MemoryHolder) -> _Said:
    groups = holder._memory_groups()
    options = [{name: name_of(group[name]) for name in OPTION_NAMES} for group in groups]
    shown = {
        (number, row): {key: tensor.cpu().clone() for key, tensor in memory.views[row].items()}
        for number, memory in enumerate(holder._current_plan().memories)
        if memory.peers is not None
        for row in set(memory.holders.values())
    }
    return _Said(options, shown)


def _check_options(everyone: list[list[dict[str, Any]]]) -> None:
    first = everyone[0]
    for rank, options in enumerate(everyone):
        if len(options) != len(first):
            raise OptionError(
                f"rank 0 has {len(first)} param groups and rank {rank} has {len(options)}; ranks "
                "that decide together need the same groups, of which some may be empty"
            )
        for i, (here, there) in enumerate(zip(first, options, strict=True)):
            for name in OPTION_NAMES:
                if here[name] != there[name]:
                    raise OptionError(
                        f"param group {i} has {name}={here[name]!r} on rank 0 and "
                        f"{there[name]!r} on rank {rank}; ranks that decide together need the same "
                        "options"
                    )


def _agreed(everyone: list[dict[tuple[int, int], Row]]) -> dict[tuple[int, int], Row]:
    """By memory and row, the ledger that some ranks have, which must be the same one."""
    agreed: dict[tuple[int, int], Row] = {}
    for rank, ledgers in enumerate(everyone):
        for place, row in ledgers.items():
            if not rows_agree(agreed.setdefault(place, row), row):
                raise CheckpointError(
                    f"rank {rank} holds another memory than the ranks before it: they have "
                    "decided apart, or their checkpoints are of different steps; call "
                    "decide_together before the first step, or, to start with an empty memory, "
                    "load gradmem.forget_memory(state_dict)"
                )
    return agreed
