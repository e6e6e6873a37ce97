"""How a parameter is cut into groups of elements that become zero together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from gradmem.errors import OptionError, OptionTypeError


@dataclass(frozen=True)
class Groups:
    """One group for each index along an axis of a parameter, or of a view of it.

    Args:
        axis: the dimension that counts the groups; negative ones count from the last.
        view: shape the parameter is seen in, of as many elements; None for its own.

    Raises:
        OptionError: the axis is none of the view, or a size in it is below 1.
        OptionTypeError: the axis or a size in the view is no integer.

    Example:
        >>> import torch
        >>> from gradmem.proximal import Groups
        >>> convolution = torch.nn.Conv2d(3, 16, 5)
        >>> Groups(0).split(convolution.weight).shape  # by output channel
        torch.Size([16, 75])
        >>> Groups(1).split(convolution.weight).shape  # by input channel
        torch.Size([3, 400])
        >>> attention = torch.nn.MultiheadAttention(8, num_heads=2)
        >>> Groups(1, view=(3, 2, 4, 8)).split(attention.in_proj_weight).shape  # by head
        torch.Size([2, 96])
    """

    axis: int
    view: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_integer("axis", self.axis)
        object.__setattr__(self, "axis", int(self.axis))
        if self.view is None:
            return
        if isinstance(self.view, str) or not isinstance(self.view, Sequence):
            raise OptionTypeError(
                f"view must be a tuple of sizes, got {self.view!r}; None is the "
                "parameter's own shape"
            )
        for size in self.view:
            _check_integer("a size in view", size)
            if size < 1:
                raise OptionError(
                    f"a size in view must be at least 1, got {size} in {tuple(self.view)}; "
                    "write every size out"
                )
        object.__setattr__(self, "view", tuple(int(size) for size in self.view))
        self._dimension(self.view or ())

    def check(self, shape: Sequence[int], where: str = "") -> None:
        """Refuse a parameter's shape that cannot be cut so, `where` being put before the message.

        Raises:
            OptionError: the shape has no such axis, or another number of elements than the view.
        """
        self._dimension(self._seen(shape, where), where)

    def count(self, shape: Sequence[int]) -> int:
        """Number of groups in a parameter of this shape."""
        seen = self._seen(shape)
        return seen[self._dimension(seen)]

    def split(self, tensor: Tensor) -> Tensor:
        """A tensor's groups as the rows of a matrix (G, n), in the order of the axis.

        It shares the tensor's storage where the axis is the first of more than one element and the
        tensor is contiguous; else it is a copy: write back through `join`.
        """
        seen = self._seen(tensor.shape)
        axis = self._dimension(seen)
        front = tensor.reshape(seen).movedim(axis, 0)
        return front.reshape(seen[axis], math.prod(seen[:axis] + seen[axis + 1 :]))

    def join(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of this shape whose groups are the rows: undoes `split`."""
        seen = self._seen(shape)
        axis = self._dimension(seen)
        front = matrix.reshape(seen[axis], *seen[:axis], *seen[axis + 1 :])
        return front.movedim(0, axis).reshape(tuple(shape))

    def _seen(self, shape: Sequence[int], where: str = "") -> tuple[int, ...]:
        if self.view is None:
            return tuple(shape)
        if math.prod(self.view) != math.prod(shape):
            raise OptionError(
                f"{where}view must have as many elements as the parameter, got {self.view} "
                f"({math.prod(self.view)}) for the shape {tuple(shape)} ({math.prod(shape)})"
            )
        return self.view

    def _dimension(self, seen: Sequence[int], where: str = "") -> int:
        if not -len(seen) <= self.axis < len(seen):
            raise OptionError(
                f"{where}axis must be one of the {len(seen)} dimensions of {tuple(seen)}, got "
                f"{self.axis}; leave a parameter without them ungrouped"
            )
        return self.axis % len(seen)


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionTypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
