"""Networks for tables: any CSV file with a column to predict.

`TableTask` is the task that both the data sets of `tabular_sets` and a user's own file (`CsvTask`)
are.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from gradmem.lab.data.contents import contents
from gradmem.lab.data.table import read_table
from gradmem.lab.tasks.base import Batch, Budget, FixedSplits, Metric, Task, seeded
from gradmem.lab.tasks.supervised import (
    ACCURACY,
    accuracy,
    decay_weights_only,
    perceptron,
    rmse,
    root_mean_square,
)
from gradmem.lab.tasks.tables import Prepared, Recipe, prepare


class TableTask(Task):
    """A network with ReLU and dropout from the columns of a table to one of them.

    Cross-entropy and accuracy, or the mean square error of the standardised target and its root in
    the target's own unit. Weight decay acts on the weights alone.
    """

    budget = Budget(epochs=20, batch_size=256)
    clip_norm = 1.0
    widths: tuple[int, ...] = (128, 128)
    dropout = 0.1

    @abstractmethod
    def prepared(self) -> Prepared:
        """The table, encoded and divided."""

    def data(self) -> FixedSplits:
        """The splits."""
        return self.prepared().splits

    def model(self, seed: int) -> nn.Module:
        """Linear layers, initialised as torch does by default."""
        shape = (self.prepared().features, *self.widths, self.prepared().outputs)
        with seeded(seed):
            return perceptron(shape, self.dropout)

    def parameters(self, model: nn.Module) -> Iterable[dict[str, Any]]:
        """Matrices, and the rest without weight decay."""
        return decay_weights_only(model)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy, or mean square error of the standardised target."""
        outputs = model(batch.inputs)
        if self.prepared().kind == "classification":
            return cross_entropy(outputs, batch.targets)
        return mse_loss(outputs.squeeze(-1), batch.targets)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Share of rows whose class is right, or root mean square error in the target's unit."""
        outputs = model(batch.inputs)
        if self.prepared().kind == "classification":
            return accuracy(outputs, batch.targets)
        return rmse(outputs.squeeze(-1), batch.targets) * self.prepared().spread


class CsvTask(TableTask):
    """A network for a file of one's own.

    The level that counts as "got there" is what a linear model, fitted in closed form to the same
    training rows, scores on the validation rows, unless another is given.

    Args:
        path: a file of separated values with a header, plain or packed.
        recipe: what is predicted; a text is the name of the target column.
        name: what the task is called; None for the file's name.
        epochs: how often a run goes through the training rows.
        batch_size: rows a step.
        widths: of the hidden layers.
        dropout: share of hidden units left out.
        target: another level, in the metric's unit (accuracies as shares of 1).

    Raises:
        ValueError: the file, or the recipe for it, is not right; says what and where.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "squares.csv")
    >>> _ = path.write_text("x,y\\n" + "\\n".join(f"{x},{x * x / 2}" for x in range(100)))
    >>> task = CsvTask(path, "y")
    >>> task.title, task.metric.name, len(task.data().train)
    ('squares.csv, y from 1 feature, network 1-128-128-1 with ReLU', 'RMSE', 64)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: Path | str,
        recipe: Recipe | str,
        *,
        name: str | None = None,
        epochs: int = 20,
        batch_size: int = 256,
        widths: tuple[int, ...] = (128, 128),
        dropout: float = 0.1,
        target: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.recipe = Recipe(recipe) if isinstance(recipe, str) else recipe
        self.name = name or re.sub(r"[^\w+-]+", "-", self.path.name.partition(".")[0])
        self.budget = Budget(epochs, batch_size)
        self.widths, self.dropout = widths, dropout
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        prepared = self.prepared()
        shape = "-".join(map(str, (prepared.features, *widths, prepared.outputs)))
        features = f"{prepared.features} feature{'s' if prepared.features > 1 else ''}"
        self.title = (
            f"{self.path.name}, {self.recipe.target} from {features}, network {shape} with ReLU"
        )
        self.metric = _metric(prepared)
        self.target = float(f"{linear_score(prepared):.3g}") if target is None else target

    def prepared(self) -> Prepared:
        """The file, encoded and divided."""
        return self._prepared

    @cached_property
    def _prepared(self) -> Prepared:
        return prepare(read_table(self.path), self.recipe)

    def versions(self) -> dict[str, str]:
        """A digest of the file's contents, and the recipe."""
        digest = sha256(contents(self.path)).hexdigest()[:12]
        return {"data": digest, "recipe": f"{self.recipe}, {self.widths}, {self.dropout}"}


def _metric(prepared: Prepared) -> Metric:
    if prepared.kind == "classification":
        return ACCURACY
    # as many decimals as three figures of the spread need
    decimals = int(np.clip(2 - np.floor(np.log10(prepared.spread)), 0, 6))
    return root_mean_square(worst=prepared.spread, decimals=decimals)


def linear_score(prepared: Prepared) -> float:
    """The validation metric of ridge regression on the targets, or on their indicators."""
    from sklearn.linear_model import Ridge, RidgeClassifier

    train, validation = prepared.splits.train, prepared.splits.validation
    if prepared.kind == "classification":
        model = RidgeClassifier().fit(train.inputs.numpy(), train.targets.numpy())
        return float(model.score(validation.inputs.numpy(), validation.targets.numpy()))
    fitted = Ridge().fit(train.inputs.numpy(), train.targets.numpy())
    guesses = torch.from_numpy(fitted.predict(validation.inputs.numpy()))
    return rmse(guesses, validation.targets) * prepared.spread
