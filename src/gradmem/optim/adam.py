"""Adam_C and AdamW_C: both moments see the aggregate of gradient and memory."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Adam, AdamW
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

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
from gradmem.optim.fused.kernel import Kernel
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer


class AdamRule(MemoryOptimizer, Adam):
    """torch's rule, on what it is given for gradients."""

    has_kernel = True
    _torch_kernel = True
    _kernel_name = "adam"

    def _kernel(self, group: Group) -> Kernel:
        names = ("weight_decay", "decoupled_weight_decay", "maximize")
        options = (group["lr"], *group["betas"], group["eps"], *(group[name] for name in names))
        most = "max_exp_avg_sq" if group["amsgrad"] else None
        return Kernel(self._kernel_name, options, ("exp_avg", "exp_avg_sq", most))

    def _make_state(self, group: Group) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        self._init_group(group, *lists)  # type: ignore[no-untyped-call]

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


@documented(base="Adam", base_bytes="8")
class Adam_C(AdamRule):
    """Adam on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's Adam with u for its gradient: both moments see u.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        amsgrad, foreach, maximize, capturable, decoupled_weight_decay: as in torch;
            {not_differentiable}
        {fused_option}
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}

    {memory_reference}
    Base rule: Kingma and Ba 2015, arXiv 1412.6980.

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
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
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
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )


@documented(base="AdamW", base_bytes="8")
class AdamW_C(AdamRule, AdamW):
    """AdamW on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's AdamW with u for its gradient: both moments see u, the
    weight decay is decoupled and sees neither.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: decoupled, at least 0; never stored.
        amsgrad, foreach, maximize, capturable: as in torch;
            {not_differentiable}
        {fused_option}
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}

    {memory_reference}
    Base rule: Loshchilov and Hutter 2019, arXiv 1711.05101.

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
        policy: Policy = "top_norm",
        scope: Scope = "model",
        norm: Norm = "l2",
        max_age: int | None = None,
        seed: int = 0,
        memory_dtype: MemoryDtype = None,
        memory_device: MemoryDevice = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
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
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
