"""Which gradient sits in which slot: a few numbers a slot, never per parameter.

Everything here is about one ledger; `transform` maps it over all of them. Nothing is decided on the
host, so a step is one computation whatever happens in it.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradmem.jax import aggregates, float64, policies
from gradmem.jax.options import Number, Options

# The running sum is made anew when its estimated rounding error, relative to the root sum of
# squares of the stored norms, passes TOLERANCE. UNIT_ROUNDOFF is float32's, whatever the sum's own
# type, so that the decision does not depend on it.
UNIT_ROUNDOFF = 2.0**-24
TOLERANCE = 1e-6


class Ledger(NamedTuple):
    """The bookkeeping of R ledgers of C slots, one a scope; while a step is made, of one.

    Attributes:
        priority: (R, C, 2) uint32: the bits of decayed float64 numbers, the high half first.
        norm: (R, C) float32 or float64, the norm of what each slot holds; 0 where empty.
        birth: (R, C) int32, the step each was stored at, from 1; 0 where empty.
        steps: (R,) int32, steps seen: those with a gradient that is finite and not zero.
        accepted: (R,) int32, gradients accepted.
        oldest_used: (R,) int32, the largest age that ever entered an update.
        drift: (R,) of the norm's type, the rounding error estimated in the running sum.
    """

    priority: Array
    norm: Array
    birth: Array
    steps: Array
    accepted: Array
    oldest_used: Array
    drift: Array


class Move(NamedTuple):
    """What one ledger does in a step, () each.

    Attributes:
        combine: the update is something else than the gradient.
        current: weight of the current gradient in it.
        stored: weight of the running sum or, for aggregates of one slot, of that slot.
        read: which slot that is.
        slot: where the gradient goes if it enters.
        write: it enters the memory.
        renew: the running sum is to be made anew from the slots before it is used.
    """

    combine: Array
    current: Array
    stored: Array
    read: Array
    slot: Array
    write: Array
    renew: Array


def empty_ledger(rows: int, capacity: int, dtype: Any) -> Ledger:
    """Ledgers with nothing in them, with norms of this type."""
    return Ledger(
        priority=jnp.zeros((rows, capacity, 2), jnp.uint32),
        norm=jnp.zeros((rows, capacity), dtype),
        birth=jnp.zeros((rows, capacity), jnp.int32),
        steps=jnp.zeros(rows, jnp.int32),
        accepted=jnp.zeros(rows, jnp.int32),
        oldest_used=jnp.zeros(rows, jnp.int32),
        drift=jnp.zeros(rows, dtype),
    )


def take_step(ledger: Ledger, norm: Array, options: Options) -> tuple[Move, Ledger]:
    """What one ledger does with a gradient of this norm, and what it is afterwards."""
    step = ledger.steps + 1
    # A kappa of 0 switches the memory off for as long as it lasts.
    is_on = options.kappa != 0
    seen = jnp.isfinite(norm) & (norm > 0) & is_on
    held = (ledger.birth > 0).sum(dtype=jnp.int32)
    current, stored = aggregates.weights(options, held, norm.dtype)
    choice = policies.POLICIES[options.policy](norm, ledger.priority, ledger.birth)
    slot, is_free = _free_slot(ledger.birth, step, options.max_age)
    slot = jnp.where(is_free, slot, choice.slot)
    write = seen & (is_free | choice.accept)
    here = (jnp.arange(options.capacity) == slot) & write
    norms = jnp.where(here, norm, ledger.norm)
    renew = _needs_renewal(ledger)
    move = Move(
        combine=is_on & (held > 0),
        current=current,
        stored=stored,
        read=aggregates.slot_read(options, ledger.priority, ledger.birth),
        slot=slot,
        write=write,
        renew=renew,
    )
    priority = jnp.where(here[:, None], choice.priority, ledger.priority)
    decayed = float64.times(priority, decay_bits(options.decay))
    seen_now = seen.astype(jnp.int32)
    return move, Ledger(
        priority=jnp.where(seen, decayed, ledger.priority),
        norm=norms,
        birth=jnp.where(here, step, ledger.birth),
        steps=ledger.steps + seen_now,
        accepted=ledger.accepted + write.astype(jnp.int32),
        oldest_used=jnp.maximum(ledger.oldest_used, seen_now * _oldest(ledger.birth, step)),
        drift=_drift(jnp.where(renew, 0, ledger.drift), ledger.norm, norms, here),
    )


def decay_bits(decay: Number) -> Array:
    """The factor on every priority. That of an array is not known here, but kept in its range."""
    if isinstance(decay, Real):
        return float64.from_python(float(decay))
    return float64.from_float(jnp.where(decay > 0, jnp.minimum(decay, 1), 0))


def _free_slot(birth: Array, step: Array, max_age: int | None) -> tuple[Array, Array]:
    """The slot that takes a gradient without asking the policy, and whether there is one.

    A slot that would be too old at the next step goes before an empty one: at most one grows too
    old at a time, so a step never touches two slots.
    """
    rank = (birth == 0).astype(jnp.int32)
    if max_age is not None:
        rank = jnp.where((birth > 0) & (step + 1 - birth > max_age), 2, rank)
    return jnp.argmax(rank).astype(jnp.int32), rank.max() > 0


def _oldest(birth: Array, step: Array) -> Array:
    """The age of the oldest gradient held, 0 of none."""
    return step - jnp.where(birth > 0, birth, step).min()


def _needs_renewal(ledger: Ledger) -> Array:
    """Whether the running sum is too far off."""
    unit = _unit(ledger.norm)
    return ledger.drift / unit > TOLERANCE * jnp.sqrt(jnp.square(ledger.norm / unit).sum())


def _drift(error: Array, before: Array, after: Array, here: Array) -> Array:
    """How far off it is once a gradient is `here`, if it is; the norms are those of the slots.

    Sums are taken for as long as the root sum of squares of their terms, which is their expected
    length for gradients that point every way.
    """
    unit = _unit(jnp.maximum(before, after))
    terms = jnp.square(before / unit) + jnp.square(after / unit)
    more = UNIT_ROUNDOFF**2 * (jnp.where(here, terms, 0).sum() + terms.sum())
    return jnp.where(here.any(), jnp.sqrt(jnp.square(error / unit) + more) * unit, error)


def _unit(norms: Array) -> Array:
    """The largest norm, or 1: in units of it no square overflows."""
    largest = norms.max()
    return jnp.where(largest > 0, largest, 1)
