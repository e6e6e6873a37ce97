"""ProximalOptimizer: an optimizer whose every step is followed by a proximal one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from gradmem.errors import CheckpointError, OptionError, OptionTypeError, StepError
from gradmem.proximal import options
from gradmem.proximal.apply import proximal_step
from gradmem.proximal.groups import Groups
from gradmem.proximal.metric import check_supported
from gradmem.proximal.options import OPTION_NAMES, Metric, Regularizer
from gradmem.proximal.penalties import penalty_value

_HOOKS = tuple(
    f"_optimizer_{what}_{when}_hooks"
    for what in ("step", "state_dict", "load_state_dict")
    for when in ("pre", "post")
)
_KEPT = ("optimizer", "_defaults", "_chosen", "_seen")

Group = dict[str, Any]


class ProximalOptimizer(Optimizer):
    """An optimizer that also makes groups of weights exactly zero.

    x = the optimizer's own step from p; then, for each group of elements of each parameter,
    z = argmin 1/2 sum_j d_j (z_j - x_j)^2 + lr lambda P(z), and p = z. d is the diagonal the
    optimizer divided its step by, lr the step size it used, and lambda = penalty sqrt(group size).

    Args:
        optimizer: torch's SGD, RMSprop, Adam or AdamW or a class derived from these, such as
            SGD_C, RMSprop_C, Adam_C and AdamW_C; already made.
        regularizer: P. "group_lasso" the L2 norm, "group_linf" the largest absolute value,
            "group_mcp" the L2 norm bent so that large groups are not shrunk at all.
        penalty: lambda, a finite number from 0; 0 gives exactly the optimizer.
        groups: by parameter, how it is cut; parameters that are not in it are left alone. None cuts
            each one of two or more dimensions along its first: output channels, rows.
        metric: "diagonal" d = sqrt(v / (1 - beta2^t)) + eps of Adam and AdamW (v the largest so far
            with amsgrad), sqrt(square_avg) + eps of RMSprop (less grad_avg^2 if centered), 1 of
            SGD; "plain" d = 1 whatever the optimizer.
        reweight: multiply lambda by the square root of the group's size.
        gamma: of "group_mcp", above 0: groups of a norm above gamma lambda are left alone. gamma
            times the smallest d possible, eps or 1, must be above lr.

    Options are entries of ``param_groups``, beside the optimizer's own; edits take effect at the
    next step and are checked first. ``groups`` is there a list of (axis, view) or None, one for
    each parameter. A parameter without a gradient is left alone, as the optimizer leaves it.

    Attributes:
        optimizer: the wrapped one. ``param_groups``, ``state`` and ``defaults`` are its own, and
            what this class does not have is looked up there.

    State added: none; a ``state_dict`` is the optimizer's, with the options in its groups.

    Bytes per parameter element: none that last. During a step in the diagonal metric, five copies
    of 32768 elements, or of the largest group; of the parameter, on an accelerator or where groups
    lie across the parts of a sharded parameter.

    Raises:
        OptionError: an option is out of range, or groups do not fit a parameter.
        OptionTypeError: an option is of the wrong type, or the optimizer of an unknown kind.

    Numerics: in float32 or wider, rounded once to the parameter's type; nothing waits for an
    accelerator. Zeros are exact. In the plain metric norms above 1.8e19 count as infinite and below
    1e-23 as zero in float32, as squares do. Equal devices and thread counts give equal bits, also
    after a resume.

    With momentum mu, SGD and RMSprop sum gradients up to 1 / (1 - mu) of one, but the proximal step
    is that of one: training settles where a penalty of (1 - mu) lambda would have it without
    momentum. Adam's average has no such factor. Weight decay acts in the optimizer's own step.

    Departs from the authors' program: its metric has no bias correction, and it lets gamma times
    the metric be below lr, where the minimiser jumps.

    Reference: Deleu, Bengio, *Structured Sparsity Inducing Adaptive Optimizers for Deep Learning*,
    2021, arXiv 2102.03869.

    Example:
        >>> import torch
        >>> from gradmem.proximal import ProximalOptimizer
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(4, 3)
        >>> base = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> optimizer = ProximalOptimizer(base, penalty=0.05)
        >>> inputs = torch.randn(64, 4)
        >>> targets = torch.stack([inputs.sum(1), inputs[:, 0] / 100, inputs[:, 1]], dim=1)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     (model(inputs) - targets).square().mean().backward()
        ...     optimizer.step()
        >>> (model.weight == 0).all(dim=1)  # the output that is nearly constant needs no weights
        tensor([False,  True, False])
    """

    optimizer: Optimizer
    _defaults: dict[str, Any]
    _chosen: dict[Tensor, Groups] | None
    _seen: list[tuple[Any, ...]]
    # With this flag a GradScaler would hand over gradients that are still scaled.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        regularizer: Regularizer = "group_lasso",
        penalty: float = 0.0,
        groups: Mapping[Tensor, Groups] | Mapping[Parameter, Groups] | None = None,
        metric: Metric = "diagonal",
        reweight: bool = True,
        gamma: float = 3.0,
    ) -> None:
        check_supported(optimizer)
        options.check_mapping(groups)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        options.check_known(groups, params)
        defaults = {
            "regularizer": regularizer,
            "penalty": penalty,
            "metric": metric,
            "reweight": reweight,
            "gamma": gamma,
        }
        chosen = None if groups is None else dict(groups)
        made = [
            options.checked(_with_options(group, defaults, chosen), f"param group {i}: ")
            for i, group in enumerate(optimizer.param_groups)
        ]
        self.__setstate__(
            {"optimizer": optimizer, "_defaults": defaults, "_chosen": chosen, "_seen": []}
        )
        for group, own in zip(optimizer.param_groups, made, strict=True):
            group.update(own)

    # The wrapped optimizer ----------------------------------------------------------------------

    @property
    def param_groups(self) -> list[Group]:
        """The wrapped optimizer's own, with the options in them."""
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
        """The wrapped optimizer's own."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # not there yet, while being unpickled or copied
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={value!r}" for name, value in self._defaults.items())
        return f"ProximalOptimizer({own}) of\n{self.optimizer!r}"

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer does it."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of its own if it names any; checked before it is added.

        Args:
            param_group: as in torch; its ``groups`` may be a mapping from parameters to `Groups`.

        Raises:
            OptionError: an option is out of range, or groups do not fit a parameter.
            OptionTypeError: an option is of the wrong type.
        """
        group = dict(param_group)
        own = {name: group.pop(name) for name in OPTION_NAMES if name in group}
        given = group.get("params", [])
        group["params"] = [given] if isinstance(given, Tensor) else list(given)
        params = [item[1] if isinstance(item, tuple) else item for item in group["params"]]
        seen = {**self.defaults, **group, **own, "params": params}
        chosen: dict[Tensor, Groups] | None = None if self._chosen is None else {}
        filled = _with_options(seen, self._defaults, chosen)
        made = options.checked(filled, f"param group {len(self.param_groups)}: ")
        self.optimizer.add_param_group(group)
        self.param_groups[-1].update(made)

    # The step -----------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take the optimizer's step, then shrink the groups of each parameter with a gradient.

        Args:
            closure: evaluates the model again and returns the loss; handed to the optimizer.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: an option was edited out of its range. Nothing was changed.
            OptionTypeError: an option was edited to a wrong type. Nothing was changed.
            StepError: the closure is not callable.
        """
        if closure is not None and not callable(closure):
            raise StepError(
                f"closure must be callable or None, got {type(closure).__name__}; call "
                "loss.backward() first and then step() without arguments"
            )
        self._check_edits()
        loss = self._step_optimizer(closure)
        with torch.no_grad():
            for group in self.param_groups:
                proximal_step(group, self.state)
        return loss

    def _step_optimizer(self, closure: Callable[[], Any] | None) -> Any:
        """The class's step without the hooks, which are this object's and have been called."""
        step = type(self.optimizer).step
        if getattr(step, "hooked", False):
            step = vars(step)["__wrapped__"]
        loss = step(self.optimizer) if closure is None else step(self.optimizer, closure)
        # What a scheduler that was given the wrapped optimizer looks for.
        vars(self.optimizer)["_opt_called"] = True
        return loss

    def _check_edits(self) -> None:
        """Check options, if any or a learning rate is another than at the last step."""
        seen = [_snapshot(group) for group in self.param_groups]
        if seen == self._seen:
            return
        made = []
        for i, group in enumerate(self.param_groups):
            # A group the wrapped optimizer was given, or took from a checkpoint of its own.
            new = not any(name in group for name in OPTION_NAMES)
            full = _with_options(group, self._defaults, self._chosen) if new else group
            made.append(options.checked(full, f"param group {i}: "))
        for group, own in zip(self.param_groups, made, strict=True):
            group.update(own)
        self._seen = [_snapshot(group) for group in self.param_groups]

    def penalty_value(self) -> Tensor:
        """What the penalty adds to the loss now: of all groups, without dimensions, differentiable.

        A sharded parameter is gathered for it.
        """
        self._check_edits()
        total = torch.zeros(())
        for group in self.param_groups:
            for p, entry in zip(group["params"], group["groups"], strict=True):
                if entry is not None:
                    full = p.full_tensor() if hasattr(p, "full_tensor") else p
                    value = penalty_value(
                        group["regularizer"],
                        Groups(*entry).split(full),
                        group["penalty"],
                        reweight=group["reweight"],
                        gamma=group["gamma"],
                    )
                    total = total.to(value.device) + value
        return total

    # Checkpoints --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # One set of hooks: a hook given to either of the two is called once a step. Not torch's
        # __setstate__, which would add an option to the wrapped optimizer's defaults.
        base = state["optimizer"]
        hooks = {name: getattr(base, name, OrderedDict()) for name in _HOOKS}
        self.__dict__.update({**state, **hooks})
        self._patch_step_function()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with the options in its groups."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint, or one of the wrapped optimizer alone: the options are then kept.

        Raises:
            CheckpointError: its options do not fit; nothing was changed.
        """
        self._check_edits()
        saved = state_dict["param_groups"]
        if [len(g["params"]) for g in saved] == [len(g["params"]) for g in self.param_groups]:
            merged = [
                self._merged(group, own, i)
                for i, (group, own) in enumerate(zip(saved, self.param_groups, strict=True))
            ]
            state_dict = {**state_dict, "param_groups": merged}
        self.optimizer.load_state_dict(state_dict)  # torch refuses other groups, and says why

    def _merged(self, saved: Mapping[str, Any], own: Group, index: int) -> Group:
        """A group of a checkpoint, with its options checked, or with this optimizer's."""
        options_of_own = {name: own[name] for name in OPTION_NAMES}
        full = {**own, **options_of_own, **saved, "params": own["params"]}
        try:
            made = options.checked(full, f"param group {index} of the checkpoint: ")
        except (OptionError, OptionTypeError) as error:
            raise CheckpointError(str(error)) from None
        return {**saved, **made}


def _with_options(
    group: Mapping[str, Any],
    defaults: Mapping[str, Any],
    chosen: Mapping[Any, Groups] | None,
) -> Group:
    """A group's entries, and these options where it has none of its own."""
    entries = group["groups"] if "groups" in group else options.entries_of(group["params"], chosen)
    return {**defaults, **group, "groups": entries}


def _snapshot(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What is compared with the last step's: the options, and what their check reads besides."""
    names: Sequence[str] = (*OPTION_NAMES, "lr", "eps")
    values = [group.get(name) for name in names]
    plain = [float(v) if isinstance(v, Tensor) and v.device.type == "cpu" else v for v in values]
    kept = [list(v) if isinstance(v, list) else v for v in plain]
    # With the types, as True equals 1.
    return (*kept, *map(type, values), list(map(id, group["params"])))
