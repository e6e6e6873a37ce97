"""Which gradients are kept: one function each, one signature.

A policy is asked at every step. It gives the offered gradient a priority, names the slot that would
have to go if the memory is full, and says whether the exchange is made. `on_host` and `on_device`
see to the rest: a free slot, empty or expired, takes the gradient whatever slot the policy names,
and of a gradient that is zero or not finite nothing is used. All tensors have one entry, or one
row, a ledger; there is no host synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gradmem.memory.chance import uniform
from gradmem.memory.ledger import Ledger
from gradmem.memory.returned import check_entries, check_tensor


class Directions(NamedTuple):
    """Inner products of the incoming gradient g and the mean m of the stored ones, (R,) each."""

    gradient: Tensor  # <g, g>
    both: Tensor  # <g, m>
    mean: Tensor  # <m, m>


class Offer:
    """The incoming gradients, one a ledger, as a policy sees them.

    What is not asked for is not computed.

    Attributes:
        norm: (R,) float64, their norms.
        step: (R,) int64, the steps they would be stored at, from 1.
    """

    def __init__(
        self,
        norm: Tensor,
        step: Tensor,
        *,
        seed: int,
        stream: Tensor,
        directions: Callable[[], Directions],
    ) -> None:
        self.norm = norm
        self.step = step
        self._seed = seed
        self._stream = stream
        self._find_directions = directions

    def uniform(self, draw: int = 0) -> Tensor:
        """Random numbers in [0, 1), (R,) float64, others for every step, ledger and `draw`.

        They depend on nothing else but the option ``seed``: a resumed run and every rank draw the
        same.
        """
        return uniform(self._seed, self._stream, self.step, draw)

    @cached_property
    def directions(self) -> Directions:
        """Inner products with the mean of the memory; costs a pass over gradients and sums."""
        return self._find_directions()

    @property
    def cosine(self) -> Tensor:
        """Cosine of the angle between gradient and mean of the memory, (R,); 0 where m = 0."""
        g, both, m = self.directions
        # Not the root of g * m, which in float64 overflows from norms of 1e77 on.
        cosine = (both / (g.sqrt() * m.sqrt())).clamp(-1.0, 1.0)
        return cosine.masked_fill(m == 0, 0.0)

    @property
    def distance(self) -> Tensor:
        """|g - m| / |m| with m the mean of the memory, (R,); infinite where m = 0."""
        g, both, m = self.directions
        squared = (g - 2 * both + m).clamp(min=0.0)
        return (squared / m).sqrt().masked_fill(m == 0, math.inf)


class Choice(NamedTuple):
    """The priority of the offered gradient, the slot it would take, and whether it takes it.

    Attributes:
        priority: (R,) float64; decays from step to step if the gradient is kept.
        slot: (R,) int64, from 0 to C - 1.
        accept: (R,) bool.
    """

    priority: Tensor
    slot: Tensor
    accept: Tensor


class PolicyFunction(Protocol):
    """A policy, for the option ``policy``: a function of what is offered and what is held.

    It is called once a step with one row a ledger, and must not wait for a device: tensors in,
    tensors out. Slot and answer count only where the memory is full.

    Example:
        >>> import torch
        >>> from gradmem import Choice, Ledger, Offer, SGD_C
        >>> def newest_goes(offer: Offer, ledger: Ledger) -> Choice:
        ...     youngest = ledger.birth.max(dim=1).indices
        ...     return Choice(offer.norm, youngest, offer.norm > 1.0)
        >>> optimizer = SGD_C([torch.nn.Parameter(torch.ones(3))], policy=newest_goes)
    """

    def __call__(self, offer: Offer, ledger: Ledger, /) -> Choice:
        """Priority of the offered gradient, the slot it would take, whether it takes it."""


def top_norm(offer: Offer, ledger: Ledger) -> Choice:
    """Critical gradients: keeps the largest decayed norms."""
    return _beat_the_smallest(offer.norm, ledger)


def bottom_norm(offer: Offer, ledger: Ledger) -> Choice:
    """Keeps the smallest norms: the priority is 1 / norm, and decays like any other."""
    return _beat_the_smallest(1.0 / offer.norm, ledger)


def fifo(offer: Offer, ledger: Ledger) -> Choice:
    """Keeps the last ones: always accepts and drops the oldest, whatever the priorities."""
    oldest = ledger.birth.min(dim=1).indices
    return Choice(offer.norm, oldest, _always(oldest))


def random(offer: Offer, ledger: Ledger) -> Choice:
    """Always accepts, in place of any of the C with equal probability."""
    slot = _below(offer.uniform(), torch.full_like(offer.step, ledger.capacity))
    return Choice(offer.norm, slot, _always(slot))


def reservoir(offer: Offer, ledger: Ledger) -> Choice:
    """Keeps a uniform sample of all gradients seen: the t-th enters with probability C / t.

    It is uniform if it was the policy from the first step on, without a ``max_age``.
    """
    place = _below(offer.uniform(), offer.step)
    return Choice(offer.norm, place.clamp(max=ledger.capacity - 1), place < ledger.capacity)


def proportional(offer: Offer, ledger: Ledger) -> Choice:
    """Always accepts; each slot goes with a probability in proportion to 1 - norm / sum of norms.

    The norms are those the gradients came with.
    """
    weight = 1.0 - ledger.norm / ledger.norm.sum(dim=1, keepdim=True)
    total = weight.cumsum(dim=1)
    drawn = offer.uniform()[:, None] * total[:, -1:]
    slot = (total <= drawn).sum(dim=1).clamp(max=ledger.capacity - 1)
    return Choice(offer.norm, slot, _always(slot))


def mean_diverse(offer: Offer, ledger: Ledger) -> Choice:
    """Enters with probability min(1, |g - m| / |m|), m the mean of the memory."""
    return _replace_the_smallest(offer, ledger, offer.distance)


def cosine_diverse(offer: Offer, ledger: Ledger) -> Choice:
    """Enters with probability (1 - cos(g, m)) / 2: rather what points another way."""
    return _replace_the_smallest(offer, ledger, (1.0 - offer.cosine) / 2.0)


def cosine_similar(offer: Offer, ledger: Ledger) -> Choice:
    """Enters with probability (1 + cos(g, m)) / 2: rather what points the same way."""
    return _replace_the_smallest(offer, ledger, (1.0 + offer.cosine) / 2.0)


def _beat_the_smallest(priority: Tensor, ledger: Ledger) -> Choice:
    """Replace the first slot of smallest priority if the offer is strictly greater."""
    smallest = ledger.priority.min(dim=1)
    return Choice(priority, smallest.indices, priority > smallest.values)


def _replace_the_smallest(offer: Offer, ledger: Ledger, probability: Tensor) -> Choice:
    """Replace the first slot of smallest norm priority, with the given probability."""
    smallest = ledger.priority.min(dim=1).indices
    return Choice(offer.norm, smallest, offer.uniform() < probability)


def _below(u: Tensor, bound: Tensor) -> Tensor:
    """A whole number from 0 to bound - 1 out of one in [0, 1)."""
    return (u * bound).to(torch.int64).minimum(bound - 1)


def _always(slot: Tensor) -> Tensor:
    return torch.ones_like(slot, dtype=torch.bool)


POLICIES: dict[str, PolicyFunction] = {
    "top_norm": top_norm,
    "bottom_norm": bottom_norm,
    "fifo": fifo,
    "random": random,
    "reservoir": reservoir,
    "proportional": proportional,
    "mean_diverse": mean_diverse,
    "cosine_diverse": cosine_diverse,
    "cosine_similar": cosine_similar,
}

_CHOICE_TYPES = (torch.float64, torch.int64, torch.bool)


def ask(policy: str | PolicyFunction, offer: Offer, ledger: Ledger) -> Choice:
    """The policy's choice; that of a user's function is checked, but for its numbers.

    Raises:
        StepError: the function returned something else than a `Choice`.
    """
    if isinstance(policy, str):
        return POLICIES[policy](offer, ledger)
    choice = policy(offer, ledger)
    who = f"the policy {policy!r}"
    check_entries(who, choice, "Choice", Choice._fields)
    for name, value, dtype in zip(Choice._fields, choice, _CHOICE_TYPES, strict=True):
        check_tensor(who, name, value, offer.norm, dtype)
    return Choice(*choice)
