"""What is refused, in a sentence and before anything is changed; and what may be given."""

from __future__ import annotations

import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradmem.jax
from gradmem import CheckpointError, GradientError, OptionError, OptionTypeError
from gradmem.jax import memory_report, remember_gradients

WRONG = {
    "capacity-negative": ({"capacity": -1}, OptionError, "capacity must be at least 0, got -1; 0"),
    "capacity-float": ({"capacity": 2.0}, OptionTypeError, "capacity must be an integer, got 2.0"),
    "capacity-bool": ({"capacity": True}, OptionTypeError, "capacity must be an integer, got True"),
    "capacity-array": ({"capacity": jnp.array(3)}, OptionTypeError, "static_args"),
    "decay-large": ({"decay": 1.5}, OptionError, r"decay must be in \[0, 1\], got 1.5; the paper"),
    "decay-nan": ({"decay": float("nan")}, OptionError, r"decay must be in \[0, 1\], got nan"),
    "decay-text": ({"decay": "0.7"}, OptionTypeError, r"decay must be a number, got '0.7' \(str\)"),
    "decay-array": ({"decay": jnp.ones(2)}, OptionTypeError, r"shape \(\), got float32 of shape"),
    "decay-integers": ({"decay": jnp.array(1)}, OptionTypeError, "one real floating-point number"),
    "kappa-inf": ({"kappa": float("inf")}, OptionError, "kappa must be a finite number, got inf"),
    "kappa-complex": ({"kappa": 1j}, OptionTypeError, "kappa must be a number, got 1j"),
    "kappa-schedule": ({"kappa": lambda count: 1.0}, OptionTypeError, "inject_hyperparams"),
    "aggregate": ({"aggregate": "median-mean"}, OptionError, "one of 'mean', 'sum', 'mid', 'min',"),
    "aggregate-type": ({"aggregate": None}, OptionTypeError, "aggregate must be one of"),
    "policy": (
        {"policy": "random"},
        OptionError,
        "'top_norm', 'bottom_norm', 'fifo', got 'random'",
    ),
    "max-age-0": ({"max_age": 0}, OptionError, "max_age must be at least 1, got 0; None sets no"),
    "max-age-float": ({"max_age": 2.5}, OptionTypeError, "max_age must be an integer, got 2.5"),
    "scope-group": ({"scope": "group"}, OptionError, "optax.multi_transform, got 'group'"),
    "norm": ({"norm": "l1"}, OptionError, "norm must be one of 'l2', 'sum', got 'l1'"),
    "dtype-int8": (
        {"memory_dtype": "int8"},
        OptionError,
        "'float32', 'bfloat16', 'float16' or None",
    ),
    "dtype-int32": (
        {"memory_dtype": jnp.int32},
        OptionError,
        "memory_dtype must be one of .*'int32'",
    ),
    "dtype-number": ({"memory_dtype": 16}, OptionTypeError, "memory_dtype must be one of .*got 16"),
}


@pytest.mark.parametrize(("options", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        remember_gradients(**options)


def test_unknown_options_are_python_errors():
    with pytest.raises(TypeError, match="capasity"):
        remember_gradients(capasity=3)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_memory_dtype_may_be_a_name_or_a_type(name):
    for given in (name, getattr(jnp, name), jnp.dtype(name)):
        state = remember_gradients(2, memory_dtype=given).init(jnp.zeros(3))
        assert state.slots.itemsize == jnp.dtype(name).itemsize
        assert state.total.dtype == jnp.float32


def test_numbers_of_any_kind_are_numbers():
    plain = remember_gradients(3, 0.5, kappa=2.0)
    other = remember_gradients(np.int64(3), np.float32(0.5), kappa=2)
    state, others = plain.init(jnp.zeros(2)), other.init(jnp.zeros(2))
    for t in range(6):
        gradient = jnp.array([3.0, 4.0]) / (t + 1)
        update, state = plain.update(gradient, state)
        same, others = other.update(gradient, others)
        np.testing.assert_array_equal(update, same)
    assert memory_report(state) == memory_report(others)


def test_decay_as_an_array_is_kept_in_its_range():
    for decay, kept in ((1.5, 1.0), (-0.5, 0.0), (np.nan, 0.0)):
        remember = remember_gradients(2, decay=jnp.float32(decay))
        _, state = remember.update(jnp.array([3.0, 4.0]), remember.init(jnp.zeros(2)))
        assert memory_report(state).scopes[0].priorities == (5.0 * kept,)


def test_parameters_that_have_no_gradient():
    with pytest.raises(GradientError, match=r"shape \(3,\) is of int32.*optax.masked"):
        remember_gradients().init({"w": jnp.zeros(3), "n": jnp.arange(3)})


def test_complex_parameters_keep_their_type():
    with pytest.raises(OptionError, match="memory_dtype must be None for parameters of complex64"):
        remember_gradients(memory_dtype="bfloat16").init(jnp.zeros(3, jnp.complex64))


WRONG_GRADIENTS = {
    "shape": (jnp.ones((3, 1)), r"shape \(3, 1\) and float32 .* shape \(3,\), whose memory"),
    "integers": (jnp.ones(3, int), r"shape \(3,\) and int32"),
    "complex": (jnp.ones(3, complex), r"shape \(3,\) and complex64"),
}


@pytest.mark.parametrize(("gradient", "message"), WRONG_GRADIENTS.values(), ids=WRONG_GRADIENTS)
def test_gradients_unlike_their_parameters(gradient, message):
    remember = remember_gradients(memory_dtype="bfloat16")
    with pytest.raises(GradientError, match=message):
        remember.update(gradient, remember.init(jnp.zeros(3)))


def test_another_pytree_is_refused():
    remember = remember_gradients()
    with pytest.raises(ValueError, match="b"):
        remember.update({"a": jnp.ones(3), "b": jnp.ones(3)}, remember.init({"a": jnp.ones(3)}))


DIFFERENT = {
    "capacity": ({"capacity": 4}, "made with capacity=5, this transformation has capacity=4"),
    "scope": ({"scope": "tensor"}, "made with scope='model', this transformation has scope='tens"),
    "memory_dtype": ({"memory_dtype": "float16"}, "made with memory_dtype='bfloat16'"),
}


@pytest.mark.parametrize(("options", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_state_of_other_options(options, message):
    ours = {"capacity": 5, "memory_dtype": "bfloat16"}
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    state = remember_gradients(**ours).init(params)
    with pytest.raises(CheckpointError, match=message):
        remember_gradients(**{**ours, **options}).update(params, state)
    tensors = remember_gradients(**ours, scope="tensor").init(params)
    with pytest.raises(CheckpointError, match="made with scope='tensor'"):
        remember_gradients(**ours).update(params, tensors)


def test_what_may_change_between_steps():
    """A policy, an aggregate, kappa, decay or max_age of its own for every step: one state."""
    state = remember_gradients(capacity=3).init(jnp.zeros(2))
    edits = ({}, {"aggregate": "min"}, {"policy": "fifo"}, {"kappa": 0.5}, {"max_age": 1})
    for edit in edits:
        _, state = remember_gradients(capacity=3, **edit).update(jnp.array([3.0, 4.0]), state)
    assert memory_report(state).scopes[0].steps == len(edits)


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_a_missing_extra_is_said_in_a_sentence(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"gradmem.jax needs {missing}; .*'gradmem\[jax"):
        runpy.run_path(gradmem.jax.__file__)


def test_public_names_are_sorted_documented_and_all_there():
    assert sorted(gradmem.jax.__all__) == gradmem.jax.__all__
    for name in gradmem.jax.__all__:
        assert getattr(gradmem.jax, name).__doc__, name


def test_it_is_an_optax_transformation():
    assert isinstance(remember_gradients(), optax.GradientTransformation)
    assert isinstance(remember_gradients(capacity=0), optax.GradientTransformation)
    assert jax.tree.leaves(remember_gradients(capacity=0).init(jnp.zeros(3))) == []
