"""`decide_together`: ranks with other parameters, against one process that has them all."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import gradmem
from processes import in_group
from training import CLOSE, assert_close_state, assert_same_everywhere

CASES: list[tuple[str, dict[str, Any]]] = [
    ("adam_c", {"decay": 0.95}),
    ("adamw_c", {"decay": 0.95, "fused": True, "memory_dtype": "bfloat16"}),
    ("sgd_c", {"momentum": 0.9, "policy": "cosine_similar", "norm": "sum", "seed": 3}),
    ("nadam_c", {"policy": "mean_diverse", "aggregate": "max_mean"}),
    ("rmsprop_c", {"scope": "group", "norm": "sum", "decay": 0.9}),
    ("adam_cm", {"decay": 0.95, "amsgrad": True, "max_age": 3}),
    ("adam_cm", {"decay": 0.95, "fused": True}),
]
SHAPES = [(3, 4), (5,), (2, 2), (7,), ()]
STEPS = 14


def parameters(device: torch.device) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    make = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES)
    return [nn.Parameter(tensor.to(device)) for tensor in make]


def set_gradients(params: list[nn.Parameter], step: int, late: bool = True) -> None:
    """Of all parameters, in the order of `SHAPES`; the last two come in at step 5."""
    generator = torch.Generator().manual_seed(100 + step)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * (1 + step % 4)
        p.grad = None if late and i >= 3 and step < 5 else grad.to(p.device)


def own(params: list[nn.Parameter]) -> list[nn.Parameter]:
    """Those of this rank, of two."""
    return params[3:] if dist.get_rank() else params[:3]


def two_groups(params: list[nn.Parameter], mine: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Matrices and the rest: the second rank has no matrix."""
    sides = ([p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2])
    chosen = set(mine)
    return [{"params": [p for p in side if p in chosen]} for side in sides]


def compare(ours: Any, mine: list[nn.Parameter], reference: Any, whole: list[nn.Parameter]) -> None:
    for p, q in zip(whole, mine, strict=True):
        torch.testing.assert_close(q.cpu(), p.cpu(), **CLOSE)
        assert_close_state(ours.state[q], reference.state[p])


def check_parts(name: str, options: dict[str, Any], device: torch.device) -> None:
    everything, whole = parameters(device), parameters(device)
    reference = gradmem.create(name, two_groups(whole, whole), lr=0.01, capacity=3, **options)
    mine = own(everything)
    ours = gradmem.create(name, two_groups(everything, mine), lr=0.01, capacity=3, **options)
    assert gradmem.decide_together(ours) is ours
    for step in range(STEPS):
        set_gradients(whole, step)
        set_gradients(everything, step)
        if step % 3 == 1:
            expected = torch.nn.utils.clip_grad_norm_(whole, 1.5)
            torch.testing.assert_close(ours.clip_grad_norm_(1.5).to(device), expected, **CLOSE)
        reference.step()
        ours.step()
        compare(ours, mine, reference, own(whole))
        assert len(ours.memory_report().scopes) == len(reference.memory_report().scopes)


def check_a_rank_with_nothing_to_clip(device: torch.device) -> None:
    """It says so to the others, who wait for it."""
    everything = parameters(device)
    for options in ({"scope": "tensor"}, {"capacity": 0}, {}):
        for kept in ([], everything[:1]):
            mine = kept if dist.get_rank() else everything[1:2]
            set_gradients(everything, 3, late=False)
            if dist.get_rank():
                for p in everything:
                    p.grad = None
            groups: list[dict[str, Any]] = [{"params": mine}]
            optimizer = gradmem.decide_together(gradmem.SGD_C(groups, lr=0.1, **options))
            total = optimizer.clip_grad_norm_(math.inf)
            set_gradients(everything, 3, late=False)
            expected = torch.linalg.vector_norm(everything[1].grad)
            torch.testing.assert_close(total.to(device), expected.to(device), **CLOSE)


def check_late_after_resume(device: torch.device) -> None:
    """A rank without a gradient before a checkpoint is told by the others what the memory holds."""
    everything, whole = parameters(device), parameters(device)
    mine = own(everything)

    def make(params: Any) -> Any:
        return gradmem.Adam_C(params, lr=0.01, capacity=3, decay=0.95)

    reference, first = make(whole), gradmem.decide_together(make(mine))
    for step in range(3):
        for params in (whole, everything):
            set_gradients(params, step)
        reference.step()
        first.step()
    resumed = make(mine)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    gradmem.decide_together(resumed)
    extra = [nn.Parameter(torch.ones(2, dtype=torch.float64, device=device)) for _ in range(2)]
    for step in range(3, STEPS):
        if step == 4:  # the plan is made anew, and must not forget what nothing shows yet
            reference.add_param_group({"params": [extra[0]]})
            resumed.add_param_group({"params": [extra[1]] if dist.get_rank() == 0 else []})
        for params in (whole, everything):
            set_gradients(params, step)
        for p in extra:
            p.grad = torch.full_like(p, float(step))
        reference.step()
        resumed.step()
        compare(resumed, mine, reference, own(whole))


def check_flat_partition(device: torch.device) -> None:
    """A model in one vector that is cut anywhere: every rank has a piece of it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    start = torch.linspace(-1, 1, 24, dtype=torch.float64, device=device)
    size = 24 // world
    mine = slice(rank * size, (rank + 1) * size)
    whole, piece = nn.Parameter(start.clone()), nn.Parameter(start[mine].clone())
    reference = gradmem.Adam_C([whole], lr=0.01, capacity=3, decay=0.9)
    ours = gradmem.decide_together(gradmem.Adam_C([piece], lr=0.01, capacity=3, decay=0.9))
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        grad = torch.randn(24, generator=generator, dtype=torch.float64).to(device)
        whole.grad, piece.grad = grad * (1 + step % 3), grad[mine] * (1 + step % 3)
        reference.step()
        ours.step()
        torch.testing.assert_close(piece, whole[mine], **CLOSE)
        assert torch.equal(
            ours.state[piece]["memory_birth"], reference.state[whole]["memory_birth"]
        )


def check_draws(device: torch.device) -> None:
    """Policies that draw numbers draw the same ones on every rank."""
    everything = parameters(device)
    for scope in ("model", "group"):
        groups = two_groups(everything, own(everything))
        options = {"scope": scope, "policy": "random", "capacity": 4}
        optimizer = gradmem.decide_together(gradmem.SGD_C(groups, lr=0.01, **options))
        for step in range(STEPS):
            set_gradients(everything, step, late=False)
            optimizer.step()
        shown = groups[1]["params"][0]
        assert_same_everywhere(optimizer.state[shown]["memory_birth"])


def check_what_one_rank_cannot_take(device: torch.device) -> None:
    """A gradient that is not finite on one rank is seen on none."""
    p = nn.Parameter(torch.ones(3, dtype=torch.float64, device=device))
    optimizer = gradmem.decide_together(gradmem.SGD_C([p], lr=0.0, capacity=2))
    for bad in (math.nan, math.inf):
        p.grad = torch.ones_like(p)
        optimizer.step()
        before = copy.deepcopy(optimizer.state[p])
        if dist.get_rank() == 0:
            p.grad[0] = bad
        optimizer.step()
        for key in ("memory_slots", "memory_priority", "memory_birth"):
            assert torch.equal(optimizer.state[p][key], before[key])
        with torch.no_grad():
            p.fill_(1.0)
    assert_same_everywhere(optimizer.state[p]["memory_counters"])


def refused(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words):
        call()


def check_refusals(device: torch.device) -> None:
    """On every rank, in a sentence, nothing being changed: a rank alone would wait for ever."""
    rank = dist.get_rank()
    p = nn.Parameter(torch.ones(3, dtype=torch.float64, device=device))

    def together(params: Any, **options: Any) -> Callable[[], Any]:
        optimizer = gradmem.SGD_C(params, lr=0.1, **options)
        return lambda: gradmem.decide_together(optimizer)

    refused(
        gradmem.OptionError,
        r"capacity=2 on rank 0 and 3 on rank 1",
        together([p], capacity=2 + rank),
    )
    kinds = ["top_norm", "fifo"]
    refused(
        gradmem.OptionError, "policy='top_norm' on rank 0", together([p], policy=kinds[rank % 2])
    )
    more = [{"params": [p]}, {"params": []}][: 1 + rank % 2]
    refused(gradmem.OptionError, "rank 0 has 1 param groups and rank 1 has 2", together(more))
    plain = torch.optim.SGD([p], lr=0.1)
    refused(gradmem.OptionTypeError, "got SGD", lambda: gradmem.decide_together(plain))

    edited = gradmem.SGD_C([p], lr=0.1, capacity=2)
    if rank == 0:  # what one rank alone refuses, all are told
        edited.param_groups[0]["decay"] = 2.0
    refused(gradmem.OptionError, "decay must be in", lambda: gradmem.decide_together(edited))

    apart = gradmem.SGD_C([p], lr=0.0, capacity=2)
    p.grad = torch.full_like(p, 1.0 + rank)
    apart.step()
    before = apart.memory_report()
    refused(gradmem.CheckpointError, "another memory", lambda: gradmem.decide_together(apart))
    assert apart.memory_report() == before
    apart.step()  # as alone as it was

    optimizer = gradmem.decide_together(gradmem.SGD_C([p], lr=0.0, capacity=2))
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    refused(gradmem.StepError, "copy of one that decided together", twin.step)
    gradmem.decide_together(twin).step()

    model = DistributedDataParallel(nn.Linear(2, 2).to(device))
    refused(
        ValueError,
        "Adam_C",
        lambda: ZeroRedundancyOptimizer(
            model.parameters(), gradmem.Adam_C, overlap_with_ddp=True, lr=0.1
        ),
    )


def work(device: torch.device) -> None:
    for name, options in CASES:
        check_parts(name, options, device)
    check_a_rank_with_nothing_to_clip(device)
    check_late_after_resume(device)
    check_flat_partition(device)
    check_draws(device)
    check_what_one_rank_cannot_take(device)
    check_refusals(device)


if __name__ == "__main__":
    in_group(work)
