"""SVRG: the full gradient at a snapshot of the parameters, and each term's gradient there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from gradmem.errors import GradientError, StepError, check_integer
from gradmem.optim.full_history.base import (
    Closure,
    Entry,
    FullHistoryOptimizer,
    all_finite,
    check_dense,
    move,
    wide,
)

POINT: Final = "snapshot_point"  # (*shape), the parameter's type
GRADIENT: Final = "snapshot_gradient"  # (*shape), the parameter's type
AGE: Final = "snapshot_age"  # () int64, on the host: steps since the snapshot


class SVRG(FullHistoryOptimizer):
    """Stochastic variance-reduced gradient: SGD along a term's gradient, anchored at a snapshot.

    With x' the snapshot, mu the full gradient there, g and g' term i's gradient at x and x':

        d = g - g' + mu;  x = x - lr (d + weight_decay x);  every `period` steps x' = x

    Over a uniform i the mean of d is the full gradient. At a constant lr it converges linearly on
    strongly convex sums of smooth terms if `period` is long enough; lr = 0.1 / L, L the largest
    smoothness constant of a term (weight decay included), and a period of 2 N are usual.

    Args:
        params: parameters, named parameters, or groups; groups may have an lr, weight_decay and
            maximize of their own.
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        period: steps from one snapshot to the next, from 1; None for none after the first but by
            `take_snapshot`.
        weight_decay: L2 penalty, at least 0: its exact gradient at x is added, so the closures
            leave it out.
        maximize: ascend instead.

    ``step(closure, full_closure=full)``: closure evaluates one term, full_closure all of f, each
    calling backward() and returning the loss. A step calls closure twice, at x' and at x, after
    putting the parameters' values there and back, exactly, whatever the closure raises. So it must
    evaluate *the same* term both times: draw its number outside. Gradients are cleared before each
    call. What is no parameter is not put back: batch norm's running statistics see both points and
    full_closure (use ``model.eval()`` or another norm), and dropout or random augmentation draw
    anew, which adds variance that nothing takes away. GradScaler takes no closures, so not SVRG.

    A parameter without a gradient counts as one with gradient zero; a frozen one
    (``requires_grad=False``) stays where it is.

    State in ``state[p]``, allocated at the first snapshot: ``snapshot_point`` and
    ``snapshot_gradient`` (*shape) of the parameter's type, ``snapshot_age`` () int64.

    Bytes per float32 parameter element: 8, and in a step 8 more for x and g'.

    Raises:
        OptionError: an option is out of range or unknown.
        OptionTypeError: an option is of the wrong type.
        GradientError: a parameter or gradient is not a dense tensor, or is sharded.

    Numerics: d is computed in float64, which MPS lacks, and the parameter rounded once. A full
    gradient with NaN or Inf makes no snapshot (GradientError); in a step they spoil the elements
    concerned, as with SGD, and the snapshot stays. Equal devices and thread counts give equal bits,
    also after a resume.

    Departs from the paper: x' is the last iterate, the paper's option I; its theorem is for option
    II, a random one of the last `period`.

    Reference: Johnson, Zhang, *Accelerating Stochastic Gradient Descent using Predictive Variance
    Reduction*, NeurIPS 2013.

    Example:
        >>> import torch
        >>> from gradmem import SVRG
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(40, 3), torch.randn(40, 1)
        >>> batches = list(zip(x.split(8), y.split(8)))  # five terms
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SVRG(model.parameters(), lr=0.1, period=10)
        >>> def backward(inputs, targets):
        ...     loss = (model(inputs) - targets).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> for index in torch.randint(len(batches), (500,)).tolist():
        ...     loss = optimizer.step(
        ...         lambda: backward(*batches[index]), full_closure=lambda: backward(x, y)
        ...     )
        >>> optimizer.zero_grad()
        >>> _ = backward(x, y)
        >>> bool(model.weight.grad.norm() < 1e-6)  # SGD ends at 0.6
        True
    """

    _fixed = ("period",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        period: int | None,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "period": period, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    # The step ------------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Closure, *, full_closure: Closure | None = None) -> Any:
        """Take one step, after a new snapshot if one is due; ``p.grad`` is then g, at the old x.

        Args:
            closure: evaluates one term, calls backward() and returns the loss; called twice.
            full_closure: the same of f, the mean of all terms; called where a snapshot is due.

        Returns:
            What the closure returned at x.

        Raises:
            StepError: a snapshot is due and full_closure None, a closure left no gradient or is not
                callable, or calls step itself. Parameters and gradients are as they were.
            OptionError: an option was edited that is fixed.
            GradientError: a gradient is sparse, or the full gradient not finite.
        """
        self._check_edits()
        if self._snapshot_is_due():
            if full_closure is None:
                raise StepError(
                    f"a snapshot is due (none yet of some parameter, or period="
                    f"{self.defaults['period']} steps have passed); give step(closure, "
                    "full_closure=...), or call take_snapshot(full_closure) before it"
                )
            self.take_snapshot(full_closure)
        before, active = self._gradients(), self._active()
        try:
            with self._at_snapshot():
                _, there = self._gradients_of(closure, "closure")
                there = {p: grad.clone() for p, grad in there.items()}
            loss, here = self._gradients_of(closure, "closure")
        except BaseException:
            self._put_back(before)
            raise
        for group, p in active:
            state = self.state[p]
            (direction,) = self._scratch.like([p], wide(p.dtype))
            direction.copy_(state[GRADIENT])
            if p in here:
                direction.add_(here[p])
            if p in there:
                direction.sub_(there[p])
            move(p, direction, group)
            state[AGE].add_(1)
        return loss

    @torch.no_grad()
    def take_snapshot(self, full_closure: Closure) -> Any:
        """Make the parameters as they are the new snapshot; ``p.grad`` is left as it was.

        Args:
            full_closure: evaluates f, the mean of all terms without the L2 penalty, calls
                backward(), in parts if it likes, and returns the loss; called once.

        Returns:
            What full_closure returned.

        Raises:
            StepError: it left no gradient or is not callable, or this is called in a closure.
            GradientError: a gradient is sparse, or has NaN or Inf. The old snapshot is kept.
        """
        before, active = self._gradients(), self._active()
        try:
            loss, grads = self._gradients_of(full_closure, "full_closure")
        finally:
            self._put_back(before)
        if not bool(all_finite(list(grads.values()))):
            raise GradientError(
                "the full gradient has NaN or Inf, so no snapshot was taken and the last one is "
                "kept; the parameters have diverged: restore them and take a smaller lr"
            )
        for _, p in active:
            state = self._state_of(p)
            state[POINT].copy_(p)
            state[AGE].zero_()
            if p in grads:
                state[GRADIENT].copy_(grads[p])
            else:
                state[GRADIENT].zero_()
        return loss

    def _snapshot_is_due(self) -> bool:
        period = self.defaults["period"]
        return any(
            POINT not in self.state.get(p, {})
            or (period is not None and int(self.state[p][AGE]) >= period)
            for _, p in self._active()
        )

    @contextmanager
    def _at_snapshot(self) -> Iterator[None]:
        """The parameters at the snapshot; afterwards where they were, to the bit.

        Values are copied, not swapped: other tensors may be views of a parameter's storage.
        """
        params = [p for p in self._parameters() if p in self.state]
        current = [p.clone() for p in params]
        try:
            for p in params:
                p.copy_(self.state[p][POINT])
            yield
        finally:
            for p, value in zip(params, current, strict=True):
                p.copy_(value)

    # Gradients -----------------------------------------------------------------------------------

    def _gradients(self) -> dict[Tensor, Tensor | None]:
        return {p: p.grad for p in self._parameters()}

    def _put_back(self, gradients: Mapping[Tensor, Tensor | None]) -> None:
        for p, grad in gradients.items():
            p.grad = grad

    def _gradients_of(self, closure: Closure, name: str) -> tuple[Any, dict[Tensor, Tensor]]:
        """What a closure returns, and the gradients it leaves in cleared ``p.grad``."""
        params = self._parameters()
        for p in params:
            p.grad = None
        loss = self._evaluate(closure, name)
        check_dense(params)
        grads = {p: p.grad for p in params if p.grad is not None}
        if not grads:
            raise StepError(
                f"{name} left no gradient in any parameter; it must call backward() on its loss"
            )
        return loss, grads

    # Groups and state ----------------------------------------------------------------------------

    def _entries(self, p: Tensor) -> dict[str, Entry]:
        shape = tuple(p.shape)
        return {
            POINT: Entry(shape, p.dtype, p.device),
            GRADIENT: Entry(shape, p.dtype, p.device),
            AGE: Entry((), torch.int64, torch.device("cpu")),
        }

    def _check_own_options(self, options: Mapping[str, Any], where: str) -> None:
        if options["period"] is not None:
            remark = "None leaves snapshots to take_snapshot"
            check_integer(f"{where}period", options["period"], 1, remark)
