"""From typed columns to a matrix of features, by what the training rows alone say.

Numbers are standardised or mapped to a normal distribution by their ranks; a missing one becomes 0,
the middle, and a column that tells so is added. Categories become one column each, 0 or 1.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import QuantileTransformer

from gradmem.lab.data.table import (
    CategoricalColumn,
    Column,
    Numbers,
    NumericColumn,
    Text,
)

Scaling = Literal["standard", "quantile"]
MOST_LEVELS = 100  # rarer ones share a column
QUANTILES = 1000

Rows = npt.NDArray[np.intp]
Encode = Callable[[Column], Numbers]


def encode(columns: Sequence[Column], train: Rows, scaling: Scaling = "standard") -> Numbers:
    """The features of all rows, shape (rows, features).

    Args:
        columns: what is encoded.
        train: the rows from which means, quantiles and categories are taken; no others are looked
            at for that.
        scaling: ``"standard"`` (mean 0, variance 1) or ``"quantile"`` (normal by ranks, which
            tames long tails).

    Raises:
        ValueError: another scaling, no columns, or one of categories that nearly all differ.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}, got {scaling!r}")
    if not columns:
        raise ValueError("there is no column to learn from: all are dropped, or the target")
    return np.hstack([_fitted(column, train, scaling)(column) for column in columns])


def _fitted(column: Column, train: Rows, scaling: Scaling) -> Encode:
    """How ``column`` is encoded, from its values in the rows ``train``."""
    if isinstance(column, CategoricalColumn):
        return _one_hot(column.name, column.values[train])
    known = column.values[train]
    has_gaps = bool(np.isnan(known).any())
    known = known[~np.isnan(known)]
    scale = _standard(known) if scaling == "standard" else _quantile(known)

    def apply(column: Column) -> Numbers:
        assert isinstance(column, NumericColumn)
        gaps = np.isnan(column.values)
        scaled = np.where(gaps, 0.0, scale(np.where(gaps, 0.0, column.values)))
        return np.column_stack([scaled, gaps] if has_gaps else [scaled])

    return apply


def _standard(known: Numbers) -> Callable[[Numbers], Numbers]:
    if not known.size or known.min() == known.max():
        return np.zeros_like
    mean, spread = known.mean(), known.std()
    return lambda values: (values - mean) / spread


def _quantile(known: Numbers) -> Callable[[Numbers], Numbers]:
    if not known.size or known.min() == known.max():
        return np.zeros_like
    transformer = QuantileTransformer(
        n_quantiles=min(QUANTILES, known.size), output_distribution="normal", subsample=known.size
    ).fit(known[:, None])

    def scale(values: Numbers) -> Numbers:
        scaled: Numbers = transformer.transform(values[:, None])[:, 0]
        return scaled

    return scale


def _looks_like(texts: Text) -> str:
    others = [text for text in texts.tolist() if text and not _is_number(text)]
    if len(others) > len(texts) / 2:
        return "it looks like a name or a date; drop it"
    example = f", but for {others[0]!r}" if others else ""
    return f"they are numbers{example}; mend it, or drop the column"


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _one_hot(name: str, known: Text) -> Encode:
    """A column for each level among ``known``; one more for the rare and the unseen if many."""
    levels, counts = np.unique(known, return_counts=True)
    if len(levels) > MOST_LEVELS:
        if len(levels) > len(known) / 2:
            raise ValueError(
                f"column {name!r} has {len(levels):,} different texts in {len(known):,} training "
                f"rows: {_looks_like(levels)}"
            )
        levels = np.sort(levels[np.argsort(-counts, kind="stable")[:MOST_LEVELS]])

    def apply(column: Column) -> Numbers:
        assert isinstance(column, CategoricalColumn)
        hot: Numbers = (column.values[:, None] == levels).astype(np.float64)
        if len(counts) > MOST_LEVELS:
            return np.column_stack([hot, hot.sum(axis=1) == 0])
        return hot

    return apply
