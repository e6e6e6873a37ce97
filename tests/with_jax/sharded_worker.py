"""Run in a process of its own, with four devices: prints what became of a memory there, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradmem.jax import remember_gradients

sys.path.append(str(Path(__file__).parent.parent))

from jax_race import random_gradients, stacked

SHAPES = {"w": (8, 6), "b": (4,), "s": ()}
SPECS = {"w": PartitionSpec("x", "y"), "b": PartitionSpec("x"), "s": PartitionSpec()}
STEPS = 60
OPTIONS = {"capacity": 3, "decay": 0.95}


def gradients(shapes):
    """A pytree per step."""
    columns = stacked(random_gradients(1, STEPS, shapes, "float32"), shapes)
    return [jax.tree.map(lambda c, t=t: np.asarray(c[t]), columns) for t in range(STEPS)]


def run(update, state, rows):
    """All updates, the births after every step, and the state after the last."""
    updates, births = [], []
    for row in rows:
        handed_on, state = update(row, state)
        updates.append(jax.tree.map(np.asarray, handed_on))
        births.append(state.ledger.birth.tolist())
    return updates, births, state


def compared(name, updates, births, rows):
    """With what one device does."""
    plain = remember_gradients(**OPTIONS)
    expected, expected_births, state = run(jax.jit(plain.update), plain.init(rows[0]), rows)
    ours, theirs = jax.tree.leaves(updates), jax.tree.leaves(expected)
    accepted, steps = state.ledger.accepted.item(), state.ledger.steps.item()
    return {
        "name": name,
        "births are equal": births == expected_births,
        "difference": max(map(difference, ours, theirs)),
        "accepted share": accepted / steps,
    }


def difference(ours, theirs):
    """The largest, relative to the largest number; infinite if they are not finite alike."""
    there = np.isfinite(theirs)
    if (np.isfinite(ours) != there).any():
        return float("inf")
    scale = np.abs(theirs[there]).max(initial=1e-3)
    return float(np.abs(ours[there] - theirs[there]).max(initial=0.0) / scale)


def layout(state):
    """Of the slots and the sum of w: the shape, and the shapes of what the devices hold."""
    arrays = (state.slots["w"], state.total["w"])
    return [[a.shape, sorted({part.data.shape for part in a.addressable_shards})] for a in arrays]


def under_jit(name, kind, make_state):
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)
    rows = gradients(SHAPES)
    sharded = [jax.device_put(row, places) for row in rows]
    remember = remember_gradients(**OPTIONS)
    with jax.set_mesh(mesh):
        state = make_state(remember, sharded[0], mesh)
        updates, births, after = run(jax.jit(remember.update), state, sharded)
    found = compared(name, updates, births, rows)
    return {**found, "before": layout(state), "after": layout(after)}


def eagerly(remember, params, mesh):
    """Outside of jit: `init` sees how the parameters are sharded."""
    return remember.init(params)


def told(remember, params, mesh):
    """Under jit, told where the parts belong, which `optax.tree.map_params` finds."""

    def place(part, parameter):
        front = [None] * (part.ndim - parameter.ndim)  # slots have one dimension more
        return NamedSharding(mesh, PartitionSpec(*front, *parameter.sharding.spec))

    blank = jax.eval_shape(remember.init, params)
    everywhere = NamedSharding(mesh, PartitionSpec())
    places = optax.tree.map_params(
        remember, place, blank, params, transform_non_params=lambda _: everywhere
    )
    return jax.jit(remember.init, out_shardings=places)(params)


def in_shard_map():
    """Every gradient is sharded over the axis that norms are summed over."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    rows = gradients({"w": (8, 6), "b": (4,)})
    specs = {"w": PartitionSpec(None, "x"), "b": PartitionSpec(None, "x")}
    remember = remember_gradients(**OPTIONS, axis_name="x")

    def all_steps(columns):
        def step(state, row):
            updates, state = remember.update(row, state)
            return state, (updates, state.ledger.birth)

        state = remember.init(jax.tree.map(lambda column: column[0], columns))
        return jax.lax.scan(step, state, columns)[1]

    sharded = jax.shard_map(
        all_steps, mesh=mesh, in_specs=(specs,), out_specs=(specs, PartitionSpec())
    )
    updates, births = jax.jit(sharded)(jax.tree.map(lambda *parts: np.stack(parts), *rows))
    by_step = [jax.tree.map(lambda u, t=t: np.asarray(u[t]), updates) for t in range(STEPS)]
    return compared("shard_map", by_step, births.tolist(), rows)


if __name__ == "__main__":
    found = [
        under_jit("Auto", AxisType.Auto, eagerly),
        under_jit("Explicit", AxisType.Explicit, eagerly),
        under_jit("told", AxisType.Auto, told),
        in_shard_map(),
    ]
    print(json.dumps(found))  # noqa: T201
