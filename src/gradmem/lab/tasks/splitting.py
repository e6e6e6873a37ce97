"""Which rows train, validate and test: fixed by the task, never by a run."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split

from gradmem.lab.tasks.base import Batch, FixedSplits

SPLIT_SEED = 0  # the split is part of the task, not of a run

Rows = npt.NDArray[np.intp]
Labels = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.float64]


def hold_out(rows: Rows, count: int, labels: Labels | None = None) -> tuple[Rows, Rows]:
    """``rows`` without ``count`` of them, and these, drawn at random by a fixed seed.

    With the ``labels`` of all examples each class gives its share.
    """
    kinds = None if labels is None else labels[rows]
    rest, held = train_test_split(rows, test_size=count, stratify=kinds, random_state=SPLIT_SEED)
    return rest, held


def three_parts(
    count: int, validation: int, test: int, labels: Labels | None = None
) -> tuple[Rows, Rows, Rows]:
    """Row numbers to train, validate and test, of ``count`` examples.

    >>> [len(rows) for rows in three_parts(10, validation=2, test=3)]
    [5, 2, 3]
    """
    rest, tested = hold_out(np.arange(count), test, labels)
    train, validated = hold_out(rest, validation, labels)
    return train, validated, tested


def balanced(labels: Labels, validation: int, train: int | None = None) -> tuple[Rows, Rows]:
    """Rows to train and to validate: of each class the same numbers, as far as there are enough.

    Args:
        labels: of all examples.
        validation: examples of each class that validate.
        train: the most of each class that train; None for the rest.

    >>> rows, held = balanced(np.array([0, 0, 0, 1, 1]), validation=1)
    >>> len(rows), len(held)
    (3, 2)
    """
    last = None if train is None else validation + train
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    of_class = [order[labels[order] == kind] for kind in np.unique(labels)]
    return (
        np.concatenate([rows[validation:last] for rows in of_class]),
        np.concatenate([rows[:validation] for rows in of_class]),
    )


def split(everything: Batch, parts: Sequence[Rows]) -> FixedSplits:
    """The three parts of ``everything``."""
    return FixedSplits(*(everything[torch.from_numpy(rows)] for rows in parts))


def standardised(values: Numbers, train: Rows) -> Numbers:
    """Every column with mean 0 and variance 1 over the rows ``train``; a constant one becomes 0."""
    mean, spread = values[train].mean(axis=0), values[train].std(axis=0)
    constant = spread <= 1e-12 * np.abs(mean)  # its rounding errors alone
    scaled: Numbers = (values - mean) / np.where(constant, 1.0, spread)
    return np.where(constant, 0.0, scaled)
