"""Logistic regression with an L2 penalty: what the convex tasks share."""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gradmem.lab.bound.problems import LARGEST_DIMENSION, Array, FreeIntercept, Logistic, Matrix
from gradmem.lab.tasks.base import Batch, Task, seeded
from gradmem.lab.tasks.sparse import SparseRows
from gradmem.lab.tasks.supervised import ACCURACY, accuracy

MOSTLY_ZERO = 0.25  # up to this share of other numbers a sparse product is the quicker one


class LogisticRegression(Task):
    """A linear model of classes: mean cross-entropy + ``penalty() / 2`` x squared weights.

    A model with one output has two classes, one of more outputs as many. The penalty is part of
    what is trained, not of the validation loss, and leaves the intercept out unless the task says
    otherwise. The weights start from zero, as is usual for a convex problem: a seed decides the
    order of the examples alone.
    """

    metric = ACCURACY
    free_intercept = True  # the penalty leaves it out

    def penalty(self) -> float:
        """The strength of the penalty."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy, with the penalty while the model is in training mode."""
        outputs = model(batch.inputs)
        if outputs.shape[-1] == 1:
            logits = outputs.squeeze(-1)
            loss = binary_cross_entropy_with_logits(logits, batch.targets.float())
        else:
            loss = cross_entropy(outputs, batch.targets)
        if not model.training:
            return loss
        squares = squared_weights(model) if self.free_intercept else squared_parameters(model)
        return loss + self.penalty() / 2 * squares

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Share of examples on their side of the plane, or put into their class."""
        outputs = model(batch.inputs)
        if outputs.shape[-1] > 1:
            return accuracy(outputs, batch.targets)
        positive = outputs.squeeze(-1) > 0
        return float((positive == batch.targets.bool()).double().mean())

    def convex_problem(self) -> Logistic | None:
        """What a run minimises, on all training examples at once and in float64.

        The weights come first in its points, the intercept last. None for more than two classes,
        without a penalty, and for too many features.
        """
        examples = self.data().train
        if int(examples.targets.max()) > 1 or not self.penalty() > 0:
            return None
        kind = FreeIntercept if self.free_intercept else Logistic
        matrix = with_intercept(examples)
        if matrix.shape[1] > LARGEST_DIMENSION:
            return None
        return kind(
            name=self.name,
            title=f"{self.title}; its {len(examples):,} training examples",
            matrix=matrix,
            start=np.zeros(matrix.shape[1]),
            l2=self.penalty(),
        )


def squared_weights(model: nn.Module) -> Tensor:
    """Sum of the squares of all matrices' elements; vectors are intercepts."""
    squares = [each.square().sum() for each in model.parameters() if each.dim() > 1]
    return torch.stack(squares).sum()


def squared_parameters(model: nn.Module) -> Tensor:
    """Sum of the squares of all parameters, which a torch optimizer's weight decay acts on."""
    return torch.stack([each.square().sum() for each in model.parameters()]).sum()


def with_intercept(examples: Batch) -> Matrix:
    """The rows y_i (a_i, 1) of examples with the features a_i, y_i = 1 in class 1 and -1 in 0."""
    signs: Array = np.where(examples.targets.numpy() > 0, 1.0, -1.0)
    ones = np.ones((len(signs), 1))
    if isinstance(examples.inputs, SparseRows):
        features = examples.inputs.matrix.astype(np.float64)
    else:
        dense = examples.inputs.double().numpy()
        if np.count_nonzero(dense) > MOSTLY_ZERO * dense.size:
            return signs[:, None] * np.hstack([dense, ones])
        features = sparse.csr_array(dense)
    return (sparse.diags_array(signs) @ sparse.hstack([features, ones])).tocsr()


def zero_linear(features: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights and intercepts are zero."""
    with seeded(0):  # it draws numbers, and not those of others
        layer = nn.Linear(features, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
