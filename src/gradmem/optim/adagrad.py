"""Adagrad_C: Adagrad on the aggregate of gradient and memory."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.optim import Adagrad
from torch.optim.adagrad import adagrad
from torch.optim.optimizer import ParamsT

from gradmem.errors import OptionError
from gradmem.memory.options import (
    Aggregate,
    MemoryDevice,
    MemoryDtype,
    MemoryOptions,
    Norm,
    Policy,
    Scope,
    options_of,
)
from gradmem.memory.sharding import locals_of
from gradmem.optim import validation
from gradmem.optim.documentation import documented
from gradmem.optim.plan import Group
from gradmem.optim.shell import MemoryOptimizer


@documented(base="Adagrad", base_bytes="4")
class Adagrad_C(MemoryOptimizer, Adagrad):
    """Adagrad on the aggregate of the current gradient and remembered ones.

    u = aggregate(g, memory); then torch's Adagrad with u for its gradient: the sum of squares sees
    u.

    {how_it_remembers}

    Args:
        {params}
        lr: learning rate, at least 0; a tensor is allowed as in torch.
        lr_decay: the rate at step t is lr / (1 + (t - 1) lr_decay), at least 0.
        weight_decay: L2 penalty, at least 0; added to u, never stored.
        initial_accumulator_value: where the sums of squares begin, at least 0; the same for all
            groups, as torch heeds no other.
        eps: added to the denominator, at least 0.
        foreach, maximize, fused: as in torch;
            {not_differentiable}
        {memory_options}

    {memory_state}
    torch's own ``sum`` and ``step`` are made then too, not at construction, unless no group has a
    memory: distributed checkpoints load into state that is complete.

    {memory_bytes}

    {memory_errors}

    {memory_numerics}

    {memory_departures}

    {memory_reference}
    Base rule: Duchi, Hazan, Singer 2011; the authors have no such program.

    Example:
        >>> import torch
        >>> from gradmem import Adagrad_C
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = Adagrad_C(model.parameters(), lr=0.01, initial_accumulator_value=0.1)
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
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
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
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        if self._remembers():
            # Distributed Checkpoint takes a state that is not empty for complete, and would load
            # the sums alone.
            self.state.clear()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of its own if it names any; checked before it is added.

        Raises:
            OptionError: an option is out of range, or a key is unknown; or the initial accumulator
                value is another than the constructor's.
            OptionTypeError: an option is of the wrong type.
            GradientError: a parameter is of a kind the memory cannot hold.
        """
        if isinstance(param_group, dict):
            where = f"param group {len(self.param_groups)}: "
            validation.check_base_options({**self.defaults, **param_group}, where)
            own = self.defaults["initial_accumulator_value"]
            given = param_group.get("initial_accumulator_value", own)
            if given != own:
                raise OptionError(
                    f"{where}initial_accumulator_value must be {own!r} as in the constructor, got "
                    f"{given!r}: torch begins all sums with that one; use an optimizer of its own"
                )
        super().add_param_group(param_group)

    def share_memory(self) -> None:
        """torch's sharing of its sums with other processes, where nothing is remembered.

        Raises:
            OptionError: a group has a memory, which one process alone can keep.
        """
        if self._remembers():
            raise OptionError(
                "share_memory() needs capacity=0 or kappa=0 in every group: a memory cannot be "
                "kept by several processes; use torch.optim.Adagrad for that"
            )
        super().share_memory()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch's looks for a step in the first entry: there is none if it was only looked at.
        made = {p: entry for p, entry in state["state"].items() if entry}
        super().__setstate__({**state, "state": defaultdict(dict, made)})

    def _remembers(self) -> bool:
        return any(options_of(group).enabled for group in self.param_groups)

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        lists: list[list[Tensor]] = [[] for _ in range(4)]
        has_sparse_grad, has_complex = self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        params, _, sums, steps = map(locals_of, lists)
        adagrad(
            params,
            updates,
            sums,
            steps,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            has_sparse_grad=has_sparse_grad,
            foreach=group["foreach"],
            maximize=group["maximize"],
            differentiable=group["differentiable"],
            has_complex=has_complex,
            fused=group["fused"],
        )
