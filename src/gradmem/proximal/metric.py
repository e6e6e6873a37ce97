"""The step size an optimizer used, and the diagonal it divided by: the metric of the next step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from gradmem.errors import OptionError, OptionTypeError
from gradmem.proximal.radial import wide_type

SUPPORTED: tuple[type[Optimizer], ...] = (SGD, RMSprop, Adam, AdamW)


class Diagonal(NamedTuple):
    """d = sqrt(square / correction - mean^2) + eps, not computed yet.

    Attributes:
        square: moving average of squared gradients, or the largest so far (AMSGrad).
        mean: moving average of gradients, or None where they are not centered.
        correction: of the bias, 1 - beta2^t; a tensor where the step count is on an accelerator.
        eps: the optimizer's.
    """

    square: Tensor
    mean: Tensor | None
    correction: float | Tensor
    eps: float

    def compute(self) -> Tensor:
        """d, a new tensor of the averages' shape, in float32 or wider."""
        d = self.square.to(wide_type(self.square), copy=True)
        if self.mean is not None:
            d.addcmul_(self.mean, self.mean, value=-1.0).clamp_(min=0.0)
        if not isinstance(self.correction, float) or self.correction != 1.0:
            d.div_(self.correction)
        return d.sqrt_().add_(self.eps)


def check_supported(optimizer: object) -> None:
    """Refuse an optimizer whose metric is not known, or whose step is not its class's."""
    kind = type(optimizer).__name__
    listed = "torch.optim's " + ", ".join(cls.__name__ for cls in SUPPORTED)
    if not isinstance(optimizer, SUPPORTED):
        what = repr(optimizer) if isinstance(optimizer, type) else f"one of type {kind}"
        raise OptionTypeError(
            f"optimizer must be a made one of {listed} or of a class derived from these, like "
            f"gradmem's SGD_C, RMSprop_C, Adam_C and AdamW_C, got {what}: the metric of others is "
            "not known"
        )
    own_step = vars(optimizer).get("step")
    if own_step is not None and not hasattr(own_step, "_wrapped_by_lr_sched"):
        raise OptionError(
            f"the step of this {kind} was replaced, as by torch.compile; wrap the optimizer first"
        )
    for i, group in enumerate(optimizer.param_groups):
        if group.get("differentiable"):
            raise OptionError(
                f"param group {i}: differentiable=True is refused: the proximal step, taken in "
                "place, has no derivative; set it to False"
            )


def number(value: Any) -> float | Tensor:
    """An option that may be a tensor: a number if it is on the host, else without dimensions."""
    if not isinstance(value, Tensor):
        return float(value)
    return float(value) if value.device.type == "cpu" else value.detach().reshape(())


def diagonal(group: Mapping[str, Any], state: Mapping[str, Any]) -> Diagonal | None:
    """The diagonal of a parameter's last step, from its group and state; None for SGD's, 1."""
    if "square_avg" in state:
        mean = state["grad_avg"] if group["centered"] else None
        return Diagonal(state["square_avg"], mean, 1.0, group["eps"])
    if "exp_avg_sq" in state:
        square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        beta2, step = number(group["betas"][1]), number(state["step"])
        return Diagonal(square, None, 1.0 - beta2**step, group["eps"])
    return None


def least(group: Mapping[str, Any]) -> float:
    """A number no element of the metric is below, whatever the gradients."""
    return float(group["eps"]) if group["metric"] == "diagonal" and "eps" in group else 1.0
