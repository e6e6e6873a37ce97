"""SGD_C: stochastic gradient descent on the aggregate of gradient and memory."""

from __future__ import annotations

from torch import Tensor
from torch.optim import SGD
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from gradmem.memory.options import Aggregate, MemoryOptions, Norm, PolicyName, Scope
from gradmem.memory.sharding import like, local, locals_of
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer


class SGD_C(MemoryOptimizer, SGD):
    """SGD on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's SGD with u for its gradient, with momentum, dampening and
    Nesterov as there. The default aggregate, "sum", doubles the step at kappa 1: compare it with a
    base at twice the learning rate.

    The memory is combined as it stands before g is offered to it, so g never counts twice. A full
    memory takes g only if its priority is strictly greater than the smallest, which it replaces.

    Args:
        params: parameters, named parameters, or groups; groups may have options of their own.
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        momentum: at least 0.
        dampening: any finite number.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        nesterov: needs momentum > 0 and dampening 0.
        maximize, foreach, fused: as in torch;
            ``differentiable=True`` is refused, as stored gradients are constants.
        capacity: gradients kept, from 0; 0 gives exactly torch's SGD.
        decay: factor in [0, 1] on every stored gradient's priority at every step.
        aggregate: "mean" (g + kappa S) / (n + 1), "sum" g + kappa S / n, "mid"
            (g + kappa S / n) / 2, with S the sum of the n stored gradients. "sum" has a total
            weight of 1 + kappa: at kappa 1 it doubles the step.
        kappa: weight of the memory, any finite number, negative too; 0 gives exactly torch's SGD.
        policy: "top_norm" keeps the largest decayed norms, "bottom_norm" the smallest norms, "fifo"
            the last ones.
        scope: what shares one decision per step: "model" (all groups of equal memory options),
            "group" or "tensor".
        norm: "l2", or "sum" of the tensors' own L2 norms.
        max_age: steps after which a stored gradient is dropped, from 1; None for no limit.

    State added to ``state[p]``, allocated once at the first gradient: ``memory_slots`` (capacity,
    *shape) of the parameter's type, ``memory_sum`` (*shape) of float32 or wider, and the ledger,
    equal in all parameters of a scope: ``memory_priority``, ``memory_norm`` (capacity,) float64,
    ``memory_birth`` (capacity,) int64, ``memory_counters`` (4,) int64, ``memory_drift`` () float64.

    Bytes per float32 parameter element: 4 (capacity + 1) beside SGD's 0 or 4; see
    `memory_bytes`.

    Raises:
        OptionError: an option is out of range, unknown, or contradicts another.
        OptionTypeError: an option is of the wrong type.
        GradientError: a parameter or gradient is not a dense tensor.

    Numerics: the aggregate is computed in float32 or wider and rounded once to the parameter's
    type. The running sum is made anew from the slots when its rounding error passes 1e-6 of the
    stored norms; on an accelerator, where asking would wait, every max(16, capacity) steps. Equal
    devices and thread counts give equal bits, also after a resume. A step whose gradient is zero
    or not finite leaves what is stored, and its priorities and ages, as they were.

    Departs from the authors' programs: the admission threshold is the exact minimum; the norm is
    the L2 norm of the whole gradient unless ``norm="sum"``; zero, NaN and Inf are never stored; the
    memory survives a resume; weight decay is not stored; kappa=0 leaves momentum on.

    Reference: McRae, Parthasarathi, Assran, Chandar, *Memory Augmented Optimizers for Deep
    Learning*, ICLR 2022, arXiv 2106.10708; base rule: Sutskever et al. 2013.

    Example:
        >>> import torch
        >>> from gradmem import SGD_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = SGD_C(model.parameters(), lr=0.01, momentum=0.9)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> optimizer.memory_report().scopes[0].occupied
        3
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        capacity: int = 10,
        decay: float = 0.7,
        aggregate: Aggregate = "sum",
        kappa: float = 1.0,
        policy: PolicyName = "top_norm",
        scope: Scope = "model",
        norm: Norm = "l2",
        max_age: int | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            MemoryOptions(capacity, decay, aggregate, kappa, policy, scope, norm, max_age),
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _writes_gradients(self, group: Group) -> bool:
        """torch's foreach kernel adds the momentum of a Nesterov step to the gradient itself."""
        return bool(group["nesterov"] and group["foreach"] is not False and not group["fused"])

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        params: list[Tensor] = []
        buffers: list[Tensor | None] = []
        has_sparse_grad = self._init_group(group, params, [], buffers)  # type: ignore[no-untyped-call]
        local_buffers = [None if buffer is None else local(buffer) for buffer in buffers]
        sgd(
            locals_of(params),
            updates,
            local_buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            has_sparse_grad=has_sparse_grad,
            foreach=group["foreach"],
            fused=group["fused"],
        )
        if group["momentum"] != 0:
            for p, old, buffer in zip(params, buffers, local_buffers, strict=True):
                if old is None and buffer is not None:
                    self.state[p]["momentum_buffer"] = like(p, buffer)
