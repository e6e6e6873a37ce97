"""MemoryAugmented: a memory for any optimizer that is already there."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.memory import offload
from gradmem.memory.options import (
    OPTION_NAMES,
    Aggregate,
    MemoryDevice,
    MemoryDtype,
    MemoryOptions,
    Norm,
    Policy,
    Scope,
)
from gradmem.optim import checkpoint, validation
from gradmem.optim.documentation import documented
from gradmem.optim.handover import Work, check_wrappable, combine_all, handed_over, own_options
from gradmem.optim.holder import MemoryHolder, not_compiled
from gradmem.optim.plan import Group
from gradmem.optim.remember import exchanging, gradients_of
from gradmem.optim.state import MEMORY_KEYS, State

_HOOKS = tuple(
    f"_optimizer_{what}_{when}_hooks"
    for what in ("step", "state_dict", "load_state_dict")
    for when in ("pre", "post")
)


@documented(base="the wrapped optimizer", base_bytes="own")
class MemoryAugmented(MemoryHolder, Optimizer):
    """A memory around any optimizer: it is handed the aggregate in place of the gradient.

    At each step u = aggregate(g, memory) is put into every ``p.grad``, the optimizer's own step is
    taken, the gradients are put back, and the memory takes them. The result is itself an
    `Optimizer`: schedulers, trainers and checkpoints treat it as one. What it does not have itself,
    like the ``train()`` and ``eval()`` of a schedule-free optimizer, is the wrapped one's.

    Args:
        optimizer: an optimizer that calls no closure of its own: not LBFGS, nor one that evaluates
            the model several times in a step, nor one that differentiates through the gradient.
        {memory_options}
        groups: memory options that differ from the others, one mapping for each param group of the
            optimizer; None for none.

    Attributes:
        optimizer: the wrapped one. ``param_groups`` are its own, so that schedulers act on it.
        memory_groups: for each of them a dict of the memory's options. They are apart because names
            like "decay" or "norm" may mean something else to the optimizer. Edits take effect at
            the next step; a changed capacity, scope or norm is refused.

    {memory_state}
    It is kept apart from the optimizer's own state, in ``memory_state``; a ``state_dict`` has both,
    the options there as ``memory_capacity`` and so on.

    Bytes per float32 parameter element: 4 (capacity + 1) beside what the optimizer has, and 4 more
    during a step, for the aggregates; see `memory_bytes`.

    Raises:
        OptionError: an option is out of range or unknown, or the optimizer cannot be wrapped.
        OptionTypeError: an option is of the wrong type, or `optimizer` is no Optimizer.
        GradientError: a parameter or gradient is not a dense tensor.

    {memory_numerics}
    With ``capacity=0`` or ``kappa=0`` its step is called as it is, and every bit is its own. Around
    torch's SGD, RMSprop, Adam or AdamW every bit is that of the named class with ``foreach=False``,
    where gradients lie as their parameters do; left to itself that class takes torch's fused
    kernel, and with ``fused=True`` a pass of its own, which round otherwise. It needs no extra copy
    and stays in cache: prefer it.

    Example:
        >>> import torch
        >>> from gradmem import MemoryAugmented
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = MemoryAugmented(torch.optim.Adadelta(model.parameters()), capacity=5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> optimizer.memory_report().scopes[0].occupied
        3
    """

    optimizer: Optimizer
    memory_groups: list[Group]
    memory_state: defaultdict[Tensor, dict[str, Any]]
    _memory_defaults: MemoryOptions
    # With this flag a GradScaler would hand over gradients that are still scaled.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
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
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        check_wrappable(optimizer)
        options = MemoryOptions(
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
        )
        own = own_options(groups, len(optimizer.param_groups))
        self.__setstate__(
            {
                "optimizer": optimizer,
                "memory_state": defaultdict(dict),
                "memory_groups": [],
                "_memory_defaults": options,
                "_fixed": [],
            }
        )
        for group, chosen in zip(optimizer.param_groups, own, strict=True):
            self._add_memory_group(group["params"], chosen)

    # The wrapped optimizer ----------------------------------------------------------------------

    @property
    def param_groups(self) -> list[Group]:
        """The wrapped optimizer's own."""
        groups: list[Group] = self.optimizer.param_groups
        return groups

    @param_groups.setter
    def param_groups(self, groups: list[Group]) -> None:  # as wrappers and trainers do
        self.optimizer.param_groups = groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The wrapped optimizer's own."""
        defaults: dict[str, Any] = self.optimizer.defaults
        return defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    @property
    def state(self) -> Any:
        """The wrapped optimizer's own, where other wrappers may put theirs."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # not there yet, while being unpickled or copied
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self._memory_defaults.as_group().items())
        return f"MemoryAugmented({options}) of\n{self.optimizer!r}"

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer does it."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any], **memory: Any) -> None:
        """Add a group to the wrapped optimizer, with memory options of its own if any are given.

        Raises:
            OptionError: a memory option is out of range or unknown.
            GradientError: a parameter is of a kind the memory cannot hold.
        """
        (chosen,) = own_options([memory], 1)
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        options = self._checked(params, chosen)
        self.optimizer.add_param_group({**param_group, "params": params})
        self._keep_memory_group(self.optimizer.param_groups[-1]["params"], options)

    # The step -----------------------------------------------------------------------------------

    @not_compiled  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and remember the gradient; each ``p.grad`` in a memory is left as it was.

        Args:
            closure: evaluates the model again and returns the loss; called once, here, and not
                handed on, unless every memory is switched off.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: an option was edited out of its range, or one that is fixed was changed.
            GradientError: a gradient is sparse. Nothing was changed.
            StepError: the closure is not callable, or calls step itself; or a backward() calls it,
                which has not made all gradients of a memory yet.
        """
        plan = self._plan_of_step()
        if not plan.memories:
            return self._step_optimizer(closure)
        loss = self._evaluate(closure)
        if closure is not None:
            plan = self._plan_of_step()  # it may have changed options or groups
        with torch.no_grad():
            given = [gradients_of(memory) for memory in plan.memories]
            works = [
                combine_all(memory, self.memory_state, grads)
                for memory, grads in zip(plan.memories, given, strict=True)
            ]
            self._watch(works)
        updates = {p: u for _, parts, _ in works for part in parts for p, u in part.updates()}
        with handed_over(updates):
            self._step_optimizer()
        del updates
        with torch.no_grad(), ExitStack() as stack:
            for memory, parts, decision in works:
                stack.enter_context(exchanging(memory, self.memory_state, decision))
                for part in parts:
                    part.exchange(memory, self.memory_state)
        return loss

    def _step_optimizer(self, closure: Callable[[], Any] | None = None) -> Any:
        """The class's step without the hooks, which are this object's and have been called."""
        step = type(self.optimizer).step
        if getattr(step, "hooked", False):
            step = vars(step)["__wrapped__"]
        loss = step(self.optimizer) if closure is None else step(self.optimizer, closure)
        # What a scheduler that was given the wrapped optimizer looks for.
        vars(self.optimizer)["_opt_called"] = True
        return loss

    def _watch(self, works: Sequence[Work]) -> None:
        if self._observer is not None:
            for memory, parts, _ in works:
                for part in parts:
                    row = part.portion.row
                    self._observer(memory, row, part.params, part.grads, part.combined)

    # The memory ---------------------------------------------------------------------------------

    def _memory_groups(self) -> list[Group]:
        """The memory's groups, after those of the wrapped optimizer, which may be given more."""
        lists = [group["params"] for group in self.optimizer.param_groups]
        own = [group["params"] for group in self.memory_groups]
        if len(own) != len(lists) or any(a is not b for a, b in zip(own, lists, strict=True)):
            known = {tuple(map(id, group["params"])): group for group in self.memory_groups}
            self.memory_groups, self._fixed = [], []
            for params in lists:
                if (group := known.get(tuple(map(id, params)))) is None:
                    self._add_memory_group(params, {})
                else:
                    self._keep_memory_group(params, group)
        return self.memory_groups

    def _memory_state(self) -> State:
        return self.memory_state

    def _claim_state(self) -> None:
        for p, entry in self.optimizer.state.items():
            for key in MEMORY_KEYS:
                if key in entry:
                    self.memory_state[p][key] = entry.pop(key)

    def _add_memory_group(self, params: list[Tensor], chosen: Mapping[str, Any]) -> None:
        self._keep_memory_group(params, self._checked(params, chosen))

    def _checked(self, params: Sequence[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
        where = f"param group {len(self.memory_groups)}: "
        options = {**self._memory_defaults.as_group(), **chosen}
        validation.check_parameters(params, {}, where)
        checked = validation.checked_options(options, where)
        validation.check_storage(params, checked, where)
        return checked.as_group()

    def _keep_memory_group(self, params: list[Tensor], options: Mapping[str, Any]) -> None:
        group = {**options, "params": params}
        self.memory_groups.append(group)
        self._fixed = [*self._fixed, validation.fixed_options(group)]

    # Checkpoints --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        offload.settle()
        names = ("optimizer", "memory_state", "memory_groups", "_memory_defaults", "_fixed")
        own = {name: self.__dict__[name] for name in names}
        return {**own, "_peers": self._copied_peers()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # One set of hooks: a hook given to either of the two is called once a step. Not torch's
        # __setstate__, which would add an option to the wrapped optimizer's defaults.
        base = state["optimizer"]
        hooks = {name: getattr(base, name, OrderedDict()) for name in _HOOKS}
        self.__dict__.update({**state, **hooks})
        self._patch_step_function()
        self._plan = None

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with the memory beside its state and options.

        Raises:
            CheckpointError: the wrapped optimizer's has another form than torch's.
        """
        offload.settle()
        base = self.optimizer.state_dict()
        return checkpoint.joined(base, self._memory_groups(), self.memory_state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint, or one of the wrapped optimizer alone: the memory is then empty.

        Raises:
            CheckpointError: capacity, policy, scope, norm or a shape is another; nothing was
                changed.
        """
        groups = self._memory_groups()
        base, memory = checkpoint.parted(state_dict, groups)
        loading = checkpoint.Loading(groups)
        options = loading.take_memory(memory)["param_groups"]
        self.optimizer.load_state_dict(base)
        groups = self._memory_groups()
        for group, saved in zip(groups, options, strict=True):
            group.update({name: saved[name] for name in OPTION_NAMES})
        self.memory_state = defaultdict(dict)
        loading.restore_memory(groups, self.memory_state)
        self._plan = None
