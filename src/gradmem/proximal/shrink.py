"""A smaller model that computes the same, without the channels that sparsity has freed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from gradmem.errors import OptionError, OptionTypeError
from gradmem.memory.sharding import is_sharded
from gradmem.proximal import channels

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def shrink(model: nn.Sequential) -> nn.Sequential:
    """A smaller dense copy of a sequential model, equal in evaluation mode.

    A channel (an output of a convolution or a linear layer) goes

    - if it is constant: the weights that make it are zero, or those of its inputs that remain, or
      the batch normalisation behind it scales it by zero. The number it carries, followed through
      what is between, is added to the bias of the layer that reads it;
    - if nothing reads it: its input channel or columns in the next layer are zero, or belong to
      outputs that go themselves.

    It stays where a convolution pads with zeros and reads a constant that is not zero, for that
    adds less at the borders. Every layer keeps a channel at least; the inputs of the first and the
    outputs of the last stay as they are. A layer without a bias gets one if a number must be added.

    Between two layers may stand activations that go element by element (`torch.nn.PReLU` with a
    slope per channel too), batch normalisation, max, average and adaptive pooling, depthwise
    convolutions, dropout, `torch.nn.Flatten` and `torch.nn.Identity`. Any other single layer of
    torch.nn (softmax, layer normalisation, transposed or grouped convolutions, ...) is left as it
    is, with all channels on both its sides; so are layers that share a parameter or have two
    places. Inputs must be batches, and those of a `torch.nn.Linear` before a
    `torch.nn.BatchNorm1d` matrices; else the smaller model fails by the shapes.

    Args:
        model: a `torch.nn.Sequential`, nested or not, of single layers. It is not changed.

    Returns:
        A new model on the same device, of the same types, with the same names, ``requires_grad``
        and modes (training or not). Its outputs in evaluation mode are the model's but for
        rounding; in training mode batch statistics and dropout differ. It needs a new optimizer.

    Raises:
        OptionTypeError: the model or a part is not of this kind: another container or a class of
            one's own, hooks, parametrizations, sharded parameters. The message names the module.
        OptionError: a parameter has no numbers: it is lazy, or on the device "meta".

    Numerics: what is added to a bias is summed in float32 or wider. Everything is computed on the
    model's device and is deterministic.

    Example:
        >>> import torch
        >>> from gradmem.proximal import shrink
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(8, 6), torch.nn.Sigmoid(), torch.nn.Linear(6, 2)
        ... )
        >>> with torch.no_grad():
        ...     _ = model[0].weight[:4].zero_()  # four outputs are constant
        ...     _ = model[2].weight[:, 4].zero_()  # nothing reads the fifth
        >>> smaller = shrink(model)
        >>> smaller[0], smaller[2]
        (Linear(in_features=8, out_features=1, bias=True),
         Linear(in_features=1, out_features=2, bias=True))
        >>> x = torch.randn(3, 8)
        >>> torch.allclose(smaller(x), model(x), atol=1e-6)
        True
    """
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"model must be a torch.nn.Sequential, got {type(model).__name__}")
    if not _is_sequential(model):
        raise OptionTypeError(
            "model must be a torch.nn.Sequential with its own forward, got "
            f"{type(model).__name__}: what reads which channel is not known of others; shrink the "
            "sequential parts of it whose inputs and outputs may stay"
        )
    for name, module in _parts(model, ""):
        _check(name, module)
    smaller = copy.deepcopy(model)
    modes = [(module, module.training) for module in smaller.modules()]
    smaller.eval()
    with torch.no_grad():
        _remove(_joints(smaller))
    for module, training in modes:
        module.training = training
    return smaller


@dataclass(frozen=True)
class _Joint:
    """A layer, the modules each channel it makes goes through, and the layer that reads them."""

    maker: nn.Module
    between: list[nn.Module]
    reader: nn.Module


def _joints(model: nn.Sequential) -> list[_Joint]:
    """Where channels can go, from first to last."""
    leaves = [module for _, module in _parts(model, "") if not _is_sequential(module)]
    shared = _shared(leaves)
    joints: list[_Joint] = []
    maker: nn.Module | None = None
    between: list[nn.Module] = []
    layout: channels.Layout | None = None
    for module in leaves:
        if channels.is_layer(module) and module not in shared:
            if maker and layout and channels.layout_read(module, layout):
                joints.append(_Joint(maker, between, module))
            maker, between, layout = module, [], channels.layout_behind(module)
        elif layout:
            layout = None if module in shared else channels.layout_after(module, layout)
            between.append(module)
    return joints


def _shared(leaves: list[nn.Module]) -> set[nn.Module]:
    """Modules with a parameter or buffer that has another place too."""
    tensors = {module: [*module.parameters(), *module.buffers()] for module in leaves}
    places = Counter(id(tensor) for module in leaves for tensor in tensors[module])
    return {m for m, own in tensors.items() if any(places[id(tensor)] > 1 for tensor in own)}


def _remove(joints: list[_Joint]) -> None:
    """Constants are followed forwards, what is read backwards; then everything is cut."""
    reads: dict[nn.Module, channels.Constants] = {}
    for joint in joints:
        constants = channels.made(
            joint.maker, reads.get(joint.maker, channels.unknown(joint.maker))
        )
        for module in joint.between:
            constants = channels.through(module, constants)
        reads[joint.reader] = channels.foldable(joint.reader, constants)
    keeps: dict[nn.Module, Tensor] = {}
    for joint in reversed(joints):
        keeps[joint.maker] = _kept(joint.reader, reads[joint.reader], keeps.get(joint.reader))
    for joint in joints:
        keep = keeps[joint.maker]
        if not keep.all():
            _cut(joint, keep, reads[joint.reader])


def _kept(reader: nn.Module, constants: channels.Constants, outputs: Tensor | None) -> Tensor:
    """The channels that must stay for these outputs of their reader, None for all."""
    weight = channels.blocks(reader, len(constants.known))
    if outputs is not None:
        weight = weight[outputs]
    keep = (weight != 0).any(2).any(0) & ~constants.known
    if not keep.any():
        # A constant one, if there is one: it needs no inputs itself.
        keep[constants.known.int().argmax()] = True
    return keep


def _cut(joint: _Joint, keep: Tensor, constants: channels.Constants) -> None:
    gone = channels.folded(joint.reader, constants, constants.known & ~keep)
    channels.add_to_bias(joint.reader, gone)
    channels.cut_inputs(joint.reader, keep)
    for module in joint.between:
        channels.cut_channels(module, keep)
    channels.cut_outputs(joint.maker, keep)


# What is refused ---------------------------------------------------------------------------------


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """A sequential module and all in it, in the order of computation, at every place it has."""
    yield name, module
    if _is_sequential(module):
        for key, child in module._modules.items():
            if child is not None:
                yield from _parts(child, f"{name}.{key}" if name else key)


def _check(name: str, module: nn.Module) -> None:
    """Refuse a part of which it is not known what it computes."""
    label = f"module {name!r} ({type(module).__name__})" if name else "the model"
    remedy = _unsupported(module)
    if remedy:
        raise OptionTypeError(f"{label} {remedy}")
    for key, tensor in chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(tensor):
            raise OptionError(
                f"{label}: {key} is not initialised yet; run a batch through the model first"
            )
        if tensor.is_meta:
            raise OptionError(f"{label}: {key} is on the device 'meta'; give it numbers first")
        if is_sharded(tensor):
            raise OptionTypeError(
                f"{label}: {key} is sharded; gather the full state_dict into a plain model first"
            )


def _unsupported(module: nn.Module) -> str:
    """What is wrong with a module, and the remedy; "" if nothing is."""
    if is_parametrized(module):
        return (
            "has parametrizations; bake them in with "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if any(getattr(module, hooks) for hooks in HOOKS):
        return (
            "has hooks, which would see other channels or set the weights (torch.nn.utils.prune, "
            "weight_norm); remove them first"
        )
    if "forward" in vars(module):
        return "has a forward of its own set on it; delete that first"
    if _is_sequential(module):
        return ""
    # A subclass may compute anything, and what holds modules may lead channels past them.
    known = type(module).__module__.startswith("torch.nn.modules.")
    if known and not any(True for _ in module.children()):
        return ""
    return (
        "is neither a torch.nn.Sequential with its own forward nor a single layer of torch.nn, so "
        "what it does with its channels is not known: supported are torch.nn.Sequential, nested "
        "too, of Linear, Conv1d to 3d, batch normalisation, activations, pooling, Dropout, Flatten "
        "and other single layers of torch.nn"
    )
