"""SAG, SAGA and SVRG as their papers write them: numpy, float64, lists, no running sum.

`Race` drives the library's class and its twin together and compares them after every step.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradmem import SAG, SAGA

TOLERANCE = 1e-12

each_class = pytest.mark.parametrize("cls", [SAG, SAGA], ids=lambda cls: cls.__name__)


class TableTwin:
    """SAG or SAGA. A parameter's row is None until a step has seen that term."""

    def __init__(self, terms, groups, **options):
        self.terms = terms
        self.params, self.options, self.rows = [], [], []
        for params, own in groups:
            self.add_group(params, {**options, **own})

    def add_group(self, params, options):
        for p in params:
            self.params.append(np.array(p))
            self.options.append(options)
            self.rows.append([None] * self.terms)

    def step(self, grads, index):
        if all(grad is None for grad in grads):
            return
        grads = [
            np.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)
        ]
        finite = all(np.isfinite(grad).all() for grad in grads)
        for i, grad in enumerate(grads):
            options = self.options[i]
            with np.errstate(invalid="ignore"):
                direction = self.direction(self.rows[i], index, grad, options)
                self.params[i] = moved(self.params[i], direction, options)
            if finite:
                self.rows[i][index] = grad

    def mean_of_rows(self, rows):
        return sum(row for row in rows if row is not None) / self.terms


class SagTwin(TableTwin):
    def direction(self, rows, index, grad, options):
        after = [*rows[:index], grad, *rows[index + 1 :]]
        if options["divide_by"] == "terms":
            return self.mean_of_rows(after)
        seen = [row for row in after if row is not None]
        return sum(seen) / len(seen)


class SagaTwin(TableTwin):
    def direction(self, rows, index, grad, options):
        old = 0.0 if rows[index] is None else rows[index]
        return grad - old + self.mean_of_rows(rows)


class SvrgTwin:
    """`gradient(term, params)` gives the gradient of a term, term None that of f."""

    def __init__(self, params, gradient, period, **options):
        self.params, self.gradient = [np.array(p) for p in params], gradient
        self.period, self.options, self.steps = period, options, 0

    def step(self, term):
        if self.steps % self.period == 0:
            self.snapshot = self.params
            self.full = self.gradient(None, self.snapshot)
        here, there = self.gradient(term, self.params), self.gradient(term, self.snapshot)
        self.params = [
            moved(p, g - old + full, self.options)
            for p, g, old, full in zip(self.params, here, there, self.full, strict=True)
        ]
        self.steps += 1


def moved(p, direction, options):
    if options["maximize"]:
        direction = -direction
    if options["weight_decay"]:
        direction = direction + options["weight_decay"] * p
    return p - options["lr"] * direction


DEFAULTS = {"lr": 1e-3, "weight_decay": 0.0, "maximize": False, "divide_by": "seen"}


class Race:
    """A table optimizer and its twin. `groups`: pairs of shapes and the group's options."""

    def __init__(self, cls, terms, groups, seed=0, dtype=float, **options):
        self.rng, self.terms, self.dtype = np.random.default_rng(seed), terms, dtype
        starts = [([self.normal(s) for s in shapes], own) for shapes, own in groups]
        twin = {SAG: SagTwin, SAGA: SagaTwin}[cls]
        self.twin = twin(terms, starts, **{**DEFAULTS, **options})
        self.sizes = [len(start) for start, _ in starts]
        library = [{"params": list(map(parameter, start)), **own} for start, own in starts]
        self.optimizer = cls(library, terms=terms, **options)

    @property
    def params(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def normal(self, shape):
        real = self.rng.normal(size=shape)
        number = real + 1j * self.rng.normal(size=shape) if self.dtype is complex else real
        return np.asarray(number)

    def gradients(self, missing=0.15):
        scale = np.exp(self.rng.normal())
        grads = [self.normal(p.shape) * scale for p in self.twin.params]
        return [None if self.rng.random() < missing else grad for grad in grads]

    def add_group(self, shapes, **own):
        start = [self.normal(shape) for shape in shapes]
        self.optimizer.add_param_group({"params": list(map(parameter, start)), **own})
        self.twin.add_group(start, {**DEFAULTS, **self.optimizer.defaults, **own})
        self.sizes.append(len(shapes))

    def edit(self, group, **options):
        self.optimizer.param_groups[group].update(options)
        first = sum(self.sizes[:group])
        for i in range(first, first + self.sizes[group]):
            self.twin.options[i] = {**self.twin.options[i], **options}

    def run(self, steps, missing=0.15):
        for _ in range(steps):
            self.step(self.gradients(missing))

    def step(self, grads):
        index = int(self.rng.integers(self.terms))
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = None if grad is None else torch.tensor(grad)
        self.optimizer.step(index=index)
        self.twin.step(grads, index)
        for p, grad in zip(self.params, grads, strict=True):
            if grad is not None:
                np.testing.assert_array_equal(p.grad.numpy(), grad, "p.grad was changed")
        self.compare()

    def compare(self):
        for p, rows, expected in zip(self.params, self.twin.rows, self.twin.params, strict=True):
            close(p.detach().numpy(), expected)
            state = self.optimizer.state.get(p, {})
            if not state:
                assert rows == [None] * self.terms
                continue
            held = [np.zeros_like(expected) if row is None else row for row in rows]
            np.testing.assert_array_equal(state["history_table"].numpy(), np.stack(held))
            assert state["history_seen"].tolist() == [row is not None for row in rows]
            close(state["history_sum"].numpy(), sum(held))


def parameter(value):
    return torch.nn.Parameter(torch.tensor(value))


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


def step_with_index(optimizer, params, index):
    """A step with gradients of index + 1."""
    for p in params:
        p.grad = torch.full_like(p, index + 1.0)
    optimizer.step(index=index)
