"""How a split is evaluated, examples are indexed, and seeds are used."""

import math

import pytest
import torch
from torch import nn

from gradmem.lab.tasks import Batch, Metric, Task, evaluate, seeded
from gradmem.lab.tasks.supervised import rmse


class Doubling(Task):
    """Inputs are predictions; as many targets."""

    metric = Metric("RMSE", False, 9.0, mean="quadratic")
    name = title = "doubling"
    target = 0.0

    def data(self):
        raise NotImplementedError

    def model(self, seed):
        return nn.Dropout(0.5)

    def loss(self, model, batch):
        return (model(batch.inputs) - batch.targets).square().mean()

    def score(self, model, batch):
        return rmse(model(batch.inputs), batch.targets)


def test_chunks_are_weighted_by_their_sizes_and_pooled_as_the_metric_says():
    task, model = Doubling(), nn.Dropout(0.5)
    batch = Batch(torch.tensor([0.0, 0.0, 7.0]), torch.tensor([1.0, 2.0, 0.0]))
    loss, score = evaluate(task, model, batch, 2)
    assert loss == pytest.approx((1 + 4 + 49) / 3)
    assert score == pytest.approx(math.sqrt(18))
    task.evaluate_batch_size = 1
    assert evaluate(task, model, batch) == pytest.approx((18, math.sqrt(18)))


def test_evaluation_is_without_dropout_and_gradients_and_restores_the_mode():
    model = nn.Dropout(0.5)
    batch = Batch(torch.ones(100, requires_grad=True), torch.ones(100))
    assert evaluate(Doubling(), model, batch) == (0.0, 0.0)
    assert model.training
    model.eval()
    evaluate(Doubling(), model, batch)
    assert not model.training


@pytest.mark.parametrize(
    ("mean", "expected"),
    [("arithmetic", 6.0), ("quadratic", math.sqrt(44)), ("geometric", 2 ** (1 / 3) * 8 ** (2 / 3))],
)
def test_means_of_metrics(mean, expected):
    metric = Metric("any", True, 0.0, mean=mean)
    assert metric.pooled([2.0, 8.0], [1, 2]) == pytest.approx(expected)


def test_rows_of_tensors_mappings_and_tuples():
    inputs = {"a": torch.arange(4), "b": (torch.arange(4) * 2,)}
    taken = Batch(inputs, torch.arange(4))[torch.tensor([3, 0])]
    assert taken.inputs["a"].tolist() == [3, 0]
    assert taken.inputs["b"][0].tolist() == [6, 0]
    assert taken.targets.tolist() == [3, 0]
    assert len(Batch(inputs, torch.arange(4))[1:3]) == 2


def test_uses_of_a_seed_are_different_streams():
    def draw(*arguments):
        with seeded(*arguments):
            return torch.rand(1).item()

    assert draw(3) == draw(3)
    assert len({draw(3), draw(4), draw(3, "training"), draw(4, "training")}) == 4
