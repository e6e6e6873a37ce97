"""Runs examples/fsdp2_checkpoints.py, whose arguments it takes, and kills processes of it.

With DEATHS="save 20,step 25" one dies in the middle of the save at step 20 and, when they were
started again, one after step 25; those that are started once more live.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import fsdp2_checkpoints as example

MIDDLE = 50  # of the more than 100 tensors that a process writes


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_save(step: int) -> None:
    """On the second process, its file being open and the first one waiting for it."""
    save, resolve = example.save, DefaultSavePlanner.resolve_data

    def saving(folder: Path, state: dict[str, Any]) -> None:
        written = []

        def dying(self: DefaultSavePlanner, item: Any) -> Any:
            written.append(item)
            if len(written) == MIDDLE:
                files = sorted(path.name for path in (folder / f"step-{step}").iterdir())
                example.log.warning("dies in a save beside %s", " ".join(files))
                die()
            return resolve(self, item)

        if state["step"] == step:
            DefaultSavePlanner.resolve_data = dying
        save(folder, state)

    if os.environ["RANK"] == "1":
        example.save = saving


def die_after_step(step: int) -> None:
    """On the first process."""

    def dying(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if next(iter(optimizer.state.values()))["step"] == step:
            die()

    if os.environ["RANK"] == "0":
        register_optimizer_step_post_hook(dying)


if __name__ == "__main__":
    torch.set_num_threads(1)
    deaths = [death.split() for death in os.environ.get("DEATHS", "").split(",") if death]
    started = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if started < len(deaths):
        when, step = deaths[started]
        {"save": die_in_save, "step": die_after_step}[when](int(step))
    example.main()
    # gloo's threads now and then abort in the interpreter's shutdown.
    sys.stdout.flush()
    os._exit(0)
