"""SAG and SAGA: a table of the last gradient of every term of a finite sum."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, SupportsIndex, TypeAlias, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from gradmem.errors import OptionError, OptionTypeError, check_choice, check_integer
from gradmem.optim.full_history.base import (
    Entry,
    FullHistoryOptimizer,
    Group,
    all_finite,
    check_dense,
    move,
    wide,
)
from gradmem.optim.full_history.table import (
    SEEN,
    SUM,
    TABLE,
    check_size,
    check_table_dtype,
    check_terms,
    difference,
    exchange,
    table_entries,
)

DivideBy: TypeAlias = Literal["seen", "terms"]

# What a table may hold unless the caller says otherwise.
MAX_BYTES = 2**31


class TableOptimizer(FullHistoryOptimizer):
    """Base of SAG and SAGA: write `_direction`."""

    _fixed = ("terms",)

    def __init__(
        self,
        params: Any,
        defaults: Group,
        table_dtype: torch.dtype | None,
        max_bytes: int | None,
    ) -> None:
        check_table_dtype(table_dtype)
        if max_bytes is not None:
            check_integer("max_bytes", max_bytes, 0, "None sets no limit")
        self._table_dtype = table_dtype
        self._max_bytes: int | None = None  # all groups together are checked below
        super().__init__(params, defaults)
        self._max_bytes = max_bytes
        self._check_size(self.param_groups)

    def _direction(
        self, group: Group, state: Mapping[str, Tensor], term: int, change: Tensor, out: Tensor
    ) -> None:
        """Put in `out` what the parameter steps along; `change` is the gradient minus its row."""
        raise NotImplementedError

    # The step ------------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, index: SupportsIndex) -> Any:
        """Take one step and keep the gradient in row `index`; ``p.grad`` is left as it was.

        Args:
            closure: evaluates the term again and returns the loss; called once.
            index: number of the term whose gradient is in ``p.grad``, in [0, terms).

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: the index is out of range, or an option was edited out of its range.
            OptionTypeError: the index is not one integer.
            GradientError: a gradient is sparse. Nothing was changed.
            StepError: the closure is not callable, or calls step itself.
        """
        self._check_edits()
        term = self._checked_term(index)
        loss = None if closure is None else self._evaluate(closure)
        active = self._active()
        check_dense([p for _, p in active])
        if any(p.grad is not None for _, p in active):
            self._move_and_keep(active, term)
        return loss

    def _move_and_keep(self, active: list[tuple[Group, Tensor]], term: int) -> None:
        states = [self._state_of(p) for _, p in active]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in active]
        # As the table will have them: what overflows its type is not finite there.
        rows = [grad.to(state[TABLE].dtype) for grad, state in zip(grads, states, strict=True)]
        keep = all_finite(rows)
        for (group, p), state, grad, row in zip(active, states, grads, rows, strict=True):
            change, direction = self._scratch.like([p, p], wide(p.dtype))
            difference(grad, state[TABLE][term], change, scratch=direction)
            self._direction(group, state, term, change, direction)
            move(p, direction, group)
            exchange(state, term, row, keep.to(p.device), scratch=(change, direction))

    def _checked_term(self, index: SupportsIndex) -> int:
        terms = self.defaults["terms"]
        try:
            if isinstance(index, bool):
                raise TypeError
            term = operator.index(index)
        except TypeError:
            raise OptionTypeError(
                f"index must be one integer in [0, {terms}), the number of the term whose gradient "
                f"is in p.grad, got {index!r}; the mean over a batch cannot be taken apart into "
                "rows: to use batches, let each of `terms` fixed batches be a term"
            ) from None
        if not 0 <= term < terms:
            raise OptionError(
                f"index must be in [0, {terms}), got {term}; it is the number of the term whose "
                "gradient is in p.grad, and terms is how many there are"
            )
        return term

    # Groups and state ----------------------------------------------------------------------------

    def _entries(self, p: Tensor) -> dict[str, Entry]:
        return table_entries(p, self.defaults["terms"], self._table_dtype)

    def _check_own_options(self, options: Mapping[str, Any], where: str) -> None:
        check_terms(options["terms"], where)

    def _checked_group(self, group: Any) -> Group:
        checked = super()._checked_group(group)
        self._check_table_kind(checked["params"])
        self._check_size([*self.param_groups, checked])
        return checked

    def _check_table_kind(self, params: Any) -> None:
        dtype = self._table_dtype
        for i, item in enumerate(params):
            p = item[1] if isinstance(item, tuple) else item
            if dtype and isinstance(p, Tensor) and dtype.is_complex != p.is_complex():
                raise OptionError(
                    f"table_dtype={dtype} cannot hold the gradient of parameter {i}, which is "
                    f"{p.dtype}; leave table_dtype=None, or make two optimizers"
                )

    def _check_size(self, groups: list[Group]) -> None:
        if self._max_bytes is not None:
            terms = self.defaults["terms"]
            check_size(type(self).__name__, groups, terms, self._table_dtype, self._max_bytes)

    def __getstate__(self) -> dict[str, Any]:
        own = {"_table_dtype": self._table_dtype, "_max_bytes": self._max_bytes}
        return {**super().__getstate__(), **own}


class SAG(TableOptimizer):
    """Stochastic average gradient: SGD along the mean of the last gradient of every term.

    With g the gradient of term i at x, y_j the row of term j, S the sum of all rows:

        d = (S - y_i + g) / m;  y_i = g;  x = x - lr (d + weight_decay x)

    where m counts the terms seen so far, i included, or is N = `terms` with ``divide_by="terms"``.
    d is biased, of smaller variance than SAGA's. At a constant lr it converges linearly on strongly
    convex sums of smooth terms; proven for lr = 1 / (16 L), L the largest smoothness constant of a
    term (weight decay included); 1 / L often works.

    Args:
        params: parameters, named parameters, or groups; groups may have an lr, weight_decay,
            maximize and divide_by of their own.
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        terms: N, the number of terms of the finite sum f = (f_0 + ... + f_{N-1}) / N, from 1. A
            term is an example, or one of N *fixed* batches of equal size; what is stored for a
            batch is the one mean gradient that ``p.grad`` holds. A batch that is smaller, or drawn
            anew every epoch, is no term.
        weight_decay: L2 penalty, at least 0: its exact gradient at x is added, and never stored.
        divide_by: "seen" or "terms".
        maximize: ascend instead.
        table_dtype: type of the table; None for each parameter's own.
        max_bytes: an integer; a table that would be larger is refused before it is allocated. None
            sets no limit.

    ``step(index=i)`` after the backward pass of term i, i drawn uniformly; or
    ``step(closure, index=i)``. A parameter without a gradient contributes zero to that term, and
    moves with the others; a frozen one (``requires_grad=False``) stays; if none has a gradient,
    nothing happens.

    State in ``state[p]``, allocated at the first step: ``history_table`` (terms, *shape) of the
    parameter's type or `table_dtype`, ``history_sum`` (*shape) of float64 (complex128),
    ``history_seen`` (terms,) bool, ``history_steps`` () int64.

    Bytes per float32 parameter element: 4 terms + 8; see `table_bytes`.

    Raises:
        OptionError: an option is out of range or unknown, or the table larger than max_bytes.
        OptionTypeError: an option is of the wrong type.
        GradientError: a parameter or gradient is not a dense tensor, or is sharded.

    Numerics: d is computed in float64, which MPS lacks, and the parameter rounded once. The running
    sum is made anew from the table every `terms` steps, so its rounding error is that of at most
    `terms` additions in float64. If any element of the step's gradient is NaN or Inf, in the
    table's type, nothing is stored, and the parameters step along d as it is: the elements
    concerned become NaN or Inf, as with SGD. Zero gradients are stored: here they say something.
    Equal devices and thread counts give equal bits, also after a resume.

    Departs from the paper: no line search, no sampling by smoothness constants, no just-in-time
    updates for sparse data.

    Reference: Schmidt, Le Roux, Bach, *Minimizing Finite Sums with the Stochastic Average
    Gradient*, Mathematical Programming 2017, arXiv 1309.2388.

    Example:
        >>> import torch
        >>> from gradmem import SAG
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(40, 3), torch.randn(40, 1)
        >>> batches = list(zip(x.split(8), y.split(8)))  # five terms, fixed once and for all
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAG(model.parameters(), lr=0.1, terms=len(batches))
        >>> for index in torch.randint(len(batches), (500,)).tolist():
        ...     inputs, targets = batches[index]
        ...     optimizer.zero_grad()
        ...     (model(inputs) - targets).square().mean().backward()
        ...     optimizer.step(index=index)
        >>> optimizer.zero_grad()
        >>> (model(x) - y).square().mean().backward()
        >>> bool(model.weight.grad.norm() < 1e-6)  # SGD ends at 0.6
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        terms: int,
        weight_decay: float = 0.0,
        divide_by: DivideBy = "seen",
        maximize: bool = False,
        table_dtype: torch.dtype | None = None,
        max_bytes: int | None = MAX_BYTES,
    ) -> None:
        defaults = {
            "lr": lr,
            "terms": terms,
            "weight_decay": weight_decay,
            "divide_by": divide_by,
            "maximize": maximize,
        }
        super().__init__(params, defaults, table_dtype, max_bytes)

    def _check_own_options(self, options: Mapping[str, Any], where: str) -> None:
        super()._check_own_options(options, where)
        check_choice(f"{where}divide_by", options.get("divide_by"), get_args(DivideBy))

    def _direction(
        self, group: Group, state: Mapping[str, Tensor], term: int, change: Tensor, out: Tensor
    ) -> None:
        seen = state[SEEN]
        counted = seen.sum() + seen[term].logical_not()
        divisor = len(seen) if group["divide_by"] == "terms" else counted
        torch.add(state[SUM], change, out=out).div_(divisor)


class SAGA(TableOptimizer):
    """SGD along a term's gradient, its old one taken away, and the mean of all old ones added.

    With g the gradient of term i at x, y_j the row of term j, N = `terms`:

        d = g - y_i + (y_0 + ... + y_{N-1}) / N;  y_i = g;  x = x - lr (d + weight_decay x)

    Over a uniform i the mean of d is the full gradient, whatever the table holds. At a constant lr
    it converges linearly on strongly convex sums of smooth terms; proven for lr = 1 / (3 L), L the
    largest smoothness constant of a term (weight decay included).

    Args:
        params: parameters, named parameters, or groups; groups may have an lr, weight_decay and
            maximize of their own.
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        terms: N, the number of terms of the finite sum f = (f_0 + ... + f_{N-1}) / N, from 1. A
            term is an example, or one of N *fixed* batches of equal size; what is stored for a
            batch is the one mean gradient that ``p.grad`` holds. A batch that is smaller, or drawn
            anew every epoch, is no term.
        weight_decay: L2 penalty, at least 0: its exact gradient at x is added, and never stored.
        maximize: ascend instead.
        table_dtype: type of the table; None for each parameter's own. d stays unbiased in any.
        max_bytes: an integer; a table that would be larger is refused before it is allocated. None
            sets no limit.

    ``step(index=i)`` after the backward pass of term i, i drawn uniformly; or
    ``step(closure, index=i)``. A parameter without a gradient contributes zero to that term, and
    moves with the others; a frozen one (``requires_grad=False``) stays; if none has a gradient,
    nothing happens.

    State in ``state[p]``, allocated at the first step: ``history_table`` (terms, *shape) of the
    parameter's type or `table_dtype`, ``history_sum`` (*shape) of float64 (complex128),
    ``history_seen`` (terms,) bool, ``history_steps`` () int64.

    Bytes per float32 parameter element: 4 terms + 8; see `table_bytes`.

    Raises:
        OptionError: an option is out of range or unknown, or the table larger than max_bytes.
        OptionTypeError: an option is of the wrong type.
        GradientError: a parameter or gradient is not a dense tensor, or is sharded.

    Numerics: d is computed in float64, which MPS lacks, and the parameter rounded once. The running
    sum is made anew from the table every `terms` steps, so its rounding error is that of at most
    `terms` additions in float64. If any element of the step's gradient is NaN or Inf, in the
    table's type, nothing is stored, and the parameters step along d as it is: the elements
    concerned become NaN or Inf, as with SGD. Zero gradients are stored: here they say something.
    Equal devices and thread counts give equal bits, also after a resume.

    Departs from the paper: rows begin at zero, not at the gradients at the first x (for those, step
    once through all terms with lr 0); no proximal step. The memory papers' released SAGA has the
    signs of y_i and of the mean the wrong way round; these are the paper's.

    Reference: Defazio, Bach, Lacoste-Julien, *SAGA: A Fast Incremental Gradient Method With Support
    for Non-Strongly Convex Composite Objectives*, NeurIPS 2014, arXiv 1407.0202.

    Example:
        >>> import torch
        >>> from gradmem import SAGA
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(40, 3), torch.randn(40, 1)
        >>> batches = list(zip(x.split(8), y.split(8)))  # five terms, fixed once and for all
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAGA(model.parameters(), lr=0.1, terms=len(batches))
        >>> for index in torch.randint(len(batches), (500,)).tolist():
        ...     inputs, targets = batches[index]
        ...     optimizer.zero_grad()
        ...     (model(inputs) - targets).square().mean().backward()
        ...     optimizer.step(index=index)
        >>> optimizer.zero_grad()
        >>> (model(x) - y).square().mean().backward()
        >>> bool(model.weight.grad.norm() < 1e-6)  # SGD ends at 0.6
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        terms: int,
        weight_decay: float = 0.0,
        maximize: bool = False,
        table_dtype: torch.dtype | None = None,
        max_bytes: int | None = MAX_BYTES,
    ) -> None:
        defaults = {"lr": lr, "terms": terms, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, table_dtype, max_bytes)

    def _direction(
        self,
        group: Group,  # noqa: ARG002
        state: Mapping[str, Tensor],
        term: int,  # noqa: ARG002
        change: Tensor,
        out: Tensor,
    ) -> None:
        torch.div(state[SUM], len(state[TABLE]), out=out).add_(change)
