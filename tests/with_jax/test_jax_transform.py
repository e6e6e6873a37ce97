"""What a transformation has to stand: jit, scan, vmap, donation, and what optax puts around it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradmem import OptionTypeError
from gradmem.jax import MemoryState, memory_report, remember_gradients
from jax_race import SHAPES, compare, followed, random_gradients, scanned, stacked
from reference import Twin


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def run(transformation, rows, params, state=None, update=None):
    """One call a step: the updates of all steps, and the state at the end."""
    state = transformation.init(params) if state is None else state
    update, updates = update or jax.jit(transformation.update), []
    for row in rows:
        handed_on, state = update(row, state, params)
        updates.append(handed_on)
    return updates, state


def pytrees(rows, shapes=SHAPES):
    columns = stacked(rows, shapes)
    return [jax.tree.map(lambda c, t=t: c[t], columns) for t in range(len(rows))]


@pytest.fixture(scope="module")
def rows():
    return random_gradients(1, 50, dtype="float32")


@pytest.fixture(scope="module")
def steps(rows):
    return pytrees(rows)


# ---------------------------------------------------------------------- switched off


@pytest.mark.parametrize("options", [{"capacity": 0}, {"kappa": 0}, {"kappa": -0.0}])
def test_switched_off_it_is_not_there(options, steps):
    remember = remember_gradients(**options)
    params = steps[0]
    assert jax.tree.leaves(remember.init(params)) == []
    for update in (remember.update, jax.jit(remember.update)):
        assert bits(update(steps[3], remember.init(params))[0]) == bits(steps[3])
    chained, state = run(optax.chain(remember, optax.adam(0.1)), steps, params)
    plain, expected = run(optax.adam(0.1), steps, params)
    assert bits(chained) == bits(plain)
    assert bits(state) == bits(expected)
    assert str(memory_report(state)) == "no memory (capacity or kappa is 0)"


def test_a_kappa_that_is_an_array_of_zero_changes_no_bit(steps):
    remember = optax.inject_hyperparams(remember_gradients, static_args="capacity")(2, kappa=0.0)
    row = {**steps[0], "a": jnp.float32([[-0.0, jnp.nan, jnp.inf], [1e-40, 0.0, -3.0]])}
    _, state = run(remember, steps[:5], steps[0])
    assert memory_report(state).scopes[0].steps == 0
    updates, state = run(remember, [row], steps[0], state)
    assert bits(updates[0]) == bits(row)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.inner_state))


def test_the_first_gradient_is_handed_on_bit_for_bit():
    remember = remember_gradients()
    gradient = jnp.float32([-0.0, 1e-40, 3.0])
    for update in (remember.update, jax.jit(remember.update)):
        assert bits(update(gradient, remember.init(gradient))[0]) == bits(gradient)


# ---------------------------------------------------------------------- JAX


def test_a_step_is_compiled_once(steps):
    """Filling, refusing, renewing, zeros and NaN: all of it is one program."""
    traces = []
    remember = remember_gradients(capacity=3, decay=0.95, max_age=9)
    optimizer = optax.chain(remember, optax.adam(1e-3))

    @jax.jit
    def step(row, state, params):
        traces.append(1)
        return optimizer.update(row, state, params)

    _, state = run(optimizer, steps, steps[0], update=step)
    assert memory_report(state).scopes[0].occupied == 3
    assert len(traces) == 1


def test_scan_loop_and_eager_are_the_same(rows, steps):
    remember = remember_gradients(capacity=3, decay=0.95)
    within = scanned(remember, rows)
    one_by_one, state = run(remember, steps, steps[0])
    eager, eager_state = run(remember, steps[:12], steps[0], update=remember.update)
    last = jax.tree.map(lambda part: part[-1], within.state)
    for ours, theirs in ((last, state), (within.updates, jax.tree.map(stack, *one_by_one))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    for ours, theirs in zip(eager, one_by_one, strict=False):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    assert memory_report(eager_state).scopes[0].steps <= 12


def stack(*parts):
    return jnp.stack(parts)


def test_shapes_and_types_of_the_state_never_change(steps):
    for options in ({}, {"scope": "tensor", "aggregate": "median"}, {"memory_dtype": "bfloat16"}):
        remember = remember_gradients(capacity=2, **options)
        before = jax.eval_shape(remember.init, steps[0])
        after = jax.eval_shape(lambda r, s, o=remember: o.update(r, s)[1], steps[0], before)
        assert jax.tree.map(described, after) == jax.tree.map(described, before)


def described(part):
    return (part.shape, part.dtype.name, part.weak_type)


@pytest.mark.parametrize("options", [{}, {"aggregate": "max"}, {"memory_dtype": "bfloat16"}])
def test_slots_are_written_in_place(options):
    """With the state donated a step needs room for a slot or two, never for all of them."""
    params = {"w": jnp.zeros((64, 256)), "b": jnp.zeros((32, 256))}
    remember = remember_gradients(capacity=20, **options)
    state = jax.eval_shape(remember.init, params)
    compiled = jax.jit(remember.update, donate_argnums=1).lower(params, state).compile()
    used, one = compiled.memory_analysis(), 4 * 96 * 256
    assert used.temp_size_in_bytes < 2.5 * one
    assert used.alias_size_in_bytes > (20 if not options.get("memory_dtype") else 10) * one


def test_a_donated_state_goes_on(steps):
    remember = remember_gradients(capacity=2)
    update = jax.jit(remember.update, donate_argnums=1)
    kept, _ = run(remember, steps[:9], steps[0])
    donated, _ = run(remember, steps[:9], steps[0], update=update)
    assert bits(donated) == bits(kept)


def test_vmap_is_a_memory_for_each():
    columns = [random_gradients(seed, 30, {"w": (3,)}, "float32") for seed in (2, 3)]
    remember = remember_gradients(capacity=3, decay=0.95)
    both = jax.tree.map(
        lambda *parts: jnp.stack(parts, 1), *(stacked(c, {"w": ()}) for c in columns)
    )
    state = jax.vmap(remember.init)(jax.tree.map(lambda part: part[0], both))
    _, (updates, states) = jax.lax.scan(
        lambda s, row: (lambda u, s: (s, (u, s)))(*jax.vmap(remember.update)(row, s)), state, both
    )
    for k, column in enumerate(columns):
        own = jax.tree.map(lambda part, k=k: np.asarray(part[:, k]), (updates, states))
        compare(type("", (), {"updates": own[0], "state": own[1]}), column, capacity=3, decay=0.95)
    with pytest.raises(OptionTypeError, match=r"one memory, got \(2,\) of them from jax.vmap"):
        memory_report(jax.tree.map(lambda part: part[-1], states))


def test_a_state_saved_as_plain_arrays_goes_on_bit_for_bit(tmp_path, steps):
    optimizer = optax.chain(remember_gradients(capacity=3), optax.adam(1e-2))
    _, state = run(optimizer, steps[:10], steps[0])
    leaves, _ = jax.tree.flatten(state)
    np.savez(tmp_path / "state.npz", *leaves)
    with np.load(tmp_path / "state.npz") as file:
        read = [jnp.asarray(file[name]) for name in file.files]
    blank = jax.tree.structure(jax.eval_shape(optimizer.init, steps[0]))
    resumed, _ = run(optimizer, steps[10:20], steps[0], jax.tree.unflatten(blank, read))
    straight, _ = run(optimizer, steps[10:20], steps[0], state)
    assert bits(resumed) == bits(straight)


# ---------------------------------------------------------------------- pytrees and types


def test_types_are_mixed_and_each_is_kept():
    params = {
        "half": jnp.ones(3, jnp.float16),
        "brain": jnp.ones((2, 2), jnp.bfloat16),
        "single": jnp.ones(()),
        "complex": jnp.ones(2, jnp.complex64),
        "nothing": None,
    }
    remember = remember_gradients(capacity=2, decay=1.0)
    state = remember.init(params)
    names = {path[0].key: leaf.dtype.name for path, leaf in jax.tree.leaves_with_path(state.slots)}
    assert names == {
        "half": "int16",
        "brain": "uint16",
        "single": "float32",
        "complex": "complex64",
    }
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.total)} == {"float32", "complex64"}
    for factor in (1.0, 3.0, 2.0):
        row = jax.tree.map(lambda p, f=factor: p * jnp.asarray(f, p.dtype), params)
        updates, state = jax.jit(remember.update)(row, state)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
    for name in ("half", "brain", "single", "complex"):  # (2 + 1 + 3) / 3
        np.testing.assert_array_equal(updates[name].astype(np.complex64), 2.0)
    assert updates["nothing"] is None
    norms = memory_report(state).scopes[0].norms
    np.testing.assert_allclose(norms, np.sqrt(10) * np.array([2, 3]), rtol=1e-6)


def test_gradients_in_another_type_than_their_parameters():
    remember = remember_gradients(capacity=2)
    state = remember.init(jnp.zeros(2, jnp.bfloat16))
    for gradient in (jnp.float32([jnp.inf, 1.0]), jnp.float32([256.5, 1.0])):
        update, state = remember.update(gradient, state)
        assert update.dtype == jnp.float32
    # Not finite the first, so not stored; the second rounded to what the slots are.
    stored = state.slots.view(jnp.bfloat16)[0].astype(jnp.float32)
    np.testing.assert_array_equal(stored, [256.0, 1.0])
    np.testing.assert_array_equal(state.total, [256.0, 1.0])
    assert memory_report(state).scopes[0].norms[0] == pytest.approx(256.502, rel=1e-6)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_a_missing_gradient_is_zero_in_what_is_stored(scope):
    """As in the twin; what is handed on for it is nothing."""
    remember = remember_gradients(capacity=2, decay=0.9, scope=scope)
    rows = random_gradients(4, 12, {"a": (2,), "b": (3,)}, odd=0.0)
    for t in (2, 3, 7):
        rows[t][1] = None
    state, births = remember.init({"a": jnp.zeros(2), "b": jnp.zeros(3)}), []
    update = jax.jit(remember.update)
    for row in rows:
        updates, state = update(dict(zip("ab", row, strict=True)), state)
        assert [u is None for u in updates.values()] == [g is None for g in row]
        births.append(state.ledger.birth.tolist())
    twin = Twin("adam", [np.zeros(2), np.zeros(3)], capacity=2, decay=0.9, scope=scope)
    for row, expected in zip(rows, births, strict=True):
        twin.step(row)
        theirs = [[slot[2] if slot else 0 for slot in one.table()] for one in twin.ledgers]
        assert theirs == expected
    for i, name in enumerate("ab"):
        for k, slot in enumerate(twin.memory_of(i)):
            np.testing.assert_allclose(state.slots[name][k], slot[3], rtol=1e-6)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_nothing_to_remember(scope):
    remember = remember_gradients(scope=scope)
    for empty in ({}, (), None, {"a": None}):
        updates, state = jax.jit(remember.update)(empty, remember.init(empty))
        assert updates == empty
    assert isinstance(state, MemoryState)


# ---------------------------------------------------------------------- what optax puts around it


def test_after_clipping_it_remembers_what_is_clipped(steps):
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), remember_gradients(3), optax.sgd(1.0))
    _, state = run(optimizer, steps[:6], steps[0])
    assert max(memory_report(state).scopes[0].norms) == pytest.approx(0.5, rel=1e-6)


def test_masked_leaves_have_no_memory(steps):
    mask = {"a": True, "b": {"c": False, "d": True}}
    optimizer = optax.masked(remember_gradients(3), mask)
    updates, state = run(optimizer, steps[:6], steps[0])
    for row, update in zip(steps, updates, strict=False):
        np.testing.assert_array_equal(update["b"]["c"], row["b"]["c"])
    assert len(jax.tree.leaves(state.inner_state.slots)) == 2


def test_multi_transform_is_a_memory_for_each_group(rows, steps):
    labels = {"a": "first", "b": {"c": "second", "d": "second"}}
    groups = {"first": remember_gradients(3, 0.95), "second": remember_gradients(2, policy="fifo")}
    updates, state = run(optax.multi_transform(groups, labels), steps, steps[0])
    report = memory_report(state)
    assert [(scope.capacity, scope.tensors) for scope in report.scopes] == [(3, 1), (2, 2)]
    expected = followed([row[:1] for row in rows], capacity=3, decay=0.95).updates[0]
    ours = np.stack([update["a"] for update in updates])
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_multi_steps_remembers_the_accumulated_gradients():
    optimizer = optax.MultiSteps(optax.chain(remember_gradients(2), optax.sgd(1.0)), 2)
    params = jnp.zeros(2)
    gradients = [jnp.float32([k, 0.0]) for k in (1, 3, 5, 7, 9)]
    updates, state = run(optimizer.gradient_transformation(), gradients, params)
    assert memory_report(state).scopes[0].norms == (2.0, 6.0)
    np.testing.assert_allclose([u[0] for u in updates], [0, -2, 0, -4, 0])


def test_apply_if_finite_leaves_the_memory_alone():
    optimizer = optax.apply_if_finite(remember_gradients(2), 3)
    gradients = [jnp.float32([3.0, 4.0]), jnp.float32([jnp.nan, 1.0]), jnp.float32([1.0, 0.0])]
    updates, state = run(optimizer, gradients, jnp.zeros(2))
    np.testing.assert_array_equal(updates[1], [0.0, 0.0])
    np.testing.assert_array_equal(updates[2], [2.0, 2.0])
    assert memory_report(state).scopes[0].ages == (2, 1)


def test_what_is_not_finite_is_combined_and_not_stored():
    remember = remember_gradients(2)
    gradients = [jnp.float32([3.0, 4.0]), jnp.float32([jnp.inf, 1.0]), jnp.float32([0.0, 0.0])]
    updates, state = run(remember, gradients, jnp.zeros(2))
    np.testing.assert_array_equal(updates[1], [np.inf, 2.5])
    np.testing.assert_array_equal(updates[2], [1.5, 2.0])
    assert memory_report(state).scopes[0].ages == (1,)


def test_a_refused_gradient_changes_no_bit_of_what_is_stored():
    remember = remember_gradients(capacity=3, decay=1.0)
    rows = ([1.0, 0.0], [-1.0, 5.0], [0.001, 7.0], [0.1, 0.2], [0.3, 0.0])
    gradients = list(map(jnp.float32, rows))
    _, before = run(remember, gradients[:3], gradients[0])
    _, after = run(remember, gradients[3:], gradients[0], before)
    assert memory_report(after).scopes[0].accepted_share == 3 / 5
    assert bits((after.slots, after.total)) == bits((before.slots, before.total))


def test_the_running_sum_does_not_drift():
    """20,000 replacements, spikes that leave again; what is handed on is within 3e-7 of exact."""
    remember = remember_gradients(capacity=8)

    def step(carry, key):
        state, worst, t = carry
        gradient = jax.random.normal(key, (16,)) * jnp.where(t % 100 == 0, 1e6, 1.0)
        exact = (gradient + state.slots.sum(0)) / (1 + (state.ledger.birth > 0).sum())
        update, after = remember.update(gradient, state)
        sizes = jnp.sqrt(jnp.square(state.ledger.norm).sum() + jnp.square(gradient).sum())
        worst = jnp.maximum(worst, jnp.abs(update - exact).max() / sizes)
        return (after, worst, t + 1), None

    keys = jax.random.split(jax.random.key(0), 20_000)
    start = (remember.init(jnp.zeros(16)), 0.0, 0)
    (state, worst, _), _ = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    assert memory_report(state).scopes[0].accepted_share > 0.95
    assert worst < 3e-7


# ---------------------------------------------------------------------- the report


def test_the_report_says_what_the_ledger_holds(steps):
    optimizer = optax.chain(remember_gradients(4, scope="tensor"), optax.adam(1e-3))
    _, state = run(optimizer, steps[:3], steps[0])
    report = memory_report(state)
    assert [scope.name for scope in report.scopes] == ["['a']", "['b']['c']", "['b']['d']"]
    first = report.scopes[0]
    assert (first.steps, first.occupied, first.ages, first.oldest_used) == (3, 3, (3, 2, 1), 2)
    assert first.accepted_share == 1.0
    norms = [float(np.linalg.norm(row["a"])) for row in steps[:3]]
    np.testing.assert_allclose(first.norms, norms, rtol=1e-6)
    decayed = [norm * 0.7**age for norm, age in zip(norms, first.ages, strict=True)]
    np.testing.assert_allclose(first.priorities, decayed, rtol=1e-6)
    memory = [part for part in state if isinstance(part, MemoryState)]
    assert report.bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(memory))
    assert str(report).splitlines()[1].split() == (
        ["['a']", "1", "3", "3/4", "3", f"{min(norms):.3g}..{max(norms):.3g}", "100%", "200"]
    )
    assert np.isnan(report.scopes[2].accepted_share)  # of no elements, so it sees nothing
