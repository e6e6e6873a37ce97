"""The part that all memory-augmented optimizers share: groups, state, checkpoints, the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import GradientError, StepError
from gradmem.memory import on_device, on_host
from gradmem.memory import slots as storage
from gradmem.memory.ledger import Move, expired, forget, written
from gradmem.memory.norms import ledger_norms
from gradmem.memory.options import MemoryOptions
from gradmem.memory.sharding import gradient, local
from gradmem.optim import checkpoint, validation
from gradmem.optim.plan import Group, Memory, Plan, Portion, make_plan
from gradmem.optim.report import MemoryReport, describe
from gradmem.optim.state import SLOTS, SUM, holds_memory


class MemoryOptimizer(Optimizer):
    """Base of the named optimizers: put it before the torch class and write `_update`.

    The torch class keeps its constructor, options, state and update rule; this class hands it the
    aggregate of gradient and memory in place of the gradient.
    """

    _plan: Plan | None = None
    _stepping: bool = False

    def __init__(self, params: Any, memory: MemoryOptions, **base_options: Any) -> None:
        validation.check_base_options(base_options)
        self._memory_defaults = memory
        self._fixed: list[dict[str, Any]] = []
        super().__init__(params, **base_options)
        # With this flag a GradScaler would hand over gradients that are still scaled.
        self._step_supports_amp_scaling = False

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        """Apply the base rule to ``group["params"]`` with these updates for gradients."""
        raise NotImplementedError

    def _writes_gradients(self, group: Group) -> bool:  # noqa: ARG002
        """Whether torch's own rule would write into the gradients it is handed."""
        return False

    # The step ------------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and remember the gradient; ``p.grad`` is left as it was.

        Args:
            closure: evaluates the model again and returns the loss; called once.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: an option was edited out of its range, or one that is fixed was changed.
            GradientError: a gradient is sparse. Nothing was changed.
            StepError: the closure is not callable, or calls step itself.
        """
        if self._stepping:
            raise StepError(
                "step() was called from within its own closure; the closure must only evaluate the "
                "model, call backward() and return the loss"
            )
        if "capturable" in self.defaults:
            _check_graph_capture(self)
        loss = self._evaluate(closure)
        plan = self._current_plan()
        for memory in plan.memories:
            _check_gradients(memory)
        for index in plan.plain:
            self._step_plain(index)
        for memory in plan.memories:
            self._step_memory(memory)
        return loss

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
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

    def _current_plan(self) -> Plan:
        plan = self._plan
        current = plan is not None and plan.is_current(self.param_groups, self.state)
        if plan is None or not current or plan.options_edited(self.param_groups):
            self._fixed = validation.check_edits(self.param_groups, self._fixed)
            if plan is None or not current or not plan.adopt_options(self.param_groups):
                plan = self._plan = make_plan(self.param_groups, self.state)
        return plan

    def _step_plain(self, index: int) -> None:
        """A group without a memory: torch's own step."""
        group = self.param_groups[index]
        grads = {p: grad for p in group["params"] if (grad := gradient(p)) is not None}
        updates = list(grads.values())
        if self._writes_gradients(group):
            updates = [grad.clone() for grad in updates]
        self._update({**group, "params": list(grads)}, updates)

    def _step_memory(self, memory: Memory) -> None:
        grads = {p: grad for row in memory.rows for p in row if (grad := gradient(p)) is not None}
        if memory.check_ages:
            self._drop_expired(memory)
        device, l2 = memory.ledger.priority.device, memory.options.norm == "l2"
        norms = ledger_norms(memory.rows, grads, device, l2=l2)
        decision = _decide(memory, norms)
        try:
            for portion in memory.portions:
                self._step_portion(memory, portion, grads, decision.moves[portion.row])
        except BaseException:
            # Some parameters have exchanged a slot, others have not: it belongs to no gradient.
            self._empty(memory, written(memory.ledger, decision.moves))
            raise
        if memory.holders:  # else no parameter had a gradient yet
            _commit(memory, decision)

    def _drop_expired(self, memory: Memory) -> None:
        """Empty slots that a smaller `max_age` forbids; seldom, so it may wait for a device."""
        if memory.options.max_age is not None:
            too_old = expired(memory.ledger, memory.options.max_age)
            if bool(too_old.any()):
                self._empty(memory, too_old)
        memory.check_ages = False

    def _step_portion(
        self, memory: Memory, portion: Portion, grads: Mapping[Tensor, Tensor], move: Move
    ) -> None:
        """Update the parameters that have a gradient, then let the memory take it."""
        present = [i for i, p in enumerate(portion.parameters) if p in grads]
        if present:
            params = [portion.parameters[i] for i in present]
            own = [grads[p] for p in params]
            kept = [self._memory_of(p, memory.options.capacity) for p in params]
            slots, sums = [local(s) for s, _ in kept], [local(s) for _, s in kept]
            group = self.param_groups[portion.group]
            copied = self._writes_gradients(group)
            updates = _updates(portion, present, own, sums, move, copied=copied)
            self._update({**group, "params": params}, updates)
            for p, (own_slots, own_sum) in zip(params, kept, strict=True):
                if not holds_memory(self.state, p):
                    self.state[p].update({SLOTS: own_slots, SUM: own_sum})
                    memory.attach(p, portion.row, self.state)
            _retain(slots, sums, own, move)
        if len(present) < len(portion.parameters):
            absent = [p for p in portion.parameters if p not in grads]
            self._age_absent([p for p in absent if holds_memory(self.state, p)], move)

    def _memory_of(self, p: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Slots and running sum, made if need be. torch classes make their own state only while
        ``state[p]`` is empty, so new ones are put there after the base's first update.
        """
        if holds_memory(self.state, p):
            return self.state[p][SLOTS], self.state[p][SUM]
        return storage.allocate(p, capacity)

    def _age_absent(self, params: Sequence[Tensor], move: Move) -> None:
        """A parameter without a gradient contributes zero to the gradient that is stored."""
        if params:
            slots = [local(self.state[p][SLOTS]) for p in params]
            sums = [local(self.state[p][SUM]) for p in params]
            _retain(slots, sums, [s.new_zeros(()).expand(s.shape[1:]) for s in slots], move)

    def _empty(self, memory: Memory, emptied: Tensor) -> None:
        """Empty the slots marked in the (R, C) mask."""
        forget(memory.ledger, emptied)
        for i, row in enumerate(memory.rows):
            held = [self.state[p] for p in row if holds_memory(self.state, p)]
            slots, sums = [local(s[SLOTS]) for s in held], [local(s[SUM]) for s in held]
            storage.clear(slots, sums, emptied[i])

    # Groups --------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of its own if it names any; checked before it is added.

        Raises:
            OptionError: an option is out of range, or a key is unknown.
            OptionTypeError: an option is of the wrong type.
            GradientError: a parameter is of a kind the memory cannot hold.
        """
        for name, value in self._memory_defaults.as_group().items():
            self.defaults.setdefault(name, value)
        group = validation.checked_group(param_group, len(self.param_groups), self.defaults)
        super().add_param_group(group)
        self._fixed = [*self._fixed, validation.fixed_options(group)]

    def __getstate__(self) -> dict[str, Any]:
        own = {"_memory_defaults": self._memory_defaults, "_fixed": self._fixed}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None

    # Checkpoints ---------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of its torch class (the memory is then empty).

        Raises:
            CheckpointError: capacity, policy, scope, norm or a shape is another; nothing was
                changed.
        """
        loading = checkpoint.Loading(self.param_groups)
        before = self.register_load_state_dict_pre_hook(lambda _, given: loading.take_memory(given))
        after = self.register_load_state_dict_post_hook(
            lambda _: loading.restore_memory(self.param_groups, self.state), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    # Looking inside ------------------------------------------------------------------------------

    def memory_report(self) -> MemoryReport:
        """What the memory holds now: fill, ages, norms, share of accepted steps, bytes, per scope.

        It reads numbers from the device and is not for every step of a hot loop.
        """
        return describe(self._current_plan().memories, self.state)


def _check_graph_capture(optimizer: Optimizer) -> None:
    """torch's check that a captured step is capturable; it was renamed in a recent version."""
    names = "_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"
    next(getattr(optimizer, name) for name in names if hasattr(optimizer, name))()


def _check_gradients(memory: Memory) -> None:
    for name, row in zip(memory.names, memory.rows, strict=True):
        for p in row:
            if p.grad is not None and p.grad.layout is not torch.strided:
                raise GradientError(
                    f"a parameter of shape {tuple(p.shape)} in {name} has a gradient of layout "
                    f"{p.grad.layout}; a memory holds dense ones (torch.strided): use "
                    "nn.Embedding(sparse=False), or put it in a group with capacity=0 if the base "
                    "optimizer takes sparse gradients"
                )


def _decide(memory: Memory, norms: Tensor) -> on_host.Decision | on_device.Decision:
    if memory.on_host:
        return on_host.decide(memory.ledger, norms, memory.options)
    # The host cannot know how much the sums have drifted without waiting: renew them regularly,
    # often enough that the cost stays one read a step, always inside a captured graph.
    captured = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    period = 1 if captured else max(16, memory.options.capacity)
    renew = memory.calls % period == period - 1
    return on_device.decide(memory.ledger, norms, memory.options, renew=renew)


def _commit(memory: Memory, decision: on_host.Decision | on_device.Decision) -> None:
    if isinstance(decision, on_host.Decision):
        on_host.commit(memory.ledger, decision, memory.options.decay)
    else:
        on_device.commit(memory.ledger, decision, memory.options.decay)
    memory.calls += 1


def _updates(
    portion: Portion,
    present: list[int],
    grads: list[Tensor],
    sums: list[Tensor],
    move: Move,
    *,
    copied: bool,
) -> list[Tensor]:
    """What the base rule gets in place of the gradients; never they themselves if `copied`."""
    narrow = [portion.narrow[i] for i in present]
    if isinstance(move.stored, float) and move.stored == 0.0:
        if not copied:
            return grads
        torch._foreach_copy_(narrow, grads)
        return narrow
    wide = [portion.wide[i] for i in present]
    storage.combine(wide, grads, sums, move.current, move.stored)
    if portion.narrow is not portion.wide:
        torch._foreach_copy_(narrow, wide)
    return narrow


def _retain(slots: list[Tensor], sums: list[Tensor], grads: list[Tensor], move: Move) -> None:
    if isinstance(move.write, bool):
        if move.write:
            storage.exchange(slots, sums, grads, move.slot)
    else:
        storage.exchange_where(slots, sums, grads, move.slot, move.write)
    if move.renew:
        storage.renew(slots, sums)
