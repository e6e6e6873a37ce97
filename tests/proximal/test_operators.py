"""The proximal operators: exact minimisers, exact zeros, at any scale and precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import proximal_twin as twin
from gradmem import OptionError, OptionTypeError
from gradmem.proximal import Groups, group_lasso, group_linf, group_mcp, penalty_value
from gradmem.proximal.radial import radius

NAMES = ["group_lasso", "group_linf", "group_mcp"]
STEP, GAMMA = 0.01, 4.0
each_name = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def apply(name, x, strength, metric=None, step=STEP, gamma=GAMMA):
    if name == "group_mcp":
        return group_mcp(x, strength, step, gamma, metric)
    return {"group_lasso": group_lasso, "group_linf": group_linf}[name](x, strength, metric)


def cases(rows, columns, seed=0, spread=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    d = 10 ** (spread * (2 * torch.rand(rows, columns, generator=generator).double() - 1))
    return x.to(dtype), d.to(dtype)


def threshold(name, x, d):
    """The strength from which on a row is zero."""
    return (d * x).abs().sum(1) if name == "group_linf" else (d * x).norm(dim=1)


def objective(name, z, x, d, s, step=STEP, gamma=GAMMA):
    """In float64, for each row."""
    norm = z.abs().amax(1) if name == "group_linf" else z.norm(dim=1)
    if name == "group_mcp":
        knee = gamma * s / step
        cut = torch.minimum(norm, knee)
        return (d * (z - x) ** 2).sum(1) / 2 + s * cut - step * cut**2 / (2 * gamma)
    return (d * (z - x) ** 2).sum(1) / 2 + s * norm


@each_name
@pytest.mark.parametrize("metric", ["diagonal", "plain"])
def test_it_is_what_a_generic_solver_finds(name, metric):
    x, d = cases(12, 5)
    d = d if metric == "diagonal" else torch.ones_like(d)
    s = threshold(name, x, d) * torch.linspace(0.05, 0.95, 12, dtype=x.dtype)
    z = apply(name, x, s, d if metric == "diagonal" else None)
    found = torch.empty_like(z)
    for i in range(len(x)):

        def loss(row, i=i):
            row = torch.tensor(row)[None]
            return objective(name, row, x[i : i + 1], d[i : i + 1], s[i : i + 1]).item()

        solved = minimize(
            loss, x[i].numpy(), method="Powell", options={"xtol": 1e-9, "ftol": 1e-14}
        )
        solved = minimize(
            loss,
            solved.x,
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000},
        )
        found[i] = torch.tensor(solved.x)
    assert (objective(name, z, x, d, s) <= objective(name, found, x, d, s) + 1e-12).all()
    if name != "group_linf":  # whose corners both methods stop short of
        torch.testing.assert_close(z, found, rtol=0, atol=3e-5)


@each_name
@each_dtype
@pytest.mark.parametrize("columns", [1, 3, 200])
def test_it_is_the_twin(name, dtype, columns):
    x, d = cases(9, columns, dtype=dtype)
    share = torch.tensor([0, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.001, 5.0]).double()
    s = (threshold(name, x.double(), d.double()) * share).to(dtype)
    z = apply(name, x, s, d)
    step, gamma = STEP, GAMMA
    for i in range(len(x)):
        row = twin.proximal(name, x[i].tolist(), d[i].tolist(), s[i].item(), step, gamma)
        row = torch.tensor(row, dtype=torch.float64)
        tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype] * x[i].abs().max().item()
        torch.testing.assert_close(z[i].double(), row, rtol=0, atol=tolerance)


@each_name
@settings(deadline=None, max_examples=60, database=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.0, 1.2), st.floats(0.0, 1.5))
def test_no_change_makes_it_better(name, seed, columns, share, spread):
    x, d = cases(4, columns, seed, spread)
    s = threshold(name, x, d) * share
    z = apply(name, x, s, d)
    best = objective(name, z, x, d, s)
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(8):
            change = torch.randn(z.shape, generator=generator, dtype=z.dtype) * size
            for other in (z + change, z * (1 + size), z * (1 - size), z + (x - z) * size):
                assert (objective(name, other, x, d, s) >= best - 1e-13 * (1 + best)).all()


@each_name
@each_dtype
@pytest.mark.parametrize("with_metric", [True, False])
def test_zeros_are_exact_at_the_threshold_and_above_and_only_there(name, dtype, with_metric):
    # Powers of two and Pythagorean numbers: the thresholds are exact.
    x = torch.tensor([[3.0, -4.0], [6.0, 8.0], [0.0, 5.0]], dtype=dtype)
    d = torch.full_like(x, 2.0) if with_metric else torch.ones_like(x)
    s = threshold(name, x, d)
    metric = d if with_metric else None
    for strength in (s, s * 1.5, s * 1e6):
        assert (apply(name, x, strength, metric) == 0).all()
    below = apply(name, x, s * (1 - 1e-4), metric)
    assert (below[x != 0] != 0).all()
    assert (below.abs() <= 2e-3).all()


@each_name
@pytest.mark.parametrize("with_metric", [True, False])
def test_it_is_continuous_in_strength_and_point(name, with_metric):
    x, d = cases(1, 4)
    metric = d if with_metric else None
    edge = threshold(name, x, d if with_metric else torch.ones_like(d)).item()
    strengths = torch.linspace(0.0, 1.2 * edge, 4001, dtype=x.dtype)
    path = apply(
        name, x.expand(4001, -1), strengths, None if metric is None else d.expand(4001, -1)
    )
    assert torch.equal(path[0], x[0])
    assert (path[-1] == 0).all()
    steps = (path[1:] - path[:-1]).abs().amax()
    finer = torch.linspace(0.0, 1.2 * edge, 16001, dtype=x.dtype)
    fine = apply(name, x.expand(16001, -1), finer, None if metric is None else d.expand(16001, -1))
    assert (fine[1:] - fine[:-1]).abs().amax() < 0.3 * steps


def test_mcp_is_continuous_at_its_knee_and_leaves_large_rows_alone():
    x, d = cases(1, 4)
    strength = STEP * x.norm().item() / GAMMA  # gamma lambda = |x|
    around = torch.tensor([1 - 1e-9, 1.0, 1 + 1e-9], dtype=x.dtype) * strength
    z = group_mcp(x.expand(3, -1), around, STEP, GAMMA, d.expand(3, -1))
    torch.testing.assert_close(z, x.expand(3, -1), rtol=1e-6, atol=0)
    assert torch.equal(group_mcp(x, 0.9 * strength, STEP, GAMMA, d), x)
    assert torch.equal(group_mcp(x, 0.9 * strength, STEP, GAMMA), x)
    assert not torch.equal(group_mcp(x, 1.1 * strength, STEP, GAMMA, d), x)


@each_name
@each_dtype
def test_a_metric_of_ones_is_no_metric(name, dtype):
    x, _ = cases(20, 7, dtype=dtype)
    s = threshold(name, x, torch.ones_like(x)) * torch.linspace(0, 1.2, 20, dtype=dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-13
    expected = apply(name, x, s)
    torch.testing.assert_close(
        apply(name, x, s, torch.ones_like(x)), expected, rtol=0, atol=tolerance
    )


def test_mcp_of_infinite_width_is_the_group_lasso():
    x, d = cases(20, 7)
    s = threshold("group_mcp", x, d) * torch.linspace(0, 1.2, 20, dtype=x.dtype)
    torch.testing.assert_close(group_mcp(x, s, STEP, math.inf, d), group_lasso(x, s, d))


@each_name
@pytest.mark.parametrize("with_metric", [True, False])
def test_together_is_one_by_one(name, with_metric):
    x, d = cases(30, 17, spread=3, dtype=torch.float32)
    d = d.clamp(min=0.01)
    s = threshold(name, x, d) * torch.linspace(0, 1.1, 30)
    z = apply(name, x, s, d if with_metric else None)
    for i in range(30):
        metric = d[i : i + 1] if with_metric else None
        one = apply(name, x[i : i + 1], s[i].item(), metric)
        torch.testing.assert_close(one[0], z[i], rtol=2e-6, atol=0)


@each_name
@each_dtype
@pytest.mark.parametrize("scale", [1e-25, 1e-8, 1.0, 1e8, 1e25])
@pytest.mark.parametrize("with_metric", [True, False])
def test_scale_makes_no_difference(name, dtype, scale, with_metric):
    x, d = cases(10, 6, dtype=dtype)
    metric = d if with_metric else None
    s = threshold(name, x, d if with_metric else torch.ones_like(x))
    s = s * torch.linspace(0, 1.1, 10, dtype=dtype)
    expected = apply(name, x, s, metric)
    z = apply(name, x * scale, s * scale, metric) / scale
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(z, expected, rtol=tolerance, atol=tolerance)


@each_dtype
@pytest.mark.parametrize("columns", [3, 1000])
@pytest.mark.parametrize("kind", ["spread", "against", "two values"])
def test_the_root_is_met_however_the_metric_is_spread(dtype, columns, kind):
    x, d = cases(200, columns, spread=8.0, dtype=dtype)
    if kind == "two values":
        d = torch.where(d > 1, 1e8, 1e-8).to(dtype)
    if kind != "spread":
        x = x / d
    share = torch.tensor([1e-6, 1e-2, 0.5, 0.9, 0.999], dtype=dtype).repeat(40)
    s = threshold("group_lasso", x.double(), d.double()).to(dtype) * share
    y, r = x.abs(), s[:, None] / d
    t = radius(y, r)
    total = (y.double() / (t[:, None].double() + r.double())).square().sum(1)
    # 32 units in the last place, as `group_lasso` says; half of it in the strength.
    bound = {torch.float32: 32 * 2**-23, torch.float64: 32 * 2**-52}[dtype]
    assert (t > 0).all()
    assert (total - 1).abs().max() <= bound


@each_name
@each_dtype
def test_nothing_is_ever_not_finite(name, dtype):
    x, d = cases(64, 5, spread=8.0, dtype=dtype)
    d = d if name != "group_mcp" else d.clamp(min=2 * STEP / GAMMA)
    x[::4] = 0.0
    x[1::4, 2] = 0.0
    x[2::4] *= 1e-18
    for s in (0.0, 1e-30, 1e-3, 1.0, 1e30):
        for metric in (d, None):
            z = apply(name, x, s, metric)
            assert z.isfinite().all()
            assert (z.abs() <= x.abs() * (1 + 1e-6)).all()
            assert (z * x >= 0).all()
            assert (z[x == 0] == 0).all()
            if s == 0.0:
                torch.testing.assert_close(z, x, rtol=1e-6, atol=0)


@each_name
def test_half_precision_is_computed_wider_and_nothing_else_is_changed(name):
    x, d = cases(8, 100)
    x, d = x.bfloat16(), d.bfloat16()
    s = threshold(name, x.float(), d.float()) * 0.3
    copies = x.clone(), d.clone(), s.clone()
    z = apply(name, x, s, d)
    assert z.dtype is torch.bfloat16
    assert torch.equal(z, apply(name, x.float(), s, d.float()).bfloat16())
    assert all(map(torch.equal, (x, d, s), copies))
    assert apply(name, x[:0], 0.1).shape == (0, 100)
    assert apply(name, x[:, :0], 0.1).shape == (8, 0)


@each_name
def test_no_value_is_read_on_an_accelerator(name):
    x = torch.empty(4, 6, device="meta")
    assert apply(name, x, torch.empty(4, device="meta"), torch.empty_like(x)).shape == (4, 6)
    assert apply(name, x, 0.1).shape == (4, 6)


def test_mcp_is_refused_where_it_would_jump():
    x, d = cases(3, 4)
    d = d.clamp(min=0.25)
    d[1, 2] = 0.125
    group_mcp(x, 0.1, 0.12, 1.0, d)
    with pytest.raises(OptionError, match=r"got 1\.0 times 0\.125 and 0\.125; .* above 1 "):
        group_mcp(x, 0.1, 0.125, 1.0, d)
    group_mcp(x, 0.1, 2.9, 3.0)
    with pytest.raises(OptionError, match=r"got 3\.0 times 1 and 3; take a gamma above 3"):
        group_mcp(x, 0.1, torch.tensor(3.0), 3.0)


@each_name
def test_the_value_is_what_the_objective_has_and_its_operator_lowers_it(name):
    x, _ = cases(5, 6)
    for reweight in (True, False):
        weight = math.sqrt(6) if reweight else 1.0
        ours = penalty_value(name, x, 0.3, reweight=reweight, gamma=GAMMA)
        s = torch.full((5,), 0.3 * weight, dtype=x.dtype)
        zero = torch.zeros_like(x)
        expected = objective(name, x, x, zero, s, step=1.0).sum()
        torch.testing.assert_close(ours, expected)
    y = x.clone().requires_grad_()
    with torch.no_grad():
        y[0] = 0.0
    penalty_value(name, y, torch.linspace(0.1, 0.5, 5)).backward()
    assert y.grad.isfinite().all()
    assert (y.grad[0] == 0).all()
    assert penalty_value(name, x[:0], 0.1) == 0
    with pytest.raises(OptionError, match=r"regularizer must be one of 'group_lasso'.*got 'l1'"):
        penalty_value("l1", x, 0.1)


# Groups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups", "expected"),
    [
        ((4, 3, 2), Groups(0), (4, 6)),
        ((4, 3, 2), Groups(1), (3, 8)),
        ((4, 3, 2), Groups(-1), (2, 12)),
        ((12, 4), Groups(1, view=(3, 2, 2, 4)), (2, 24)),
        ((5,), Groups(0), (5, 1)),
        ((0, 3), Groups(1), (3, 0)),
    ],
    ids=str,
)
def test_split_and_join(shape, groups, expected):
    x = torch.arange(float(math.prod(shape))).view(shape)
    rows = groups.split(x)
    assert rows.shape == expected
    assert groups.count(shape) == expected[0]
    assert torch.equal(groups.join(rows, shape), x)
    for row, members in zip(rows, twin.indices(shape, groups.axis, groups.view), strict=True):
        assert row.tolist() == [float(i) for i in members]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Groups(1.0), OptionTypeError, r"axis must be an integer, got 1\.0 \(float\)"),
        (lambda: Groups(True), OptionTypeError, r"axis must be an integer, got True"),
        (lambda: Groups(0, 3), OptionTypeError, r"view must be a tuple of sizes, got 3"),
        (lambda: Groups(0, (2, -1)), OptionError, r"at least 1, got -1 in \(2, -1\)"),
        (lambda: Groups(0, (2, 1.5)), OptionTypeError, r"a size in view must be an integer"),
        (lambda: Groups(2, (2, 3)), OptionError, r"one of the 2 dimensions of \(2, 3\), got 2"),
        (lambda: Groups(2).check((2, 3)), OptionError, r"one of the 2 dimensions of \(2, 3\)"),
        (lambda: Groups(0, (2, 3)).check((5,)), OptionError, r"got \(2, 3\) \(6\) for .* \(5\)"),
        (lambda: Groups(0).split(torch.tensor(1.0)), OptionError, r"one of the 0 dimensions"),
    ],
)
def test_groups_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()
