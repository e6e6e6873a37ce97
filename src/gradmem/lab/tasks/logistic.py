"""Logistic regression with an L2 penalty: what the convex tasks share."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gradmem.lab.tasks.base import Batch, Task, seeded
from gradmem.lab.tasks.supervised import ACCURACY


class LogisticRegression(Task):
    """A linear model of two classes: mean logistic loss + ``penalty() / 2`` x squared weights.

    The penalty is part of what is trained, not of the validation loss, and leaves the intercept
    out. The weights start from zero, as is usual for a convex problem: a seed decides the order of
    the examples alone.
    """

    metric = ACCURACY

    def penalty(self) -> float:
        """The strength of the penalty."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean logistic loss, with the penalty while the model is in training mode."""
        logits = model(batch.inputs).squeeze(-1)
        loss = binary_cross_entropy_with_logits(logits, batch.targets.float())
        return loss + self.penalty() / 2 * squared_weights(model) if model.training else loss

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Share of examples on their side of the plane."""
        positive = model(batch.inputs).squeeze(-1) > 0
        return float((positive == batch.targets.bool()).double().mean())


def squared_weights(model: nn.Module) -> Tensor:
    """Sum of the squares of all matrices' elements; vectors are intercepts."""
    squares = [each.square().sum() for each in model.parameters() if each.dim() > 1]
    return torch.stack(squares).sum()


def zero_linear(features: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights and intercepts are zero."""
    with seeded(0):  # it draws numbers, and not those of others
        layer = nn.Linear(features, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
