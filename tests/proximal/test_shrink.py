"""The smaller model, kind of module by kind: equal in outputs, and without what can go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradmem.proximal import channels
from shrinking import (
    ACTIVATIONS,
    MAX,
    MEAN,
    SIDE,
    TO_MAX,
    TO_MEAN,
    check,
    convolutions,
    inputs,
    perceptron,
    picture,
    randomize,
    zero,
)

each_dims = pytest.mark.parametrize("dims", [1, 2, 3])


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_a_constant_goes_through_every_activation(activation):
    model = perceptron(activation)
    zero(model[0].weight, [0, 2, 3])
    check(model, inputs(5, 4), [3, 3])


def test_constants_are_followed_without_changing_them():
    constants = channels.Constants(torch.ones(2, dtype=torch.bool), torch.tensor([[-1.0], [1.0]]))
    after = channels.through(nn.ReLU(inplace=True), constants)
    assert after.value.tolist() == [[0.0], [1.0]]
    assert constants.value.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("still", [kind() for kind in channels.UNCHANGED], ids=repr)
def test_a_constant_goes_through_what_changes_nothing(still):
    dims = 3 if isinstance(still, nn.Dropout3d) else 1 if isinstance(still, nn.Dropout1d) else 2
    model = convolutions(still, dims=dims)
    zero(model[0].weight, [0, 2, 3])
    check(model, picture(dims), [2, 3])


def test_every_elementwise_activation_of_torch_is_known():
    mix = {nn.GLU, nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax}
    names = torch.nn.modules.activation.__all__
    every = {getattr(nn, name) for name in names if hasattr(nn, name)}
    assert every == {*channels.ELEMENTWISE, nn.PReLU} | mix


def test_slopes_by_channel_are_cut():
    model = perceptron(nn.PReLU(6))
    zero(model[0].weight, [0, 2, 3])
    smaller = check(model, inputs(5, 4), [3, 3])
    assert torch.equal(smaller[1].weight, model[1].weight[[1, 4, 5]])


POOLINGS = [
    *((kind, (2,)) for kinds in (MAX, MEAN) for kind in kinds.values()),
    *((kind, (3, 2, 1)) for kind in MAX.values()),
    *((kind, (3, 2, 1, False, False)) for kind in MEAN.values()),
    *((kind, (3, 2, 0, True)) for kind in MEAN.values()),
    *((kind, (2,)) for kinds in (TO_MEAN, TO_MAX) for kind in kinds.values()),
]


@pytest.mark.parametrize(("kind", "arguments"), POOLINGS)
def test_a_constant_goes_through_every_pooling(kind, arguments):
    (dims,) = {d for k in (MAX, MEAN, TO_MEAN, TO_MAX) for d, c in k.items() if c is kind}
    model = convolutions(nn.Softplus(), kind(*arguments), dims=dims, kernel_size=1)
    zero(model[0].weight, [1, 4])
    check(model, picture(dims), [3, 3])


@each_dims
def test_a_mean_that_counts_padding_keeps_what_is_not_zero(dims):
    model = convolutions(MEAN[dims](3, 2, padding=1), dims=dims, kernel_size=1)
    zero(model[0].weight, [1, 4])
    check(model, picture(dims), [5, 3])
    zero(model[0].bias, [4])
    check(model, picture(dims), [4, 3])


def test_a_mean_with_another_divisor_keeps_what_is_not_zero():
    model = convolutions(nn.AvgPool2d(2, divisor_override=3))
    zero(model[0].weight, [1, 4])
    zero(model[0].bias, [4])
    check(model, picture(), [4, 3])


def test_a_maximum_over_padding_alone_is_no_constant():
    """With dilation a window can miss the picture: its maximum is minus infinity."""
    pool = nn.MaxPool1d(2, stride=1, padding=1, dilation=2)
    assert pool(torch.ones(1, 1, 1)).item() == -float("inf")
    between = (nn.AdaptiveAvgPool1d(1), pool, nn.Sigmoid())
    model = convolutions(*between, dims=1, kernel_size=1)
    zero(model[0].weight, [1, 4])
    check(model, picture(1), [5, 3])


def test_pools_that_give_indices_are_left_alone():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.MaxPool2d(2, return_indices=True))
    assert channels.layout_after(model[1], channels.layout_behind(model[0])) is None


PADDINGS = [
    (1, "zeros", False),
    ((0, 1), "zeros", False),
    ("same", "zeros", False),
    (0, "zeros", True),
    ("valid", "zeros", True),
    (1, "reflect", True),
    (1, "replicate", True),
    ("same", "circular", True),
]


@pytest.mark.parametrize(("padding", "mode", "goes"), PADDINGS)
def test_a_constant_stays_where_the_border_shows(padding, mode, goes):
    model = convolutions(nn.Sigmoid(), kernel_size=3, padding=padding, padding_mode=mode)
    zero(model[0].weight, [1, 4])
    check(model, picture(), [3 if goes else 5, 3])


def test_padding_a_kernel_of_one_adds_nothing_under_same():
    model = convolutions(nn.Sigmoid(), kernel_size=1, padding="same")
    zero(model[0].weight, [1, 4])
    check(model, picture(), [3, 3])


def test_zeros_go_and_constants_stay_before_padding():
    model = convolutions(nn.ReLU(), kernel_size=3, padding=1)
    zero(model[0].weight, [1, 4])
    with torch.no_grad():
        model[0].bias[1], model[0].bias[4] = -1.0, 1.0  # after the ReLU: 0 and 1
    check(model, picture(), [4, 3])


def test_a_constant_that_stays_needs_no_inputs():
    model = randomize(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3), nn.Conv2d(3, 2, 3, padding=1))
    )
    zero(model[1].weight, [0, 1])
    zero(model[1].weight, 2, [0, 1, 2])
    check(model, picture(), [1, 3, 2])


def test_what_nothing_reads_goes_backwards_through_layers():
    model = randomize(
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    )
    zero(model[4].weight, slice(None), [0, 1])  # outputs 0 and 1 of the middle are not read
    zero(model[2].weight, [2, 3, 4], 5)  # which alone read output 5 of the first
    check(model, inputs(5, 4), [5, 3, 2])


def test_constants_go_forwards_through_layers():
    model = randomize(
        nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    )
    zero(model[0].weight, [0, 1])
    zero(model[2].weight, 3, [2, 3, 4, 5])  # made of constants alone
    check(model, inputs(5, 4), [4, 4, 2])


def test_a_norm_scaled_by_zero_frees_its_channel():
    model = convolutions(nn.BatchNorm2d(5), nn.SiLU())
    zero(model[1].weight, [0, 3])
    smaller = check(model, picture(), [3, 3])
    assert torch.equal(smaller[1].running_var, model[1].running_var[[1, 2, 4]])


@pytest.mark.parametrize("affine", [True, False])
def test_a_constant_goes_through_norms(affine):
    model = perceptron(nn.BatchNorm1d(6, affine=affine, eps=0.1), nn.ReLU())
    zero(model[0].weight, [0, 2, 3])
    check(model, inputs(5, 4), [3, 3])


def test_a_norm_by_the_batch_alone_keeps_constants_but_not_what_is_unread():
    model = perceptron(nn.BatchNorm1d(6, track_running_stats=False))
    zero(model[0].weight, [0, 2, 3])
    check(model, inputs(5, 4), [6, 3], tolerance=1e-9)
    zero(model[2].weight, slice(None), [3, 4])
    check(model, inputs(5, 4), [4, 3], tolerance=1e-9)
    zero(model[1].weight, [5])
    check(model, inputs(5, 4), [3, 3], tolerance=1e-9)


def flat(*between, side=3):
    """Channels of side * side features behind Flatten."""
    features = 4 * side * side
    return nn.Sequential(nn.Conv2d(2, 4, SIDE[2] - side + 1), nn.Flatten(), *between), features


def test_flattened_channels_go_with_all_their_features():
    front, features = flat()
    model = randomize(nn.Sequential(*front, nn.Sigmoid(), nn.Linear(features, 3)))
    zero(model[0].weight, [2])
    zero(model[3].weight, slice(None), slice(0, 9))  # all of channel 0
    zero(model[3].weight, slice(None), slice(9, 17))  # all but one of channel 1
    smaller = check(model, picture(), [2, 3])
    assert torch.equal(smaller[3].weight, model[3].weight[:, [*range(9, 18), *range(27, 36)]])


def test_norms_and_slopes_of_flattened_channels_are_cut():
    front, features = flat()
    between = (nn.BatchNorm1d(features), nn.PReLU(features), nn.Linear(features, 3))
    model = randomize(nn.Sequential(*front, *between))
    zero(model[0].weight, [2])
    zero(model[2].weight, slice(0, 9))
    zero(model[2].weight, slice(9, 17))
    smaller = check(model, picture(), [2, 3])
    assert smaller[2].num_features == smaller[3].num_parameters == 18


FLATTENS = [
    (nn.Flatten(2), nn.Conv1d(4, 3, 2), 3),
    (nn.Flatten(-2), nn.Conv1d(4, 3, 2), 3),
    (nn.Flatten(1, 1), nn.Conv2d(4, 3, 2), 3),
    (nn.Flatten(-3), nn.Linear(36, 3), 3),
    (nn.Flatten(2), nn.Linear(9, 3), 4),  # the linear layer mixes places
    (nn.Flatten(1, 2), nn.Linear(3, 3), 4),
    (nn.Identity(), nn.Linear(3, 3), 4),
]


@pytest.mark.parametrize(("flatten", "reader", "left"), FLATTENS)
def test_other_ways_to_flatten(flatten, reader, left):
    model = randomize(nn.Sequential(nn.Conv2d(2, 4, SIDE[2] - 2), flatten, reader))
    zero(model[0].weight, [2])
    check(model, picture(), [left, 3])


def test_features_flattened_with_what_is_before_them_stay():
    model = randomize(nn.Sequential(nn.Linear(4, 6), nn.Flatten(), nn.Linear(12, 3)))
    zero(model[0].weight, [0, 2])
    check(model, inputs(5, 2, 4), [6, 3])


@pytest.mark.parametrize("flatten", [nn.Flatten(), nn.Flatten(-1), nn.Flatten(1, 2)], ids=repr)
def test_flattening_features_changes_nothing(flatten):
    model = perceptron(flatten)
    zero(model[0].weight, [0, 2])
    x = inputs(5, 4) if flatten.end_dim == -1 else inputs(5, 2, 3, 4)
    check(model, x, [4, 3])


def test_linear_layers_on_sequences():
    model = perceptron(nn.GELU())
    zero(model[0].weight, [0, 2])
    check(model, inputs(5, 7, 4), [4, 3])


@pytest.mark.parametrize("length", [3, 12])
def test_slopes_along_a_sequence_are_no_channels(length):
    model = perceptron(nn.PReLU(length))
    zero(model[0].weight, [0, 2])
    check(model, inputs(5, length, 4), [6, 3])


def test_depthwise_convolutions_are_cut_with_their_channels():
    model = convolutions(nn.Conv2d(5, 5, 2, groups=5, padding=1), nn.Sigmoid())
    zero(model[0].weight, [0])  # padded by zeros: no constant
    zero(model[1].weight, [1, 2])
    smaller = check(model, picture(), [3, 3])
    assert (smaller[1].groups, smaller[1].in_channels) == (3, 3)
    zero(model[0].bias, [0])
    check(model, picture(), [2, 3])


def test_of_depthwise_convolutions_without_padding_constants_come_out():
    model = convolutions(nn.Conv2d(5, 5, 2, groups=5, bias=False), nn.Sigmoid())
    zero(model[0].weight, [0, 3])
    zero(model[1].weight, [0, 1])
    zero(model[1].weight, 4, 0, 0)  # half a kernel
    check(model, picture(), [2, 3])
