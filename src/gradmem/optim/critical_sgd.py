"""SGD_CM: stochastic gradient descent along an aggregate of momenta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
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
from gradmem.memory.sharding import like, local, locals_of
from gradmem.optim.critical_momenta import CriticalMomenta, along_gradients, number
from gradmem.optim.documentation import documented
from gradmem.optim.plan import Group
from gradmem.optim.sgd import SGDRule


@documented(base="SGD", base_bytes="4")
class SGD_CM(CriticalMomenta, SGDRule):
    """SGD with critical momenta: the idea of `Adam_CM` without the second moment.

    m = momentum m + (1 - dampening) g, m = g at first; a = aggregate(m, memory), by default
    m + kappa times the mean of the stored momenta; the memory is offered m, ranked by the norm of
    g; x -= lr a.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        momentum: at least 0; at 0 the rule is that of SGD_C.
        dampening: any finite number.
        weight_decay: L2 penalty, at least 0; added to a, never in the momentum. (Switched off, the
            rule is torch's, which puts it there.)
        maximize: as in torch. foreach makes no difference; ``fused=True`` is refused, as torch's
            kernel makes the momentum and the step in one; there is no nesterov, which would look
            ahead along a momentum that is not stepped along;
            {not_differentiable}
        {memory_options}

    Momenta that come late overshoot: on a quadratic, momentum 0.9 bears a hundredth of SGD's
    largest rate. Policies that compare directions or norms compare momenta.

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    Reference: the authors of critical momenta have Adam alone; Malviya and others, TMLR 2024, arXiv
    2307.09638, see `Adam_CM`.

    Example:
        >>> import torch
        >>> from gradmem import SGD_CM
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = SGD_CM(model.parameters(), lr=0.01, momentum=0.9, capacity=5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> optimizer.memory_report().scopes[0].occupied
        3
    """

    _made_early = "momentum_buffer"
    _refused: ClassVar[Mapping[str, str]] = {
        "fused": "torch's kernel makes the momentum and the step in one, the memory comes between",
        "nesterov": "it would look ahead along a momentum that is not stepped along",
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        *,
        capacity: int = 5,
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
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _momenta(self, group: Group, grads: list[Tensor]) -> list[Tensor]:
        if group["momentum"] == 0:
            return grads
        momenta = []
        for p, grad in zip(group["params"], along_gradients(group, grads), strict=True):
            if self.state[p].get("momentum_buffer") is None:
                self.state[p]["momentum_buffer"] = like(p, grad.clone())
            else:
                momentum = local(self.state[p]["momentum_buffer"])
                momentum.mul_(group["momentum"]).add_(grad, alpha=1 - group["dampening"])
            momenta.append(local(self.state[p]["momentum_buffer"]))
        return along_gradients(group, momenta)

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        params = locals_of(group["params"])
        decay, lr = number(group["weight_decay"]), number(group["lr"])
        updates = along_gradients(group, updates)
        if decay != 0:
            updates = list(torch._foreach_add(updates, torch._foreach_mul(params, decay)))
        torch._foreach_add_(params, torch._foreach_mul(updates, -lr))
