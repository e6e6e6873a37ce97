"""Channels on their way from the layer that makes them to the layer that reads them.

A *channel* is an output of a convolution or a linear layer. Behind `torch.nn.Flatten` it has
several features lying together, one for every place of the picture. Between two such layers stand
modules that treat every channel by itself. This file knows which they are, what they make of a
channel that is constant (one number in every sample and at every place), and how a channel is cut
out of them, all in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

ELEMENTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
UNCHANGED = (
    nn.AlphaDropout,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.FeatureAlphaDropout,
    nn.Identity,
)
CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
# Dimensions behind the channels' that each may see.
NORMS = {nn.BatchNorm1d: (0, 1), nn.BatchNorm2d: (2,), nn.BatchNorm3d: (3,)}
MAX_POOLS = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
MEAN_POOLS = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
ADAPTIVE_POOLS = {
    nn.AdaptiveAvgPool1d: 1,
    nn.AdaptiveAvgPool2d: 2,
    nn.AdaptiveAvgPool3d: 3,
    nn.AdaptiveMaxPool1d: 1,
    nn.AdaptiveMaxPool2d: 2,
    nn.AdaptiveMaxPool3d: 3,
}
POOLS = MAX_POOLS | MEAN_POOLS | ADAPTIVE_POOLS


@dataclass(frozen=True)
class Layout:
    """Where the channels lie in a batch.

    Attributes:
        channels: how many.
        places: dimensions behind the channels'; with 0 they are features, on the last dimension.
        spread: features to a channel; None if they are several and not yet counted.
    """

    channels: int
    places: int
    spread: int | None = 1

    def fitted(self, width: int) -> Layout | None:
        """This layout for a module of so many features; None if they are not these channels'."""
        spread, rest = divmod(width, self.channels)
        fits = rest == 0 and spread >= 1 and self.spread in (None, spread)
        return replace(self, spread=spread) if fits else None


@dataclass(frozen=True)
class Constants:
    """Channels that carry one number in every sample, wherever they are.

    Attributes:
        known: (C,), which channels do.
        value: (C, S), the numbers they carry, S being 1 or the features to a channel; what stands
            there for the other channels means nothing.
    """

    known: Tensor
    value: Tensor


# Layers: what makes and reads channels -----------------------------------------------------------


def is_layer(module: Any) -> bool:
    """Whether a module mixes channels by a weight that inputs and outputs can be cut out of."""
    plain = type(module) is nn.Linear or (type(module) in CONVOLUTIONS and module.groups == 1)
    return plain and module.weight.numel() > 0


def layout_behind(layer: Any) -> Layout:
    """Where a layer puts the channels it makes."""
    return Layout(layer.weight.shape[0], CONVOLUTIONS.get(type(layer), 0))


def layout_read(layer: Any, layout: Layout) -> Layout | None:
    """The layout as a layer reads it; None if what it reads is not these channels."""
    if layout.places != CONVOLUTIONS.get(type(layer), 0):
        return None
    return layout.fitted(layer.weight.shape[1])


def blocks(layer: Any, channels: int) -> Tensor:
    """A layer's weight as (outputs, channels read, elements), in float32 or wider."""
    weight = layer.weight
    return _wide(weight).reshape(weight.shape[0], channels, -1)


def unknown(layer: Any) -> Constants:
    """What is known of the inputs of a layer with nothing before it: nothing."""
    weight = _wide(layer.weight)
    return Constants(
        torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device),
        weight.new_zeros(weight.shape[1], 1),
    )


def foldable(layer: Any, constants: Constants) -> Constants:
    """The constants that add one number to a layer's output.

    Where a convolution pads with zeros, a constant that is not zero adds less at the borders.
    """
    return replace(constants, known=_known_over_padding(layer, constants))


def folded(layer: Any, constants: Constants, which: Tensor) -> Tensor:
    """What the constant channels in `which`, (C,), add to each of a layer's outputs."""
    read = blocks(layer, len(which))[:, which]
    return (read * constants.value[which]).sum((1, 2))


def made(layer: Any, constants: Constants) -> Constants:
    """The constant outputs of a layer, of which `constants` are the foldable inputs.

    An output is one if none of the other inputs has a weight in it.
    """
    weight = blocks(layer, len(constants.known))
    known = ~(weight[:, ~constants.known] != 0).any(2).any(1)
    value = folded(layer, constants, constants.known)
    if layer.bias is not None:
        value = value + layer.bias
    return Constants(known, value[:, None])


def add_to_bias(layer: Any, addition: Tensor) -> None:
    """Adds to a layer's bias; one without gets a bias if there is anything to add."""
    if layer.bias is not None:
        _replace(layer, "bias", (layer.bias + addition).to(layer.bias.dtype))
    elif bool((addition != 0).any()):
        fresh = addition.to(layer.weight.dtype)
        layer.bias = nn.Parameter(fresh, requires_grad=layer.weight.requires_grad)


def cut_outputs(layer: Any, keep: Tensor) -> None:
    """Leaves a layer only the output channels in `keep`."""
    _replace(layer, "weight", layer.weight[keep])
    if layer.bias is not None:
        _replace(layer, "bias", layer.bias[keep])
    setattr(layer, _name(layer, "out"), layer.weight.shape[0])


def cut_inputs(layer: Any, keep: Tensor) -> None:
    """Leaves a layer only the input channels in `keep`."""
    _replace(layer, "weight", layer.weight[:, _features(keep, layer.weight.shape[1])])
    setattr(layer, _name(layer, "in"), layer.weight.shape[1])


def _name(layer: Any, side: str) -> str:
    return f"{side}_features" if type(layer) is nn.Linear else f"{side}_channels"


def _known_over_padding(layer: Any, constants: Constants) -> Tensor:
    if type(layer) in CONVOLUTIONS and _pads_with_zeros(layer):
        return constants.known & (constants.value == 0).all(1)
    return constants.known


def _pads_with_zeros(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    padding = convolution.padding
    if isinstance(padding, str):
        widens = padding == "same" and max(convolution.kernel_size) > 1
    else:
        widens = max(padding) > 0
    return widens and convolution.padding_mode == "zeros"


# Modules between: what treats every channel by itself --------------------------------------------


def layout_after(module: Any, layout: Layout) -> Layout | None:
    """Where channels lie behind a module; None if it does not treat each by itself."""
    kind = type(module)
    if kind in ELEMENTWISE or kind in UNCHANGED:
        return layout
    if kind is nn.PReLU:
        return layout if module.num_parameters == 1 else layout.fitted(module.num_parameters)
    if kind in NORMS:
        return layout.fitted(module.num_features) if layout.places in NORMS[kind] else None
    if kind in POOLS:
        single = not getattr(module, "return_indices", False)
        return layout if single and layout.places == POOLS[kind] else None
    if _is_depthwise(module):
        fits = layout.places == CONVOLUTIONS[kind] and layout.channels == module.groups
        return layout if fits else None
    return _flattened(module, layout) if kind is nn.Flatten else None


def _flattened(module: nn.Flatten, layout: Layout) -> Layout | None:
    """Batches are (samples, channels, places), or (samples, ..., features)."""
    first, last = module.start_dim, module.end_dim
    if layout.places == 0:
        # It may join what is before the features, or do nothing. What joins it with the features
        # gives the next layer another width, by which that is found out.
        return layout if first >= 1 or first == -1 else None
    rank = layout.places + 2
    first, last = first % rank, last % rank
    if first >= 2 or first == last:
        return replace(layout, places=layout.places - (last - first))
    joins_all = first == 1 and last == rank - 1
    return replace(layout, places=0, spread=None) if joins_all else None


def _is_depthwise(module: Any) -> bool:
    """Whether a convolution makes every channel from that channel alone."""
    if type(module) not in CONVOLUTIONS:
        return False
    return bool(module.groups == module.in_channels == module.out_channels)


def through(module: Any, constants: Constants) -> Constants:
    """What a module that treats every channel by itself makes of the constant ones."""
    kind = type(module)
    if kind in ELEMENTWISE:
        return replace(constants, value=module(constants.value.clone()))
    changed = _THROUGH.get(kind)
    return changed(module, constants) if changed else constants


def _through_prelu(module: Any, constants: Constants) -> Constants:
    slope = _per_feature(module.weight, constants)
    value = constants.value
    return replace(constants, value=torch.where(value >= 0, value, slope * value))


def _through_norm(module: Any, constants: Constants) -> Constants:
    """A scale of zero makes any channel a constant one."""
    known, value = constants.known, constants.value
    if module.running_mean is None:
        # It goes by the batch's own statistics, in evaluation too.
        known = torch.zeros_like(known)
    else:
        mean = _per_feature(module.running_mean, constants)
        variance = _per_feature(module.running_var, constants)
        value = (value - mean) * (variance + module.eps).rsqrt()
    if module.affine:
        scale = _per_feature(module.weight, constants)
        shift = _per_feature(module.bias, constants)
        known = known | (scale == 0).all(1)
        value = scale * value + shift
    return Constants(known, value)


def _through_depthwise(module: Any, constants: Constants) -> Constants:
    weight = blocks(module, 1)[:, 0]
    known = _known_over_padding(module, constants)
    value = torch.where(known[:, None], weight.sum(1, keepdim=True) * constants.value, 0)
    if module.bias is not None:
        value = value + module.bias[:, None]
    return Constants(known | (weight == 0).all(1), value)


def _through_max_pool(module: Any, constants: Constants) -> Constants:
    """A dilated window may lie in the padding altogether, which is minus infinity."""
    if _largest(module.padding) > 0 and _largest(module.dilation) > 1:
        return replace(constants, known=torch.zeros_like(constants.known))
    return constants


def _through_mean_pool(module: Any, constants: Constants) -> Constants:
    """Zeros that are counted in, or a divisor of one's own, change all numbers but zero."""
    counts_zeros = module.count_include_pad and _largest(module.padding) > 0
    if counts_zeros or getattr(module, "divisor_override", None) is not None:
        return replace(constants, known=constants.known & (constants.value == 0).all(1))
    return constants


_Through: TypeAlias = Callable[[Any, Constants], Constants]
_THROUGH: dict[type, _Through] = {
    nn.PReLU: _through_prelu,
    **dict.fromkeys(NORMS, _through_norm),
    **dict.fromkeys(CONVOLUTIONS, _through_depthwise),
    **dict.fromkeys(MAX_POOLS, _through_max_pool),
    **dict.fromkeys(MEAN_POOLS, _through_mean_pool),
}


def cut_channels(module: Any, keep: Tensor) -> None:
    """Leaves a module that treats every channel by itself only those in `keep`."""
    kind = type(module)
    if kind is nn.PReLU and module.num_parameters > 1:
        _replace(module, "weight", module.weight[_features(keep, module.num_parameters)])
        module.num_parameters = module.weight.numel()
    elif kind in NORMS:
        features = _features(keep, module.num_features)
        for key in ("weight", "bias", "running_mean", "running_var"):
            if getattr(module, key) is not None:
                _replace(module, key, getattr(module, key)[features])
        module.num_features = int(features.sum())
    elif kind in CONVOLUTIONS:
        cut_outputs(module, keep)
        module.in_channels = module.groups = module.out_channels


def _features(keep: Tensor, width: int) -> Tensor:
    """Which of so many features are those of the channels in `keep`."""
    return keep.repeat_interleave(width // len(keep))


def _per_feature(values: Tensor, constants: Constants) -> Tensor:
    """A module's numbers as (C, S), or (1, 1) where all channels share one."""
    rows = 1 if values.numel() == 1 else len(constants.known)
    return _wide(values).reshape(rows, -1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _largest(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else max(size)


def _replace(module: nn.Module, key: str, value: Tensor) -> None:
    """Puts another tensor in a parameter's or buffer's place."""
    old = getattr(module, key)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, requires_grad=old.requires_grad)
    setattr(module, key, value)
