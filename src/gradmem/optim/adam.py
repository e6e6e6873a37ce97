"""Adam_C and AdamW_C: both moments see the aggregate of gradient and memory."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Adam, AdamW
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from gradmem.memory.options import Aggregate, MemoryOptions, Norm, PolicyName, Scope
from gradmem.memory.sharding import locals_of
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer


class _AdamUpdate(MemoryOptimizer, Adam):
    """The base rule that Adam_C and AdamW_C share."""

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        has_complex = self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        params, _, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps = map(locals_of, lists)
        beta1, beta2 = group["betas"]
        adam(
            params,
            updates,
            exp_avgs,
            exp_avg_sqs,
            max_exp_avg_sqs,
            steps,
            amsgrad=group["amsgrad"],
            has_complex=has_complex,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            foreach=group["foreach"],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            fused=group["fused"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
        )


class Adam_C(_AdamUpdate):
    """Adam on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's Adam with u for its gradient: both moments see u.

    The memory is combined as it stands before g is offered to it, so g never counts twice. A full
    memory takes g only if its priority is strictly greater than the smallest, which it replaces.

    Args:
        params: parameters, named parameters, or groups; groups may have options of their own.
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        amsgrad, foreach, maximize, capturable, fused, decoupled_weight_decay: as in torch;
            ``differentiable=True`` is refused, as stored gradients are constants.
        capacity: gradients kept, from 0; 0 gives exactly torch's Adam.
        decay: factor in [0, 1] on every stored gradient's priority at every step.
        aggregate: "mean" (g + kappa S) / (n + 1), "sum" g + kappa S / n, "mid"
            (g + kappa S / n) / 2, with S the sum of the n stored gradients. "sum" has a total
            weight of 1 + kappa: at kappa 1 it doubles the step.
        kappa: weight of the memory, any finite number, negative too; 0 gives exactly torch's Adam.
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

    Bytes per float32 parameter element: 4 (capacity + 1) beside Adam's 8; see `memory_bytes`.

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
    memory survives a resume.

    Reference: McRae, Parthasarathi, Assran, Chandar, *Memory Augmented Optimizers for Deep
    Learning*, ICLR 2022, arXiv 2106.10708; base rule: Kingma and Ba 2015, arXiv 1412.6980.

    Example:
        >>> import torch
        >>> from gradmem import Adam_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = Adam_C(model.parameters(), lr=1e-3, capacity=10, decay=0.7)
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
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        capacity: int = 10,
        decay: float = 0.7,
        aggregate: Aggregate = "mean",
        kappa: float = 1.0,
        policy: PolicyName = "top_norm",
        scope: Scope = "model",
        norm: Norm = "l2",
        max_age: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            MemoryOptions(capacity, decay, aggregate, kappa, policy, scope, norm, max_age),
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )


class AdamW_C(_AdamUpdate, AdamW):
    """AdamW on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's AdamW with u for its gradient: both moments see u, the
    weight decay is decoupled and sees neither.

    The memory is combined as it stands before g is offered to it, so g never counts twice. A full
    memory takes g only if its priority is strictly greater than the smallest, which it replaces.

    Args:
        params: parameters, named parameters, or groups; groups may have options of their own.
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: decoupled, at least 0; never stored.
        amsgrad, foreach, maximize, capturable, fused: as in torch;
            ``differentiable=True`` is refused, as stored gradients are constants.
        capacity: gradients kept, from 0; 0 gives exactly torch's AdamW.
        decay: factor in [0, 1] on every stored gradient's priority at every step.
        aggregate: "mean" (g + kappa S) / (n + 1), "sum" g + kappa S / n, "mid"
            (g + kappa S / n) / 2, with S the sum of the n stored gradients. "sum" has a total
            weight of 1 + kappa: at kappa 1 it doubles the step.
        kappa: weight of the memory, any finite number, negative too; 0 gives exactly torch's AdamW.
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

    Bytes per float32 parameter element: 4 (capacity + 1) beside AdamW's 8; see `memory_bytes`.

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
    memory survives a resume.

    Reference: McRae, Parthasarathi, Assran, Chandar, *Memory Augmented Optimizers for Deep
    Learning*, ICLR 2022, arXiv 2106.10708; base rule: Loshchilov and Hutter 2019, arXiv 1711.05101.

    Example:
        >>> import torch
        >>> from gradmem import AdamW_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = AdamW_C(model.parameters(), lr=1e-3, weight_decay=0.1)
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
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        capacity: int = 10,
        decay: float = 0.7,
        aggregate: Aggregate = "mean",
        kappa: float = 1.0,
        policy: PolicyName = "top_norm",
        scope: Scope = "model",
        norm: Norm = "l2",
        max_age: int | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            MemoryOptions(capacity, decay, aggregate, kappa, policy, scope, norm, max_age),
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
