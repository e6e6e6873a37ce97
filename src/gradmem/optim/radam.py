"""RAdam_C: Adam with a rectified second moment on the aggregate of gradient and memory."""

from __future__ import annotations

from torch import Tensor
from torch.optim import RAdam
from torch.optim.optimizer import ParamsT
from torch.optim.radam import radam

from gradmem.memory.options import (
    Aggregate,
    MemoryDevice,
    MemoryDtype,
    MemoryOptions,
    Norm,
    Policy,
    Scope,
)
from gradmem.memory.sharding import locals_of
from gradmem.optim.documentation import documented
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer


@documented(base="RAdam", base_bytes="8")
class RAdam_C(MemoryOptimizer, RAdam):
    """RAdam on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's RAdam with u for its gradient: both moments see u. While
    the second moment is too uncertain, about five steps at the default betas, the first alone makes
    the step.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        decoupled_weight_decay: take the weight decay from the parameter, as AdamW does.
        foreach, maximize, capturable: as in torch;
            {not_differentiable}
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}

    {memory_reference}
    Base rule: Liu et al. 2020, arXiv 1908.03265; the authors have no such program.

    Example:
        >>> import torch
        >>> from gradmem import RAdam_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = RAdam_C(model.parameters(), lr=1e-3, decoupled_weight_decay=True)
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
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        capacity: int = 10,
        decay: float = 0.7,
        aggregate: Aggregate = "mean",
        kappa: float = 1.0,
        policy: Policy = "top_norm",
        scope: Scope = "model",
        norm: Norm = "l2",
        max_age: int | None = None,
        seed: int = 0,
        memory_dtype: MemoryDtype = None,
        memory_device: MemoryDevice = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            MemoryOptions(
                capacity,
                decay,
                aggregate,
                kappa,
                policy,
                scope,
                norm,
                max_age,
                seed,
                memory_dtype,
                memory_device,
            ),
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(5)]
        has_complex = self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        params, _, exp_avgs, exp_avg_sqs, steps = map(locals_of, lists)
        beta1, beta2 = group["betas"]
        radam(
            params,
            updates,
            exp_avgs,
            exp_avg_sqs,
            steps,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            foreach=group["foreach"],
            maximize=group["maximize"],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            has_complex=has_complex,
        )
