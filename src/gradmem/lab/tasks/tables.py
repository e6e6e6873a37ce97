"""From a table of text to the three parts of a task."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gradmem.lab.data.encoding import Scaling, encode
from gradmem.lab.data.table import Numbers, Table, categories, is_missing, numbers, typed
from gradmem.lab.tasks.base import Batch, FixedSplits
from gradmem.lab.tasks.splitting import Rows, split, three_parts
from gradmem.lab.tasks.supervised import whole_numbers

Kind = Literal["regression", "classification"]
Parts = tuple[Rows, Rows, Rows]

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.16  # the rest, 64%, trains
FEWEST_OF_A_CLASS = 7  # so that each part has one: 16% of 7 are 1.12
MOST_CLASSES = 20  # whole numbers with more values than this are a quantity


@dataclass(frozen=True)
class Recipe:
    """What is predicted from which columns, and how these are encoded.

    Attributes:
        target: the column to predict.
        kind: ``"regression"`` or ``"classification"``; None to infer it.
        drop: columns left out, as names of rows are.
        numeric: columns that have to be numbers.
        categorical: columns that are categories though they look like numbers.
        scaling: of the numbers, ``"standard"`` or ``"quantile"``.
    """

    target: str
    kind: Kind | None = None
    drop: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    scaling: Scaling = "quantile"


@dataclass(frozen=True)
class Prepared:
    """A table as a network takes it.

    Attributes:
        splits: features and targets.
        kind: regression, or classification whatever the number of classes.
        classes: their names; empty in a regression.
        spread: standard deviation of the target over the training rows; 1 in a classification.
    """

    splits: FixedSplits
    kind: Kind
    classes: tuple[str, ...]
    spread: float

    @property
    def features(self) -> int:
        """How many there are."""
        return int(self.splits.train.inputs.shape[1])

    @property
    def outputs(self) -> int:
        """One for each class, or one."""
        return len(self.classes) or 1


def prepare(table: Table, recipe: Recipe, parts: Parts | None = None) -> Prepared:
    """Encode ``table`` and divide it; what is fitted is fitted to the training rows.

    Args:
        table: columns of text.
        recipe: what is predicted from which columns.
        parts: rows to train, validate and test; None for 64, 16 and 20 percent, drawn at random by
            a fixed seed and, in a classification, stratified.

    Raises:
        ValueError: a column is not there, the target has gaps, or a class has very few rows.
    """
    _refuse_gaps(table, recipe.target)
    columns = typed(
        table.without({recipe.target, *recipe.drop}),
        numeric=recipe.numeric,
        categorical=recipe.categorical,
    )
    kind = recipe.kind or infer_kind(table, recipe.target)
    classes: tuple[str, ...] = ()
    spread = 1.0
    if kind == "classification":
        classes, labels = _classes(table, recipe.target)
        parts = parts or _drawn(len(table), labels)
        targets = whole_numbers(labels)
    else:
        amounts = numbers(table, recipe.target, table.column(recipe.target))
        parts = parts or _drawn(len(table))
        targets, spread = _standard(table, recipe.target, amounts, parts[0])
    inputs = torch.from_numpy(encode(columns, parts[0], recipe.scaling)).float()
    return Prepared(split(Batch(inputs, targets), parts), kind, classes, spread)


def infer_kind(table: Table, target: str) -> Kind:
    """Regression if the target is numbers, some of them not whole or more than 20 different."""
    try:
        values = numbers(table, target, table.column(target))
    except ValueError:
        return "classification"
    whole = bool((values == np.round(values)).all())
    few = len(np.unique(values)) <= MOST_CLASSES
    return "classification" if whole and few else "regression"


def _refuse_gaps(table: Table, target: str) -> None:
    for row, text in enumerate(table.column(target), start=1):
        if is_missing(text):
            raise ValueError(
                f"{table.where}: the target {target!r} is missing in row {row:,}; leave such rows "
                "out"
            )


def _classes(table: Table, target: str) -> tuple[tuple[str, ...], Rows]:
    """The classes' names and, for every row, which of them it has."""
    texts = categories(target, table.column(target)).values
    found, labels, counts = np.unique(texts, return_inverse=True, return_counts=True)
    names = tuple(map(str, found))
    if len(names) == 1:
        raise ValueError(f"{table.where}: the target {target!r} is {names[0]!r} in all rows")
    if counts.min() < FEWEST_OF_A_CLASS:
        raise ValueError(
            f"{table.where}: {counts.min()} of {len(table):,} rows have {names[counts.argmin()]!r} "
            f"in the target {target!r}; a class needs at least {FEWEST_OF_A_CLASS}. Leave these "
            f"rows out, or make it a regression: Recipe({target!r}, kind='regression') in a CsvTask"
        )
    return names, labels


def _standard(table: Table, target: str, amounts: Numbers, train: Rows) -> tuple[Tensor, float]:
    """The target with mean 0 and variance 1 over the training rows, and what 1 is there."""
    mean, spread = amounts[train].mean(), float(amounts[train].std())
    if not spread:
        raise ValueError(f"{table.where}: the target {target!r} is the same in all training rows")
    return torch.from_numpy((amounts - mean) / spread).float(), spread


def _drawn(count: int, labels: Rows | None = None) -> Parts:
    validation, test = round(VALIDATION_SHARE * count), round(TEST_SHARE * count)
    if not validation:
        raise ValueError(f"{count} rows are too few to train, validate and test on")
    return three_parts(count, validation, test, labels)
