"""NAdam_C: Adam with Nesterov momentum on the aggregate of gradient and memory."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor
from torch.optim import NAdam
from torch.optim.nadam import nadam
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
from gradmem.optim import checkpoint
from gradmem.optim.documentation import documented
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer

MU_PRODUCT: Final = "mu_product"  # torch's, () float32


@documented(base="NAdam", base_bytes="8")
class NAdam_C(MemoryOptimizer, NAdam):
    """NAdam on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's NAdam with u for its gradient: both moments, and the
    Nesterov term beside the first, see u.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        momentum_decay: how fast the momentum rises to ``betas[0]``, at least 0.
        decoupled_weight_decay: take the weight decay from the parameter, as AdamW does.
        foreach, maximize, capturable: as in torch;
            {not_differentiable}
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}
    torch's product of all momenta so far is of float32, and stays so when it is loaded, which
    torch's own NAdam does not see to.

    {memory_departures}

    {memory_reference}
    Base rule: Dozat 2016, *Incorporating Nesterov Momentum into Adam*; the authors have no such
    program.

    Example:
        >>> import torch
        >>> from gradmem import NAdam_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = NAdam_C(model.parameters(), lr=2e-3, momentum_decay=6e-3)
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
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of its torch class (the memory is then empty).

        Raises:
            CheckpointError: capacity, policy, scope, norm or a shape is another; nothing was
                changed.
        """
        products: list[Any] = []

        def take(given: dict[str, Any]) -> dict[str, Any]:
            keys = (key for group in given["param_groups"] for key in group["params"])
            products.extend(given["state"].get(key, {}).get(MU_PRODUCT) for key in keys)
            return given

        def restore() -> None:
            parameters = (p for group in self.param_groups for p in group["params"])
            for p, product in zip(parameters, products, strict=True):
                if isinstance(product, Tensor):  # a number was made one as torch does it
                    beside = self.state[p]["step"].device
                    self.state[p][MU_PRODUCT] = product.detach().clone().to(beside)

        with checkpoint.around_loading(self, take, restore):
            super().load_state_dict(state_dict)

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        has_complex = self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        params, _, exp_avgs, exp_avg_sqs, mu_products, steps = map(locals_of, lists)
        beta1, beta2 = group["betas"]
        nadam(
            params,
            updates,
            exp_avgs,
            exp_avg_sqs,
            mu_products,
            steps,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum_decay=group["momentum_decay"],
            eps=group["eps"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            foreach=group["foreach"],
            maximize=group["maximize"],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            has_complex=has_complex,
        )
