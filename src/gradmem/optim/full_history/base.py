"""What SAG, SAGA and SVRG share: groups, closures, the move along a direction, checkpoints.

All three minimise a finite sum f = (f_0 + ... + f_{N-1}) / N of *terms*, and step along a direction
made of one term's gradient and of older gradients of all terms, whose variance vanishes at the
optimum: a constant learning rate converges there, where SGD's stalls. A term is an example, or one
of N fixed batches of equal size; batches drawn anew every epoch are no terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradmem.errors import (
    CheckpointError,
    GradientError,
    OptionError,
    OptionTypeError,
    StepError,
    hint,
)
from gradmem.memory.sharding import is_sharded
from gradmem.memory.slots import Scratch
from gradmem.optim import checkpoint, validation

Group = dict[str, Any]
Closure = Callable[[], Any]


class Entry(NamedTuple):
    """What one key of ``state[p]`` holds; all zeros when it is made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def zeros(self) -> Tensor:
        """The entry as it begins."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def fits(self, value: object) -> bool:
        """Whether a value from a checkpoint can take its place."""
        kind = self.shape, self.dtype
        return isinstance(value, Tensor) and (tuple(value.shape), value.dtype) == kind


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type directions and running sums are computed in: float64, or complex128."""
    return torch.promote_types(dtype, torch.float64)


class FullHistoryOptimizer(Optimizer):
    """Base of SAG, SAGA and SVRG: write `step`, `_entries` and `_check_own_options`."""

    # Options that all groups have in common, and that stay as they were at construction.
    _fixed: ClassVar[tuple[str, ...]] = ()
    _stepping: bool = False

    def __init__(self, params: Any, defaults: Group) -> None:
        self._check_options(defaults, "")
        plain = {name: _plain(defaults[name]) for name in self._fixed}
        self._scratch = Scratch()
        super().__init__(params, {**defaults, **plain})

    def _entries(self, p: Tensor) -> dict[str, Entry]:
        """What ``state[p]`` holds, by key."""
        raise NotImplementedError

    def _check_own_options(self, options: Mapping[str, Any], where: str) -> None:
        """Check the options beside lr, weight_decay and maximize."""
        raise NotImplementedError

    # Groups --------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of its own if it names any; checked before it is added.

        Raises:
            OptionError: an option is out of range or must be the same in all groups, or a key is
                unknown.
            OptionTypeError: an option is of the wrong type.
            GradientError: a parameter is not a dense tensor, or is sharded over devices.
        """
        super().add_param_group(self._checked_group(param_group))

    def _checked_group(self, group: Any) -> Group:
        index = len(self.param_groups)
        if not isinstance(group, dict):
            raise OptionTypeError(
                f"param group {index} must be a dict with the key 'params', got "
                f"{type(group).__name__}"
            )
        where = f"param group {index}: "
        validation.check_keys(group, self.defaults, where)
        options = {**self.defaults, **group}
        self._check_options(options, where)
        self._check_fixed(options, where)
        params = group["params"]
        if isinstance(params, Tensor):
            params = [params]
        if not isinstance(params, set):  # torch refuses a set, and says why
            params = list(params)
            _check_parameters(params, options, where)
        return {**group, **{name: self.defaults[name] for name in self._fixed}, "params": params}

    def _check_options(self, options: Mapping[str, Any], where: str) -> None:
        validation.check_base_options(options, where)
        if not isinstance(options["maximize"], bool):
            raise OptionTypeError(
                f"{where}maximize must be True or False, got {options['maximize']!r}"
            )
        self._check_own_options(options, where)

    def _check_fixed(self, options: Mapping[str, Any], where: str) -> None:
        for name in self._fixed:
            if options.get(name) != self.defaults[name]:
                raise OptionError(
                    f"{where}{name} must be {self.defaults[name]!r} as at construction, got "
                    f"{options.get(name)!r}; set it back, or make a new optimizer"
                )

    def _check_edits(self) -> None:
        """Check options that may have been edited in ``param_groups`` since the last step."""
        for i, group in enumerate(self.param_groups):
            self._check_fixed(group, f"param group {i}: ")
            self._check_own_options(group, f"param group {i}: ")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # which torch puts there; it is no option of ours
        self._scratch = Scratch()

    # The parts of a step -------------------------------------------------------------------------

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _active(self) -> list[tuple[Group, Tensor]]:
        """Parameters that a step moves, with their groups: all but the frozen ones."""
        return [
            (group, p) for group in self.param_groups for p in group["params"] if p.requires_grad
        ]

    def _evaluate(self, closure: Closure, name: str = "closure") -> Any:
        if self._stepping:
            raise StepError(
                "step() or take_snapshot() was called from within a closure; a closure must only "
                "evaluate the model, call backward() and return the loss"
            )
        if not callable(closure):
            raise StepError(
                f"{name} must be a function without arguments that evaluates the model, calls "
                f"backward() and returns the loss, got {type(closure).__name__}"
            )
        self._stepping = True
        try:
            with torch.enable_grad():
                return closure()
        finally:
            self._stepping = False

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state.update({name: entry.zeros() for name, entry in self._entries(p).items()})
        return state

    # Checkpoints ---------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, every tensor in the type it was saved in.

        Raises:
            CheckpointError: it is of another class, other options that are fixed, or other shapes;
                nothing was changed.
        """
        kept: list[dict[str, Tensor]] = []

        def take(given: dict[str, Any]) -> dict[str, Any]:
            saved = given["param_groups"]
            if [len(g["params"]) for g in saved] != [len(g["params"]) for g in self.param_groups]:
                return given  # torch refuses it, and says why
            checkpoint.check_names(saved, self.param_groups)
            groups = self._checked_saved_groups(saved)
            kept.extend(self._checked_saved_state(saved, given["state"]))
            return {**given, "state": {}, "param_groups": groups}

        def restore() -> None:
            for p, saved in zip(self._parameters(), kept, strict=True):
                if saved:
                    entries = self._entries(p)
                    self.state[p] = {
                        name: torch.empty_like(value, device=entries[name].device).copy_(value)
                        for name, value in saved.items()
                    }

        with checkpoint.around_loading(self, take, restore):
            super().load_state_dict(state_dict)

    def _checked_saved_groups(self, saved: Sequence[Mapping[str, Any]]) -> list[Group]:
        """The groups of a checkpoint; options it does not name stay as they are."""
        groups = []
        for i, (given, own) in enumerate(zip(saved, self.param_groups, strict=True)):
            where = f"param group {i} of the checkpoint: "
            for key in given:
                if key not in self.defaults and key not in validation.FOREIGN_KEYS:
                    raise CheckpointError(
                        f"{where}unknown key {key!r}; {hint(key, self.defaults)}; is it of another "
                        f"optimizer than {type(self).__name__}?"
                    )
            merged = {**{name: own[name] for name in self.defaults}, **given}
            for name in self._fixed:
                if merged[name] != self.defaults[name]:
                    raise CheckpointError(
                        f"{where}{name} is {merged[name]!r}, but this optimizer was made with "
                        f"{name}={self.defaults[name]!r}; make one with {name}={merged[name]!r}"
                    )
            try:
                self._check_options(merged, where)
            except (OptionError, OptionTypeError) as error:
                raise CheckpointError(str(error)) from None
            groups.append(merged)
        return groups

    def _checked_saved_state(
        self, saved: Sequence[Mapping[str, Any]], state: Mapping[Any, Any]
    ) -> list[dict[str, Tensor]]:
        """What a checkpoint holds for each parameter, all of it or nothing."""
        ids = [key for group in saved for key in group["params"]]
        found = []
        for i, (key, p) in enumerate(zip(ids, self._parameters(), strict=True)):
            held = dict(state.get(key, {}))
            if held:
                _check_saved_entries(held, self._entries(p), f"parameter {i} of the checkpoint: ")
            found.append(held)
        return found


def move(p: Tensor, direction: Tensor, group: Group) -> None:
    """``p -= lr (direction + weight_decay p)``, the direction negated if the group maximises.

    `direction` is of the wide type and is used up; the parameter is rounded once.
    """
    if group["maximize"]:
        direction.neg_()
    if group["weight_decay"] != 0:
        direction.add_(p.to(direction.dtype) * _scalar(group["weight_decay"]))
    p.sub_(direction.mul_(_scalar(group["lr"])))


def check_dense(params: Sequence[Tensor]) -> None:
    """Refuse sparse gradients before anything is changed."""
    for p in params:
        if p.grad is not None and p.grad.layout is not torch.strided:
            raise GradientError(
                f"a parameter of shape {tuple(p.shape)} has a gradient of layout {p.grad.layout}; "
                "the history holds dense ones (torch.strided): use nn.Embedding(sparse=False)"
            )


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether no element is NaN or Inf: zero-dimensional, on the device of the first tensor."""
    device = tensors[0].device
    real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors if t.numel()]
    # NaN is both the smallest and the largest; far faster than looking at every element.
    ends = [end.to(device, torch.float64) for tensor in real for end in torch.aminmax(tensor)]
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    return torch.stack([nothing, *ends]).isfinite().all()


def _plain(number: Any) -> int | None:
    """A Python integer for one of another kind, which torch.load would refuse."""
    return None if number is None else int(number)


def _scalar(number: float | Tensor) -> float | Tensor:
    """A tensor of one element without dimensions, so that it multiplies a scalar in place too."""
    return number.reshape(()) if isinstance(number, Tensor) else number


def _check_parameters(params: Sequence[Any], options: Mapping[str, Any], where: str) -> None:
    validation.check_parameters(params, options, where)
    for i, item in enumerate(params):
        p = item[1] if isinstance(item, tuple) else item
        if isinstance(p, Tensor) and is_sharded(p):
            raise GradientError(
                f"{where}parameter {i} is sharded over devices (DTensor), which the full-history "
                "baselines do not support; use SGD_C, or replicate the parameters (DDP)"
            )


def _check_saved_entries(held: Mapping[str, Any], entries: Mapping[str, Entry], where: str) -> None:
    if sorted(held) != sorted(entries):
        raise CheckpointError(
            f"{where}its state has {sorted(held)}, but {sorted(entries)} is needed; it is of "
            "another optimizer"
        )
    for name, entry in entries.items():
        value = held[name]
        if not entry.fits(value):
            found = type(value).__name__
            if isinstance(value, Tensor):
                found = f"{tuple(value.shape)} of {value.dtype}"
            raise CheckpointError(
                f"{where}{name} is {found}, but {entry.shape} of {entry.dtype} is needed; it is of "
                "another model, order of groups, precision or number of terms"
            )
