"""Random numbers that are a function of seed, ledger, step and draw: a counter-based generator.

There is no state to advance: a resumed run, every rank and a captured graph draw what an
uninterrupted run on one machine draws, and nothing is read from a device. The mixing function is
one step of SplitMix64 (Steele, Lea, Flood 2014), taken three times: for seed and ledger, for the
step, and for the draw.
"""

from __future__ import annotations

from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def uniform(seed: int, stream: Tensor, step: Tensor, draw: int) -> Tensor:
    """A number in [0, 1) for every ledger, (R,) float64, of 53 random bits.

    Args:
        seed: any integer, of which the lowest 64 bits count.
        stream: (R,) int64, a number of its own for every ledger.
        step: (R,) int64.
        draw: which of the numbers of this step, from 0.
    """
    bits = _mix(_mix(_mix(stream + _signed(seed * _GOLDEN)) + step) + _signed(draw * _GOLDEN))
    return _shifted(bits, 11).double() * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    bits = bits + _signed(_GOLDEN)
    for shift, factor in _MIX:
        bits = (bits ^ _shifted(bits, shift)) * _signed(factor)
    mixed: Tensor = bits ^ _shifted(bits, 31)
    return mixed


def _shifted(bits: Tensor, places: int) -> Tensor:
    """To the right, with zeros moving in; torch's own shift repeats the sign."""
    shifted: Tensor = (bits >> places) & (2 ** (64 - places) - 1)
    return shifted


def _signed(number: int) -> int:
    """The int64 of the same 64 bits; its products wrap around as those of unsigned ones do."""
    return (number + 2**63) % 2**64 - 2**63
