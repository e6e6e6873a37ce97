"""What every optimizer with a memory has, however it applies the update: a plan and a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gradmem.errors import StepError
from gradmem.optim import validation
from gradmem.optim.plan import Group, Plan, make_plan
from gradmem.optim.remember import Observer
from gradmem.optim.report import MemoryReport, describe
from gradmem.optim.state import State


class MemoryHolder:
    """Mixed into a torch Optimizer; says where its memory's groups and state are."""

    _plan: Plan | None = None
    _observer: Observer | None = None
    _stepping: bool = False
    _fixed: list[dict[str, Any]]

    def _memory_groups(self) -> list[Group]:
        """Groups of parameters with the memory's options."""
        raise NotImplementedError

    def _memory_state(self) -> State:
        """By parameter, where slots and ledgers are kept."""
        raise NotImplementedError

    def memory_report(self) -> MemoryReport:
        """What the memory holds now: fill, ages, norms, share of accepted steps, bytes, per scope.

        It reads numbers from the device and is not for every step of a hot loop.
        """
        return describe(self._current_plan().memories, self._memory_state())

    def _current_plan(self) -> Plan:
        groups, state, plan = self._memory_groups(), self._memory_state(), self._plan
        current = plan is not None and plan.is_current(groups, state)
        if plan is None or not current or plan.options_edited(groups):
            self._fixed = validation.check_edits(groups, self._fixed)
            if plan is None or not current or not plan.adopt_options(groups):
                plan = self._plan = make_plan(groups, state)
        return plan

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """Call the closure, once, with gradients enabled."""
        if self._stepping:
            raise StepError(
                "step() was called from within its own closure; the closure must only evaluate the "
                "model, call backward() and return the loss"
            )
        if closure is None:
            return None
        if not callable(closure):
            raise StepError(
                f"closure must be callable or None, got {type(closure).__name__}; call "
                "loss.backward() first and then step() without arguments"
            )
        self._stepping = True
        try:
            with torch.enable_grad():
                return closure()
        finally:
            self._stepping = False
