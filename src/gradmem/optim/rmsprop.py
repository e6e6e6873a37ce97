"""RMSprop_C: RMSprop on the aggregate of gradient and memory."""

from __future__ import annotations

from torch import Tensor
from torch.optim import RMSprop
from torch.optim.optimizer import ParamsT
from torch.optim.rmsprop import rmsprop

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


@documented(base="RMSprop", base_bytes="4 to 12")
class RMSprop_C(MemoryOptimizer, RMSprop):
    """RMSprop on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's RMSprop with u for its gradient.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0.
        alpha: decay of the mean square, at least 0.
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        momentum: at least 0.
        centered: divide by the standard deviation instead of the root mean square.
        fused: do a whole step in one pass; torch's RMSprop has no such kernel, so that with
            capacity=0 it makes no difference.
        capturable, foreach, maximize: as in torch;
            {not_differentiable}
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}

    {memory_reference}
    Base rule: Tieleman and Hinton 2012.

    Example:
        >>> import torch
        >>> from gradmem import RMSprop_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = RMSprop_C(model.parameters(), lr=1e-3, centered=True)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> optimizer.memory_report().scopes[0].occupied
        3
    """

    has_kernel = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
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
            {"fused": fused},
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )

    def _kernel(self, group: Group) -> Kernel:
        names = ("lr", "alpha", "eps", "weight_decay", "momentum", "maximize")
        mean = "grad_avg" if group["centered"] else None
        buffer = "momentum_buffer" if group["momentum"] > 0 else None
        options = tuple(group[name] for name in names)
        return Kernel("rmsprop", options, ("square_avg", mean, buffer))

    def _make_state(self, group: Group) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        self._init_group(group, *lists)  # type: ignore[no-untyped-call]

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        has_complex = self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        params, _, square_avgs, momentum_buffers, grad_avgs, steps = map(locals_of, lists)
        rmsprop(
            params,
            updates,
            square_avgs,
            grad_avgs,
            momentum_buffers,
            steps,
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            centered=group["centered"],
            foreach=group["foreach"],
            maximize=group["maximize"],
            differentiable=group["differentiable"],
            capturable=group["capturable"],
            has_complex=has_complex,
        )
