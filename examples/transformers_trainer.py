"""A small GPT-2 on Python's own sources with transformers' Trainer and AdamW_C.

    python transformers_trainer.py --folder runs/trainer
    torchrun --nproc-per-node 2 transformers_trainer.py --folder runs/trainer
    tensorboard --logdir runs/trainer

If it is killed, the same command with ``--resume`` goes on from the last checkpoint and ends where
it would have ended, bit for bit. With ``--wrap adafactor`` the memory is around torch's Adafactor.
Needs pip install 'gradmem[transformers]'.
"""

import argparse
import math
from pathlib import Path

import torch
from text import SYMBOLS, TRAINING, VALIDATION, windows
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from transformers import get_cosine_schedule_with_warmup as cosine

import gradmem
from gradmem.integrations.scalars import report_of
from gradmem.integrations.transformers import MemoryReportCallback

LENGTH, LR, WARMUP = 64, 2e-3, 20


def main(options: argparse.Namespace) -> Trainer:
    """Train, and say how well it went."""
    set_seed(0)
    config = GPT2Config(
        vocab_size=SYMBOLS,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        output_dir=str(options.folder),
        max_steps=options.steps,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        weight_decay=0.1,
        max_grad_norm=5.0,  # by default 1: all larger norms would be 1, and the memory a queue
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        logging_steps=options.every,
        eval_strategy="steps",
        eval_steps=options.save_every,
        save_steps=options.save_every,
        report_to="tensorboard",
        # Without this several processes would each train alone on a machine without accelerators.
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.accelerator.is_available(),
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=examples(TRAINING),
        eval_dataset=examples(VALIDATION)[:64],
        **optimizer_for(model, options),
    )
    trainer.add_callback(MemoryReportCallback(trainer))
    trainer.train(resume_from_checkpoint=options.resume)
    bits = trainer.evaluate()["eval_loss"] / math.log(2)
    if trainer.is_world_process_zero():
        print(report_of(trainer.optimizer))
        print(f"step {trainer.state.global_step}: validation {bits:.3f} bits per byte")
    return trainer


def optimizer_for(model: torch.nn.Module, options: argparse.Namespace) -> dict[str, object]:
    """What the Trainer is told of its optimizer: a class and options, or one already made.

    The Trainer hands a class two groups of parameters, with the weight decay of TrainingArguments
    and without, and makes the schedule; one already made comes with its own. Either way it does not
    look at the learning_rate of TrainingArguments: say it here.
    """
    if options.wrap is None:
        choice = {"lr": LR, "capacity": 10, "decay": 0.9}
        return {"optimizer_cls_and_kwargs": (gradmem.AdamW_C, choice)}
    base = {"adafactor": torch.optim.Adafactor, "radam": torch.optim.RAdam}[options.wrap]
    optimizer = gradmem.MemoryAugmented(base(model.parameters(), lr=LR), capacity=10, decay=0.9)
    return {"optimizers": (optimizer, cosine(optimizer, WARMUP, options.steps))}


def examples(modules: tuple[str, ...]) -> list[dict[str, torch.Tensor]]:
    """Windows of text that are to be predicted from themselves; GPT-2 moves them on by one."""
    return [{"input_ids": row, "labels": row} for row in windows(modules, LENGTH)]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/trainer"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="steps between logs")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--wrap", choices=("adafactor", "radam"), help="around torch's")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parsed())
