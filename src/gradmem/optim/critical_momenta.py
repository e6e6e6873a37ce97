"""Adam_CM and AdamW_CM: a memory of momenta, ranked by the gradient each was made with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import AdamW
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
from gradmem.optim.adam import AdamRule
from gradmem.optim.documentation import documented
from gradmem.optim.fused import apply as fused_pass
from gradmem.optim.plan import Group, Memory
from gradmem.optim.remember import Gradients, Offered
from gradmem.optim.shell import MemoryOptimizer


def _real(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Complex numbers as pairs of real ones, as torch's rules see them."""
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]


def _on_host(tensor: Tensor) -> bool:
    """Whether its value can be read without waiting for an accelerator."""
    return tensor.device.type == "cpu"


def number(value: float | Tensor) -> float | Tensor:
    """An option that may be a tensor: a number if it is on the host, else without dimensions."""
    if not isinstance(value, Tensor):
        return value
    return value.item() if _on_host(value) else value.reshape(())


def _correction(beta: float, step: Tensor) -> float | Tensor:
    """``1 - beta**step``: a number where the step is on the host, else a tensor."""
    if _on_host(step):
        return 1.0 - float(beta ** float(step))
    correction: Tensor = 1.0 - beta**step
    return correction


def along_gradients(group: Group, momenta: list[Tensor]) -> list[Tensor]:
    """Momenta in the gradients' direction, or out of it: with maximize torch keeps their negatives.

    What is remembered goes with the gradients, as in all classes.
    """
    return list(torch._foreach_neg(momenta)) if group["maximize"] else momenta


def critical_adam(
    params: list[Tensor],
    momenta: list[Tensor],
    squares: list[Tensor],
    maxima: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Adam's step along aggregated momenta a, in place, which are themselves left as they are.

    ``v = beta2 v + (1 - beta2) a^2``; ``x -= lr / (1 - beta1^t) a / (sqrt(v / (1 - beta2^t)) +
    eps)``. With `maxima`, their largest v so far is divided by (AMSGrad).
    """
    torch._foreach_add_(steps, 1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, momenta, momenta, 1 - beta2)
    if maxima:
        torch._foreach_maximum_(maxima, squares)
    changes = list(torch._foreach_sqrt(maxima or squares))
    for change, momentum, step in zip(changes, momenta, steps, strict=True):
        change.div_(_correction(beta2, step) ** 0.5).add_(eps)
        torch.div(momentum, change, out=change).mul_(-lr / _correction(beta1, step))
    torch._foreach_add_(params, changes)


class CriticalMomenta(MemoryOptimizer):
    """Put before a rule, it has momenta remembered; `_update` then goes along their aggregate."""

    has_kernel = False
    _torch_kernel = False

    def _momenta(self, group: Group, grads: list[Tensor]) -> list[Tensor]:
        """The momenta of ``group["params"]``, after these gradients went into them."""
        raise NotImplementedError

    def _offered(self, memory: Memory, grads: Gradients) -> Offered:
        offered: dict[Tensor, Tensor] = {}
        for portion in memory.portions:
            params = [p for p in portion.parameters if p in grads]
            if params:
                group = {**self.param_groups[portion.group], "params": params}
                momenta = self._momenta(group, [grads[p] for p in params])
                offered.update(zip(params, momenta, strict=True))
        return Offered(offered)

    def _update_plain(self, group: Group, grads: list[Tensor]) -> None:
        super()._update(group, grads)


class _CriticalAdam(CriticalMomenta, AdamRule):
    """The rule that Adam_CM and AdamW_CM share; switched off, torch's own."""

    has_kernel = True
    _kernel_name = "critical_adam"
    _made_early = "exp_avg"

    def _state_lists(self, group: Group) -> list[list[Tensor]]:
        """This rank's parameters, momenta, squares, maxima and step counts, made if need be."""
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        del lists[1]  # gradients
        return [locals_of(tensors) for tensors in lists]

    def _offered(self, memory: Memory, grads: Gradients) -> Offered:
        """Momenta: where the pass is fused, made by one that measures them and the gradients."""
        if fused_pass.norms(self, memory) is None:
            return super()._offered(memory, grads)
        offered: dict[Tensor, Tensor] = {}
        of_grads: list[list[float]] = [[] for _ in memory.rows]
        of_momenta: list[list[float]] = [[] for _ in memory.rows]
        for run in memory.runs:
            given = fused_pass.gather(run, grads)
            if not given.params:
                continue
            group = {**self.param_groups[run.group], "params": given.params}
            momenta = self._state_lists(group)[1]
            beta1 = float(group["betas"][0])
            share = beta1 - 1.0 if group["maximize"] else 1.0 - beta1
            both = fused_pass.momenta(given, momenta, beta1, share)
            for row, of_grad, of_momentum in zip(given.rows, *both, strict=True):
                of_grads[row].append(of_grad)
                of_momenta[row].append(of_momentum)
            offered.update(zip(given.params, along_gradients(group, momenta), strict=True))

        def norms(memory: Memory, _: Sequence[Gradients]) -> Tensor:
            return fused_pass.row_norms(memory, [of_grads, of_momenta])

        return Offered(offered, norms)

    def _momenta(self, group: Group, grads: list[Tensor]) -> list[Tensor]:
        momenta = self._state_lists(group)[1]
        sign = -1.0 if group["maximize"] else 1.0
        beta1 = float(group["betas"][0])
        torch._foreach_mul_(momenta, beta1)
        torch._foreach_add_(momenta, grads, alpha=sign * (1.0 - beta1))
        return along_gradients(group, momenta)

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        params, _, *moments = self._state_lists(group)
        decay, lr = group["weight_decay"], number(group["lr"])
        updates = along_gradients(group, updates)
        if decay != 0 and group["decoupled_weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * decay)
        elif decay != 0:
            updates = list(torch._foreach_add(updates, torch._foreach_mul(params, decay)))
        beta1, beta2 = map(float, group["betas"])
        squares, maxima = map(_real, moments[:2])
        lists = (_real(params), _real(updates), squares, maxima, moments[2])
        critical_adam(*lists, lr=lr, beta1=beta1, beta2=beta2, eps=group["eps"])


@documented(base="Adam", base_bytes="8")
class Adam_CM(_CriticalAdam):
    """Adam with critical momenta: the memory holds momenta, and the step goes along theirs too.

    m = beta1 m + (1 - beta1) g; a = aggregate(m, memory), by default m + kappa times the mean of
    the stored momenta; the memory is offered m, ranked by the norm of g;
    v = beta2 v + (1 - beta2) a^2; x -= lr / (1 - beta1^t) a / (sqrt(v / (1 - beta2^t)) + eps).

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0; added to a, never stored.
        decoupled_weight_decay: take the weight decay from the parameter, as `AdamW_CM` does.
        amsgrad, maximize, capturable: as in torch. foreach makes no difference;
            {not_differentiable}
        fused: True for one pass over memory and parameters together, by kernels built on first use.
        {memory_options}

    With an empty memory the rule is not Adam's, whose v sees g^2 and not m^2; switched off, it is.
    So the first step goes lr / (1 - beta1) far; the others come down to lr as 1 - beta1^t rises.
    Policies that compare directions or norms compare momenta.

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    Departs from the authors' program: it moves at the first step, and stores a momentum there;
    weight decay is Adam's penalty, in AdamW_CM decoupled; the memory survives a resume.

    Reference: Malviya, Mordido, Baratin, Babanezhad Harikandeh, Huang, Lacoste-Julien, Pascanu,
    Chandar, *Promoting Exploration in Memory-Augmented Adam using Critical Momenta*, TMLR 2024,
    arXiv 2307.09638.

    Example:
        >>> import torch
        >>> from gradmem import Adam_CM
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = Adam_CM(model.parameters(), lr=1e-3, capacity=5)
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
        amsgrad: bool = False,
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
class AdamW_CM(_CriticalAdam, AdamW):
    """AdamW with critical momenta: `Adam_CM` with decoupled weight decay.

    x *= 1 - lr weight_decay; then the step of `Adam_CM`: m = beta1 m + (1 - beta1) g;
    a = aggregate(m, memory), by default m + kappa times the mean of the stored momenta; the memory
    is offered m, ranked by the norm of g; v = beta2 v + (1 - beta2) a^2;
    x -= lr / (1 - beta1^t) a / (sqrt(v / (1 - beta2^t)) + eps).

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: decoupled, at least 0; never stored.
        amsgrad, maximize, capturable: as in torch. foreach makes no difference;
            {not_differentiable}
        fused: True for one pass over memory and parameters together, by kernels built on first use.
        {memory_options}

    With an empty memory the rule is not AdamW's, whose v sees g^2 and not m^2; switched off, it is.
    So the first step goes lr / (1 - beta1) far; the others come down to lr as 1 - beta1^t rises.
    Policies that compare directions or norms compare momenta.

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    Departs from the authors' program: it moves at the first step, and stores a momentum there; the
    memory survives a resume.

    Reference: Malviya and others, TMLR 2024, arXiv 2307.09638, see `Adam_CM`; weight decay:
    Loshchilov and Hutter 2019, arXiv 1711.05101.

    Example:
        >>> import torch
        >>> from gradmem import AdamW_CM
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = AdamW_CM(model.parameters(), lr=1e-3, weight_decay=0.1, capacity=5)
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
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
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
