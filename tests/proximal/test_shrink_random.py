"""Random models: the smaller one is equal, and smaller by exactly what can go."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import pytest
import torch
from torch import nn

from gradmem.proximal.shrink import shrink
from shrinking import (
    ACTIVATIONS,
    CONV,
    MAX,
    MEAN,
    NORM,
    SIDE,
    TO_MAX,
    TO_MEAN,
    assert_consistent,
    assert_equal,
    check,
    inputs,
    layers,
    randomize,
    zero,
)

# No flat parts: what the weights leave open varies with the input.
STRICT = [nn.Tanh, nn.Sigmoid, nn.Softplus, nn.LeakyReLU, nn.LogSigmoid, nn.Softsign]

each_dims = pytest.mark.parametrize("dims", [1, 2, 3])


class Builder:
    """A random model, a batch for it, and the weights of it that are zero."""

    def __init__(self, seed, dims, wild):
        self.rng, self.dims, self.wild = random.Random(seed), dims, wild
        self.modules, self.zeros = [], []
        self.x = self.probe = inputs(3, self.rng.randint(1, 3), *[SIDE[dims]] * dims)
        self.made = None  # the channels behind the last layer
        for _ in range(self.rng.randint(1, 3)):
            self.convolution()
        self.flatten()
        for _ in range(self.rng.randint(1, 3)):
            self.linear()
        self.model = randomize(self.nested(), seed)
        for action in self.zeros:
            action()
        self.x = self.x.clone()

    def add(self, module):
        self.modules.append(module)
        with torch.no_grad():
            self.probe = randomize(module)(self.probe)

    def chance(self, share=0.5):
        return self.rng.random() < share

    def nested(self):
        modules = list(self.modules)
        for _ in range(self.rng.randint(0, 2)):
            first = self.rng.randrange(len(modules))
            last = self.rng.randint(first + 1, len(modules))
            modules[first:last] = [nn.Sequential(*modules[first:last])]
        return nn.Sequential(*modules)

    def some(self, count):
        """Channels to be zeroed; the first one lives, unless anything may happen."""
        share = self.rng.choice([0.2, 0.5, 0.9])
        return [i for i in range(0 if self.wild else 1, count) if self.chance(share)]

    def layer(self, module):
        made, out = self.made, module.weight.shape[0]
        rows, columns = self.some(out), self.some(made) if made else []

        def empty():
            weight = module.weight
            zero(weight, rows)
            if columns:
                view = weight.detach().view(out, made, -1)
                view[:, columns] = 0

        self.add(module)
        self.zeros.append(empty)
        self.made = out

    def convolution(self):
        room = min(self.probe.shape[2:])
        kernel = self.rng.choice([1, 2, 3]) if room > 3 else 1
        padding = self.rng.choice([0, kernel // 2, "valid", "same" if kernel % 2 else 0])
        modes = ["zeros", "zeros", "replicate", "circular", "reflect"]
        self.layer(
            CONV[self.dims](
                self.probe.shape[1],
                self.rng.randint(2, 6),
                kernel,
                padding=padding,
                padding_mode=self.rng.choice(modes) if padding != "valid" else "zeros",
                bias=self.chance(0.7),
            )
        )
        for _ in range(self.rng.randint(0, 3)):
            self.rng.choice([self.norm, self.activation, self.pool, self.still, self.depthwise])()

    def linear(self):
        self.layer(nn.Linear(self.probe.shape[1], self.rng.randint(2, 6), bias=self.chance(0.7)))
        for _ in range(self.rng.randint(0, 2)):
            self.rng.choice([self.norm, self.activation, self.still])()

    def flatten(self):
        if self.chance(0.3):
            pool = self.rng.choice([TO_MEAN, TO_MAX])[self.dims]
            self.add(pool(self.rng.choice([1, 2])))
        self.add(nn.Flatten())
        for _ in range(self.rng.randint(0, 2)):
            self.rng.choice([self.norm, self.activation, self.still])()

    def norm(self):
        kind = NORM[self.dims] if self.probe.ndim > 2 else nn.BatchNorm1d
        width = self.probe.shape[1]
        affine, statistics = self.chance(0.8), not self.wild or self.chance(0.8)
        norm = kind(width, affine=affine, track_running_stats=statistics)
        self.add(norm)
        if affine:
            made, scales = self.made, self.some(self.made)
            self.zeros.append(lambda: zero(norm.weight.view(made, -1), scales))

    def activation(self):
        if self.chance(0.3):
            self.add(nn.PReLU(self.rng.choice([1, self.probe.shape[1]])))
        elif self.wild:
            self.add(copy.deepcopy(self.rng.choice(ACTIVATIONS)))
        else:
            self.add(self.rng.choice(STRICT)())

    def still(self):
        self.add(self.rng.choice([nn.Dropout(), nn.Identity(), nn.Dropout(0.2)]))

    def pool(self):
        if min(self.probe.shape[2:]) < 4:
            return
        ceil, padding = self.chance(), self.rng.choice([0, 1])
        if self.chance():
            self.add(MAX[self.dims](2, padding=padding, ceil_mode=ceil))
        else:
            counted = self.wild and self.chance()
            mean = MEAN[self.dims](2, 2, padding, ceil, count_include_pad=counted)
            self.add(mean)

    def depthwise(self):
        width = self.probe.shape[1]
        if width == 1 or min(self.probe.shape[2:]) < 4:
            return
        conv = CONV[self.dims](width, width, 2, groups=width, bias=self.chance())
        self.add(conv)
        rows = self.some(width)
        self.zeros.append(lambda: zero(conv.weight, rows))


def expected_widths(model, x):
    """What must stay behind each layer, by what is seen to vary, and by what is read."""
    made = layers(model)
    seen = {}
    hooks = [m.register_forward_pre_hook(lambda m, x: seen.update({m: x[0]})) for m in made]
    model(x)
    for hook in hooks:
        hook.remove()
    kept = {made[-1]: list(range(made[-1].weight.shape[0]))}
    for maker, reader in reversed(list(pairwise(made))):
        count = maker.weight.shape[0]
        arriving = seen[reader].reshape(len(x), count, -1)
        over = 0 if isinstance(reader, nn.Linear) else (0, 2)
        spread = (arriving.amax(over) - arriving.amin(over)).reshape(count, -1).amax(1)
        padded = getattr(reader, "padding_mode", "") == "zeros" and (
            max(reader.kernel_size) > 1
            if reader.padding == "same"
            else reader.padding != "valid" and max(reader.padding) > 0
        )
        size = arriving.abs().amax((0, 2))
        weight = reader.weight.reshape(reader.weight.shape[0], count, -1)
        kept[maker] = [
            c
            for c in range(count)
            if not (spread[c] < 1e-12 and (size[c] < 1e-12 or not padded))
            and any(bool((weight[row, c] != 0).any()) for row in kept[reader])
        ]
    return [len(kept[layer]) for layer in made]


@each_dims
@pytest.mark.parametrize("seed", range(25))
def test_random_models_lose_exactly_what_can_go(dims, seed):
    built = Builder(seed, dims, wild=False)
    check(built.model, built.x, expected_widths(built.model, built.x))


@each_dims
@pytest.mark.parametrize("seed", range(100, 140))
def test_wild_random_models_stay_equal(dims, seed):
    built = Builder(seed, dims, wild=True)
    smaller = shrink(built.model)
    assert_equal(smaller, built.model, built.x, 1e-12)
    assert_consistent(smaller)
    single = copy.deepcopy(built.model).float()
    assert_equal(shrink(single), single, built.x.float(), 1e-5)


def test_the_random_models_have_what_can_go():
    """The two tests above would pass on models with nothing to cut."""
    builders = [Builder(seed, 2, wild=False) for seed in range(25)]
    before = sum(layer.weight.shape[0] for b in builders for layer in layers(b.model))
    after = sum(sum(expected_widths(b.model, b.x)) for b in builders)
    assert after < 0.8 * before
