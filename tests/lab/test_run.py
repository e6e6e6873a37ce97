import math

import pytest
import torch

from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.run import RunResult, one_thread, state_bytes, train
from gradmem.lab.tasks.digits import Digits

from .helpers import config, untimed


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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_runs_of_one_config_are_the_same(name):
    once, again = (train(Digits(), config(optimizer=name)) for _ in range(2))
    assert untimed(once) == untimed(again)
    assert once.status == "finished"
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
