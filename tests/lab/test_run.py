import json
import math
import random
from dataclasses import replace

import pytest
import torch

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.errors import StoreError
from gradmem.lab.optimizers import OPTIMIZERS, available
from gradmem.lab.run import RunResult, one_thread, state_bytes, train
from gradmem.lab.tasks.base import Batch
from gradmem.lab.tasks.digits import Digits
from gradmem.lab.training import Training
from gradmem.lab.tune import trial_options

from .helpers import Line, config, untimed


class Counted:
    """The digits' splits, counting how often the test part is read."""

    def __init__(self):
        self.reads = 0
        parts = Digits().data()
        self.train, self.validation, self._test = parts.train, parts.validation, parts.test

    @property
    def test(self):
        self.reads += 1
        return self._test


class Instrumented(Digits):
    def __init__(self):
        self.splits = Counted()
        self.losses_until_nan = math.inf

    def data(self):
        return self.splits

    def loss(self, model, batch):
        self.losses_until_nan -= 1
        loss = super().loss(model, batch)
        return loss if self.losses_until_nan > 0 else loss * math.nan


def test_the_split_is_fixed_disjoint_and_stratified():
    parts = Digits().data()
    sizes = [len(part) for part in (parts.train, parts.validation, parts.test)]
    assert sizes == [1077, 360, 360]
    for part in (parts.validation, parts.test):
        assert part.targets.bincount(minlength=10).tolist() == pytest.approx([36] * 10, abs=1.1)
    images = torch.cat([parts.train.inputs, parts.validation.inputs, parts.test.inputs])
    assert len(images) == 1797
    assert len(images.unique(dim=0)) == 1797
    # Pinned, so that it cannot change unnoticed: raise Digits.version when it has to.
    assert parts.test.targets[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


@pytest.mark.parametrize("name", [spec.name for spec in available()])
def test_two_runs_of_one_config_are_the_same(name):
    options = trial_options(OPTIMIZERS[name], 1)[0]
    run = config(optimizer=name, options={**options, "lr": 0.01})
    once, again = (train(Digits(), run) for _ in range(2))
    assert untimed(once) == untimed(again)
    assert once.status == "ok"
    assert len(once.curves.train_loss) == 2
    assert once.best_epoch in (1, 2)


def test_another_seed_is_another_run():
    assert train(Digits(), config(seed=100)).curves != train(Digits(), config(seed=101)).curves


def test_a_run_leaves_the_global_generator_and_the_threads_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train(Digits(), config())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_are_restored_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / (torch.get_num_threads() - 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("purpose", "reads"), [("tune", 0), ("evaluate", 1)])
def test_the_test_split_is_read_once_and_never_while_tuning(purpose, reads):
    task = Instrumented()
    result = train(task, config(purpose=purpose))
    assert task.splits.reads == reads
    assert (result.test_score is None) == (reads == 0)


def test_the_test_score_is_that_of_the_best_epoch():
    short = train(Digits(), config(epochs=1))
    spoiled = Instrumented()
    # The second epoch is harmless to the first one's weights only if these were kept.
    spoiled.loss = lambda model, batch: (
        Digits.loss(spoiled, model, batch)
        * (1 if torch.is_grad_enabled() or _is_first(spoiled) else 1e6)
    )
    result = train(spoiled, config(epochs=2))
    assert result.best_epoch == 1
    assert result.test_score == short.test_score


def test_what_a_task_tells_of_the_test_split_is_kept():
    task = Instrumented()
    task.details = lambda model, batch: {"examples": len(batch), "training": model.training}
    result = train(task, config())
    assert result.details == {"examples": 360, "training": False}
    assert task.splits.reads == 1
    assert RunResult.from_json(json.loads(json.dumps(result.to_json()))).details == result.details
    assert train(task, config(purpose="tune")).details == {}


def _is_first(task):
    task.validations = getattr(task, "validations", 0) + 1
    return task.validations == 1


@pytest.mark.parametrize("name", ["adam", "adam_c"])
@pytest.mark.parametrize("losses", [1, 50])
def test_a_diverged_run_counts_with_the_worst_score(name, losses):
    task = Instrumented()
    task.losses_until_nan = losses
    result = train(task, config(optimizer=name))
    assert result.status == "diverged"
    assert result.test_score == result.validation_score == 0.0
    assert result.validation_loss == math.inf
    assert result.best_epoch is result.steps_to_target is None
    assert len(result.curves.validation_loss) == losses // 35
    assert task.splits.reads == 0
    assert RunResult.from_json(result.to_json()) == result


def test_an_infinite_score_is_kept():
    result = train(Digits(), config())
    result = replace(result, validation_score=math.inf, test_score=-math.inf)
    assert RunResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_a_run_that_really_explodes():
    assert train(Digits(), config(optimizer="sgd", options={"lr": 1e38})).status == "diverged"


def test_steps_to_target_are_whole_epochs_of_the_first_time():
    task = Digits()
    task.target = 0.5
    result = train(task, config(epochs=3))
    first = next(i for i, s in enumerate(result.curves.validation_score, 1) if s >= 0.5)
    assert result.steps_to_target == first * 34
    task.target = 1.1
    assert train(task, config()).steps_to_target is None


def test_memory_of_the_state_counts_a_shared_storage_once():
    weight = torch.nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    buffer = torch.zeros(8)
    optimizer.state[weight] = {"a": buffer, "b": [buffer[:2], {"c": torch.zeros(3).double()}]}
    assert state_bytes(optimizer) == 8 * 4 + 3 * 8


def test_adam_holds_two_moments_and_the_memory_adds_its_slots():
    adam, adam_c = (train(Digits(), config(optimizer=name)) for name in ("adam", "adam_c"))
    elements = 64 * 32 + 32 + 32 * 10 + 10
    assert adam.state_bytes == 2 * 4 * elements + 4 * 4  # a step counter per tensor
    assert adam_c.state_bytes >= adam.state_bytes + 10 * 4 * elements
    (scope,) = adam_c.memory
    assert scope["steps"] == 68
    assert scope["occupied"] == scope["capacity"] == 10
    assert adam.memory == ()


class Dropped(Line):
    """Whose model draws from torch's generator at every step."""

    def model(self, seed):
        made = super().model(seed)
        sequence = torch.nn.Sequential(torch.nn.Dropout(0.5), made, torch.nn.BatchNorm1d(1))
        sequence.logged = True
        return sequence


class Stopped(BaseException):
    """As a kill would, it passes by everything that handles errors."""


def stop_after(epochs):
    def onlooker(epoch):
        if epoch.number == epochs:
            raise Stopped

    return onlooker


@pytest.mark.parametrize("name", [spec.name for spec in available()])
def test_an_interrupted_run_goes_on_from_its_epoch_bit_for_bit(tmp_path, name):
    options = {**trial_options(OPTIMIZERS[name], 1)[0], "lr": 0.01}
    run = config(task="line", optimizer=name, options=options, epochs=8, batch_size=7)
    whole = train(Dropped(), run)
    assert whole.status == "ok"
    keep = Checkpoints(tmp_path, 0.0, warn=pytest.fail)
    for epoch in sorted(random.Random(name).sample(range(1, 8), 2)):
        with pytest.raises(Stopped):
            train(Dropped(), run, checkpoint=keep.of("run"), onlooker=stop_after(epoch))
        assert (tmp_path / "run.pt").exists()
    seen = []
    resumed = train(Dropped(), run, checkpoint=keep.of("run"), onlooker=seen.append)
    assert 1 <= len(seen) <= 8 - 2
    assert untimed(resumed) == untimed(whole)
    assert list(tmp_path.iterdir()) == []


def test_without_the_generators_state_the_resumed_run_would_differ(tmp_path):
    """That the test above can fail."""
    run = config(task="line", options={"lr": 0.01}, epochs=8, batch_size=7)
    keep = Checkpoints(tmp_path, 0.0, warn=pytest.fail).of("run")
    with pytest.raises(Stopped):
        train(Dropped(), run, checkpoint=keep, onlooker=stop_after(4))
    keep.save(keep.load() | {"chance": torch.get_rng_state()})
    assert untimed(train(Dropped(), run, checkpoint=keep)) != untimed(train(Dropped(), run))


def test_a_short_run_pays_for_no_checkpoint(tmp_path):
    keep = Checkpoints(tmp_path / "none", 10.0, warn=pytest.fail).of("run")
    train(Line(), config(task="line"), checkpoint=keep)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and no more"])
def test_a_damaged_checkpoint_is_told_and_the_run_begins_anew(tmp_path, damage):
    lines = []
    (tmp_path / "run.pt").write_bytes(damage)
    keep = Checkpoints(tmp_path, 10.0, warn=lines.append).of("run")
    run = config(task="line")
    assert untimed(train(Line(), run, checkpoint=keep)) == untimed(train(Line(), run))
    assert "run.pt cannot be read" in lines[0]
    assert "begins anew" in lines[0]


def test_a_checkpoint_that_cannot_be_written_is_no_crash_of_the_run(tmp_path, monkeypatch):
    def full(state, file):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    keep = Checkpoints(tmp_path, 0.0, warn=pytest.fail).of("run")
    with pytest.raises(StoreError, match=r"run.pt cannot be written: .*failed writing"):
        train(Line(), config(task="line"), checkpoint=keep)
    assert list(tmp_path.iterdir()) == []


class Slow(Line):
    """A second of its own clock passes at every step."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def loss(self, model, batch):
        self.now += model.training
        return super().loss(model, batch)


def test_a_run_out_of_time_keeps_its_curves_and_counts_with_the_worst(tmp_path, monkeypatch):
    run = config(task="line", epochs=5, batch_size=10)  # two steps an epoch
    keep = Checkpoints(tmp_path, 0.0, warn=pytest.fail).of("run")
    late = train(Slow(monkeypatch), run, timeout=4.5, checkpoint=keep)
    assert late.status == "timeout"
    assert late.limit == 4.5
    assert len(late.curves.validation_loss) == 2
    assert late.seconds == 4.0
    assert late.validation_loss == math.inf
    assert late.test_score == late.validation_score == 9.0
    assert RunResult.from_json(late.to_json()) == late
    # With a longer limit it goes on, and the seconds it had count.
    again = train(Slow(monkeypatch), run, timeout=7.5, checkpoint=keep)
    assert again.status == "timeout"
    assert len(again.curves.validation_loss) == 3
    longer = train(Slow(monkeypatch), run, timeout=11.5, checkpoint=keep)
    assert longer.status == "ok"
    assert untimed(longer) == untimed(train(Line(), run))


def test_a_run_whose_task_raises_has_crashed_and_says_where():
    class Broken(Line):
        def score(self, model, batch):
            raise ZeroDivisionError("no examples")

    result = train(Broken(), config(task="line"))
    assert result.status == "crashed"
    assert result.reason == "ZeroDivisionError: no examples"
    assert "in score" in result.error
    assert result.test_score == 9.0
    assert result.seconds_to_target is None
    assert RunResult.from_json(result.to_json()) == result


def test_a_memory_around_an_optimizer_is_reported_and_counted_too():
    run = config(task="line", optimizer="muon_c", options={**MUON, "capacity": 4}, epochs=3)
    result = train(Line(), run)
    (scope,) = result.memory
    assert (scope["capacity"], scope["occupied"]) == (4, 3)
    plain = train(Line(), config(task="line", optimizer="muon", options=MUON, epochs=3))
    assert result.state_bytes >= plain.state_bytes + 4 * 2 * 4
    assert plain.memory == ()


MUON = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "adam_lr": 0.001}


def test_the_norm_of_the_gradient_is_clipped_as_the_task_says():
    class Clipped(Line):
        clip_norm = 1e-3

    # SGD steps by the gradient itself: five clipped steps cannot get far.
    run = config(task="line", optimizer="sgd", options={"lr": 1.0}, epochs=1, batch_size=4)
    clipped, free = train(Clipped(), run), train(Line(), run)
    assert clipped.curves.validation_loss[0] > 10 * free.curves.validation_loss[0]


def test_the_optimizer_gets_what_the_task_gives_it():
    class WithoutBias(Line):
        def parameters(self, model):
            made.append(model)
            return [{"params": [model.weight], "lr": 0.0}, {"params": [model.bias]}]

    made = []
    train(WithoutBias(), config(task="line"))
    fresh = Line().model(100)
    assert torch.equal(made[0].weight, fresh.weight)
    assert not torch.equal(made[0].bias, fresh.bias)


def test_an_optimizer_with_modes_is_evaluated_as_its_users_do():
    class Moded(torch.optim.SGD):
        """Shows other weights while training; what it learns is far better."""

        mode = "eval"

        def train(self):
            assert self.mode == "eval"
            self.mode = "train"
            self.param_groups[0]["params"][0].data += 100.0

        def eval(self):
            assert self.mode == "train"
            self.mode = "eval"
            self.param_groups[0]["params"][0].data -= 100.0

        def step(self, closure=None):
            assert self.mode == "train"

    def create(model, parameters, **options):
        return Moded(parameters, **options)

    spec = replace(OPTIMIZERS["sgd"], create=create)
    training = Training(Line(), spec, {"lr": 0.1}, seed=0, batch_size=8)
    done = training.epoch(of=1)
    assert done.validation_loss < 20 < done.train_loss
    fresh = Line().model(0)
    assert torch.allclose(training.best_weights["weight"], fresh.weight, atol=1e-4)


def test_time_to_target_is_that_of_the_epochs_until_then(monkeypatch):
    task = Slow(monkeypatch)
    task.target = 0.5
    run = config(task="line", optimizer="sgd", options={"lr": 0.1}, epochs=20, batch_size=10)
    result = train(task, run)
    first = next(i for i, s in enumerate(result.curves.validation_score, 1) if s <= 0.5)
    assert 1 < first < 20
    assert result.steps_to_target == 2 * first
    assert result.seconds_to_target == 2.0 * first
    assert result.seconds == 40.0
    assert result.seconds_per_step == 1.0


def test_a_task_may_draw_in_data_and_model_without_changing_the_run():
    class Wasteful(Dropped):
        def data(self):
            torch.rand(7)
            return super().data()

    run = config(task="line", batch_size=7)
    assert untimed(train(Wasteful(), run)) == untimed(train(Dropped(), run))


def test_batches_of_any_kind_are_split(tmp_path):
    class Mapped(Line):
        def data(self):
            parts = super().data()
            as_mapping = {
                name: Batch({"x": getattr(parts, name).inputs}, getattr(parts, name).targets)
                for name in ("train", "validation", "test")
            }
            return replace(parts, **as_mapping)

        def loss(self, model, batch):
            return super().loss(model, Batch(batch.inputs["x"], batch.targets))

    run = config(task="line")
    assert untimed(train(Mapped(), run)) == untimed(train(Line(), run))
