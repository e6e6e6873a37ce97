"""Random numbers that are a function of seed, ledger, step and draw: right bits, no patterns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gradmem.memory.chance import uniform
from gradmem.memory.policies import Offer
from plausible import check_correlation, check_pairs, check_uniform
from reference import GOLDEN, splitmix

SEEDS = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 2**70 + 3, 12345678901234567890, -7]
PLACES = [0, 1, 2, 1000, 2**40, 2**63 - 1, -1, -(2**63)]


def expected(seed, stream, step, draw):
    """In Python integers, which do not wrap around."""
    bits = splitmix(splitmix(splitmix(stream + seed * GOLDEN) + step) + draw * GOLDEN)
    return (bits >> 11) / 2**53


def test_the_reference_is_splitmix():
    """The first numbers of the generator started at 0, as published."""
    numbers = [splitmix(k * GOLDEN) for k in range(3)]
    assert numbers == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("draw", [0, 1, 7, 2**40, 2**64 - 1])
def test_numbers_equal_those_of_python_integers(seed, draw):
    pairs = list(itertools.product(PLACES, PLACES))
    stream, step = torch.tensor(pairs).T
    ours = uniform(seed, stream, step, draw)
    assert ours.dtype == torch.float64
    assert ours.tolist() == [expected(seed, *pair, draw) for pair in pairs]


def test_seeds_that_differ_in_64_bits_differ():
    places = torch.arange(50)
    drawn = [uniform(seed, places, places, 0) for seed in (*SEEDS, 2**63 + 1, 2**32)]
    for one, other in itertools.combinations(drawn, 2):
        assert not (one == other).any()
    assert uniform(5 + 2**64, places, places, 0).equal(uniform(5, places, places, 0))


def test_an_offer_draws_by_its_own_seed_ledger_and_step():
    steps = [5, 5, 9]
    offer = Offer(
        torch.ones(3), torch.tensor(steps), seed=11, stream=torch.arange(3), directions=None
    )
    for draw in (0, 1, 3):
        found = offer.uniform(draw).tolist()
        assert found == [expected(11, ledger, step, draw) for ledger, step in enumerate(steps)]
    assert offer.uniform().equal(offer.uniform(draw=0))


def numbers(seeds=1, ledgers=1, steps=1, draws=1):
    """(seeds, ledgers, steps, draws) of them, from 0 on, steps from 1 as in a run."""
    ledger = torch.arange(ledgers).repeat_interleave(steps)
    step = torch.arange(1, steps + 1).repeat(ledgers)
    drawn = [uniform(seed, ledger, step, draw) for seed in range(seeds) for draw in range(draws)]
    return torch.stack(drawn).reshape(seeds, draws, ledgers, steps).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("axis", ["seeds", "ledgers", "steps", "draws"])
def test_numbers_along_one_axis_are_uniform_and_independent(axis):
    drawn = numbers(**{axis: 4000 if axis in ("seeds", "draws") else 40_000}).ravel()
    for scale in (1, 2**20, 2**40):  # the leading, middle and last of the 53 bits
        check_uniform(drawn * scale % 1)
    check_pairs(drawn[::2] * 8, drawn[1::2] * 8, 8)
    for lag in (1, 2, 3, 4, 8, 16, 256):
        check_correlation(drawn[:-lag], drawn[lag:])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.s_[::2], np.s_[1::2]),
        (np.s_[:, ::2], np.s_[:, 1::2]),
        (np.s_[:, :, ::2], np.s_[:, :, 1::2]),
        (np.s_[..., ::2], np.s_[..., 1::2]),
        # the sum of the two numbers is the same in both
        (np.s_[:, ::2, 1:], np.s_[:, 1::2, :-1]),
        (np.s_[::2, :, 1:], np.s_[1::2, :, :-1]),
        (np.s_[::2, 1:], np.s_[1::2, :-1]),
        (np.s_[:, :, ::2, 1:], np.s_[:, :, 1::2, :-1]),
    ],
    ids=["seed", "ledger", "step", "draw", "ledger+step", "seed+step", "seed+ledger", "step+draw"],
)
def test_neighbours_are_independent(one, other):
    drawn = numbers(seeds=12, ledgers=20, steps=40, draws=4)
    check_pairs(drawn[one] * 8, drawn[other] * 8, 8)
    check_correlation(drawn[one], drawn[other])


def test_all_numbers_of_many_ledgers_differ():
    """Of half a million numbers of 53 bits two are equal once in 70,000 such tests."""
    drawn = numbers(seeds=5, ledgers=50, steps=1000, draws=2)
    assert len(np.unique(drawn)) == drawn.size
    check_uniform(drawn)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: there is none")
def test_numbers_on_cuda_are_the_same():
    stream, step = torch.tensor(list(itertools.product(PLACES, PLACES))).T
    for seed in SEEDS:
        there = uniform(seed, stream.cuda(), step.cuda(), 1)
        assert there.cpu().equal(uniform(seed, stream, step, 1))
