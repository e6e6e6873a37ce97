"""Policies and aggregates as a user may write them, each with what the twin has in its place."""

from __future__ import annotations

import copy

import pytest
import torch

import gradmem
from gradmem import Choice, Ledger, Offer, Weights
from optimizers import snapshot
from reference import GOLDEN, cosine, smallest, splitmix


def fading(ledger: Ledger, kappa: float) -> Weights:
    """Old gradients alone, the less the older they are."""
    return Weights(0.0, kappa * 0.8 ** ledger.age.double())


def twin_fading(ledger, i, grad, kappa):
    held = [slot for slot in ledger.slots if slot is not None]
    ages = [ledger.step + 1 - slot.birth for slot in held]
    if not held:
        return grad
    return sum(kappa * 0.8**age * slot.gradients[i] for age, slot in zip(ages, held, strict=True))


def alternating(ledger: Ledger, kappa: float) -> Weights:
    """Weights of either sign; the current gradient's is a tensor."""
    return Weights(1.0 + ledger.count.double() / 10, kappa * (-0.7) ** ledger.age.double())


def twin_alternating(ledger, i, grad, kappa):
    held = [slot for slot in ledger.slots if slot is not None]
    if not held:
        return grad
    update = (1 + len(held) / 10) * grad
    for slot in held:
        update = update + kappa * (-0.7) ** (ledger.step + 1 - slot.birth) * slot.gradients[i]
    return update


def by_norm(ledger: Ledger, kappa: float) -> Weights:
    """In proportion to the norms they came with."""
    return Weights(0.5, kappa * ledger.norm / ledger.norm.sum(dim=1, keepdim=True))


def twin_by_norm(ledger, i, grad, kappa):
    held = [slot for slot in ledger.slots if slot is not None]
    total = sum(slot.norm for slot in held)
    update = 0.5 * grad if held else grad
    for slot in held:
        update = update + kappa * slot.norm / total * slot.gradients[i]
    return update


def every_tenth(offer: Offer, ledger: Ledger) -> Choice:
    """Takes one gradient in ten, in place of the oldest."""
    oldest = ledger.birth.min(dim=1).indices
    return Choice(offer.norm, oldest, offer.step % 10 == 0)


def twin_every_tenth(twin, ledger, offered):
    oldest = min(range(len(ledger.slots)), key=lambda k: ledger.slots[k].birth)
    return oldest if ledger.step % 10 == 0 else None


def upright(offer: Offer, ledger: Ledger) -> Choice:
    """Keeps the gradients nearest to a right angle with the memory's mean."""
    priority = 1.0 - offer.cosine.abs()
    least = ledger.priority.min(dim=1)
    return Choice(priority, least.indices, priority > least.values)


def twin_upright(twin, ledger, offered):
    k = smallest(ledger)
    return k if offered.priority > ledger.slots[k].priority else None


def upright_priority(ledger, gradients):
    held = [slot for slot in ledger.slots if slot is not None]
    if not held:
        return 1.0
    mean = {i: sum(slot.gradients[i] for slot in held) / len(held) for i in gradients}
    return 1.0 - abs(cosine(gradients, mean))


def two_draws(offer: Offer, ledger: Ledger) -> Choice:
    """Draws a slot, and with another number whether it is taken."""
    slot = (offer.uniform(draw=1) * ledger.capacity).long()
    return Choice(offer.norm, slot, offer.uniform() < 0.4)


def twin_two_draws(twin, ledger, offered):
    options = twin.options(ledger.members[0])
    bits = splitmix(options["seed"] * GOLDEN + ledger.members[0])
    one, other = (splitmix(splitmix(bits + ledger.step) + k * GOLDEN) >> 11 for k in (0, 1))
    return int(other / 2**53 * len(ledger.slots)) if one / 2**53 < 0.4 else None


AGGREGATES = {fading: twin_fading, alternating: twin_alternating, by_norm: twin_by_norm}
POLICIES = {every_tenth: twin_every_tenth, upright: twin_upright, two_draws: twin_two_draws}
FUNCTIONS = [("aggregate", f) for f in AGGREGATES] + [("policy", f) for f in POLICIES]


def choice(**other):
    """A policy that returns what is right, but for the entries that a function is given for."""

    def policy(offer, ledger):
        right = Choice(offer.norm, torch.zeros_like(offer.step), offer.norm > 0)
        return right._replace(**{name: make(getattr(right, name)) for name, make in other.items()})

    return policy


def weights(current=1.0, slots=torch.ones_like):
    """An aggregate that returns this, and a function of the priorities."""
    return lambda ledger, kappa: Weights(current, slots(ledger.priority))


MAKERS = {
    "class": lambda params, **options: gradmem.SGD_C(
        params, lr=0.05, momentum=0.9, **{"capacity": 3, "aggregate": "mean"} | options
    ),
    "wrapper": lambda params, **options: gradmem.MemoryAugmented(
        torch.optim.Adam(params, lr=0.05), **{"capacity": 3} | options
    ),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def options_of(optimizer):
    """The groups that hold the memory's options."""
    return getattr(optimizer, "memory_groups", optimizer.param_groups)


def everything(optimizer, params):
    """Copies of parameters, the base's state and the memory, wherever it is kept."""
    memory = getattr(optimizer, "memory_state", {})
    return {
        **snapshot(optimizer, params),
        "memory": [copy.deepcopy(dict(memory.get(p, {}))) for p in params],
    }


def memory_in(optimizer, params):
    """What each parameter holds of the memory, of the class or of the wrapper."""
    state = getattr(optimizer, "memory_state", optimizer.state)
    entries = [state.get(p, {}) for p in params]
    return [{k: v.clone() for k, v in one.items() if k.startswith("memory_")} for one in entries]
