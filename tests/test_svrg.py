"""SVRG against the slow twin; the swap to the snapshot and back; what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from full_history_twin import SvrgTwin, close, parameter
from gradmem import SVRG, GradientError, OptionError, OptionTypeError, StepError
from optimizers import assert_differ, assert_same, parameters, refuse

SHAPES = [(2, 3), (), (4,)]


class Sum:
    """f_t = sum over tensors of |A x - b|^2 / 2; term t leaves out tensor k if (t + k) % 4 == 0."""

    def __init__(self, terms, seed, dtype=float):
        rng = np.random.default_rng(seed)
        self.terms = range(terms)

        def normal(*shape):
            real = rng.normal(size=shape)
            return real + 1j * rng.normal(size=shape) if dtype is complex else real

        self.start = [np.asarray(normal(*shape)) for shape in SHAPES]
        sizes = [p.size for p in self.start]
        self.parts = [[(normal(2, n), normal(2)) for n in sizes] for _ in self.terms]

    def uses(self, term, k):
        return (term + k) % 4 != 0

    def gradient(self, term, params):
        """For the twin."""
        if term is None:
            each = [self.gradient(t, params) for t in self.terms]
            return [sum(some) / len(self.terms) for some in zip(*each, strict=True)]
        return [
            (a.conj().T @ (a @ p.ravel() - b)).reshape(p.shape) if self.uses(term, k) else 0 * p
            for k, ((a, b), p) in enumerate(zip(self.parts[term], params, strict=True))
        ]

    def loss(self, term, params):
        parts = enumerate(zip(self.parts[term], params, strict=True))
        return sum(
            (torch.tensor(a) @ p.ravel() - torch.tensor(b)).abs().square().sum() / 2
            for k, ((a, b), p) in parts
            if self.uses(term, k)
        )

    def closures(self, term, params):
        """Closures of the term and of f, the latter in parts."""

        def one():
            loss = self.loss(term, params)
            loss.backward()
            return loss.detach()

        def full():
            losses = [self.loss(t, params) / len(self.terms) for t in self.terms]
            for loss in losses:
                loss.backward()
            return sum(losses).detach()

        return one, full


def random_options(rng):
    return {
        "lr": float(rng.choice([0.01, 0.03])),
        "weight_decay": float(rng.choice([0.0, 0.05, 0.4])),
        "maximize": bool(rng.integers(2)),
        "period": int(rng.choice([1, 2, 5, 30])),
    }


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_twin_at_every_step(seed, dtype):
    rng, problem = np.random.default_rng(seed), Sum(7, seed, dtype)
    options = random_options(rng)
    params = [parameter(p) for p in problem.start]
    twin = SvrgTwin(problem.start, problem.gradient, **options)
    optimizer = SVRG(params, **options)
    for t in range(25):
        if t == 12:
            edit = {k: v for k, v in random_options(rng).items() if k != "period"}
            twin.options = edit
            optimizer.param_groups[0].update(edit)
        term = int(rng.integers(7))
        one, full = problem.closures(term, params)
        expected = problem.gradient(term, twin.params)
        loss = optimizer.step(one, full_closure=full)
        assert float(loss) >= 0
        for k, (p, grad) in enumerate(zip(params, expected, strict=True)):  # p.grad is g at x
            if problem.uses(term, k):
                np.testing.assert_allclose(p.grad.numpy(), grad, rtol=1e-9, atol=1e-9)
            else:
                assert p.grad is None
        twin.step(term)
        for p, q, point, mu in zip(params, twin.params, twin.snapshot, twin.full, strict=True):
            close(p.detach().numpy(), q)
            close(optimizer.state[p]["snapshot_point"].numpy(), point)
            close(optimizer.state[p]["snapshot_gradient"].numpy(), mu)
            assert optimizer.state[p]["snapshot_age"] == t % options["period"] + 1


def test_over_all_terms_the_mean_of_the_direction_is_the_full_gradient():
    problem = Sum(6, 1)
    params = [parameter(p) for p in problem.start]
    optimizer = SVRG(params, lr=1.0, period=None, weight_decay=0.3)
    optimizer.take_snapshot(problem.closures(0, params)[1])
    here = [torch.randn(p.shape, dtype=p.dtype) for p in params]
    mean = [torch.zeros_like(p) for p in params]
    for term in problem.terms:
        for p, value in zip(params, here, strict=True):
            p.data.copy_(value)
        optimizer.step(problem.closures(term, params)[0])
        for total, p, value in zip(mean, params, here, strict=True):
            total += (value - p.detach()) / len(problem.terms)
    expected = problem.gradient(None, [value.numpy() for value in here])
    for total, grad, value in zip(mean, expected, here, strict=True):
        close(total.numpy(), grad + 0.3 * value.numpy())


# Snapshots ---------------------------------------------------------------------------------------


def made(period=3, steps=1, **options):
    """An optimizer that has stepped, its parameters and the closures of term 1."""
    problem = Sum(5, 2)
    params = [parameter(p) for p in problem.start]
    optimizer = SVRG(params, lr=0.01, period=period, **options)
    one, full = problem.closures(1, params)
    for _ in range(steps):
        optimizer.step(one, full_closure=full)
    return optimizer, params, one, full


def test_a_snapshot_is_taken_every_period_steps_and_never_between():
    optimizer, _, one, full = made(steps=0)
    calls = []
    for t in range(9):
        optimizer.step(one, full_closure=lambda t=t: calls.append(t) or full())
    assert calls == [0, 3, 6]


def test_without_a_period_snapshots_are_taken_by_hand():
    optimizer, params, one, full = made(period=None, steps=10)
    point = optimizer.state[params[0]]["snapshot_point"].clone()
    assert_differ(point, params[0].detach())
    assert optimizer.take_snapshot(full) == full()
    assert_same(optimizer.state[params[0]]["snapshot_point"], params[0].detach())
    assert optimizer.state[params[0]]["snapshot_age"] == 0
    optimizer.step(one)


def test_take_snapshot_leaves_parameters_and_gradients_as_they_were():
    optimizer, params, _, full = made()
    grads, before = [p.grad for p in params], [p.detach().clone() for p in params]
    contents = [None if g is None else g.clone() for g in grads]
    optimizer.take_snapshot(full)
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert_same(grads, contents)
    assert_same([p.detach() for p in params], before)


def test_a_parameter_without_a_gradient_in_the_full_one_counts_as_zero():
    optimizer, params, _, full = made()

    def without_the_last():
        loss = full()
        params[2].grad = None
        return loss

    assert optimizer.state[params[2]]["snapshot_gradient"].any()
    optimizer.take_snapshot(without_the_last)
    assert not optimizer.state[params[2]]["snapshot_gradient"].any()


def test_a_group_added_later_makes_a_snapshot_due():
    optimizer, params, one, full = made(period=None)
    new = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [new], "lr": 0.5})

    def both(closure):
        loss = closure() + new.square().sum()
        new.square().sum().backward()
        return loss

    refuse(StepError, lambda: optimizer.step(one), optimizer, params, "a snapshot is due")
    optimizer.step(lambda: both(one), full_closure=lambda: both(full))
    assert_same(new.detach(), torch.ones(2, dtype=torch.float64) - 0.5 * 2)


def test_the_parameters_are_at_the_snapshot_and_then_back_to_the_bit():
    optimizer, params, one, full = made(steps=2)
    point = [optimizer.state[p]["snapshot_point"].clone() for p in params]
    current, storage = [p.detach().clone() for p in params], [p.data_ptr() for p in params]
    view = params[0].detach()[0]  # such as a flattened copy that a module keeps
    seen = []

    def spy():
        seen.append(([p.detach().clone() for p in params], view.clone()))
        return one()

    optimizer.step(spy, full_closure=full)
    assert len(seen) == 2
    assert_same(seen[0], (point, point[0][0]))
    assert_same(seen[1], (current, current[0][0]))
    assert [p.data_ptr() for p in params] == storage


@pytest.mark.parametrize("at", [1, 2])
def test_a_closure_that_raises_leaves_everything_as_it_was(at):
    optimizer, params, one, full = made(steps=2)
    calls = []

    def failing():
        one()
        calls.append(0)
        if len(calls) == at:
            raise KeyboardInterrupt
        return 0.0

    refuse(KeyboardInterrupt, lambda: optimizer.step(failing), optimizer, params)
    refuse(
        KeyboardInterrupt, lambda: optimizer.take_snapshot(failing_at_once(full)), optimizer, params
    )
    optimizer.step(one, full_closure=full)


def failing_at_once(closure):
    def failing():
        closure()
        raise KeyboardInterrupt

    return failing


def test_a_closure_may_reuse_its_gradient_tensors_and_need_not_clear_them():
    results = []
    for reuse in (False, True):
        optimizer, params, one, full = made(steps=1)
        buffers = [torch.zeros_like(p) for p in params]

        def closure(optimizer=optimizer, params=params, buffers=buffers, one=one, reuse=reuse):
            if not reuse:
                optimizer.zero_grad()
                return one()
            loss = one()
            for p, buffer in zip(params, buffers, strict=True):
                if p.grad is not None:
                    p.grad = buffer.copy_(p.grad)
            return loss

        for _ in range(4):
            optimizer.step(closure, full_closure=full)
        results.append([p.detach() for p in params])
    assert_same(*results)


def test_a_frozen_parameter_stays():
    optimizer, params, one, full = made(steps=1, weight_decay=0.5)
    params[0].requires_grad_(False)
    before = params[0].detach().clone(), params[2].detach().clone()
    optimizer.step(one, full_closure=full)
    assert_same(params[0].detach(), before[0])
    assert_differ(params[2].detach(), before[1])


# Bad input ---------------------------------------------------------------------------------------


def test_a_full_gradient_that_is_not_finite_makes_no_snapshot():
    optimizer, params, one, full = made(period=2, steps=2)

    def diverged():
        loss = full()
        params[1].grad.fill_(torch.inf)
        return loss

    refuse(GradientError, lambda: optimizer.take_snapshot(diverged), optimizer, params, "diverged")
    step = lambda: optimizer.step(one, full_closure=diverged)  # noqa: E731
    refuse(GradientError, step, optimizer, params, "has NaN or Inf, so no snapshot was taken")


def test_a_step_with_a_gradient_that_is_not_finite_spoils_no_snapshot():
    optimizer, params, one, full = made(period=5, steps=2)
    point = optimizer.state[params[0]]["snapshot_point"].clone()

    def bad():
        loss = one()
        params[0].grad[0, 0] = torch.nan
        return loss

    before = params[2].detach().clone()
    optimizer.step(bad, full_closure=full)
    assert params[0].isnan().sum() == 1
    assert_same(optimizer.state[params[0]]["snapshot_point"], point)
    assert optimizer.state[params[0]]["snapshot_gradient"].isfinite().all()
    assert params[2].isfinite().all()
    assert_differ(params[2].detach(), before)


def test_bad_steps_are_refused():
    optimizer, params, one, full = made(period=2, steps=2)

    def no(kind, action, sentence):
        refuse(kind, action, optimizer, params, sentence)

    no(StepError, lambda: optimizer.step(one), r"snapshot is due.*period=2.*full_closure")
    no(StepError, lambda: optimizer.take_snapshot(3), r"full_closure must be a function without")
    no(StepError, lambda: optimizer.take_snapshot(lambda: 0.0), r"full_closure left no gradient")
    optimizer.take_snapshot(full)
    no(StepError, lambda: optimizer.step(None), r"^closure must be a function without arguments")
    no(StepError, lambda: optimizer.step(lambda: 0.0), r"^closure left no gradient.*backward")
    no(StepError, lambda: optimizer.step(lambda: optimizer.step(one)), r"from within a closure")
    no(StepError, lambda: optimizer.step(lambda: optimizer.take_snapshot(full)), "within a closu")
    no(TypeError, lambda: optimizer.step(), "closure")

    def sparse():
        one()
        params[2].grad = torch.zeros(4, dtype=torch.float64).to_sparse()

    no(GradientError, lambda: optimizer.step(sparse), r"sparse=False")
    optimizer.param_groups[0]["period"] = 3
    no(OptionError, lambda: optimizer.step(one), r"period must be 2 as at construction, got 3")


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"period": 0}, OptionError, r"^period must be at least 1, got 0; None leaves snapshots"),
        ({"period": 1.5}, OptionTypeError, r"^period must be an integer, got 1.5"),
        ({"lr": float("inf")}, OptionError, r"^lr must be a finite number"),
        ({"maximize": None}, OptionTypeError, r"^maximize must be True or False"),
    ],
)
def test_bad_options_are_refused(options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        SVRG(parameters(), **{"period": 3, **options})


def test_bad_groups_are_refused():
    optimizer, params, _, _ = made()
    new = {"params": parameters(shapes=[(1,)]), "period": 4}
    refuse(OptionError, lambda: optimizer.add_param_group(new), optimizer, params, "period must be")
