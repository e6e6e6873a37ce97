"""What the smaller model has in common with the model, and which models are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from gradmem.errors import OptionError, OptionTypeError
from gradmem.proximal import channels
from gradmem.proximal.shrink import shrink
from shrinking import (
    assert_equal,
    check,
    convolutions,
    inputs,
    perceptron,
    picture,
    randomize,
    sharded,
    zero,
)

# Channels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_keeps_one_channel_at_least(bias):
    model = perceptron(nn.Sigmoid(), bias=bias)
    zero(model[0].weight)
    check(model, inputs(5, 4), [1, 3])
    zero(model[2].weight)
    check(model, inputs(5, 4), [1, 3])


def test_a_chain_that_is_all_constant_keeps_a_thread():
    hidden = [module for _ in range(3) for module in (nn.Linear(6, 6), nn.Tanh())]
    model = randomize(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *hidden, nn.Linear(6, 2)))
    zero(model[4].weight)
    check(model, inputs(5, 4), [6, 1, 1, 1, 2])


def test_the_one_channel_kept_is_a_constant_if_there_is_one():
    model = randomize(
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    )
    zero(model[2].weight, 3)
    zero(model[4].weight)
    check(model, inputs(5, 4), [1, 1, 2])


def test_ends_stay():
    model = perceptron(nn.ReLU())
    zero(model[0].weight, slice(None), [0, 1])
    zero(model[2].weight, [0, 1])
    smaller = check(model, inputs(5, 4), [6, 3])
    assert smaller[0].in_features == 4


def test_a_bias_is_made_only_for_what_it_must_carry():
    model = perceptron(nn.ReLU(), bias=False)
    zero(model[0].weight, [0, 1])
    assert check(model, inputs(5, 4), [4, 3])[2].bias is None
    model[1] = nn.Sigmoid()
    model[2].weight.requires_grad_(False)
    made = check(model, inputs(5, 4), [4, 3])[2].bias
    assert made is not None
    assert not made.requires_grad


STANDING = [
    nn.LayerNorm(6),
    nn.RMSNorm(6),
    nn.Softmax(dim=1),
    nn.LogSoftmax(dim=-1),
    nn.Unflatten(1, (6,)),
]


@pytest.mark.parametrize("module", STANDING, ids=repr)
def test_channels_beside_other_modules_stay(module):
    model = nn.Sequential(nn.Linear(4, 6), module, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    randomize(model)
    zero(model[0].weight, [0])
    zero(model[2].weight, [1])
    check(model, inputs(5, 4), [6, 4, 2])


OTHERS = [
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(4),
    nn.Conv2d(4, 4, 2, groups=2),
    nn.Conv2d(4, 8, 2, groups=4),
    nn.ConvTranspose2d(4, 4, 2),
    nn.LPPool2d(2, 2),
    nn.ZeroPad2d(1),
    nn.Upsample(scale_factor=2),
    nn.LocalResponseNorm(2),
    nn.AvgPool1d(2),
    nn.Flatten(1, 2),
    nn.Flatten(0),
]


@pytest.mark.parametrize("module", OTHERS, ids=repr)
def test_nothing_is_known_behind_other_modules(module):
    assert channels.layout_after(module, channels.Layout(4, 2)) is None
    if isinstance(module, (nn.AvgPool1d, nn.Flatten)):
        return  # no convolution can follow
    behind = 8 if getattr(module, "out_channels", 4) == 8 else 4
    model = randomize(nn.Sequential(nn.Conv2d(2, 4, 3), module, nn.Conv2d(behind, 3, 2)))
    zero(model[0].weight, [1])
    smaller = shrink(model)
    assert_equal(smaller, model, picture(), 1e-12)
    assert smaller[0].out_channels == 4


def test_features_that_are_not_so_many_for_each_channel_are_not_theirs():
    flattened = channels.Layout(4, 0, spread=None)
    assert flattened.fitted(12) == channels.Layout(4, 0, spread=3)
    assert all(flattened.fitted(width) is None for width in (0, 3, 9))
    assert channels.Layout(4, 0).fitted(12) is None


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_empty_layers_stay():
    model = nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 3), nn.Linear(3, 2))
    zero(model[2].weight)
    check(model.double(), inputs(5, 4), [0, 3, 2])


@pytest.mark.parametrize(
    "module",
    [nn.MaxPool1d(2), nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1, groups=6), nn.BatchNorm2d(6)],
    ids=repr,
)
def test_what_takes_another_dimension_for_the_channels_is_no_way_for_features(module):
    assert channels.layout_after(module, channels.Layout(6, 0)) is None
    assert not channels.is_layer(module) or not channels.layout_read(module, channels.Layout(6, 0))


def test_layers_with_two_places_stay_whole():
    twice = nn.Linear(6, 6)
    model = nn.Sequential(twice, nn.Tanh(), twice, nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 2))
    randomize(model)
    zero(twice.weight, [0, 1])
    zero(model[4].weight, [0])
    smaller = check(model, inputs(5, 6), [6, 4, 2])
    assert smaller[0] is smaller[2]


def test_layers_that_share_a_parameter_stay_whole():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)), nn.PReLU(6), nn.Linear(6, 2))
    randomize(model)
    model[1].weight = model[0].weight
    zero(model[0].weight, [0, 1])
    zero(model[2].weight, [0, 1, 2])
    smaller = check(model, inputs(5, 6), [6, 6, 3, 2])
    assert smaller[0].weight is smaller[1].weight


@pytest.mark.parametrize("key", ["bias", "running_mean"])
def test_norms_that_share_a_tensor_stay_whole(key):
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6))
    model.append(nn.Linear(6, 2))
    randomize(model)
    setattr(model[3], key, getattr(model[1], key))
    zero(model[0].weight, [0, 1])
    check(model, inputs(5, 6), [6, 6, 2])


def test_a_norm_with_two_places_stays_whole():
    norm = nn.BatchNorm1d(6)
    model = nn.Sequential(nn.Linear(6, 6), norm, nn.Linear(6, 6), norm, nn.Linear(6, 2))
    randomize(model)
    zero(model[0].weight, [0, 1])
    check(model, inputs(5, 6), [6, 6, 2])


def test_an_activation_with_two_places_is_none_the_worse():
    act = nn.Sigmoid()
    model = randomize(nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 6), act, nn.Linear(6, 2)))
    zero(model[0].weight, [0, 1])
    zero(model[2].weight, [0])
    check(model, inputs(5, 4), [4, 5, 2])


# The copy -----------------------------------------------------------------------------------------


class Named(nn.Sequential):
    """A sequential class that computes as any other."""


def test_names_types_flags_and_modes_stay():
    model = Named()
    model.add_module("one", nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)))
    model.add_module("two", nn.Sequential(nn.Dropout(), nn.Sequential(nn.ReLU())))
    model.add_module("three", nn.Linear(6, 3))
    randomize(model, dtype=torch.float32).train()
    model.two.eval()
    model.one[0].weight.requires_grad_(False)
    model.one[1].bias.requires_grad_(False)
    model.three.bias.requires_grad_(False)
    zero(model.one[0].weight, [0, 1])
    smaller = check(model, inputs(5, 4, dtype=torch.float32), [4, 3], tolerance=1e-5)
    assert type(smaller) is Named
    for kind in ("named_parameters", "named_buffers"):
        old, new = dict(getattr(model, kind)()), dict(getattr(smaller, kind)())
        assert list(old) == list(new)
        for name, tensor in new.items():
            assert tensor.requires_grad == old[name].requires_grad, name
            assert tensor.dtype == old[name].dtype
            assert type(tensor) is type(old[name])
    modes = [module.training for module in smaller.modules()]
    assert modes == [module.training for module in model.modules()]


def test_constants_are_those_of_evaluation():
    """In training mode RReLU draws its slopes."""
    model = perceptron(nn.RReLU(), nn.Dropout(), nn.BatchNorm1d(6)).train()
    zero(model[0].weight, [0, 1])
    check(model, inputs(5, 4), [4, 3])


def test_nothing_to_remove_gives_an_equal_copy():
    model = randomize(nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3))).train()
    smaller = shrink(model)
    for old, new in zip(model.parameters(), smaller.parameters(), strict=True):
        assert torch.equal(old, new)
        assert old.data_ptr() != new.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_halves(dtype, bias):
    model = perceptron(nn.PReLU(6), nn.BatchNorm1d(6), nn.Sigmoid(), bias=bias).to(dtype)
    zero(model[0].weight, [0, 2])
    smaller = check(model, inputs(5, 4, dtype=dtype), [4, 3], tolerance=2e-2)
    assert {p.dtype for p in smaller.parameters()} == {dtype}


def test_what_a_half_bias_gets_is_rounded_once():
    model = nn.Sequential(nn.Linear(4, 300), nn.Sigmoid(), nn.Linear(300, 64))
    randomize(model, dtype=torch.bfloat16)
    zero(model[0].weight, slice(1, None))
    constants = model[0].bias[1:].double().sigmoid()
    exact = model[2].bias.double() + model[2].weight[:, 1:].double() @ constants
    got = shrink(model)[2].bias.double()
    torch.testing.assert_close(got, exact, rtol=1.01 * 2**-8, atol=0)


def test_complex_numbers():
    first, last = (nn.Linear(*sizes, dtype=torch.complex128) for sizes in ((4, 6), (6, 3)))
    model = nn.Sequential(first, nn.Tanh(), last)
    zero(model[0].weight, [0, 2])
    x = torch.complex(inputs(5, 4), inputs(5, 4))
    check(model, x, [4, 3])


def test_the_smaller_model_trains():
    model = convolutions(nn.ELU())
    zero(model[0].weight, [0, 2])
    smaller = shrink(model).train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=0.01)
    before = [p.detach().clone() for p in smaller.parameters()]
    smaller(picture()).square().mean().backward()
    optimizer.step()
    pairs = zip(before, smaller.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)
    assert all(p.grad is None for p in model.parameters())


def test_it_is_shrunk_once_and_for_all():
    model = perceptron(nn.Softplus(), nn.PReLU(6))
    zero(model[0].weight, [0, 2])
    once = shrink(model)
    twice = shrink(once)
    assert [p.shape for p in twice.parameters()] == [p.shape for p in once.parameters()]


# What is refused ----------------------------------------------------------------------------------


class Reversed(nn.Sequential):
    def forward(self, x):
        for module in reversed(self):
            x = module(x)
        return x


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(module, how):
    getattr(module, how)(lambda *_: None)
    return module


def with_forward(module):
    module.forward = lambda x: x
    return module


REFUSED = [
    (lambda: "model", "must be a torch.nn.Sequential, got str"),
    (lambda: nn.Linear(4, 4), "must be a torch.nn.Sequential with its own forward, got Linear"),
    (Residual, "got Residual"),
    (lambda: Reversed(nn.Linear(4, 4)), "got Reversed"),
    (lambda: nn.Sequential(nn.Sequential(Reversed(nn.ReLU()))), "'0.0' \\(Reversed\\) is neither"),
    (lambda: nn.Sequential(nn.ReLU(), Residual()), "'1' \\(Residual\\) is neither"),
    (lambda: nn.Sequential(Doubled(4, 4)), "'0' \\(Doubled\\) is neither"),
    (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), "MultiheadAttention\\) is neither"),
    (lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2)), "EncoderLayer\\) is neither"),
    (lambda: nn.Sequential(nn.ModuleList([nn.Linear(4, 4)])), "ModuleList\\) is neither"),
    (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))),
        "'0'.* has parametrizations",
    ),
    (lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "weight", 2)), "'0'.* has hooks"),
    (lambda: hooked(nn.Sequential(nn.Linear(4, 4)), "register_forward_hook"), "model has hooks"),
    (lambda: nn.Sequential(hooked(nn.ReLU(), "register_forward_pre_hook")), "has hooks"),
    (lambda: nn.Sequential(hooked(nn.ReLU(), "register_full_backward_hook")), "has hooks"),
    (lambda: nn.Sequential(hooked(nn.ReLU(), "register_full_backward_pre_hook")), "has hooks"),
    (lambda: nn.Sequential(with_forward(nn.ReLU())), "'0'.* a forward of its own"),
    (lambda: with_forward(nn.Sequential(nn.ReLU())), "model has a forward of its own"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused(make, message):
    with pytest.raises(OptionTypeError, match=message):
        shrink(make())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_parameters_without_numbers_are_refused():
    with pytest.raises(OptionError, match="not initialised yet; run a batch"):
        shrink(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(OptionError, match="running_mean is not initialised"):
        shrink(nn.Sequential(nn.LazyBatchNorm1d(affine=False)))
    with pytest.raises(OptionError, match="on the device 'meta'"):
        shrink(nn.Sequential(nn.Linear(3, 3, device="meta")))


def test_sharded_parameters_are_refused():
    with (
        sharded(nn.Linear(3, 3)) as layer,
        pytest.raises(OptionTypeError, match="weight is sharded; gather the full state_dict"),
    ):
        shrink(nn.Sequential(layer))
