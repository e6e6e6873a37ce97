"""Number formats of slots: how far off what is read back is, and that it is always finite."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from gradmem.memory.formats import BLOCK, FormatName, decode, encode
from reference import rounded

FORMATS = get_args(FormatName)
DTYPES = {name: getattr(torch, name) for name in FORMATS}
each_format = pytest.mark.parametrize("name", FORMATS)


def through(values, name):
    """What is read back of values that were stored in a format."""
    return decode(*encode(values, DTYPES[name]))


# Of a number, or for int8 of its block's largest; and for numbers too small for that, of 1.
BOUNDS = {
    "float32": (2.0**-24, 2.0**-150),
    "bfloat16": (2.0**-8, 2.0**-134),
    "float16": (2.0**-11, 2.0**-25),
    "int8": (1 / 254, 2.0**-127),
}


def error_over_bound(values, name):
    """The largest error as a share of what the documentation allows."""
    off = (through(values, name).double() - values).abs()
    relative, absolute = BOUNDS[name]
    size = values.abs()
    if name == "int8":
        size = torch.cat([part.amax().expand(part.shape) for part in size.split(BLOCK)])
    return float(
        (off / torch.maximum(size * relative, torch.tensor(absolute, dtype=torch.float64))).max()
    )


def near_the_bound(name):
    """Numbers next to the middle between two neighbours, where the error is largest."""
    relative, absolute = BOUNDS[name]
    if name == "int8":
        half = (torch.arange(127).double() + 0.4999) / 127
        return torch.cat([torch.ones(1).double(), half, -half]) * 3.7, absolute * 0.999
    above_one = 1 + relative * 0.999
    return torch.tensor([above_one, -above_one], dtype=torch.float64), absolute * 0.999


@each_format
def test_no_number_is_further_off_than_documented_and_some_are_nearly_so(name):
    generator = torch.Generator().manual_seed(3)
    for size in (1, 255, 256, 257, 5000):
        for scale in (1e-45, 1e-38, 1e-7, 1.0, 300.0):
            normal = torch.randn(size, generator=generator, dtype=torch.float64)
            spread = torch.randn(size, generator=generator, dtype=torch.float64).mul(2).exp()
            assert error_over_bound(normal * scale, name) <= 1 + 2**-14
            if scale < 300 or name != "float16":
                assert error_over_bound(normal * spread * scale, name) <= 1 + 2**-14
    numbers, smallest = near_the_bound(name)
    assert 0.99 < error_over_bound(numbers, name) <= 1 + 2**-14
    small = torch.full((3,), smallest, dtype=torch.float64)
    assert 0.9 < error_over_bound(small, name) <= 1 + 2**-14


LARGEST = torch.finfo(torch.float32).max
EDGES = [0.0, 1.0, 65504.0, 65519.0, 65520.0, 65536.0, 1e5, 3.3e38, 3.3895e38, 3.4e38, LARGEST]
EDGES += [1e-7, 2.0**-24, 2.0**-25, 6e-8, 1e-38, 1.2e-38, 1e-40, 1.5e-45, 1e-310, 1e39, 1e300]
EDGES += [-x for x in EDGES]


@pytest.mark.parametrize("source", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@each_format
def test_every_number_is_stored_as_the_twin_says_and_is_finite(name, source):
    generator = torch.Generator().manual_seed(1)
    edges = torch.tensor(EDGES, dtype=torch.float64)
    normal = torch.randn(3 * BLOCK + 5, generator=generator, dtype=torch.float64)
    largest = torch.finfo(source).max
    for values in (edges, *edges[:, None], normal, normal.mul(5).exp(), normal * 1e-39):
        values = values.clamp(-largest, largest).to(source)
        ours = through(values, name).double()
        assert ours.isfinite().all()
        assert ours.tolist() == rounded(values.double().numpy(), name).tolist()


def test_one_outlier_coarsens_its_own_block_alone():
    values = torch.ones(2 * BLOCK)
    values[0] = 1e6
    ours = through(values, "int8")
    assert not ours[1:BLOCK].any()
    assert ours[0] == pytest.approx(1e6)
    assert ours[BLOCK:].tolist() == pytest.approx([1.0] * BLOCK)


def test_blocks_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(40 * BLOCK, generator=generator).mul(1.5).exp()
    values *= torch.randn(values.shape, generator=generator).sign()
    code = torch.linspace(-1, 1, 255)  # k / 127 for k from -127 to 127
    code = torch.cat([code, code[-1:]])
    codes, state = functional.quantize_blockwise(values, code=code, blocksize=BLOCK)
    theirs = functional.dequantize_blockwise(codes, state)
    ours, scales = encode(values, torch.int8)
    torch.testing.assert_close(scales * 127, state.absmax, rtol=1e-6, atol=0)
    # Theirs takes a nearest entry of a table, ours rounds: they differ next to the middle alone.
    apart = ((codes.int() - 127) - ours.int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 0.01
    largest = values.reshape(-1, BLOCK).abs().amax(dim=1).repeat_interleave(BLOCK)
    assert ((theirs - decode(ours, scales)).abs() <= largest / 126).all()
