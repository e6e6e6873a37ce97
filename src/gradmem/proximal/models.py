"""Groups of a model's parameters, by the kind of layer they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NotImplementedType
from typing import Literal, TypeAlias, get_args

from torch import nn
from torch.nn.parameter import is_lazy

from gradmem.errors import OptionError, OptionTypeError, check_choice
from gradmem.proximal.groups import Groups

Channels: TypeAlias = Literal["output", "input"]
Lines: TypeAlias = Literal["rows", "columns"]
HeadsOrLines: TypeAlias = Literal["heads", "rows", "columns"]
Chooser: TypeAlias = Callable[[str, nn.Module, nn.Parameter], Groups | NotImplementedType | None]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
LINE_AXIS = {"rows": 0, "columns": 1}


def groups_of(
    model: nn.Module,
    *,
    convolution: Channels | None = "output",
    linear: Lines | None = "rows",
    attention: HeadsOrLines | None = "heads",
    embedding: Lines | None = None,
    include_biases: bool = False,
    include_norms: bool = False,
    function: Chooser | None = None,
) -> dict[nn.Parameter, Groups]:
    """The groups of a model's weights, by kind of layer.

    A row of a linear layer, or an output channel of a convolution, makes one of its outputs; a
    column, or an input channel, is what reads one of its inputs. A parameter that is in no group
    is left alone, and so are the parameters of other layers (recurrent ones, a module's own): give
    those by `function`. The result is a plain dict and may be edited.

    Args:
        model: any module; its uninitialised (lazy) parameters must have been set by a first batch.
        convolution: "output" or "input", the channel that makes a group of a (transposed)
            convolution's weight; None leaves convolutions alone. With channel groups, the channels
            that the weight has on its second axis can be used only if a group has one of them.
        linear: "rows" or "columns" of a linear layer's weight; None leaves them alone.
        attention: for `torch.nn.MultiheadAttention`, "heads", "rows" or "columns", or None. A head
            has two groups: its queries, keys and values in the in-projection (a group each if the
            three weights are apart), and its columns of the out-projection.
        embedding: "rows" (an entry of the vocabulary) or "columns" (a feature), or None.
        include_biases: whether the biases of those layers are grouped too: element by element, the
            in-projection's by head for "heads".
        include_norms: whether scales and shifts of normalisations are, element by element.
        function: called as ``function(name, module, parameter)`` for every parameter and the module
            that has it; it returns the groups, or None to leave the parameter alone, or
            ``NotImplemented`` to go by the layer's kind.

    Returns:
        Parameter -> `Groups`, in the order of ``model.named_parameters()``. A parameter with
        several places (tied weights) is there once, and left alone if it is at one of them. Frozen
        parameters are there too.

    Raises:
        OptionError: a choice is unknown, a parameter is not initialised, a convolution's groups are
            not cut along one axis, groups do not fit their parameter, or a tied parameter would be
            cut in two ways.
        OptionTypeError: an argument, or what the function returns, is of the wrong type.

    Example:
        >>> import torch
        >>> from gradmem.proximal import groups_of
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 5), torch.nn.Linear(64, 10))
        >>> for groups in groups_of(model, linear="columns").values():
        ...     print(groups)
        Groups(axis=0, view=None)
        Groups(axis=1, view=None)
    """
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if function is not None and not callable(function):
        raise OptionTypeError(f"function must be callable or None, got {function!r}")
    _check_flag("include_biases", include_biases)
    _check_flag("include_norms", include_norms)
    kinds = _Kinds(convolution, linear, attention, embedding, include_biases, include_norms)
    chosen: dict[nn.Parameter, dict[str, Groups | None]] = {}
    for place in _places(model):
        groups = _choose(place, kinds, function)
        if groups is not None:
            groups.check(place.parameter.shape, f"{place.name}: ")
        chosen.setdefault(place.parameter, {})[place.name] = groups
    agreed = {parameter: _agreed(places) for parameter, places in chosen.items()}
    return {parameter: groups for parameter, groups in agreed.items() if groups is not None}


@dataclass(frozen=True)
class _Place:
    """A parameter where a module has it; `owner` is the attention an out-projection belongs to."""

    name: str
    key: str
    parameter: nn.Parameter
    module: nn.Module
    owner: nn.Module


@dataclass(frozen=True)
class _Kinds:
    """What is grouped, and how, by kind of layer."""

    convolution: Channels | None
    linear: Lines | None
    attention: HeadsOrLines | None
    embedding: Lines | None
    biases: bool
    norms: bool

    def __post_init__(self) -> None:
        _check_kind("convolution", self.convolution, get_args(Channels))
        _check_kind("linear", self.linear, get_args(Lines))
        _check_kind("attention", self.attention, get_args(HeadsOrLines))
        _check_kind("embedding", self.embedding, get_args(Lines))

    def groups(self, place: _Place) -> Groups | None:
        """The groups of a parameter by its layer's kind, or None."""
        module, owner, weight = place.module, place.owner, place.key == "weight"
        if isinstance(module, NORMS):
            return _elements(place.parameter) if self.norms else None
        if isinstance(owner, nn.MultiheadAttention):
            return self._attention(place, owner)
        if isinstance(module, CONVOLUTIONS + TRANSPOSED):
            return _convolution(place, self.convolution) if weight else self._bias(place)
        if isinstance(module, nn.Linear):
            return _lines(self.linear) if weight else self._bias(place)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return _lines(self.embedding)
        return None

    def _bias(self, place: _Place) -> Groups | None:
        return _elements(place.parameter) if self.biases else None

    def _attention(self, place: _Place, owner: nn.MultiheadAttention) -> Groups | None:
        inside = place.module is owner  # else it is the out-projection's
        if "bias" in place.key:
            by_head = self.biases and self.attention == "heads" and inside
            return _heads(place, owner) if by_head else self._bias(place)
        if self.attention == "heads":
            return _heads(place, owner)
        return _lines(self.attention)


def _places(model: nn.Module) -> Iterator[_Place]:
    """Every parameter at every place it has, in the model's order."""
    owners = {m.out_proj: m for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{key}" if path else key
            if is_lazy(parameter):
                raise OptionError(
                    f"{name} is not initialised yet and has no shape; run a batch through the "
                    "model first"
                )
            yield _Place(name, key, parameter, module, owners.get(module, module))


def _choose(place: _Place, kinds: _Kinds, function: Chooser | None) -> Groups | None:
    if function is None:
        return kinds.groups(place)
    groups = function(place.name, place.module, place.parameter)
    if groups is NotImplemented:
        return kinds.groups(place)
    if groups is not None and not isinstance(groups, Groups):
        raise OptionTypeError(
            f"function must return Groups, None or NotImplemented, got {groups!r} for {place.name}"
        )
    return groups


def _agreed(places: dict[str, Groups | None]) -> Groups | None:
    """What holds for a parameter at all of its places."""
    kinds = set(places.values())
    if None in kinds:
        return None
    if len(kinds) > 1:
        listed = "; ".join(f"{name} by {groups}" for name, groups in places.items())
        raise OptionError(
            f"one parameter would be cut in {len(kinds)} ways: {listed}; choose with function"
        )
    return kinds.pop()


def _lines(by: str | None) -> Groups | None:
    return None if by is None else Groups(LINE_AXIS[by])


def _elements(parameter: nn.Parameter) -> Groups:
    return Groups(0) if parameter.ndim == 1 else Groups(0, view=(parameter.numel(),))


def _heads(place: _Place, owner: nn.MultiheadAttention) -> Groups:
    """A head's features lie together: in-projection rows, out-projection columns."""
    heads = (owner.num_heads, owner.head_dim)
    shape = place.parameter.shape
    if place.module is not owner:
        return Groups(1, view=(shape[0], *heads))
    if place.key in ("in_proj_weight", "in_proj_bias"):
        return Groups(1, view=(3, *heads, *shape[1:]))
    if place.key in ("bias_k", "bias_v"):
        return Groups(0, view=heads)
    return Groups(0, view=(*heads, shape[1]))


def _convolution(place: _Place, by: Channels | None) -> Groups | None:
    """A weight is (outputs, inputs, ...), a transposed one (inputs, outputs, ...).

    Of g channel groups the first axis has all, one after the other, and the second those of one.
    """
    if by is None:
        return None
    shape, blocks = place.parameter.shape, int(getattr(place.module, "groups", 1))
    first = "input" if isinstance(place.module, TRANSPOSED) else "output"
    if by == first:
        return Groups(0)
    if blocks == 1:
        return Groups(1)
    if shape[1] == 1:
        return Groups(0, view=(blocks, shape[0] // blocks, *shape[2:]))
    raise OptionError(
        f"{place.name}: convolution={by!r} is impossible with {blocks} channel groups of "
        f"{shape[1]} {by} channels each, which lie along no one axis of the weight; take "
        f"{first!r}, or choose for this layer with function"
    )


def _check_kind(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None:
        check_choice(name, value, choices, " or None")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionTypeError(f"{name} must be True or False, got {value!r}")
