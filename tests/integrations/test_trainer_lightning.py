"""lightning with a memory: the example as users run it, resume, both ways to step, processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, StochasticWeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import TensorBoardLogger
from programs import (
    EXAMPLES,
    TWO_PROCESSES,
    curves,
    differences,
    example,
    expected,
    run,
    writers,
)
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

import gradmem
from gradmem.integrations.lightning import MemoryReportCallback
from gradmem.integrations.scalars import report_of
from gradmem.memory import norms
from gradmem.proximal import ProximalOptimizer

SHORT = ("--epochs", "2", "--steps", "4", "--every", "2")

# What lightning says of torch, of loaders without workers, of folders that are there, and of what
# is done here on purpose.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        r"The '\w+_dataloader' does not have many workers",
        r"Checkpoint directory .* exists and is not empty",
        r"The dirpath has changed from",
        r"`training_step` returned `None`",
        r"SWA is currently only supported every epoch",
    )
]


def assert_same_end(folder: Path, other: Path) -> None:
    ends = [torch.load(each / "epoch=1.ckpt") for each in (folder, other)]
    assert ends[0]["global_step"] == 8
    assert ends[0]["optimizer_states"][0]["state"][0]["memory_priority"].dtype == torch.float64
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert differences(*(end[key] for end in ends)) == [], key


def test_the_program_trains_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    program, folder, other = EXAMPLES / "lightning_trainer.py", tmp_path / "a", tmp_path / "b"
    assert "step 8: validation" in run(program, "--folder", folder, *SHORT)
    other.mkdir()
    shutil.copy(folder / "epoch=0.ckpt", other / "last.ckpt")
    run(program, "--folder", other, *SHORT, "--resume")
    assert_same_end(folder, other)
    shown, later = curves(folder), curves(other)
    # lightning counts from 0, here as for the loss.
    assert list(shown["memory/occupied"].items()) == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert list(shown["loss"]) == [1, 3, 5, 7]
    assert list(later["memory/occupied"]) == [5, 7]
    for name, points in later.items():
        assert points == {step: shown[name][step] for step in points}, name


def test_mixed_precision_and_the_curves_are_the_reports(tmp_path: Path) -> None:
    options = ["--folder", str(tmp_path), *SHORT, "--precision", "bf16-mixed"]
    program = example("lightning_trainer")
    trainer = program.main(program.parsed([*options, "--accelerator", "cpu"]))
    found = curves(tmp_path)
    for name, value in expected(report_of(trainer.optimizers[0])).items():
        assert found[f"memory/{name}"][7] == pytest.approx(value, rel=1e-6), name


def test_two_processes_decide_alike(tmp_path: Path) -> None:
    options = ["--folder", tmp_path, *SHORT, "--accelerator", "cpu", "--devices", 2]
    printed = run(TWO_PROCESSES, "lightning_trainer", *options)  # lightning starts the other one
    assert "rank 0 of 2 is equal" in printed
    assert "rank 1 of 2 is equal" in printed
    assert len(writers(tmp_path)) == 1


# What lightning does with an optimizer -----------------------------------------------------------

OPTIMIZERS = {
    "AdamW_C": lambda params: gradmem.AdamW_C(params, lr=1e-2, capacity=3, decay=0.9),
    "fused": lambda params: gradmem.AdamW_C(params, lr=1e-2, capacity=3, fused=True),
    "wrapped": lambda params: gradmem.MemoryAugmented(torch.optim.RAdam(params), capacity=3),
    "proximal": lambda params: ProximalOptimizer(gradmem.Adam_C(params, capacity=3), penalty=1e-4),
}
all_optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
BATCHES = torch.randn(12, 4, 4, generator=torch.Generator().manual_seed(1))


class Module(LightningModule):
    """One step a batch, by lightning or, in manual optimization, by the module itself."""

    def __init__(self, make, manual: bool = False, skipped: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 1)
        self.make, self.skipped, self.calls = make, skipped, 0
        self.automatic_optimization = not manual

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        optimizer.register_step_post_hook(lambda *_: self.count())
        schedule = OneCycleLR(optimizer, 1e-2, total_steps=100)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def count(self) -> None:
        self.calls += 1

    def training_step(self, batch, index):
        if index in self.skipped:
            return None
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, 0.5, "norm")
        optimizer.step()
        self.lr_schedulers().step()
        return None


def fitted(module: LightningModule, *callbacks, **options) -> Trainer:
    if module.automatic_optimization:
        options["gradient_clip_val"] = 0.5
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=options.pop("max_epochs", 1),
        logger=options.pop("logger", False),
        log_every_n_steps=options.pop("log_every_n_steps", 3),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(BATCHES, batch_size=None))
    return trainer


def by_hand(module: Module):
    """The same steps without lightning."""
    (optimizer,), (choice,) = module.configure_optimizers()
    for batch in BATCHES:
        optimizer.zero_grad()
        module.layer(batch).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
        choice["scheduler"].step()
    return optimizer


class ClippedByOptimizer(Module):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        optimizer.clip_grad_norm_(gradient_clip_val)


def test_clipping_by_the_optimizer_measures_once(monkeypatch) -> None:
    plain = Module(OPTIMIZERS["AdamW_C"])
    by_hand(plain)
    measured, whole = [], norms.squared_norms

    def counting(*arguments):
        measured.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(norms, "squared_norms", counting)
    module = ClippedByOptimizer(OPTIMIZERS["AdamW_C"])
    fitted(module)
    assert len(measured) == len(BATCHES)
    torch.testing.assert_close(module.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-7)


@all_optimizers
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_both_optimizations_take_the_steps_of_a_plain_loop(make, manual: bool) -> None:
    module, plain = Module(make, manual), Module(make)
    trainer, optimizer = fitted(module), by_hand(plain)
    assert module.calls == plain.calls == trainer.global_step == len(BATCHES)
    states = [each.state_dict() for each in (trainer.optimizers[0], optimizer)]
    assert differences(*states) == []
    assert differences(module.state_dict(), plain.state_dict()) == []


@all_optimizers
def test_a_batch_without_a_loss_is_none_for_the_memory(make) -> None:
    trainer = fitted(Module(make, skipped=(2, 7)))
    assert report_of(trainer.optimizers[0]).scopes[0].steps == len(BATCHES) - 2


@all_optimizers
def test_lightnings_own_callbacks_do_with_it(make, tmp_path: Path) -> None:
    monitor = LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    averaging = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1)
    logger = TensorBoardLogger(tmp_path)
    trainer = fitted(Module(make), monitor, averaging, max_epochs=3, logger=logger)
    assert report_of(trainer.optimizers[0]).scopes[0].occupied == 3
    assert "swa_lr" in trainer.optimizers[0].param_groups[0]


@all_optimizers
def test_lightnings_wrapper_says_what_the_optimizer_says(make) -> None:
    optimizer = by_hand(Module(make))
    wrapper, before = LightningOptimizer(optimizer), optimizer.state_dict()
    assert report_of(wrapper) == report_of(optimizer) == wrapper.memory_report()
    assert differences(optimizer.state_dict(), before) == []


@all_optimizers
def test_fabric_saves_and_loads_every_bit(make, tmp_path: Path) -> None:
    fabric, ends = Fabric(accelerator="cpu"), []
    for resumed in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 1)
        network, optimizer = fabric.setup(network, make(network.parameters()))
        if resumed:
            fabric.load(tmp_path / "state", {"network": network, "optimizer": optimizer})
        for i, batch in enumerate(BATCHES):
            if not resumed or i >= 6:
                optimizer.zero_grad()
                fabric.backward(network(batch).square().mean())
                optimizer.step()
            if not resumed and i == 5:
                fabric.save(tmp_path / "state", {"network": network, "optimizer": optimizer})
        ends.append([network.state_dict(), optimizer.state_dict()["state"]])
        assert report_of(optimizer).scopes[0].steps == len(BATCHES)
    assert differences(*ends) == []


# The callback ------------------------------------------------------------------------------------


class TwoOptimizers(LightningModule):
    def __init__(self, *makes) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 1) for _ in makes)
        self.makes = makes
        self.automatic_optimization = False

    def configure_optimizers(self):
        pairs = zip(self.makes, self.layers, strict=True)
        return [make(layer.parameters()) for make, layer in pairs]

    def training_step(self, batch):
        for optimizer, layer in zip(self.optimizers(), self.layers, strict=True):
            optimizer.zero_grad()
            loss = layer(batch).square().mean()
            self.manual_backward(loss)
            optimizer.step()
        self.log("loss", loss)


def test_several_optimizers_are_counted_on_the_axis_of_the_loss(tmp_path: Path) -> None:
    module = TwoOptimizers(
        OPTIMIZERS["AdamW_C"], lambda p: torch.optim.SGD(p, lr=0.1), OPTIMIZERS["wrapped"]
    )
    trainer = fitted(module, MemoryReportCallback(), logger=TensorBoardLogger(tmp_path))
    found = curves(tmp_path)
    assert trainer.global_step == 3 * len(BATCHES)
    for i in (0, 2):
        assert list(found[f"memory/optimizer_{i}/occupied"]) == list(found["loss"]) == [2, 5, 8, 11]
        for name, value in expected(report_of(trainer.optimizers[i])).items():
            assert found[f"memory/optimizer_{i}/{name}"][11] == pytest.approx(value, rel=1e-6)
    assert not any("optimizer_1" in name for name in found)


@pytest.mark.parametrize(("every", "steps"), [(None, [2]), (1, [0, 1, 2, 3]), (2, [1, 3])])
def test_it_logs_once_a_step_while_gradients_are_accumulated(tmp_path: Path, every, steps) -> None:
    module, plain = Module(OPTIMIZERS["AdamW_C"]), Module(OPTIMIZERS["AdamW_C"])
    options = {"accumulate_grad_batches": 3}
    fitted(module, MemoryReportCallback(every), logger=TensorBoardLogger(tmp_path), **options)
    fitted(plain, **options)
    assert curves(tmp_path)["memory/occupied"] == {at: min(at + 1, 3) for at in steps}
    assert differences(module.state_dict(), plain.state_dict()) == []  # the same bits with it


def test_other_processes_and_no_logging_read_nothing() -> None:
    callback = MemoryReportCallback()
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0))
    trainer = SimpleNamespace(global_step=1, fit_loop=loop, loggers=None, optimizers=None)
    for first, every in ((False, 1), (True, 0)):
        trainer.is_global_zero, trainer.log_every_n_steps = first, every
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None, None, None, 0)
    trainer.is_global_zero, trainer.log_every_n_steps = True, 1
    trainer.global_step += 1
    with pytest.raises(TypeError):
        callback.on_train_batch_end(trainer, None, None, None, 0)


def test_optimizers_without_a_memory_are_refused_before_they_train() -> None:
    module = Module(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))
    with pytest.raises(gradmem.OptionTypeError, match="no memory to report on in SGD"):
        fitted(module, MemoryReportCallback())
    assert module.calls == 0


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(gradmem.OptionError, match="every_n_steps must be at least 1"):
        MemoryReportCallback(0)
