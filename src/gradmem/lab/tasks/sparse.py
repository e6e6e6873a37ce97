"""Examples of which nearly all features are zero, and a linear layer for them."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

LARGEST_DENSE = 50_000_000  # numbers: up to 200 MB it is quicker to keep the zeros


@dataclass(frozen=True)
class SparseRows:
    """The rows of a sparse matrix, indexed as those of a tensor are."""

    matrix: sparse.csr_matrix

    def __getitem__(self, rows: Tensor | slice) -> "SparseRows":
        return SparseRows(self.matrix[rows.numpy() if isinstance(rows, Tensor) else rows])


class SparseLinear(nn.Module):
    """Weighted sums of the features plus an intercept, from `SparseRows`; all zero at first.

    The gradient of the weights is dense: every optimizer can take it.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, rows: SparseRows) -> Tensor:
        """Shape (rows, outputs)."""
        matrix = rows.matrix
        products = embedding_bag(
            torch.from_numpy(matrix.indices.astype(np.int64)),
            self.weight,
            torch.from_numpy(matrix.indptr[:-1].astype(np.int64)),
            mode="sum",
            per_sample_weights=torch.from_numpy(matrix.data.astype(np.float32)),
        )
        return products + self.bias


def rows_of(matrix: sparse.csr_matrix) -> Tensor | SparseRows:
    """A tensor if ``matrix`` is small, else its sparse rows."""
    if matrix.shape[0] * matrix.shape[1] <= LARGEST_DENSE:
        return torch.from_numpy(matrix.toarray()).float()
    return SparseRows(matrix.astype(np.float32))
