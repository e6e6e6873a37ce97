"""A small transformer on Python's own sources: a training loop with accelerate and AdamW_C.

    python accelerate_loop.py --folder runs/loop
    torchrun --nproc-per-node 2 accelerate_loop.py --folder runs/loop
    tensorboard --logdir runs/loop

If it is killed, the same command with ``--resume`` goes on from the last checkpoint and ends where
it would have ended, bit for bit. Needs pip install 'gradmem[accelerate]'.
"""

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from text import TRAINING, VALIDATION, Transformer, windows
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

import gradmem
from gradmem.integrations.accelerate import log_memory
from gradmem.integrations.scalars import report_of

LENGTH, BATCH, ACCUMULATED, LR = 65, 8, 2, 2e-3


@dataclass
class Progress:
    """How far the run has come; accelerate saves and loads it with the rest."""

    batches: int = 0
    steps: int = 0

    state_dict = asdict

    def load_state_dict(self, saved: dict[str, int]) -> None:
        """Go on from there."""
        self.batches, self.steps = saved["batches"], saved["steps"]


def main(options: argparse.Namespace) -> tuple[Accelerator, torch.nn.Module, torch.optim.Optimizer]:
    """Train, and say how well it went."""
    accelerator = Accelerator(
        # Without this several processes would each train alone on a machine without accelerators.
        cpu=not torch.accelerator.is_available(),
        gradient_accumulation_steps=ACCUMULATED,
        mixed_precision=options.precision,
        log_with="tensorboard",
        project_dir=options.folder,
    )
    accelerator.init_trackers("logs")
    set_seed(0)
    rows, held_out = windows(TRAINING, LENGTH), windows(VALIDATION, LENGTH)[:128]
    # One random order for the whole run, so that going on is skipping what was seen.
    draws = options.steps * ACCUMULATED * BATCH * accelerator.num_processes
    order = torch.randint(len(rows), (draws,), generator=torch.Generator().manual_seed(0))
    model = Transformer(LENGTH)
    optimizer = gradmem.AdamW_C(model.parameters(), lr=LR, capacity=10, decay=0.9)
    # A prepared schedule takes as many steps at once as there are processes.
    schedule = CosineAnnealingLR(optimizer, options.steps * accelerator.num_processes)
    # A loader that is begun draws a number; not from the generator that dropout goes on with.
    own = torch.Generator()
    loader = DataLoader(rows, batch_size=BATCH, sampler=order.tolist(), generator=own)
    model, optimizer, schedule, loader = accelerator.prepare(model, optimizer, schedule, loader)
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    if options.resume:
        checkpoints = options.folder.glob("checkpoint-*")
        accelerator.load_state(max(checkpoints, key=lambda path: int(path.name.split("-")[1])))
        accelerator.print(f"going on after step {progress.steps}")

    for batch in accelerator.skip_first_batches(loader, progress.batches):
        with accelerator.accumulate(model):
            loss = model(batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        progress.batches += 1
        if not accelerator.sync_gradients:
            continue
        progress.steps += 1
        if progress.steps % options.every == 0:
            accelerator.log({"loss": loss.item()}, step=progress.steps)
            log_memory(accelerator, optimizer, step=progress.steps)
        if progress.steps % options.save_every == 0 or progress.steps == options.steps:
            bits = validate(model, held_out.to(accelerator.device))
            accelerator.log({"bits": bits}, step=progress.steps)
            accelerator.print(f"step {progress.steps}: validation {bits:.3f} bits per byte")
            accelerator.save_state(options.folder / f"checkpoint-{progress.steps}")
    accelerator.end_training()
    accelerator.print(report_of(optimizer))
    return accelerator, model, optimizer


@torch.no_grad()
def validate(model: torch.nn.Module, rows: torch.Tensor) -> float:
    """Bits per byte of text that was not trained on."""
    model.eval()
    bits = model(rows).item() / math.log(2)
    model.train()
    return bits


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/loop"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="steps between logs")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parsed())
