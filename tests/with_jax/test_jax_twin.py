"""The transformation equals the twin at every step: what is handed on, and what is remembered."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmem.jax import float64, remember_gradients
from jax_race import Trajectory, compare, race, random_gradients, scanned

MEMORY = {
    "defaults": {},
    "off-capacity": {"capacity": 0},
    "off-kappa": {"kappa": 0.0},
    "capacity-1": {"capacity": 1, "decay": 0.9},
    "capacity-beyond": {"capacity": 60},
    "decay-0": {"capacity": 3, "decay": 0.0, "aggregate": "mid"},
    "sum": {"capacity": 4, "decay": 0.95, "aggregate": "sum", "kappa": -0.4},
    "mid": {"capacity": 4, "decay": 0.95, "aggregate": "mid", "kappa": 2.5},
    "bottom": {"capacity": 3, "decay": 0.95, "policy": "bottom_norm"},
    "fifo": {"capacity": 4, "policy": "fifo", "max_age": 3},
    "tensor": {"capacity": 3, "decay": 0.95, "scope": "tensor", "norm": "sum"},
    "norm-sum": {"capacity": 3, "decay": 0.95, "norm": "sum"},
    "age-small": {"capacity": 5, "decay": 0.99, "max_age": 2},
    "age-large": {"capacity": 3, "decay": 1.0, "max_age": 9},
    "age-1": {"capacity": 3, "max_age": 1, "scope": "tensor", "policy": "fifo"},
    "age-bottom": {"capacity": 4, "decay": 0.99, "max_age": 4, "policy": "bottom_norm"},
    "min": {"capacity": 4, "decay": 0.95, "aggregate": "min"},
    "median": {"capacity": 4, "decay": 0.95, "aggregate": "median", "kappa": 0.4},
    "max": {"capacity": 5, "decay": 0.95, "aggregate": "max", "kappa": -0.3},
    "median-mean": {"capacity": 5, "decay": 0.9, "aggregate": "median_mean", "max_age": 6},
    "max-mean": {"capacity": 2, "decay": 1.0, "aggregate": "max_mean", "scope": "tensor"},
}
IN_FLOAT32 = ("defaults", "sum", "age-large", "bottom", "median-mean")


@pytest.mark.parametrize("name", MEMORY)
def test_every_option_in_float64(name):
    with jax.enable_x64(True):
        race(random_gradients(len(name), 60), **MEMORY[name])


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_options_in_float32(name):
    race(random_gradients(len(name), 60, dtype="float32"), **MEMORY[name])


@pytest.mark.parametrize("aggregate", ["sum", "min_mean"])
def test_complex_numbers(aggregate):
    with jax.enable_x64(True):
        race(random_gradients(3, 40, dtype="complex128"), capacity=3, aggregate=aggregate)


@pytest.mark.parametrize(
    ("dtype", "memory_dtype"),
    [("float32", "bfloat16"), ("float64", "bfloat16"), ("float32", "float16")],
)
def test_what_is_stored_in_sixteen_bits(dtype, memory_dtype):
    """Rounded as the twin rounds, saturated and underflowing, and the sum is that of it."""
    with jax.enable_x64(dtype == "float64"):
        rows = random_gradients(4, 60, {"w": (3, 4)}, dtype, sigma=4.0)
        for factor, row in zip([1e-7, 1e6] * 30, rows, strict=True):
            row[0] *= factor
        race(rows, {"w": (3, 4)}, capacity=4, memory_dtype=memory_dtype)


@pytest.mark.parametrize(
    ("decay", "dtype"),
    [*((decay, "float32") for decay in (0.7, 0.99, 1.0, 0.0)), (0.7, "float64"), (0.99, "float64")],
)
def test_decisions_over_many_steps(decay, dtype):
    with jax.enable_x64(dtype == "float64"):
        rows = random_gradients(5, 2500, {"w": (3,)}, dtype, sigma=0.3, odd=0.02)
        ours = race(rows, {"w": (3,)}, capacity=10, decay=decay)
    assert (ours.state.ledger.accepted[-1] > 30) | (decay == 1.0)


@pytest.mark.parametrize(
    ("policy", "decay"), [("top_norm", 1.0), ("top_norm", 0.5), ("bottom_norm", 0.5)]
)
def test_ties(policy, decay):
    """Norms that are equal to the last bit, and decays that make priorities so."""
    rng = np.random.default_rng(6)
    signs = rng.choice([-1.0, 1.0], size=(400, 2)) * 2.0 ** rng.integers(-2, 3, size=(400, 1))
    rows = [[np.float32([3.0, 4.0]) * sign.astype(np.float32)] for sign in signs]
    race(rows, {"w": (2,)}, capacity=3, decay=decay, policy=policy)


def test_priorities_are_float64_products_though_jax_has_none():
    """What is offered is the float32 next to the smallest priority, below it and then above it."""
    priority = 0.97
    rng, rows, by_float32 = np.random.default_rng(12), [[np.float32([1.0])]], 0
    for _ in range(40):
        narrow = np.float32(priority)
        for _ in range(rng.integers(3, 30)):
            rows.append([np.float32([1e-15])])
            priority, narrow = priority * 0.97, narrow * np.float32(0.97)
        below = np.nextafter(np.float32(priority), np.float32(0.0))
        rows.append([np.float32([below])])
        priority, narrow = priority * 0.97, narrow * np.float32(0.97)
        above = np.nextafter(np.float32(priority), np.float32(np.inf))
        rows.append([np.float32([above])])
        by_float32 += above <= narrow
        priority = float(above) * 0.97
    ours = race(rows, {"w": (1,)}, capacity=1, decay=0.97)
    assert ours.state.ledger.accepted[-1] == 41
    assert by_float32 > 5  # products in float32 would have decided otherwise


def test_a_large_tensor_and_a_tiny_one():
    shapes = {"large": (300, 500), "tiny": ()}
    race(random_gradients(7, 6, shapes, "float32"), shapes, capacity=2)


def test_kappa_and_decay_scheduled_by_inject_hyperparams():
    """Both are arrays then; while kappa is 0 nothing is stored and nothing ages."""
    kappas = np.tile(np.float32([1.0, 0.5, 0.0, -0.25]), 15)
    decays = np.tile(np.float32([0.75, 0.75, 0.5, 1.0, 0.0]), 12)
    injected = optax.inject_hyperparams(remember_gradients, static_args=("capacity", "max_age"))
    transformation = injected(
        capacity=3,
        max_age=7,
        kappa=lambda count: jnp.asarray(kappas)[count],
        decay=lambda count: jnp.asarray(decays)[count],
    )
    rows = random_gradients(8, 60, dtype="float32")
    updates, state = jax.tree.map(np.asarray, scanned(transformation, rows))
    edits = [{"kappa": float(k), "decay": float(d)} for k, d in zip(kappas, decays, strict=True)]
    ours = Trajectory(updates, state.inner_state)
    compare(ours, rows, edits=edits, capacity=3, max_age=7)


options = st.fixed_dictionaries(
    {
        "capacity": st.sampled_from([1, 2, 5]),
        "decay": st.sampled_from([0.3, 0.95, 1.0]),
        "aggregate": st.sampled_from(["mean", "sum", "mid", "max_mean"]),
        "kappa": st.sampled_from([1.0, -0.7, 2]),
        "policy": st.sampled_from(["top_norm", "bottom_norm", "fifo"]),
        "scope": st.sampled_from(["model", "tensor"]),
        "norm": st.sampled_from(["l2", "sum"]),
        "max_age": st.sampled_from([None, 1, 3, 30]),
    }
)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(options=options, seed=st.integers(0, 99))
def test_options_drawn_at_random(options, seed):
    with jax.enable_x64(True):
        race(random_gradients(seed, 40, odd=0.2), **options)


# ------------------------------------------------------------ numbers that priorities are made of


def bits_of(numbers):
    halves = np.asarray(numbers, np.float64).view(np.uint64)
    high, low = (halves >> np.uint64(32)).astype(np.uint32), halves.astype(np.uint32)
    return jnp.stack([jnp.asarray(high), jnp.asarray(low)], axis=-1)


def test_products_are_those_of_float64():
    rng = np.random.default_rng(9)
    numbers = np.exp(rng.uniform(-600, 600, 50_000))
    factors = rng.uniform(size=50_000)
    factors[:1000], factors[1000:2000], factors[2000:3000] = 0.0, 1.0, 0.5
    factors[3000:10_000] = 1 - 2.0 ** -rng.integers(1, 54, 7000)
    numbers[500:1500] = 0.0
    numbers[4000:9000] = 1 + rng.integers(0, 2**20, 5000) * 2.0**-52  # halfway cases among them
    products = jax.jit(float64.times)(bits_of(numbers), bits_of(factors))
    np.testing.assert_array_equal(float64.to_numpy(products), numbers * factors)


def test_what_is_below_the_normal_numbers_is_zero():
    tiny = np.float64(2.0**-1022)
    products = float64.times(bits_of([tiny, tiny, 3 * tiny]), bits_of([1.0, 0.75, 0.5]))
    np.testing.assert_array_equal(float64.to_numpy(products), [tiny, 0.0, 1.5 * tiny])
    assert float64.to_numpy(float64.from_python(1e-310)) == 0


def test_floats_and_reciprocals_of_them_are_exact():
    rng = np.random.default_rng(10)
    numbers = np.exp(rng.uniform(-40, 40, 50_000)).astype(np.float32)
    numbers[:100] = np.float32(2.0) ** np.arange(-50, 50)
    bits, inverse = jax.jit(float64.from_float)(numbers), jax.jit(float64.reciprocal)(numbers)
    np.testing.assert_array_equal(float64.to_numpy(bits), numbers.astype(np.float64))
    np.testing.assert_array_equal(float64.to_numpy(inverse), 1 / numbers.astype(np.float64))
    with jax.enable_x64(True):
        wide = jnp.asarray(np.exp(rng.uniform(-600, 600, 1000)))
        np.testing.assert_array_equal(float64.to_numpy(float64.from_float(wide)), wide)
        np.testing.assert_array_equal(float64.to_numpy(float64.reciprocal(wide)), 1 / wide)


def test_the_order_of_numbers_is_that_of_float64():
    rng = np.random.default_rng(11)
    for _ in range(50):
        numbers = rng.choice([0.0, 1.0, 1 + 2.0**-52, 1.5, 2.0**-40, 4e300], size=5)
        present = rng.random(5) < 0.7
        bits = bits_of(numbers)
        assert int(float64.first_smallest(bits)) == int(np.argmin(numbers))
        there = [k for k in range(5) if present[k]]
        order = float64.ascending(bits, jnp.asarray(present))[: len(there)].tolist()
        assert order == sorted(there, key=lambda k: numbers[k])
        greater = np.asarray(float64.is_greater(bits, bits_of(numbers[0])))
        np.testing.assert_array_equal(greater, numbers > numbers[0])
