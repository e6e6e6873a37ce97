"""What every optimizer with a memory has, however it applies the update: a plan and a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradmem.errors import StepError
from gradmem.memory.options import options_of
from gradmem.optim import clipping, validation
from gradmem.optim.plan import Group, Memory, Plan, make_plan
from gradmem.optim.remember import Gradients, Observer, norms_of
from gradmem.optim.report import MemoryReport, describe
from gradmem.optim.state import State

# Decorates `step`; torch gives the reason where a function with a step in it is to be one graph.
not_compiled: Any = torch.compiler.disable(  # type: ignore[no-untyped-call]
    reason="a memory decides on the host; compile the model and leave the step out"
)
# In place of a process group in a copy of an optimizer, which cannot have it.
LOST = "lost"


class MemoryHolder:
    """Mixed into a torch Optimizer; says where its memory's groups and state are."""

    _plan: Plan | None = None
    _observer: Observer | None = None
    _stepping: bool = False
    # Process group whose ranks hold other parameters of the same memory, see `together`.
    _peers: Any = None
    _fixed: list[dict[str, Any]]

    def _memory_groups(self) -> list[Group]:
        """Groups of parameters with the memory's options."""
        raise NotImplementedError

    def _memory_state(self) -> State:
        """By parameter, where slots and ledgers are kept."""
        raise NotImplementedError

    def _measured(self, memory: Memory, grads: Gradients) -> Tensor:
        """The norms of a memory's gradients, (1, R)."""
        return norms_of(memory, [grads])

    def _claim_state(self) -> None:
        """Take what a wrapper put into the optimizer's state on loading, past load_state_dict."""

    def memory_report(self) -> MemoryReport:
        """What the memory holds now: fill, ages, norms, share of accepted steps, bytes, per scope.

        It reads numbers from the device and is not for every step of a hot loop.
        """
        return describe(self._current_plan().memories, self._memory_state())

    @not_compiled  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float, *, error_if_nonfinite: bool = False) -> Tensor:
        """Clip the gradients of all parameters together; the step then need not measure them.

        ``g = min(1, max_norm / (|g| + 1e-6)) g``, as ``torch.nn.utils.clip_grad_norm_`` has it.
        Call it after backward(), and with a GradScaler after ``scaler.unscale_(optimizer)``. A
        memory ranks gradients by their norm, which is known here: the next step passes over them
        once less. If a gradient was changed or made anew in between, it measures them as ever. It
        cannot see what is written past torch's count of changes: through ``.data`` or numpy, by a
        collective, by a GradScaler whose ``unscale_`` was not called, or by the replay of a CUDA
        graph; clip after those, and capture clipping and step in one graph.

        Args:
            max_norm: above 0; ``math.inf`` measures, and leaves all gradients as they are.
            error_if_nonfinite: raise an error where the norm is NaN or infinite, which waits for a
                device. Otherwise such gradients are multiplied all the same; the memory refuses
                them.

        Returns:
            The norm before, 0-d float64: on the gradients' device if they are on one GPU.

        State added: none. Bytes: none that last. Where all parameters are on one GPU, and their
        slots too, nothing waits for it.

        Raises:
            OptionError: max_norm is not above 0, or an option was edited out of its range.
            OptionTypeError: max_norm is not a number.
            GradientError: a gradient is sparse, or the norm not finite. Nothing was changed.

        Departs from torch's: the norm is summed in float64, so that gradients may differ in the
        last digit; on the CPU they are not written to where nothing is to be clipped. A memory
        takes for their norm what the norm before was multiplied by, not what rounding made of it.
        With ``norm="sum"``, critical momenta and sharded parameters the step measures as ever.
        After `decide_together` every rank must call it, and all gradients of all ranks are clipped
        together.

        Example:
            >>> import torch
            >>> from gradmem import Adam_C
            >>> layer = torch.nn.Linear(2, 1)
            >>> optimizer = Adam_C(layer.parameters(), lr=1e-3, capacity=10)
            >>> (100 * layer(torch.ones(1, 2))).sum().backward()
            >>> round(float(optimizer.clip_grad_norm_(5.0)), 1)  # sqrt(3) * 100
            173.2
            >>> optimizer.step()
            >>> round(optimizer.memory_report().scopes[0].norms[0], 4)
            5.0
        """
        norm = clipping.checked_max_norm(max_norm)
        return clipping.clip(self, self._current_plan(), norm, check=error_if_nonfinite)

    def _current_plan(self) -> Plan:
        groups, state, plan = self._memory_groups(), self._memory_state(), self._plan
        current = plan is not None and plan.is_current(groups, state)
        if plan is None or not current or plan.options_edited(groups):
            self._fixed = validation.check_edits(groups, self._fixed)
            if plan is None or not current or not plan.adopt_options(groups):
                if self._peers == LOST:
                    raise StepError(
                        "this optimizer is a copy of one that decided together with other ranks, "
                        "and knows them no longer: call gradmem.decide_together(optimizer) on "
                        "every rank"
                    )
                for i, group in enumerate(groups):  # a trainer may have put in other parameters
                    where = f"param group {i}: "
                    validation.check_storage(group["params"], options_of(group), where)
                with torch.inference_mode(False):  # ledgers outlive such a block
                    plan = self._plan = make_plan(groups, state, self._peers, plan)
        return plan

    def _plan_of_step(self) -> Plan:
        """The plan, for a step that has all gradients."""
        plan = self._current_plan()
        inside_backward = torch._C._current_graph_task_id() != -1
        if inside_backward and any(len(row) > 1 for memory in plan.memories for row in memory.rows):
            raise StepError(
                "step() was called inside backward(), where gradients of other parameters are "
                "still to come, but they are kept or refused together; call step() after "
                "backward(), or use scope='tensor' or an optimizer for each parameter: each then "
                "decides for itself"
            )
        return plan

    def _copied_peers(self) -> Any:
        """What a copy knows of the ranks it decides together with: that there are some."""
        return None if self._peers is None else LOST

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
