"""AggMo, which torch does not have, and AggMo_C: several momenta on the aggregate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from gradmem.errors import GradientError, OptionError, OptionTypeError
from gradmem.memory.options import (
    Aggregate,
    MemoryDevice,
    MemoryDtype,
    MemoryOptions,
    Norm,
    Policy,
    Scope,
)
from gradmem.memory.sharding import gradient, local, locals_of, stacked_like
from gradmem.optim import validation
from gradmem.optim.documentation import documented
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer

VELOCITY: Final = "velocity"  # (K, *shape), the parameter's type


def aggmo(
    params: list[Tensor],
    grads: list[Tensor],
    velocities: list[Tensor],
    *,
    lr: float | Tensor,
    betas: Sequence[float],
    weight_decay: float,
    maximize: bool,
    foreach: bool | None,
) -> None:
    """One step of AggMo for plain tensors, in place; the gradients are left as they are.

    Args:
        params: the parameters.
        grads: their gradients.
        velocities: of each parameter, (K, *shape), one row a beta.
        lr: learning rate.
        betas: K decay factors.
        weight_decay: L2 penalty.
        maximize: go up instead of down.
        foreach: all tensors together, or one after the other, which gives the same numbers and
            needs less memory; None for together on an accelerator.
    """
    if foreach is None:
        foreach = all(p.device.type in ("cuda", "xpu") for p in params)
    step = partial(_step, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)
    if foreach:
        step(params, grads, velocities)
    else:
        for p, grad, velocity in zip(params, grads, velocities, strict=True):
            step([p], [grad], [velocity])


def _step(
    params: list[Tensor],
    grads: list[Tensor],
    velocities: list[Tensor],
    *,
    lr: float | Tensor,
    betas: Sequence[float],
    weight_decay: float,
    maximize: bool,
) -> None:
    if not params:
        return
    sign = -1.0 if maximize else 1.0
    if weight_decay != 0:
        grads = list(torch._foreach_add(grads, params, alpha=sign * weight_decay))
    for k, beta in enumerate(betas):
        rows = [velocity[k] for velocity in velocities]
        torch._foreach_mul_(rows, beta)
        torch._foreach_add_(rows, grads, alpha=sign)
    means = [velocity.mean(dim=0) for velocity in velocities]
    if isinstance(lr, Tensor):  # never read, as it may lie on an accelerator
        torch._foreach_mul_(means, -lr.squeeze())
        torch._foreach_add_(params, means)
    else:
        torch._foreach_add_(params, means, alpha=-lr)


class AggMo(Optimizer):
    """Aggregated momentum: the mean of several velocities, of different decay each.

    With g the gradient: v_i = beta_i v_i + g for each of the K betas, then x = x - lr mean(v). The
    slow velocities carry far, the fast ones damp their oscillations. With one beta this is SGD with
    that momentum.

    Args:
        params: parameters, named parameters, or groups; groups may have options of their own.
        lr: learning rate, at least 0; a tensor is allowed.
        betas: decay of each velocity, one or more, each in [0, 1). Their number is fixed.
            Schedulers that cycle a momentum cycle the first: give them ``cycle_momentum=False``.
        weight_decay: L2 penalty, at least 0; added to g.
        maximize: go up instead of down.
        foreach: update all tensors together, or one after the other, which gives the same numbers
            and needs less memory; None for together on an accelerator.

    State in ``state[p]``, allocated once at the first gradient: ``velocity`` (K, *shape) of the
    parameter's type.

    Bytes per float32 parameter element: 4 K, that is 12 with the default betas.

    Raises:
        OptionError: an option is out of range, a group's key is unknown, or the number of betas
            was changed.
        OptionTypeError: an option is of the wrong type.
        GradientError: a gradient is sparse.

    Numerics: velocities are of the parameter's type, their mean is taken in float32 or wider and
    rounded to it. Sharded parameters (DTensor) have velocities sharded with them. Equal devices and
    thread counts give equal bits, also after a resume.

    Departs from the program of McRae et al.: the gradient is not written to.

    Reference: Lucas, Sun, Zemel, Grosse, *Aggregated Momentum: Stability Through Passive Damping*,
    ICLR 2019, arXiv 1804.00325.

    Example:
        >>> import torch
        >>> from gradmem import AggMo
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = AggMo(model.parameters(), lr=0.01, betas=(0.0, 0.9, 0.99))
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["velocity"].shape
        torch.Size([3, 1, 4])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: Sequence[float] = (0.0, 0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
        }
        validation.check_base_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of its own if it names any; checked before it is added.

        Raises:
            OptionError: an option is out of range, or a key is unknown.
            OptionTypeError: an option is of the wrong type.
        """
        index = len(self.param_groups)
        if not isinstance(param_group, dict):
            raise OptionTypeError(
                f"param group {index} must be a dict with the key 'params', got "
                f"{type(param_group).__name__}"
            )
        where = f"param group {index}: "
        validation.check_keys(param_group, self.defaults, where)
        validation.check_base_options({**self.defaults, **param_group}, where)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``p.grad`` is left as it was.

        Args:
            closure: evaluates the model again and returns the loss; called once.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: the number of betas was changed. Nothing else was.
            GradientError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_betas()
        for group in self.param_groups:
            grads = {p: grad for p in group["params"] if (grad := gradient(p)) is not None}
            self._move({**group, "params": list(grads)}, list(grads.values()))
        return loss

    def _check_betas(self) -> None:
        for i, group in enumerate(self.param_groups):
            for p in group["params"]:
                velocity = self.state.get(p, {}).get(VELOCITY)
                if velocity is not None and velocity.shape[0] != len(group["betas"]):
                    raise OptionError(
                        f"param group {i}: betas has {len(group['betas'])} numbers, "
                        f"{group['betas']!r}, but there are {velocity.shape[0]} velocities; give "
                        "as many, or make a new optimizer"
                    )

    def _move(self, group: Group, grads: list[Tensor]) -> None:
        """Step the group's parameters, all of which have a gradient or what takes its place."""
        params: list[Tensor] = group["params"]
        for p, grad in zip(params, grads, strict=True):
            if grad.layout is not torch.strided:
                raise GradientError(
                    f"a parameter of shape {tuple(p.shape)} has a gradient of layout "
                    f"{grad.layout}; AggMo does not support sparse gradients: use "
                    "nn.Embedding(sparse=False)"
                )
        aggmo(
            locals_of(params),
            grads,
            [local(self._velocity(p, len(group["betas"]))) for p in params],
            lr=group["lr"],
            betas=group["betas"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
            foreach=group["foreach"],
        )

    def _velocity(self, p: Tensor, count: int) -> Tensor:
        state = self.state[p]
        if VELOCITY not in state:
            part = local(p).detach()
            # Zeros like an expanded tensor keep its order of dimensions in memory in each row.
            rows = torch.zeros_like(part.expand(count, *part.shape))
            state[VELOCITY] = stacked_like(p, rows)
        velocity: Tensor = state[VELOCITY]
        return velocity


@documented(base="AggMo", base_bytes="4 K")
class AggMo_C(MemoryOptimizer, AggMo):
    """AggMo on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then `AggMo` with u for its gradient: v_i = beta_i v_i + u for each of
    the K betas, then x = x - lr mean(v). The default aggregate, "sum", doubles the step at kappa 1:
    compare it with a base at twice the learning rate.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed.
        betas: decay of each velocity, one or more, each in [0, 1). Their number is fixed.
            Schedulers that cycle a momentum cycle the first: give them ``cycle_momentum=False``.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        maximize, foreach: as in `AggMo`.
        {memory_options}

    {memory_state}

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}
    Weight decay is added once and not stored, and kappa is heeded.

    {memory_reference}
    Base rule: Lucas, Sun, Zemel, Grosse 2019, arXiv 1804.00325.

    Example:
        >>> import torch
        >>> from gradmem import AggMo_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = AggMo_C(model.parameters(), lr=0.01, betas=(0.0, 0.9))
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
        betas: Sequence[float] = (0.0, 0.9, 0.99),
        weight_decay: float = 0,
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
            weight_decay=weight_decay,
            maximize=maximize,
            foreach=foreach,
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and remember the gradient; ``p.grad`` is left as it was.

        Args:
            closure: evaluates the model again and returns the loss; called once.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: an option was edited out of its range, or one that is fixed was changed,
                the number of betas among them.
            GradientError: a gradient is sparse.
            StepError: the closure is not callable, or calls step itself.
        """
        self._check_betas()
        return super().step(closure)

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        self._move(group, updates)
