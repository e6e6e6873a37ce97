"""The part that all memory-augmented optimizers share: groups, state, checkpoints, the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.memory import offload
from gradmem.memory.ledger import Move
from gradmem.memory.options import MemoryOptions
from gradmem.memory.sharding import gradient
from gradmem.optim import checkpoint, validation
from gradmem.optim.clipping import known_norms
from gradmem.optim.fused import apply as fused_pass
from gradmem.optim.fused.kernel import Kernel
from gradmem.optim.holder import MemoryHolder, not_compiled
from gradmem.optim.plan import Group, Memory, Portion
from gradmem.optim.remember import (
    Decision,
    Gradients,
    Offered,
    attach,
    combined,
    copied,
    decide,
    entry_for,
    exchanging,
    gradients_of,
    norms_of,
    retain,
    retain_nothing,
)
from gradmem.optim.state import State, store_of
from gradmem.optim.torch_kernels import fused_option
from gradmem.optim.undo import put_back


class MemoryOptimizer(MemoryHolder, Optimizer):
    """Base of the named optimizers: put it before the torch class and write `_update`.

    The torch class keeps its constructor, options, state and update rule; this class hands it the
    aggregate of gradient and memory in place of the gradient.
    """

    # Whether `_kernel` says how a fused pass applies the base rule.
    has_kernel: ClassVar[bool] = False
    # Whether torch has a fused kernel for the base rule on the CPU.
    _torch_kernel: ClassVar[bool] = False
    # Key in the state of what `_offered` changes, before the decisions; None if it changes nothing.
    _made_early: ClassVar[str | None] = None
    # Options of the torch class that are refused unless false, and why.
    _refused: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        params: Any,
        memory: MemoryOptions,
        own_options: Mapping[str, Any] | None = None,
        **base_options: Any,
    ) -> None:
        validation.check_base_options(base_options)
        self._memory_defaults = memory
        # Options of a class that are neither the memory's nor the torch class's.
        self._own_defaults = dict(own_options or {})
        self._fixed: list[dict[str, Any]] = []
        super().__init__(params, **base_options)
        # With this flag a GradScaler would hand over gradients that are still scaled.
        self._step_supports_amp_scaling = False

    def _update(self, group: Group, updates: list[Tensor]) -> None:
        """Apply the base rule to ``group["params"]`` with these updates for gradients."""
        raise NotImplementedError

    def _update_plain(self, group: Group, grads: list[Tensor]) -> None:
        """The same where the memory is switched off."""
        self._update(group, grads)

    def _kernel(self, group: Group) -> Kernel:
        """The base rule as a fused pass takes it, if this class `has_kernel`."""
        raise NotImplementedError

    def _make_state(self, group: Group) -> None:
        """The base rule's state for ``group["params"]``, where there is none, as `_kernel` has it.

        They all have a gradient.
        """
        raise NotImplementedError

    def _offered(self, memory: Memory, grads: Gradients) -> Offered:
        """What is combined with the memory and then stored in it: the gradients."""
        return Offered(grads, known_norms(memory) or fused_pass.norms(self, memory))

    def _measured(self, memory: Memory, grads: Gradients) -> Tensor:
        measure = fused_pass.norms(self, memory, ahead=False) or norms_of
        norms = measure(memory, [grads])
        fused_pass.forget(memory)  # gradients may be others until the step
        return norms

    def _deciding(
        self, memories: Sequence[Memory], given: Sequence[Gradients]
    ) -> AbstractContextManager[None]:
        """A block of all decisions, in which a user's function may raise an error."""
        asked = [o for m in memories for o in (m.options.policy, m.options.aggregate)]
        if self._made_early is None or not any(map(callable, asked)):
            return nullcontext()
        return put_back(self.state, [p for grads in given for p in grads], self._made_early)

    def _writes_gradients(self, group: Group) -> bool:  # noqa: ARG002
        """Whether torch's own rule would write into the gradients it is handed."""
        return False

    def _memory_groups(self) -> list[Group]:
        return self.param_groups

    def _memory_state(self) -> State:
        return self.state

    # The step ------------------------------------------------------------------------------------

    @not_compiled  # type: ignore[untyped-decorator]
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
            StepError: the closure is not callable, or calls step itself; or a backward() calls it,
                which has not made all gradients of a memory yet.
        """
        if "capturable" in self.defaults:
            _check_graph_capture(self)
        loss = self._evaluate(closure)
        plan = self._plan_of_step()
        given = [gradients_of(memory) for memory in plan.memories]
        # All decisions come before any parameter changes: a user's function may raise an error.
        with self._deciding(plan.memories, given):
            works = [self._decide(*each) for each in zip(plan.memories, given, strict=True)]
        for index in plan.plain:
            self._step_plain(index)
        for memory, (grads, offers, decision) in zip(plan.memories, works, strict=True):
            with exchanging(memory, self.state, decision) as moves:
                for run in memory.runs:
                    if not fused_pass.step(self, memory, run, grads, offers, moves):
                        for portion in run.portions:
                            self._step_portion(memory, portion, grads, offers, moves[portion.row])
        return loss

    def _step_plain(self, index: int) -> None:
        """A group without a memory: torch's own step."""
        group = self.param_groups[index]
        grads = {p: grad for p in group["params"] if (grad := gradient(p)) is not None}
        updates = list(grads.values())
        if self._writes_gradients(group):
            updates = [grad.clone() for grad in updates]
        self._update_plain({**group, "params": list(grads)}, updates)

    def _decide(self, memory: Memory, grads: Gradients) -> tuple[Gradients, Gradients, Decision]:
        offered = self._offered(memory, grads)
        return grads, offered.values, decide(memory, self.state, grads, offered)

    def _step_portion(
        self, memory: Memory, portion: Portion, grads: Gradients, offers: Gradients, move: Move
    ) -> None:
        """Update the parameters that have a gradient, then let the memory take it."""
        params, narrow, wide = portion.parameters, portion.narrow, portion.wide
        found = list(map(grads.get, params))
        own = [grad for grad in found if grad is not None]
        if len(own) < len(found):
            some = [i for i, grad in enumerate(found) if grad is not None]
            params, narrow, wide = ([each[i] for i in some] for each in (params, narrow, wide))
        if params:
            group = {**self.param_groups[portion.group], "params": params}
            offered = own if offers is grads else [offers[p] for p in params]
            entries = [entry_for(p, self.state, memory.options) for p in params]
            stores = list(map(store_of, entries))
            updates = combined(narrow, wide, offered, stores, move)
            if self._torch_kernel:
                group["fused"] = fused_option(group, self.state, updates)
            if updates is offered and self._writes_gradients(group):
                updates = copied(narrow, offered)
            if self._observer is not None:
                self._observer(memory, portion.row, params, own, updates)
            self._update(group, updates)
            for p, entry in zip(params, entries, strict=True):
                attach(memory, portion.row, self.state, p, entry)
            retain(stores, offered, move)
        if len(own) < len(found):
            absent = [p for p in portion.parameters if p not in grads]
            retain_nothing(absent, self.state, move)

    # Groups --------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of its own if it names any; checked before it is added.

        Raises:
            OptionError: an option is out of range, or a key is unknown.
            OptionTypeError: an option is of the wrong type.
            GradientError: a parameter is of a kind the memory cannot hold.
        """
        for name, value in {**self._memory_defaults.as_group(), **self._own_defaults}.items():
            self.defaults.setdefault(name, value)
        index = len(self.param_groups)
        group = validation.checked_group(param_group, index, self.defaults)
        validation.check_refused(group, self.defaults, self._refused, f"param group {index}: ")
        super().add_param_group(group)
        self._fixed = [*self._fixed, validation.fixed_options(group)]

    def __getstate__(self) -> dict[str, Any]:
        offload.settle()
        names = ("_memory_defaults", "_own_defaults", "_fixed")
        own = {name: getattr(self, name) for name in names}
        return {**super().__getstate__(), **own, "_peers": self._copied_peers()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None

    # Checkpoints ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State and options; a policy or aggregate of the user's is there by its name."""
        offload.settle()
        return checkpoint.named(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of its torch class (the memory is then empty).

        Raises:
            CheckpointError: capacity, policy, scope, norm or a shape is another; nothing was
                changed.
        """
        loading = checkpoint.Loading(self.param_groups)

        def restore() -> None:
            loading.restore_memory(self.param_groups, self.state)

        with checkpoint.around_loading(self, loading.take_memory, restore):
            super().load_state_dict(state_dict)


def _check_graph_capture(optimizer: Optimizer) -> None:
    """torch's check that a captured step is capturable; it was renamed in a recent version."""
    names = "_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"
    next(getattr(optimizer, name) for name in names if hasattr(optimizer, name))()
