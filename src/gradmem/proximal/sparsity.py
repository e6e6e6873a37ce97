"""What is zero in a model, group by group, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmem.errors import OptionError, OptionTypeError
from gradmem.memory.sharding import is_sharded
from gradmem.proximal.groups import Groups
from gradmem.proximal.models import groups_of

HEAD = ("parameter", "shape", "zero groups", "share", "zero elements", "share")


@dataclass(frozen=True)
class LayerSparsity:
    """What is zero in one parameter, or in several together.

    Attributes:
        name: the parameter's in the model.
        shape: the parameter's; () for several together.
        groups: groups it is cut into; 0 if it is in none.
        zero_groups: those of which every element is exactly zero.
        elements: elements it has.
        zero_elements: those that are exactly zero.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    zero_groups: int
    elements: int
    zero_elements: int

    @property
    def group_share(self) -> float:
        """Share of the groups that are zero; NaN if there is none."""
        return self.zero_groups / self.groups if self.groups else float("nan")

    @property
    def element_share(self) -> float:
        """Share of the elements that are zero; NaN if there is none."""
        return self.zero_elements / self.elements if self.elements else float("nan")


@dataclass(frozen=True)
class SparsityReport:
    """What is zero in a model; ``print`` it for a table of the parameters that have groups.

    Attributes:
        layers: every parameter, in the model's order; tied ones once.
    """

    layers: tuple[LayerSparsity, ...]

    @property
    def grouped(self) -> LayerSparsity:
        """The parameters with groups, together."""
        return _together("with groups", [layer for layer in self.layers if layer.groups])

    @property
    def total(self) -> LayerSparsity:
        """All parameters together."""
        return _together("all", self.layers)

    def __str__(self) -> str:
        layers = [layer for layer in self.layers if layer.groups]
        rows = [HEAD, *map(_cells, [*layers, self.grouped, self.total])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def sparsity_report(
    model: nn.Module, groups: Mapping[nn.Parameter, Groups] | None = None
) -> SparsityReport:
    """Counts what is exactly zero in a model's parameters.

    It reads numbers from the device; where parameters are sharded every process must call it, as
    each parameter is gathered for it in turn.

    Args:
        model: any module.
        groups: parameter -> groups; None for ``groups_of(model)``.

    Returns:
        Counts and shares for every parameter and together; ``print`` it for a table.

    Raises:
        OptionError: groups are given for a tensor that is no parameter of the model, or do not fit
            theirs, or a parameter has no numbers.
        OptionTypeError: an argument is of the wrong type.

    Example:
        >>> import torch
        >>> from gradmem.proximal import sparsity_report
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight[:3].zero_()
        >>> print(sparsity_report(model))
        parameter    shape  zero groups  share  zero elements  share
        0.weight     4x8    3/4          75%    24/32          75%
        1.weight     2x4    0/2          0%     0/8            0%
        with groups         3/6          50%    24/40          60%
        all                 3/6          50%    24/46          52%
        >>> sparsity_report(model).layers[0].zero_groups
        3
    """
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if groups is None:
        groups = groups_of(model)
    if not isinstance(groups, Mapping):
        raise OptionTypeError(
            f"groups must map parameters to Groups, got {type(groups).__name__}; groups_of(model) "
            "makes such a dict"
        )
    parameters = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, cut in groups.items():
        _check(parameter, cut, parameters)
    return SparsityReport(tuple(_count(n, p, groups.get(p)) for p, n in parameters.items()))


def _check(parameter: nn.Parameter, cut: Groups, names: Mapping[nn.Parameter, str]) -> None:
    if parameter not in names:
        shape = tuple(parameter.shape) if isinstance(parameter, Tensor) else parameter
        raise OptionError(
            f"groups has {shape!r}, which is no parameter of the model; make them for this model, "
            "not for a copy"
        )
    if not isinstance(cut, Groups):
        raise OptionTypeError(f"{names[parameter]}: groups must be Groups, got {cut!r}")
    cut.check(parameter.shape, f"{names[parameter]}: ")


@torch.no_grad()
def _count(name: str, parameter: nn.Parameter, cut: Groups | None) -> LayerSparsity:
    if parameter.is_meta:
        raise OptionError(f"{name} is on the device 'meta' and has no numbers; load some first")
    whole: Tensor = parameter.full_tensor() if is_sharded(parameter) else parameter  # type: ignore[attr-defined]
    zero = whole == 0
    by_group = torch.empty(0) if cut is None else cut.split(zero).all(dim=1)
    return LayerSparsity(
        name=name,
        shape=tuple(whole.shape),
        groups=by_group.numel(),
        zero_groups=int(by_group.sum()),
        elements=whole.numel(),
        zero_elements=int(zero.sum()),
    )


def _together(name: str, layers: list[LayerSparsity] | tuple[LayerSparsity, ...]) -> LayerSparsity:
    return LayerSparsity(
        name=name,
        shape=(),
        groups=sum(layer.groups for layer in layers),
        zero_groups=sum(layer.zero_groups for layer in layers),
        elements=sum(layer.elements for layer in layers),
        zero_elements=sum(layer.zero_elements for layer in layers),
    )


def _cells(layer: LayerSparsity) -> tuple[str, ...]:
    return (
        layer.name,
        "x".join(map(str, layer.shape)),
        f"{layer.zero_groups:,}/{layer.groups:,}",
        _percent(layer.zero_groups, layer.groups),
        f"{layer.zero_elements:,}/{layer.elements:,}",
        _percent(layer.zero_elements, layer.elements),
    )


def _percent(part: int, whole: int) -> str:
    """Rounded, but 0% and 100% only where it is none or all."""
    if not whole:
        return "-"
    inner = min(max(round(100 * part / whole), 1), 99)
    return f"{100 if part == whole else 0 if part == 0 else inner}%"
