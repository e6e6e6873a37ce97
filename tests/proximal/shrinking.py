"""Models to shrink, and what must hold of the smaller ones."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from gradmem.proximal import channels
from gradmem.proximal.shrink import shrink

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
TO_MEAN = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
TO_MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
SIDE = {1: 12, 2: 9, 3: 6}

LAYERS = (nn.Linear, *CONV.values())
ARGUMENTS = {nn.Threshold: (0.1, 0.7)}
ACTIVATIONS = [
    *(kind(*ARGUMENTS.get(kind, ())) for kind in channels.ELEMENTWISE),
    nn.ReLU(inplace=True),
    nn.ELU(alpha=0.3, inplace=True),
    nn.Softplus(beta=2.0),
    nn.GELU(approximate="tanh"),
    nn.PReLU(),
]


def randomize(model, seed=0, dtype=torch.float64):
    """Numbers in every parameter and statistic, no bias zero, outputs of moderate size."""
    generator = torch.Generator().manual_seed(seed)
    model.to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
            if p.ndim > 1:
                p.div_(p[0].numel() ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def inputs(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=dtype)


def zero(tensor, *index):
    with torch.no_grad():
        tensor[index] = 0


def check(model, x, widths, tolerance=1e-12):
    """The smaller model, with equal outputs and these numbers of channels behind its layers."""
    before = copy.deepcopy(model.state_dict())
    smaller = shrink(model)
    assert_equal(smaller, model, x, tolerance)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    places = {module: name for name, module in model.named_modules()}
    left = [smaller.get_submodule(places[layer]) for layer in layers(model)]
    assert [layer.weight.shape[0] for layer in left] == widths
    assert_consistent(smaller)
    return smaller


def assert_equal(smaller, model, x, tolerance):
    with torch.no_grad():
        a, b = copy.deepcopy(smaller).eval()(x), copy.deepcopy(model).eval()(x)
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_consistent(model):
    """What the modules say of their sizes is what their tensors have."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, tuple(CONV.values())):
            per_group = module.in_channels // module.groups
            assert module.weight.shape[:2] == (module.out_channels, per_group)
        elif isinstance(module, tuple(NORM.values())):
            sizes = {t.numel() for t in module.state_dict().values() if t.ndim}
            assert sizes <= {module.num_features}
        elif isinstance(module, nn.PReLU):
            assert module.weight.shape == (module.num_parameters,)
        if getattr(module, "bias", None) is not None:
            assert module.bias.shape == module.weight.shape[:1]


def layers(model):
    """The layers in which channels are made, depthwise convolutions not among them."""
    return [m for m in model.modules() if isinstance(m, LAYERS) and getattr(m, "groups", 1) == 1]


def perceptron(*between, width=6, bias=True):
    return randomize(
        nn.Sequential(nn.Linear(4, width, bias=bias), *between, nn.Linear(width, 3, bias=bias))
    )


def convolutions(*between, dims=2, width=5, **second):
    kernel = second.pop("kernel_size", 2)
    conv = CONV[dims]
    return randomize(nn.Sequential(conv(2, width, 3), *between, conv(width, 3, kernel, **second)))


def picture(dims=2):
    return inputs(2, 2, *[SIDE[dims]] * dims)


@contextmanager
def sharded(layer):
    """The layer with a weight that is spread over a mesh, of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    spread = distribute_tensor(layer.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
    layer.weight = nn.Parameter(spread)
    yield layer
    dist.destroy_process_group()
