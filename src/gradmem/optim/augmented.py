"""MemoryAugmented: a memory for any optimizer that is already there."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import OptionError, OptionTypeError, hint
from gradmem.memory.ledger import Move
from gradmem.memory.options import OPTION_NAMES, Aggregate, MemoryOptions, Norm, Policy, Scope
from gradmem.memory.sharding import like, local
from gradmem.optim import checkpoint, validation
from gradmem.optim.documentation import documented
from gradmem.optim.holder import MemoryHolder
from gradmem.optim.plan import Group, Memory, Portion
from gradmem.optim.remember import (
    Gradients,
    attach,
    check_gradients,
    combined,
    copied,
    decide,
    exchanging,
    gradients_of,
    retain,
    retain_nothing,
    slots_of,
)
from gradmem.optim.state import State

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
    It is kept in this object's ``state``, apart from the wrapped one's, which no key is added to; a
    ``state_dict`` has both, the options there as ``memory_capacity`` and so on.

    Bytes per float32 parameter element: 4 (capacity + 1) beside what the optimizer has, and 4 more
    during a step, for the aggregates; see `memory_bytes`.

    Raises:
        OptionError: an option is out of range or unknown, or the optimizer cannot be wrapped.
        OptionTypeError: an option is of the wrong type, or `optimizer` is no Optimizer.
        GradientError: a parameter or gradient is not a dense tensor.

    {memory_numerics}
    With ``capacity=0`` or ``kappa=0`` every bit is the wrapped optimizer's. Around torch's SGD,
    RMSprop, Adam or AdamW every bit is that of the named class, which needs no extra copy and goes
    through the parameters in portions that stay in cache.

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
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check_wrappable(optimizer)
        options = MemoryOptions(
            capacity, decay, aggregate, kappa, policy, scope, norm, max_age, seed
        )
        own = _own_options(groups, len(optimizer.param_groups))
        self.__setstate__(
            {
                "optimizer": optimizer,
                "state": defaultdict(dict),
                "memory_groups": [],
                "_memory_defaults": options,
                "_fixed": [],
            }
        )
        for group, chosen in zip(optimizer.param_groups, own, strict=True):
            self._add_memory_group(group["params"], chosen)

    # The wrapped optimizer ----------------------------------------------------------------------

    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        """The wrapped optimizer's own."""
        groups: list[Group] = self.optimizer.param_groups
        return groups

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's own."""
        defaults: dict[str, Any] = self.optimizer.defaults
        return defaults

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
        (chosen,) = _own_options([memory], 1)
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        options = self._checked(params, chosen)
        self.optimizer.add_param_group({**param_group, "params": params})
        self._keep_memory_group(self.optimizer.param_groups[-1]["params"], options)

    # The step -----------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and remember the gradient; ``p.grad`` is left as it was.

        Args:
            closure: evaluates the model again and returns the loss; called once, here, and not
                handed on.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: an option was edited out of its range, or one that is fixed was changed.
            GradientError: a gradient is sparse. Nothing was changed.
            StepError: the closure is not callable, or calls step itself.
        """
        loss = self._evaluate(closure)
        plan = self._current_plan()
        for memory in plan.memories:
            check_gradients(memory)
        works = [_combine_all(memory, self.state, gradients_of(memory)) for memory in plan.memories]
        self._watch(works)
        updates = {p: u for _, parts, _ in works for part in parts for p, u in part.updates()}
        with _handed_over(updates), torch.enable_grad():
            self._step_optimizer()
        del updates
        with ExitStack() as stack:
            for memory, parts, decision in works:
                stack.enter_context(exchanging(memory, self.state, decision))
                for part in parts:
                    part.exchange(memory, self.state)
        return loss

    def _step_optimizer(self) -> None:
        """The class's step without the hooks, which are this object's and have been called."""
        step = type(self.optimizer).step
        if getattr(step, "hooked", False):
            step = vars(step)["__wrapped__"]
        step(self.optimizer)
        # What a scheduler that was given the wrapped optimizer looks for.
        vars(self.optimizer)["_opt_called"] = True

    def _watch(self, works: Sequence[_Work]) -> None:
        if self._observer is not None:
            for memory, parts, _ in works:
                for part in parts:
                    row = part.portion.row
                    self._observer(memory, row, part.params, part.grads, part.combined)

    # The memory ---------------------------------------------------------------------------------

    def _memory_groups(self) -> list[Group]:
        """The memory's groups, after those of the wrapped optimizer, which may be given more."""
        lists = [group["params"] for group in self.optimizer.param_groups]
        if [id(group["params"]) for group in self.memory_groups] != list(map(id, lists)):
            known = {id(group["params"]): group for group in self.memory_groups}
            self.memory_groups, self._fixed = [], []
            for params in lists:
                if id(params) in known:
                    self._keep_memory_group(params, known[id(params)])
                else:
                    self._add_memory_group(params, {})
        return self.memory_groups

    def _memory_state(self) -> State:
        return self.state

    def _add_memory_group(self, params: list[Tensor], chosen: Mapping[str, Any]) -> None:
        self._keep_memory_group(params, self._checked(params, chosen))

    def _checked(self, params: Sequence[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
        where = f"param group {len(self.memory_groups)}: "
        options = {**self._memory_defaults.as_group(), **chosen}
        validation.check_parameters(params, {}, where)
        return validation.checked_options(options, where).as_group()

    def _keep_memory_group(self, params: list[Tensor], options: Mapping[str, Any]) -> None:
        group = {**options, "params": params}
        self.memory_groups.append(group)
        self._fixed = [*self._fixed, validation.fixed_options(group)]

    # Checkpoints --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        names = ("optimizer", "state", "memory_groups", "_memory_defaults", "_fixed")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # One set of hooks: a hook given to either of the two is called once a step.
        hooks = {name: getattr(state["optimizer"], name) for name in _HOOKS}
        super().__setstate__({**state, **hooks})
        self._plan = None

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with the memory beside its state and options.

        Raises:
            CheckpointError: the wrapped optimizer's has another form than torch's.
        """
        return checkpoint.joined(self.optimizer.state_dict(), self._memory_groups(), self.state)

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
        for group, saved in zip(groups, options, strict=True):
            group.update({name: saved[name] for name in OPTION_NAMES})
        self.state = defaultdict(dict)
        loading.restore_memory(groups, self.state)
        self._plan = None


class _Part(NamedTuple):
    """The parameters of a portion, and what this step does with those that have a gradient."""

    portion: Portion
    move: Move
    params: list[Tensor]
    grads: list[Tensor]
    kept: list[tuple[Tensor, Tensor]]
    combined: list[Tensor]

    def updates(self) -> Iterator[tuple[Tensor, Tensor]]:
        for p, update in zip(self.params, self.combined, strict=True):
            yield p, like(p, update)

    def exchange(self, memory: Memory, state: State) -> None:
        for p, (slots, total) in zip(self.params, self.kept, strict=True):
            attach(memory, self.portion.row, state, p, slots, total)
        held = [local(slots) for slots, _ in self.kept]
        sums = [local(total) for _, total in self.kept]
        retain(held, sums, self.grads, self.move)
        present = set(self.params)
        absent = [p for p in self.portion.parameters if p not in present]
        retain_nothing(absent, state, self.move)


_Work = tuple[Memory, list[_Part], Any]


def _combine_all(memory: Memory, state: State, grads: Gradients) -> _Work:
    """Updates for all parameters of a memory that have a gradient; changes nothing."""
    decision = decide(memory, state, grads)
    parts = [
        _combine(memory, portion, decision.moves[portion.row], state, grads)
        for portion in memory.portions
    ]
    return memory, parts, decision


def _combine(memory: Memory, portion: Portion, move: Move, state: State, grads: Gradients) -> _Part:
    present = [i for i, p in enumerate(portion.parameters) if p in grads]
    params = [portion.parameters[i] for i in present]
    own = [grads[p] for p in params]
    kept = [slots_of(p, state, memory.options.capacity) for p in params]
    # New tensors at every step, not scratch: an optimizer may keep what it finds in p.grad.
    narrow = [torch.empty_like(local(p)) for p in params]
    same = portion.narrow is portion.wide
    wide = narrow if same else [portion.wide[i] for i in present]
    updates = own
    if params:
        slots, sums = [local(s) for s, _ in kept], [local(s) for _, s in kept]
        updates = combined(narrow, wide, own, slots, sums, move)
        # Never the gradients themselves: an optimizer may write into p.grad.
        updates = copied(narrow, own) if updates is own else updates
    return _Part(portion, move, params, own, kept, updates)


@contextmanager
def _handed_over(updates: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """A block in which every ``p.grad`` is its update."""
    grads = {p: p.grad for p in updates}
    try:
        for p, update in updates.items():
            p.grad = update
        yield
    finally:
        for p, grad in grads.items():
            p.grad = grad


def _check_wrappable(optimizer: Any) -> None:
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise OptionTypeError(
            f"optimizer must be a torch.optim.Optimizer that was made already, got {optimizer!r}"
            if isinstance(optimizer, type)
            else f"optimizer must be a torch.optim.Optimizer, got one of type {kind}"
        )
    if isinstance(optimizer, MemoryHolder):
        raise OptionError(f"the optimizer, {kind}, has a memory already; wrap one without")
    parameters = inspect.signature(type(optimizer).step).parameters.values()
    needed = [
        p.name
        for p in list(parameters)[1:]
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if needed:
        raise OptionError(
            f"{kind}.step needs {', '.join(needed)}: an optimizer that evaluates the model itself "
            "would mix gradients of different points in the memory; wrap one whose step() needs "
            "no argument"
        )


def _own_options(groups: Any, count: int) -> list[dict[str, Any]]:
    """The options of each group, their names checked."""
    if groups is None:
        return [{} for _ in range(count)]
    if len(groups) != count:
        raise OptionError(
            f"groups must have one mapping for each of the optimizer's {count} param groups, got "
            f"{len(groups)}; write an empty one for a group that has the common options"
        )
    for i, group in enumerate(groups):
        for name in group:
            if name not in OPTION_NAMES:
                raise OptionError(
                    f"param group {i}: unknown memory option {name!r}; {hint(name, OPTION_NAMES)}"
                )
    return [dict(group) for group in groups]
