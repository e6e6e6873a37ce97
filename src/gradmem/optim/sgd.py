"""SGD_C: stochastic gradient descent on the aggregate of gradient and memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from gradmem.memory.options import (
    Aggregate,
    MemoryDevice,
    MemoryDtype,
    MemoryOptions,
    Norm,
    Policy,
    Scope,
)
from gradmem.memory.sharding import like, local, locals_of
from gradmem.optim.documentation import documented
from gradmem.optim.fused.kernel import Kernel
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer


class SGDRule(MemoryOptimizer, SGD):
    """torch's rule, on what it is given for gradients."""

    has_kernel = True
    _torch_kernel = True

    def _kernel(self, group: Group) -> Kernel:
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        buffer = "momentum_buffer" if group["momentum"] != 0 else None
        return Kernel("sgd", tuple(group[name] for name in names), (buffer,))

    def _make_state(self, group: Group) -> None:
        if group["momentum"] != 0:
            for p in group["params"]:
                if self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)

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


@documented(base="SGD", base_bytes="0 or 4")
class SGD_C(SGDRule):
    """SGD on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's SGD with u for its gradient, with momentum, dampening and
    Nesterov as there. The default aggregate, "sum", doubles the step at kappa 1: compare it with a
    base at twice the learning rate.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        momentum: at least 0.
        dampening: any finite number.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        nesterov: needs momentum > 0 and dampening 0.
        maximize, foreach: as in torch;
            {not_differentiable}
        {fused_option}
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}
    Weight decay is not stored, and kappa=0 leaves momentum on.

    {memory_reference}
    Base rule: Sutskever et al. 2013.

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
        policy: Policy = "top_norm",
        scope: Scope = "model",
        norm: Norm = "l2",
        max_age: int | None = None,
        seed: int = 0,
        memory_dtype: MemoryDtype = None,
        memory_device: MemoryDevice = None,
        maximize: bool = False,
        foreach: bool | None = None,
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
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
