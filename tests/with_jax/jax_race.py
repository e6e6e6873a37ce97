"""`remember_gradients` and the slow literal twin over the same gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradmem.jax import remember_gradients
from gradmem.jax.float64 import to_numpy
from reference import Twin

TOLERANCE = {"float32": 1e-6, "float64": 1e-12, "complex128": 1e-12}
SHAPES = {"a": (2, 3), "b": {"c": (), "d": (0,)}}


class Recorder(Twin):
    """Keeps what would be handed to the base rule, and moves no parameter."""

    def update(self, i, update):
        self.handed_on[i] = update

    def step(self, grads):
        self.handed_on = [None] * len(grads)
        super().step(grads)


class Trajectory(NamedTuple):
    """Of every step: the updates, and the state after it; a leading axis of steps."""

    updates: object
    state: object


def leaves_of(shapes):
    return jax.tree.leaves(shapes, is_leaf=lambda shape: isinstance(shape, tuple))


def structure_of(shapes):
    return jax.tree.structure(shapes, is_leaf=lambda shape: isinstance(shape, tuple))


def random_gradients(seed, steps, shapes=SHAPES, dtype="float64", *, sigma=1.0, odd=0.1):
    """A list per step of one array a tensor; norms lognormal, some zero, some not finite."""
    rng = np.random.default_rng(seed)
    rows = []
    for t in range(steps):
        scale = np.exp(sigma * rng.normal())
        row = [rng.normal(size=shape) * scale for shape in leaves_of(shapes)]
        if dtype.startswith("complex"):
            row = [g + 1j * rng.normal(size=g.shape) * scale for g in row]
        draw = rng.random()
        if t and draw < odd / 2:
            row = [np.zeros_like(g) for g in row]
        elif t and draw < odd:
            row[0] = np.full_like(row[0], rng.choice([np.nan, np.inf, -np.inf]))
        elif t and draw < 2 * odd:
            row[0] = np.zeros_like(row[0])
        rows.append([np.asarray(g, dtype=dtype) for g in row])
    return rows


def stacked(rows, shapes=SHAPES):
    """The gradients of all steps as a pytree, a leading axis of steps."""
    columns = [jnp.asarray(np.stack(column)) for column in zip(*rows, strict=True)]
    return jax.tree.unflatten(structure_of(shapes), columns)


def scanned(transformation, rows, shapes=SHAPES, params=None):
    """All steps in one `jax.lax.scan`."""
    gradients = stacked(rows, shapes)
    params = jax.tree.map(lambda g: jnp.zeros_like(g[0]), gradients) if params is None else params

    def step(state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return state, Trajectory(updates, state)

    return jax.jit(lambda: jax.lax.scan(step, transformation.init(params), gradients)[1])()


def race(rows, shapes=SHAPES, edits=None, **options):
    """Run both and compare what is handed on and what is remembered, at every step."""
    ours = jax.tree.map(np.asarray, scanned(remember_gradients(**options), rows, shapes))
    compare(ours, rows, edits, **options)
    return ours


def compare(ours, rows, edits=None, **options):
    """A trajectory with the twin's over the same gradients; `edits` of its options, for a step."""
    dtype = rows[0][0].dtype.name
    theirs = followed(rows, edits, **options)
    for i, (update, expected) in enumerate(
        zip(jax.tree.leaves(ours.updates), theirs.updates, strict=True)
    ):
        assert update.dtype == dtype
        close(update, expected, theirs.scale, dtype, f"update {i}")
    if not ours.state:  # the memory is switched off
        return
    ledger = ours.state.ledger
    for name in ("birth", "steps", "accepted"):
        mine, expected = getattr(ledger, name), getattr(theirs, name)
        steps = np.flatnonzero((mine != expected).reshape(len(mine), -1).any(1))
        assert len(steps) == 0, f"{name} from step {steps[0]} on"
    for mine, expected in (
        (ledger.norm, theirs.norm),
        (to_numpy(ledger.priority), theirs.priority),
    ):
        np.testing.assert_allclose(mine, expected, rtol=TOLERANCE[dtype])
    # A sum that has drifted is renewed before it is used.
    spread = np.sqrt(np.square(ledger.norm).sum(-1))
    used = ledger.drift <= 1e-6 * spread
    for i, (kept, total, expected) in enumerate(
        zip(*map(jax.tree.leaves, (ours.state.slots, ours.state.total)), theirs.slots, strict=True)
    ):
        row = i if ledger.birth.shape[1] > 1 else 0
        there = ledger.birth[:, row] > 0
        held = numbers(kept, options.get("memory_dtype"))
        close(held[there], expected[there], largest_in(expected[there]), dtype, f"slots {i}")
        sums, now = expected.sum(axis=1), used[:, row]
        close(total[now], sums[now], 2 * spread[now, row], dtype, f"sum {i}")


class Followed(NamedTuple):
    """What the twin did: of every tensor, or of every ledger, an array of all steps."""

    updates: list
    slots: list
    birth: np.ndarray
    norm: np.ndarray
    priority: np.ndarray
    steps: np.ndarray
    accepted: np.ndarray
    scale: np.ndarray  # the largest number that may enter an update


def followed(rows, edits=None, **options):
    wide = "complex128" if np.iscomplexobj(rows[0][0]) else "float64"
    rows = [[g.astype(wide) for g in row] for row in rows]
    twin = Recorder("adam", [np.zeros_like(g) for g in rows[0]], **options)
    updates, slots, tables, counts, scale = [], [], [], [], []
    for t, row in enumerate(rows):
        twin.groups[0].update(edits[t] if edits else {})
        held = [
            part for one in twin.ledgers for s in one.slots if s for part in s.gradients.values()
        ]
        scale.append(max(map(largest, (*row, *held)), default=0.0))
        twin.step(row)
        updates.append(twin.handed_on)
        slots.append([filled(twin.memory_of(i), g) for i, g in enumerate(row)])
        tables.append([[entry or (0.0, 0.0, 0) for entry in one.table()] for one in twin.ledgers])
        counts.append([(one.step, sum(one.accepted)) for one in twin.ledgers])
    shape = (len(rows), len(twin.ledgers), -1, 3)
    priority, norm, birth = np.moveaxis(np.reshape(tables, shape), -1, 0)
    steps, accepted = np.moveaxis(np.array(counts), -1, 0)
    columns = [[np.stack(c) for c in zip(*part, strict=True)] for part in (updates, slots)]
    return Followed(*columns, birth, norm, priority, steps, accepted, np.array(scale))


def filled(slots, like):
    """All slots of a tensor in one array, zeros where there is nothing."""
    blank = np.zeros((len(slots), *like.shape), like.dtype)
    for k, slot in enumerate(slots):
        if slot is not None:
            blank[k] = slot[3]
    return blank


def numbers(slots, memory_dtype):
    """What slots hold: sixteen bits lie there as integers."""
    carried = memory_dtype in ("bfloat16", "float16")
    return slots.view(jnp.dtype(memory_dtype)).astype(np.float64) if carried else slots


def largest(array):
    return np.abs(array[np.isfinite(array)]).max(initial=0.0)


def largest_in(rows):
    return np.array([largest(row) for row in rows])


def close(ours, expected, scale, dtype, what):
    """Equal to the tolerance, relative to a scale for every entry of the first axis."""
    scale = np.reshape(scale, (-1, *[1] * (expected.ndim - 1)))
    with np.errstate(invalid="ignore"):  # infinity less itself
        near = np.abs(ours - expected) <= TOLERANCE[dtype] * (np.abs(expected) + scale)
    same = near & np.isfinite(expected) | (ours == expected) | (np.isnan(ours) & np.isnan(expected))
    if not same.all():
        where = tuple(np.argwhere(~same)[0])
        raise AssertionError(f"{what}: {ours[where]} is not {expected[where]} at {where}")
