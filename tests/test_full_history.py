"""SAG and SAGA against the slow twin; unbiasedness; the table: its sum, cost and contents."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from full_history_twin import Race, each_class, step_with_index
from gradmem import SAG, SAGA, OptionError, table_bytes
from gradmem.optim.full_history import table as gradient_table
from optimizers import assert_differ, assert_same, parameters, refuse

SHAPES = [(2, 3), (), (0,), (4,), (3, 1, 2)]


# Against the twin ------------------------------------------------------------------------------


def random_options(rng, cls):
    options = {
        "lr": float(rng.choice([0.01, 0.1, 0.5])),
        "weight_decay": float(rng.choice([0.0, 0.05, 0.4])),
        "maximize": bool(rng.integers(2)),
    }
    if cls is SAG:
        options["divide_by"] = str(rng.choice(["seen", "terms"]))
    return options


@pytest.mark.parametrize("seed", range(12))
@each_class
def test_equals_the_twin_at_every_step_with_options_drawn_at_random(cls, seed):
    rng = np.random.default_rng(seed)
    groups = [
        ([SHAPES[k] for k in rng.integers(len(SHAPES), size=rng.integers(1, 4))], own)
        for own in ({}, random_options(rng, cls))
    ]
    terms = int(rng.choice([1, 2, 3, 7, 40]))
    race = Race(cls, terms, groups, seed, **random_options(rng, cls))
    race.run(15, missing=float(rng.choice([0.0, 0.3])))
    race.edit(0, **random_options(rng, cls))
    race.run(15)
    race.add_group([(3,), ()], **random_options(rng, cls))
    race.run(25, missing=float(rng.choice([0.1, 0.6])))


@each_class
def test_complex_parameters(cls):
    options = {"lr": 0.1, "weight_decay": 0.3, "maximize": True}
    Race(cls, 5, [([(2, 2), (), (3,)], {})], 3, complex, **options).run(30)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@each_class
def test_non_finite_gradients_never_enter_the_table(cls, bad):
    race = Race(cls, 4, [([(2, 3), (3,)], {}), ([(2,)], {})], 5)
    for at in (2, 9, 10):
        race.run(at)
        grads = race.gradients(missing=0.0)
        grads[1][1] = bad
        race.step(grads)  # the twin keeps nothing; the parameters step along what was handed over
        assert not np.isfinite(race.twin.params[1][1])
        assert np.isfinite(race.twin.params[0]).all()
    race.run(10)


def test_a_gradient_that_overflows_the_tables_type_is_not_kept():
    (p,) = parameters(shapes=[(2,)])
    optimizer = SAGA([p], lr=0.1, terms=2, table_dtype=torch.float16)
    p.grad = torch.tensor([1.0, 2.0])
    optimizer.step(index=0)
    before = copy.deepcopy(optimizer.state[p])
    p.grad = torch.tensor([1e5, 1.0])
    optimizer.step(index=1)
    assert p.isfinite().all()
    before["history_steps"] += 1
    assert_same(dict(optimizer.state[p]), before)


def test_zero_gradients_are_kept():
    (p,) = parameters(shapes=[(2,)])
    optimizer = SAG([p], lr=0.1, terms=3)
    for grad in (torch.ones(2), torch.zeros(2)):
        p.grad = grad
        optimizer.step(index=0)
    assert optimizer.state[p]["history_seen"].tolist() == [True, False, False]
    assert not optimizer.state[p]["history_table"].any()
    assert not optimizer.state[p]["history_sum"].any()


# The direction ---------------------------------------------------------------------------------


@pytest.mark.parametrize("table_dtype", [None, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("seen", [0, 3, 30])
def test_over_all_indices_the_mean_of_sagas_direction_is_the_full_gradient(seen, table_dtype):
    """Whatever the table holds; the step itself is asked, so the whole path is covered."""
    terms, decay, generator = 6, 0.3, torch.Generator().manual_seed(seen)
    start = parameters(torch.float64, [(3,), (2, 2)], seed=seen)
    optimizer = SAGA(start, lr=1.0, terms=terms, weight_decay=decay, table_dtype=table_dtype)
    for _ in range(seen):
        index = int(torch.randint(terms, (), generator=generator))
        grads = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start]
        for p, grad in zip(start, grads, strict=True):
            p.grad = grad
        optimizer.step(index=index)
    grads = [
        [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start]
        for _ in range(terms)
    ]
    directions = [torch.zeros_like(p) for p in start]
    for index in range(terms):
        one = copy.deepcopy(optimizer)
        params = one.param_groups[0]["params"]
        before = [p.detach().clone() for p in params]
        for p, grad in zip(params, grads[index], strict=True):
            p.grad = grad
        one.step(index=index)
        for total, old, p in zip(directions, before, params, strict=True):
            total += (old - p.detach()) / terms
    for i, p in enumerate(start):
        full = sum(grad[i] for grad in grads) / terms + decay * p.detach()
        torch.testing.assert_close(directions[i], full, rtol=1e-12, atol=1e-12)


def test_saga_follows_the_paper_where_the_released_program_has_the_signs_inverted():
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = SAGA([p], lr=1.0, terms=2)
    for index, grad in [(0, 3.0), (1, 5.0), (0, 7.0)]:
        p.grad = torch.tensor([grad])
        before = p.item()
        optimizer.step(index=index)
    assert before - p.item() == 7.0 - 3.0 + (3.0 + 5.0) / 2


@each_class
def test_without_any_gradient_nothing_happens(cls):
    params = parameters()
    optimizer = cls(params, lr=0.1, terms=2, weight_decay=0.5)
    optimizer.step(index=1)
    assert_same([p.detach() for p in params], [p.detach() for p in parameters()])
    assert not optimizer.state


@each_class
def test_a_frozen_parameter_stays_and_the_others_move(cls):
    params = parameters(shapes=[(2,), (3,)])
    optimizer = cls(params, lr=0.1, terms=2, weight_decay=0.5)
    step_with_index(optimizer, params, 0)
    params[0].requires_grad_(False)
    before = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state[params[0]])
    params[0].grad = None
    params[1].grad = torch.ones(3)
    optimizer.step(index=1)
    assert_same(params[0].detach(), before[0][0])
    assert_same(optimizer.state[params[0]], before[1])
    assert_differ(params[1].detach(), before[0][1])


def test_the_table_is_rounded_and_the_parameter_once():
    (p,) = parameters(torch.bfloat16, [(64,)])
    grads = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    optimizer = SAGA([p], lr=0.1, terms=2)
    for t in range(5):
        exact = p.detach().double()
        table = optimizer.state[p]["history_table"].double() if t else torch.zeros(2, 64)
        p.grad = grads[t % 2] * (1 + t)
        optimizer.step(index=t % 2)
        direction = p.grad.double() - table[t % 2] + table.double().mean(dim=0)
        assert_same(p.detach(), (exact - 0.1 * direction).bfloat16())


# The running sum -------------------------------------------------------------------------------


def worst_error(dtype, steps=3000, terms=20):
    """Largest error of the running sum, relative to the rows, once a spike is out of the table."""
    generator = torch.Generator().manual_seed(1)
    p = torch.nn.Parameter(torch.zeros(16, dtype=dtype))
    optimizer = SAGA([p], lr=0.0, terms=terms)
    worst = 0.0
    for t in range(steps):
        spike = 1e12 if t % 97 == 0 else 1.0
        p.grad = torch.randn(16, generator=generator, dtype=dtype) * spike
        optimizer.step(index=t % terms)
        if t % 97 >= 2 * terms or t % 97 == terms - 1:  # none in the table, or about to leave
            table = optimizer.state[p]["history_table"].double()
            error = optimizer.state[p]["history_sum"].double() - table.sum(dim=0)
            worst = max(worst, float(error.norm() / table.norm()))
    return worst


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_running_sum_does_not_drift(dtype):
    assert worst_error(dtype) < 1e-13


def test_without_renewals_it_would(monkeypatch):
    monkeypatch.setattr(gradient_table, "renew", lambda table, total: None)
    assert worst_error(torch.float64) > 1e-5


def test_renewal_goes_through_the_table_in_blocks(monkeypatch):
    table, total = torch.randn(7, 3, 2, dtype=torch.float64), torch.full((3, 2), torch.nan).double()
    for block in (1, 13, 1000):
        monkeypatch.setattr(gradient_table, "BLOCK", block)
        gradient_table.renew(table, total)
        torch.testing.assert_close(total, table.sum(dim=0))


# What it costs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("narrow", [False, True])
@each_class
def test_table_bytes_is_right_to_the_byte(cls, dtype, narrow):
    table_dtype = {True: {torch.complex64: torch.complex128}.get(dtype, torch.float16)}.get(narrow)
    params = parameters(dtype)
    optimizer = cls(params, terms=9, table_dtype=table_dtype)
    expected = table_bytes(params, 9, table_dtype=table_dtype)
    assert expected == table_bytes(
        [{"params": params[:2]}, {"params": params[2:]}], 9, table_dtype=table_dtype
    )
    assert expected == table_bytes(
        [(str(i), p) for i, p in enumerate(params)], 9, table_dtype=table_dtype
    )
    step_with_index(optimizer, params, 0)
    entries = [value for p in params for value in optimizer.state[p].values()]
    assert sum(value.untyped_storage().nbytes() for value in entries) == expected


@each_class
def test_a_table_beyond_max_bytes_is_refused_before_it_is_allocated(cls):
    params = [torch.nn.Parameter(torch.zeros(1000, 1000)), torch.nn.Parameter(torch.zeros(10))]
    needed = 10**6 * 4 * 1_000_010 + 8 * 1_000_010 + 2 * (10**6 + 8)
    fitting = (2**31 - 8 * 1_000_010 - 16) // (4 * 1_000_010 + 2)
    sentence = (
        rf"{cls.__name__} with terms=1000000 of 1,000,010 parameter elements needs 3\.64 TiB "
        rf"\({needed:,} bytes\), more than max_bytes=2147483648 \(2\.00 GiB.*"
        rf"terms={fitting} would fit.*bfloat16.*SVRG.*raise max_bytes"
    )
    groups = [{"params": [p]} for p in params]
    with pytest.raises(OptionError, match=sentence):
        cls(groups, terms=10**6)
    cls(groups, terms=10**6, max_bytes=None)
    assert table_bytes(params, fitting) <= 2**31 < table_bytes(params, fitting + 1)


@each_class
def test_max_bytes_is_the_last_number_that_is_taken(cls):
    params = parameters()
    limit = table_bytes(params, 4)
    optimizer = cls(params, terms=4, max_bytes=limit)
    with pytest.raises(OptionError, match=r"needs .* bytes, more than|needs .*KiB"):
        cls(params, terms=4, max_bytes=limit - 1)
    more = {"params": parameters(shapes=[(1,)])}
    refuse(OptionError, lambda: optimizer.add_param_group(more), optimizer, params, "max_bytes")
    assert len(optimizer.param_groups) == 1


def test_nothing_fits():
    with pytest.raises(OptionError) as error:
        SAGA(parameters(), terms=4, max_bytes=10)
    assert "would fit" not in str(error.value)
