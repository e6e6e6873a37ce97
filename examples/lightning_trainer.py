"""A small transformer on Python's own sources with lightning's Trainer and AdamW_C.

    python lightning_trainer.py --folder runs/lightning
    python lightning_trainer.py --folder runs/lightning --devices 2
    tensorboard --logdir runs/lightning

If it is killed, the same command with ``--resume`` goes on from the last checkpoint and ends where
it would have ended, bit for bit. Needs pip install 'gradmem[lightning]'.
"""

import argparse
import math
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from text import TRAINING, VALIDATION, Transformer, windows
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

import gradmem
from gradmem.integrations.lightning import MemoryReportCallback
from gradmem.integrations.scalars import report_of

LENGTH, BATCH, LR = 65, 16, 2e-3


class Reader(LightningModule):
    """The transformer, what it reads, its optimizer and its schedule."""

    def __init__(self, epochs: int, steps: int) -> None:
        super().__init__()
        self.model = Transformer(LENGTH)
        self.epochs, self.steps = epochs, steps

    def training_step(self, rows: torch.Tensor) -> torch.Tensor:
        """The loss of a batch."""
        loss: torch.Tensor = self.model(rows)
        self.log("loss", loss)
        return loss

    def validation_step(self, rows: torch.Tensor) -> None:
        """Bits per byte of text that is not trained on."""
        self.log("bits", self.model(rows) / math.log(2), sync_dist=True)

    def configure_optimizers(self) -> dict[str, object]:
        """The optimizer, and a schedule that takes a step with it."""
        optimizer = gradmem.AdamW_C(self.parameters(), lr=LR, capacity=10, decay=0.9)
        schedule = OneCycleLR(optimizer, max_lr=LR, total_steps=self.epochs * self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # lightning's checkpoints hold no state of a generator or a loader. What is drawn here depends
    # on the number of the epoch alone, so a run that is resumed draws the same.

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        """The batches of this epoch; made anew for each."""
        rows, draws = windows(TRAINING, LENGTH), self.steps * BATCH * self.trainer.world_size
        own = torch.Generator().manual_seed(self.current_epoch)
        order = torch.randint(len(rows), (draws,), generator=own)
        return DataLoader(rows[order], BATCH, generator=own)

    def on_train_epoch_start(self) -> None:
        """Begin dropout's random numbers anew; without one of its own a loader would draw too."""
        torch.manual_seed(self.current_epoch * self.trainer.world_size + self.global_rank)


def main(options: argparse.Namespace) -> Trainer:
    """Train, and say how well it went."""
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=options.epochs,
        reload_dataloaders_every_n_epochs=1,
        accelerator=options.accelerator,
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        precision=options.precision,
        gradient_clip_val=5.0,
        log_every_n_steps=options.every,
        logger=TensorBoardLogger(options.folder, name="logs"),
        callbacks=[
            ModelCheckpoint(options.folder, "{epoch}", save_top_k=-1, save_last=True),
            MemoryReportCallback(),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Reader(options.epochs, options.steps),
        val_dataloaders=DataLoader(windows(VALIDATION, LENGTH)[:128], batch_size=64),
        ckpt_path="last" if options.resume else None,
    )
    if trainer.is_global_zero:
        bits = trainer.callback_metrics["bits"]
        print(report_of(trainer.optimizers[0]))
        print(f"step {trainer.global_step}: validation {bits:.3f} bits per byte")
    return trainer


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/lightning"))
    parser.add_argument("--epochs", type=int, default=4, help="with a checkpoint after each")
    parser.add_argument("--steps", type=int, default=50, help="in each epoch")
    parser.add_argument("--every", type=int, default=10, help="steps between logs")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", default="32-true", help="bf16-mixed, 16-mixed, ...")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parsed())
