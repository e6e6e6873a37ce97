"""Whole trainings: with optax, what the optimizers for PyTorch and the released programs do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from sklearn.datasets import load_digits

import golden_cases as golden
from gradmem import SGD_C, Adam_C
from gradmem.jax import memory_report, remember_gradients
from test_golden import kind_of

STEPS = 150

TRAININGS = {
    "adam": (Adam_C, {"lr": 0.01}, optax.adam(0.01), {"capacity": 5, "decay": 0.95}),
    "sgd": (
        SGD_C,
        {"lr": 0.05, "momentum": 0.9},
        optax.sgd(0.05, momentum=0.9),
        {"capacity": 8, "decay": 0.99, "aggregate": "sum", "kappa": 0.7},
    ),
    "sgd-tensor": (
        SGD_C,
        {"lr": 0.1},
        optax.sgd(0.1),
        {"capacity": 3, "decay": 0.9, "aggregate": "mid", "scope": "tensor", "max_age": 12},
    ),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_logistic_regression_on_digits_goes_as_in_torch(name):
    """Parameters at every step, and what is remembered at the end, in float64."""
    cls, base, rule, memory = TRAININGS[name]
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).integers(len(labels), size=(STEPS, 32))
    batches = images[order] / 16, labels[order]
    theirs, optimizer = trained_with_torch(*batches, lambda params: cls(params, **base, **memory))
    with jax.enable_x64(True):
        chained = optax.chain(remember_gradients(**memory), rule)
        ours, state = trained_with_optax(*batches, chained)
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-10, atol=1e-12)
        pairs = zip(memory_report(state).scopes, optimizer.memory_report().scopes, strict=True)
    for mine, expected in pairs:
        assert mine.ages == expected.ages
        assert mine.accepted_share == expected.accepted_share
        np.testing.assert_allclose(mine.priorities, expected.priorities, rtol=1e-10)


def trained_with_torch(images, labels, make):
    weight, bias = (
        torch.nn.Parameter(torch.zeros(*s, dtype=torch.double)) for s in ((64, 10), (10,))
    )
    optimizer, weights, biases = make([weight, bias]), [], []
    for image, label in zip(map(torch.tensor, images), map(torch.tensor, labels), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(image @ weight + bias, label).backward()
        optimizer.step()
        weights.append(weight.detach().numpy().copy())
        biases.append(bias.detach().numpy().copy())
    return (np.stack(weights), np.stack(biases)), optimizer


def trained_with_optax(images, labels, optimizer):
    def loss(params, image, label):
        scores = image @ params[0] + params[1]
        return optax.softmax_cross_entropy_with_integer_labels(scores, label).mean()

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = (jnp.zeros((64, 10)), jnp.zeros(10))
    start = (params, optimizer.init(params))
    (_, state), path = jax.jit(lambda batches: jax.lax.scan(step, start, batches))((images, labels))
    return path, state


# ---------------------------------------------------------------------- the released programs


def chain_of(case):
    """The optax chain that means what the program's case does; None where there is none."""
    name, options = golden.library_call(case)
    memory = {
        key: options.pop(key) for key in ("capacity", "decay", "aggregate", "kappa", "policy")
    }
    scope, norm = options.pop("scope"), options.pop("norm")
    remember = remember_gradients(
        **memory, scope="model" if scope == "group" else "tensor", norm=norm
    )
    decay = optax.add_decayed_weights(options.pop("weight_decay", 0.0))
    lr = options.pop("lr")
    if name == "SGD_C" and not options.pop("dampening", 0.0):
        momentum, nesterov = options.pop("momentum", 0.0), options.pop("nesterov", False)
        rule = optax.sgd(lr, momentum=momentum or None, nesterov=nesterov)
    elif name == "Adam_C" and not options.pop("amsgrad", False):
        b1, b2 = options.pop("betas")
        rule = optax.adam(lr, b1=b1, b2=b2, eps=options.pop("eps"))
    else:
        return None
    return optax.chain(remember, decay, rule)


def chosen():
    """Cases until every aggregate and policy has been there, and both scopes of either class."""
    seen, found = set(), []
    for case in golden.CASES:
        usual = case["gradients"] == "main" and not case["groups"] and kind_of(case) == "library"
        if usual and golden.kappa_of(case) != 0 and golden.options_of(case)["capacity"] > 1:
            name, options = golden.library_call(case)
            news = {options["aggregate"], options["policy"], (name, options["scope"])}
            if name in ("SGD_C", "Adam_C") and not news <= seen and chain_of(case) is not None:
                seen |= news
                found.append(pytest.param(case, id=case["id"]))
    return found


def test_the_chosen_cases_cover_what_there_is():
    options = [golden.library_call(param.values[0])[1] for param in chosen()]
    aggregates = {"mean", "sum", "mid", "median", "max"}
    assert {option["aggregate"] for option in options} >= aggregates
    assert {option["policy"] for option in options} == {"top_norm", "bottom_norm", "fifo"}


@pytest.mark.parametrize("case", chosen())
def test_the_released_programs_are_reproduced(case):
    optimizer = chain_of(case)
    with jax.enable_x64(True):
        params = [jnp.asarray(part) for part in golden.split(golden.DATA["p0"])]
        columns = [jnp.stack(column) for column in zip(*golden.gradients(case), strict=True)]

        def step(carry, row):
            updates, state = optimizer.update(row, carry[1], carry[0])
            params = optax.apply_updates(carry[0], updates)
            return (params, state), params

        start = (params, optimizer.init(params))
        path = jax.jit(lambda: jax.lax.scan(step, start, columns)[1])()
        rows = np.concatenate([np.reshape(part, (golden.STEPS, -1)) for part in path], axis=1)
    expected, _ = golden.expected(case)
    np.testing.assert_allclose(rows[golden.KEPT_STEPS - 1], expected, rtol=1e-10, atol=1e-10)
