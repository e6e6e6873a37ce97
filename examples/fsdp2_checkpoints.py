"""A character transformer on sharded parameters that can be killed at any time and goes on.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # see docs/distributed-checkpoints.md
    torchrun --nproc-per-node=2 --max-restarts=3 fsdp2_checkpoints.py --folder runs/text
    python fsdp2_checkpoints.py --folder runs/text  # on one process

Started again on the same folder, after a kill or to train longer, it goes on from the newest whole
checkpoint there, on any number of processes; on the same number, bit for bit.
"""

import argparse
import logging
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gradmem import AdamW_C

WINDOW, WIDTH, BLOCKS = 64, 64, 2
BATCH = 16  # windows in a step, over all processes
SYMBOLS = 128  # ASCII
log = logging.getLogger(__name__)


class Transformer(nn.Module):
    """The next character from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(BLOCKS)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS)

    def forward(self, windows: Tensor) -> Tensor:
        """The mean loss, in nats, over all characters of these windows but the first ones."""
        mask = nn.Transformer.generate_square_subsequent_mask(WINDOW, device=windows.device)
        states = self.symbols(windows[:, :-1]) + self.places.weight
        for block in self.blocks:
            states = block(states, src_mask=mask, is_causal=True)
        logits = self.head(self.norm(states))
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def read_text() -> Tensor:
    """Sources of Python's standard library, which are on every machine; other signs become '?'."""
    library = Path(sysconfig.get_path("stdlib"))
    modules = ("argparse", "difflib", "inspect", "pickletools", "statistics", "tarfile")
    text = "".join((library / f"{name}.py").read_text(encoding="utf-8") for name in modules)
    return torch.tensor(list(text.encode("ascii", "replace")))


def draw(text: Tensor, generator: torch.Generator) -> Tensor:
    """This process's windows of a batch. All draw the same starts, so one state fits them all."""
    starts = torch.randint(len(text) - WINDOW, (BATCH, 1), generator=generator)
    return text[starts[dist.get_rank() :: dist.get_world_size()] + torch.arange(WINDOW + 1)]


# Checkpoints: folder/step-N, whole if there is a .metadata, which is written last -----------------


def find(folder: Path) -> tuple[list[int], list[int]]:
    """Steps of the whole checkpoints and of the half-written ones, each from old to new."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))
    whole = [step for step in steps if (folder / f"step-{step}" / ".metadata").exists()]
    return whole, [step for step in steps if step not in whole]


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint: the first process looks and tells the others."""
    found: list[Path | None] = [None]
    if dist.get_rank() == 0:
        whole, half = find(folder)
        for step in half:
            log.info("step-%d is half-written: skipped", step)
        found = [folder / f"step-{whole[-1]}" if whole else None]
    dist.broadcast_object_list(found)
    return found[0]


def save(folder: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint; then the last two whole ones are kept and what is older is deleted."""
    path = folder / f"step-{state['step']}"
    if dist.get_rank() == 0 and path.exists():
        shutil.rmtree(path)  # half-written by a run that was killed
    dist.barrier()
    dcp.save(state, checkpoint_id=path)
    if dist.get_rank() == 0:
        whole, half = find(folder)
        for old in whole[:-2] + [step for step in half if step < state["step"]]:
            # The sign of being whole goes first: a kill may come before the rest is gone.
            (folder / f"step-{old}" / ".metadata").unlink(missing_ok=True)
            shutil.rmtree(folder / f"step-{old}")


# Training -----------------------------------------------------------------------------------------


def train(folder: Path, steps: int, save_every: int, log_every: int, device: torch.device) -> None:
    """Train up to this step, from the newest checkpoint in the folder or from the beginning."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    torch.manual_seed(0)
    model = Transformer().to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = AdamW_C(model.parameters(), lr=1e-3, weight_decay=0.1, capacity=5, decay=0.9)
    text, generator = read_text(), torch.Generator().manual_seed(0)

    def state(step: int) -> dict[str, Any]:
        weights, memory = get_state_dict(model, optimizer)
        place = generator.get_state()  # in the text; of torch's own generator too, with a dropout
        return {"model": weights, "optimizer": memory, "step": step, "place": place}

    done = 0
    if path := newest(folder):
        saved = state(0)  # each process reads its part into this
        dcp.load(saved, checkpoint_id=path)
        set_state_dict(
            model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
        )
        generator.set_state(saved["place"])
        done = saved["step"]
        log.info("going on from %s", path.name)

    for step in range(done + 1, steps + 1):
        optimizer.zero_grad()
        loss = model(draw(text, generator).to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % log_every == 0:
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)
            log.info("step %d: loss %.6f", step, mean.item())
        if step % save_every == 0 or step == steps:
            save(folder, state(step))


def main() -> None:
    """Join the other processes, if there are any, and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the checkpoints")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--log-every", type=int, default=10)
    options = parser.parse_args()
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        device, backend = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))), "nccl"
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:  # without torchrun
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if BATCH % dist.get_world_size():
        raise SystemExit(f"{BATCH} windows cannot be shared equally by {dist.get_world_size()}")
    level = logging.INFO if dist.get_rank() == 0 else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stdout, format="%(message)s")
    train(**vars(options), device=device)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
