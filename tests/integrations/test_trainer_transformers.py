"""transformers' Trainer with a memory: the example as users run it, resume, logs, two processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from programs import (
    EXAMPLES,
    TWO_PROCESSES,
    curves,
    differences,
    example,
    expected,
    run,
    torchrun,
    writers,
)
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import gradmem
from gradmem.integrations.scalars import report_of
from gradmem.integrations.transformers import MemoryReportCallback

SHORT = ("--steps", "6", "--every", "2", "--save-every", "3")


def resumed_from_the_middle(folder: Path, other: Path) -> None:
    """Another folder, as a run that was killed after its third step leaves it."""
    shutil.copytree(folder / "checkpoint-3", other / "checkpoint-3")


def assert_same_end(folder: Path, other: Path) -> None:
    ends = [torch.load(each / "checkpoint-6" / "optimizer.pt") for each in (folder, other)]
    assert ends[0]["state"][0]["memory_priority"].dtype == torch.float64
    assert differences(*ends) == []
    models = [
        (each / "checkpoint-6" / "model.safetensors").read_bytes() for each in (folder, other)
    ]
    assert models[0] == models[1]


def test_the_program_trains_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    program, folder, other = EXAMPLES / "transformers_trainer.py", tmp_path / "a", tmp_path / "b"
    printed = run(program, "--folder", folder, *SHORT)
    assert "step 6: validation" in printed
    assert "6/10" in printed  # the table of the memory
    resumed_from_the_middle(folder, other)
    run(program, "--folder", other, *SHORT, "--resume")
    assert_same_end(folder, other)
    shown, later = curves(folder), curves(other)
    assert list(shown["train/memory/occupied"].items()) == [(2, 2), (4, 4), (6, 6)]
    assert sorted(shown["train/loss"]) == [2, 4, 6]
    for name in (name for name in shown if "memory" in name):
        assert later[name] == {step: shown[name][step] for step in (4, 6)}


def test_a_wrapped_optimizer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    program = example("transformers_trainer")
    folder, other, options = tmp_path / "a", tmp_path / "b", [*SHORT, "--wrap", "radam"]
    trainer = program.main(program.parsed(["--folder", str(folder), *options]))
    resumed_from_the_middle(folder, other)
    again = program.main(program.parsed(["--folder", str(other), *options, "--resume"]))
    assert_same_end(folder, other)
    assert report_of(trainer.optimizer) == report_of(again.optimizer)
    found = curves(folder)
    for name, value in expected(report_of(trainer.optimizer)).items():
        assert found[f"train/memory/{name}"][6] == pytest.approx(value, rel=1e-6), name


# A small Trainer ---------------------------------------------------------------------------------

CONFIG = GPT2Config(
    vocab_size=32,
    n_positions=16,
    n_embd=8,
    n_layer=1,
    n_head=1,
    bos_token_id=None,
    eos_token_id=None,
)


def trainer_of(folder: Path, optimizer=None, callback: bool = True, **arguments) -> Trainer:
    set_seed(0)
    model = GPT2LMHeadModel(CONFIG)
    rows = torch.randint(32, (64, 16))
    options = {"max_steps": 6, "logging_steps": 2, "save_strategy": "no", "report_to": "none"}
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
            **{**options, **arguments},
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        optimizer_cls_and_kwargs=optimizer or (gradmem.AdamW_C, {"lr": 1e-3, "capacity": 3}),
    )
    if callback:
        trainer.add_callback(MemoryReportCallback(trainer))
    return trainer


def trained(folder: Path, optimizer=None, callback: bool = True, **arguments) -> Trainer:
    trainer = trainer_of(folder, optimizer, callback, **arguments)
    trainer.train()
    return trainer


def parameters(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach() for p in trainer.model.parameters()]


def test_the_callback_changes_no_bit(tmp_path: Path) -> None:
    one, other = trained(tmp_path), trained(tmp_path, callback=False)
    assert differences(parameters(one), parameters(other)) == []
    logs = [entry for entry in one.state.log_history if "memory/occupied" in entry]
    assert [(entry["step"], entry["memory/occupied"]) for entry in logs] == [(2, 2), (4, 3), (6, 3)]
    rest = [sorted(entry) for entry in one.state.log_history if "memory/occupied" not in entry]
    assert rest == [sorted(entry) for entry in other.state.log_history]


def test_without_a_memory_it_is_the_trainer_with_torch(tmp_path: Path) -> None:
    one = trained(tmp_path, (gradmem.AdamW_C, {"lr": 1e-3, "capacity": 0}))
    other = trained(tmp_path, (torch.optim.AdamW, {"lr": 1e-3}), callback=False)
    assert differences(parameters(one), parameters(other)) == []


def test_the_memory_takes_one_gradient_a_step_whatever_is_accumulated(tmp_path: Path) -> None:
    trainer = trained(tmp_path, gradient_accumulation_steps=3, max_steps=4)
    assert report_of(trainer.optimizer).scopes[0].steps == 4


def test_norms_above_the_trainers_clipping_are_told_apart_no_more(tmp_path: Path) -> None:
    """What the page on the Trainer warns of; its default is 1, and these norms are smaller."""
    free, clipped = trained(tmp_path), trained(tmp_path, max_grad_norm=0.1)
    norms = report_of(free.optimizer).scopes[0].norms
    assert 0.1 < min(norms) < 0.9 * max(norms)
    assert report_of(clipped.optimizer).scopes[0].norms == pytest.approx([0.1] * 3, rel=1e-4)
    assert sorted(report_of(clipped.optimizer).scopes[0].ages) == [1, 2, 3]  # the last ones


def test_what_the_trainer_looks_at_of_its_arguments(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, learning_rate=0.5, weight_decay=0.3)
    trainer.create_optimizer()
    groups = trainer.optimizer.param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-3, 0.3), (1e-3, 0.0)]


def test_an_optimizer_without_a_memory_is_refused_before_it_trains(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, (torch.optim.AdamW, {"lr": 1e-3}))
    with pytest.raises(gradmem.OptionTypeError, match="AcceleratedOptimizer around AdamW"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_it_logs_after_training_losses_of_the_first_process_alone(tmp_path: Path) -> None:
    logged = []
    callback = MemoryReportCallback(SimpleNamespace(log=logged.append), prefix="m")
    optimizer = gradmem.Adam_C([torch.nn.Parameter(torch.ones(2))], capacity=2)
    first, second = (SimpleNamespace(is_world_process_zero=zero) for zero in (True, False))
    callback.on_log(None, second, None, logs={"loss": 1.0}, optimizer=optimizer)
    callback.on_log(None, first, None, logs={"eval_loss": 1.0}, optimizer=optimizer)
    callback.on_log(None, first, None, logs={"m/occupied": 1.0}, optimizer=optimizer)
    assert logged == []
    callback.on_log(None, first, None, logs={"loss": 1.0}, optimizer=optimizer)
    assert [entry["m/occupied"] for entry in logged] == [0]


def test_two_processes_decide_alike(tmp_path: Path) -> None:
    arguments = ["transformers_trainer", "--folder", tmp_path, *SHORT]
    printed = torchrun(TWO_PROCESSES, *arguments, processes=2, timeout=120)
    assert "rank 0 of 2 is equal" in printed
    assert "rank 1 of 2 is equal" in printed
    assert len(writers(tmp_path)) == 1
    assert sorted(curves(tmp_path)["train/memory/occupied"]) == [2, 4, 6]
