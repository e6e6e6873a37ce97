"""What tasks have in common whose model maps inputs to a class or to a number."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from gradmem.lab.tasks.base import Batch, Metric, Task

ACCURACY = Metric("accuracy", higher_is_better=True, worst=0.0, scale=100.0, unit="%")


class Classifier(Task):
    """The model gives one number a class; cross-entropy and accuracy."""

    metric = ACCURACY

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(model(batch.inputs), batch.targets)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Share of examples whose class is the model's first choice."""
        return accuracy(model(batch.inputs), batch.targets)


class Regressor(Task):
    """The model gives one number; targets have mean 0 and variance 1 over the training examples.

    The loss is the mean square error of these, the metric its root in the target's own unit.
    """

    def spread(self) -> float:
        """How much of the target's unit is 1 in the standardised targets."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean square error of the standardised targets."""
        return mse_loss(model(batch.inputs).squeeze(-1), batch.targets)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Root mean square error in the target's unit."""
        return rmse(model(batch.inputs).squeeze(-1), batch.targets) * self.spread()


def root_mean_square(worst: float, unit: str = "", scale: float = 1.0, decimals: int = 2) -> Metric:
    """The metric RMSE; ``worst`` is that of always predicting the mean."""
    return Metric(
        *("RMSE", False, worst, scale, unit, decimals),
        mean="quadratic",
    )


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of rows whose largest output is the target's."""
    return float((outputs.argmax(dim=-1) == targets).double().mean())


def rmse(outputs: Tensor, targets: Tensor) -> float:
    """Root mean square difference."""
    return float((outputs.double() - targets.double()).square().mean().sqrt())


def perceptron(widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of ``widths`` with ReLU, and dropout where asked for, between them."""
    layers: list[nn.Module] = []
    for position, (inputs, outputs) in enumerate(pairwise(widths)):
        if position:
            layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


def decay_weights_only(model: nn.Module) -> Iterable[dict[str, Any]]:
    """Two groups: matrices, which decay as the optimizer says, and the rest, which never does."""
    parameters = list(model.parameters())
    return [
        {"params": [each for each in parameters if each.dim() > 1]},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]


def whole_numbers(labels: Any) -> Tensor:
    """Labels as the classes that cross-entropy expects."""
    return torch.as_tensor(labels).long()
