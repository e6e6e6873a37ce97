"""Saves and loads sharded optimizers: `torchrun ... checkpoint_worker.py FOLDER first|other|back`.

`first` saves on the processes there are. `other`, on another number of them, loads that and saves
it again as it is; `back`, on the first number, loads what the others saved. Each continues and
compares with one process that was never disturbed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

import gradmem
from checkpoint_cases import (
    CASES,
    END,
    RESHARDED,
    SAVED,
    Make,
    Model,
    build,
    check_close,
    check_equal,
    named,
    tensors,
    train,
    undisturbed,
    whole,
)
from processes import in_group

# Saving and loading ------------------------------------------------------------------------------


def parts(model: Model, optimizer: Optimizer) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


def load(make: Make, path: Path, sharded: bool = True) -> tuple[Model, Optimizer]:
    """A new model and optimizer with what was saved; docs/distributed-checkpoints.md has why."""
    model, optimizer = build(make, sharded)
    load_model(model, path)
    planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
    groups = {"optimizer": {"param_groups": optimizer.state_dict()["param_groups"]}}
    dcp.load(groups, checkpoint_id=path, planner=planner)
    optimizer.load_state_dict({"state": {}, **groups["optimizer"]})

    saved = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.load(saved, checkpoint_id=path, planner=planner)
    keys = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    state = saved["optimizer"]["state"]
    for name in list(state):
        if not any(key.startswith(f"optimizer.state.{name}.") for key in keys):
            del state[name]
    lax = StateDictOptions(strict=False)
    set_optimizer_state_dict(model, optimizer, saved["optimizer"], options=lax)
    return model, optimizer


def load_model(model: Model, path: Path) -> None:
    weights = {"model": get_model_state_dict(model)}
    dcp.load(weights, checkpoint_id=path)
    set_model_state_dict(model, weights["model"])


def load_all_given(make: Make, path: Path) -> tuple[Model, Optimizer]:
    """The short way, of those who know that every parameter had a gradient."""
    model, optimizer = build(make)
    used = [p for name, p in model.named_parameters() if name.startswith(("inner", "outer"))]
    for p in set(model.parameters()) - set(used):
        p.requires_grad_(False)
    saved = parts(model, optimizer)
    dcp.load(saved, checkpoint_id=path)
    lax = StateDictOptions(strict=False)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=saved["model"],
        optim_state_dict=saved["optimizer"],
        options=lax,
    )
    for p in model.parameters():
        p.requires_grad_(True)
    return model, optimizer


def check_full(
    make: Make, model: Model, optimizer: Optimizer, expected: dict[str, Tensor], file: Path
) -> None:
    """Put together in a file by the first process, read by it and spread to all."""
    on_first = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=on_first)
    saved = get_optimizer_state_dict(model, optimizer, options=on_first)
    first = dist.get_rank() == 0
    assert bool(saved) == bool(weights) == first
    if first:
        state = {f"{n}.{k}": v for n, entry in saved["state"].items() for k, v in entry.items()}
        check_equal({**weights, **state}, expected)
        torch.save((weights, saved), file)
        weights, saved = torch.load(file)

    twin, other = build(make)
    names = [list(saved["state"]) if first else None]
    dist.broadcast_object_list(names)
    spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_model_state_dict(twin, weights, options=spread)
    set_optimizer_state_dict(twin, other, saved, options=spread)
    for name, p in twin.named_parameters():
        if name not in names[0]:
            other.state.pop(p, None)
    check_equal(whole(twin, other), expected)
    train(twin, other, range(SAVED, END))
    train(model, optimizer, range(SAVED, END))
    check_equal(whole(twin, other), whole(model, optimizer))


class Held(dcp.DefaultSavePlanner):
    """Lets nothing be written until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def create_local_plan(self) -> dcp.SavePlan:
        assert self.released.wait(timeout=100)
        return super().create_local_plan()


def check_async(make: Make, folder: Path, expected: dict[str, Tensor], group: Any) -> None:
    """What is saved is what was there at the call, written however late."""
    model, optimizer = build(make)
    train(model, optimizer, range(SAVED))
    for stager, options in {
        "default": {},
        "writer": {"storage_writer": dcp.FileSystemWriter(folder / "writer")},
    }.items():
        held, path = Held(), folder / stager
        saving = dcp.async_save(
            parts(model, optimizer),
            checkpoint_id=path,
            planner=held,
            process_group=group,
            **options,
        )
        train(model, optimizer, range(SAVED, END))
        assert not torch.equal(whole(model, optimizer)["inner.weight"], expected["inner.weight"])
        held.released.set()
        saving.result()
        model, optimizer = load(make, path)
        check_equal(whole(model, optimizer), expected)


# Other checkpoints -------------------------------------------------------------------------------


def check_torch_checkpoint(path: Path) -> None:
    """One of torch's Adam: the memory is empty then; and one of ours, into torch's Adam."""

    def plain(params: Any) -> Optimizer:
        return torch.optim.Adam(params, lr=0.01)

    make = CASES["adam_c"]
    model, optimizer = build(plain)
    train(model, optimizer, range(SAVED))
    dcp.save(parts(model, optimizer), checkpoint_id=path)
    model, optimizer = load(make, path)
    assert optimizer.memory_report().scopes[0].occupied == 0
    train(model, optimizer, range(SAVED, END))

    one, base = build(plain, sharded=False)
    train(one, base, range(SAVED))
    alone = make(one.parameters())
    alone.load_state_dict(base.state_dict())
    train(one, alone, range(SAVED, END))
    check_close(whole(model, optimizer), whole(one, alone))

    dcp.save(parts(model, optimizer), checkpoint_id=path / "ours")
    twin, other = load(plain, path / "ours")
    assert not any("memory" in name for name, _, _ in tensors(twin, other))
    kept = {name: value for name, value in whole(model, optimizer).items() if "memory" not in name}
    check_equal(whole(twin, other), kept)


def check_refusals(path: Path) -> None:
    """What does not fit is refused on every process, and nothing is changed."""
    other = named("adam_c", capacity=5, decay=0.95)
    check_refused(lambda: load(other, path), gradmem.CheckpointError, "has capacity=3, this opt")

    model, optimizer = build(other)
    saved = parts(model, optimizer)
    before = whole(model, optimizer)
    planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
    check_refused(
        lambda: dcp.load(saved, checkpoint_id=path, planner=planner),
        CheckpointException,
        "Size mismatch between saved torch.Size([3, 7, 5]) and current: torch.Size([5, 7, 5])",
    )
    check_equal(whole(model, optimizer), before)

    # To start with an empty memory, nothing of it is asked for.
    base = {"optimizer": gradmem.forget_memory(saved["optimizer"])}
    dcp.load(base, checkpoint_id=path, planner=planner)
    set_optimizer_state_dict(model, optimizer, base["optimizer"])
    assert optimizer.memory_report().scopes[0].occupied == 0
    assert optimizer.state[model.inner.weight]["step"] == SAVED


def check_refused(call: Callable[[], Any], error: type[BaseException], sentence: str) -> None:
    found = "nothing"
    try:
        call()
    except error as refusal:
        found = str(refusal)
    assert sentence in found, found


# What each launch does ---------------------------------------------------------------------------


def first(folder: Path) -> None:
    group = dist.new_group(backend="gloo")
    for name, make in CASES.items():
        path = folder / "first" / name
        model, optimizer = build(make)
        train(model, optimizer, range(SAVED))
        saved = whole(model, optimizer)
        dcp.save(parts(model, optimizer), checkpoint_id=path)
        if dist.get_rank() == 0:
            torch.save(saved, path / "whole.pt")
        runs = [load(make, path), load_all_given(make, path)]
        for twin in runs:
            check_equal(whole(*twin), saved)
            train(*twin, range(SAVED, END))
        check_full(make, model, optimizer, saved, path / "full.pt")  # and continues
        final = whole(model, optimizer)
        for twin in runs:
            check_equal(whole(*twin), final)
        check_close(final, undisturbed(make))
        if name in ("adam_c", "augmented"):
            check_async(make, folder / "async" / name, saved, group)
    check_torch_checkpoint(folder / "torch")
    check_refusals(folder / "first" / "adam_c")


def other(folder: Path) -> None:
    """Sharded over another number of processes; alone, also not sharded at all."""
    alone = dist.get_world_size() == 1
    for name, make in RESHARDED.items():
        for sharded in (True, False) if alone else (True,):
            path = folder / f"from-{dist.get_world_size()}-{sharded}" / name
            model, optimizer = check_continued(make, folder / "first" / name, folder, sharded)
            dcp.save(parts(model, optimizer), checkpoint_id=path)


def back(folder: Path) -> None:
    for source in ("from-1-True", "from-1-False", "from-4-True"):
        for name, make in RESHARDED.items():
            check_continued(make, folder / source / name, folder)


def check_continued(
    make: Make, path: Path, folder: Path, sharded: bool = True
) -> tuple[Model, Optimizer]:
    """Load, compare with what was first saved, continue; returned as it was loaded."""
    saved = torch.load(folder / "first" / path.name / "whole.pt")
    model, optimizer = load(make, path, sharded)
    check_equal(whole(model, optimizer), saved)
    twin, going_on = load(make, path, sharded)
    train(twin, going_on, range(SAVED, END))
    check_close(whole(twin, going_on), undisturbed(make))
    return model, optimizer


def work(device: torch.device) -> None:
    folder, launch = Path(sys.argv[1]), sys.argv[2]
    {"first": first, "other": other, "back": back}[launch](folder)


if __name__ == "__main__":
    in_group(work)
