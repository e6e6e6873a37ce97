"""accelerate with a memory: the example as users run it, resume, mixed precision, two processes."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState
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
from torch.optim.lr_scheduler import OneCycleLR

import gradmem
from gradmem.integrations.accelerate import log_memory
from gradmem.integrations.scalars import report_of
from gradmem.proximal import ProximalOptimizer

SHORT = ("--steps", "6", "--every", "2", "--save-every", "3")


@pytest.fixture(autouse=True)
def _own_state() -> Iterator[None]:
    """accelerate keeps one state per process, from the first Accelerator on."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def assert_same_end(folder: Path, other: Path) -> None:
    ends = [torch.load(each / "checkpoint-6" / "optimizer.bin") for each in (folder, other)]
    assert ends[0]["state"][0]["memory_birth"].dtype == torch.int64
    assert differences(*ends) == []
    models = [
        (each / "checkpoint-6" / "model.safetensors").read_bytes() for each in (folder, other)
    ]
    assert models[0] == models[1]


def test_the_program_trains_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    program, folder, other = EXAMPLES / "accelerate_loop.py", tmp_path / "a", tmp_path / "b"
    assert "step 6: validation" in run(program, "--folder", folder, *SHORT)
    shutil.copytree(folder / "checkpoint-3", other / "checkpoint-3")
    assert "going on after step 3" in run(program, "--folder", other, *SHORT, "--resume")
    assert_same_end(folder, other)
    shown, later = curves(folder), curves(other)
    assert list(shown["memory/occupied"].items()) == [(2, 2), (4, 4), (6, 6)]
    assert sorted(shown["bits"]) == [3, 6]
    for name, points in later.items():
        assert points == {step: shown[name][step] for step in points}, name


def test_mixed_precision_goes_on_bit_for_bit_and_the_curves_are_the_reports(tmp_path: Path) -> None:
    folder, other, options = tmp_path / "a", tmp_path / "b", [*SHORT, "--precision", "bf16"]
    loop = example("accelerate_loop")
    _, _, optimizer = loop.main(loop.parsed(["--folder", str(folder), *options]))
    shutil.copytree(folder / "checkpoint-3", other / "checkpoint-3")
    loop.main(loop.parsed(["--folder", str(other), *options, "--resume"]))
    assert_same_end(folder, other)
    found = curves(folder)
    for name, value in expected(report_of(optimizer)).items():
        assert found[f"memory/{name}"][6] == pytest.approx(value, rel=1e-6), name


def test_two_processes_decide_alike(tmp_path: Path) -> None:
    arguments = ["accelerate_loop", "--folder", tmp_path, *SHORT]
    printed = torchrun(TWO_PROCESSES, *arguments, processes=2, timeout=120)
    assert "rank 0 of 2 is equal" in printed
    assert "rank 1 of 2 is equal" in printed
    assert len(writers(tmp_path)) == 1
    assert sorted(curves(tmp_path)["memory/occupied"]) == [2, 4, 6]


# What accelerate does with an optimizer ----------------------------------------------------------

OPTIMIZERS = {
    "AdamW_C": lambda params: gradmem.AdamW_C(params, lr=1e-2, capacity=3, decay=0.9),
    "int8": lambda params: gradmem.AdamW_C(params, lr=1e-2, capacity=3, memory_dtype="int8"),
    "host": lambda params: gradmem.AdamW_C(params, lr=1e-2, capacity=3, memory_device="cpu"),
    "fused": lambda params: gradmem.AdamW_C(params, lr=1e-2, capacity=3, fused=True),
    "wrapped": lambda params: gradmem.MemoryAugmented(torch.optim.RAdam(params), capacity=3),
    "proximal": lambda params: ProximalOptimizer(gradmem.Adam_C(params, capacity=3), penalty=1e-4),
}
BATCHES = torch.randn(12, 4, 4, generator=torch.Generator().manual_seed(1))


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1)


def step(network, optimizer, batch) -> None:
    optimizer.zero_grad()
    network(batch).square().mean().backward()
    optimizer.step()


def assert_equal(one, other) -> None:
    states = [optimizer.state_dict()["state"] for _, optimizer in (one, other)]
    assert differences(*states) == []
    assert (
        differences(*([p.detach() for p in network.parameters()] for network, _ in (one, other)))
        == []
    )


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_preparing_an_optimizer_that_has_trained_keeps_every_bit(make) -> None:
    network, twin = model(), model()
    optimizer, other = make(network.parameters()), make(twin.parameters())
    for batch in BATCHES[:6]:
        step(network, optimizer, batch)
        step(twin, other, batch)
    prepared = Accelerator(cpu=True).prepare(optimizer)
    assert isinstance(prepared, AcceleratedOptimizer)
    for batch in BATCHES[6:]:
        step(network, prepared, batch)
        step(twin, other, batch)
    assert_equal((network, prepared), (twin, other))
    for copied in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert report_of(copied) == report_of(other)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_step_that_the_scaler_skips_is_none_for_the_memory(make) -> None:
    """On the CPU, where accelerate itself makes no scaler; the schedule patches `step` as well."""
    Accelerator(cpu=True)
    network, twin = model(), model()
    optimizer, other = make(network.parameters()), make(twin.parameters())
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    schedules = [OneCycleLR(each, 1e-2, total_steps=50) for each in (optimizer, other)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    prepared = AcceleratedOptimizer(optimizer, scaler=scaler)
    for i, batch in enumerate(BATCHES):
        prepared.zero_grad()
        loss = network(batch).square().mean()
        scaler.scale(loss * float("inf") if i == 5 else loss).backward()
        prepared.step()
        assert prepared.step_was_skipped == (i == 5)
        if i != 5:
            step(twin, other, batch)
            for schedule in schedules:
                schedule.step()
    assert len(calls) == report_of(prepared).scopes[0].steps == len(BATCHES) - 1
    assert_equal((network, prepared), (twin, other))


def test_only_the_main_process_reads_and_logs() -> None:
    class Process:
        is_main_process = False
        logged: list[tuple] = []  # noqa: RUF012

        def log(self, values, step) -> None:
            self.logged.append((values, step))

    process = Process()
    log_memory(process, None, step=3)  # not even looked at
    process.is_main_process = True
    log_memory(process, OPTIMIZERS["wrapped"](model().parameters()), step=3, prefix="m")
    ((values, at),) = process.logged
    assert (values["m/occupied"], at) == (0, 3)
    with pytest.raises(gradmem.OptionTypeError, match="no memory to report on in SGD"):
        log_memory(process, torch.optim.SGD(model().parameters()), step=3)
