"""The test functions: formulas against plain Python, minimisers, minima, gradients."""

import math
import re
from itertools import pairwise
from math import cos, exp, floor, pi, prod, sin, sqrt

import pytest
import torch
from scipy.optimize import minimize

from gradmem.lab.surfaces.surface import root
from gradmem.lab.surfaces.table import SURFACES, get_surface


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _perm(x, inner):
    n = len(x)
    return sum(sum(inner(i, j, x[j - 1]) for j in range(1, n + 1)) ** 2 for i in range(1, n + 1))


def _rosenbrock(x):
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(x))


def _schaffer(x, y, wave):
    return 0.5 + (wave(abs(x * x - y * y)) ** 2 - 0.5) / (1 + 0.001 * (x * x + y * y)) ** 2


def _shubert(t):
    return sum(i * cos((i + 1) * t + i) for i in range(1, 6))


def _foxholes(x, y):
    side = (-32, -16, 0, 16, 32)
    holes = [(a, b) for b in side for a in side]
    terms = (1 / (j + (x - a) ** 6 + (y - b) ** 6) for j, (a, b) in enumerate(holes, start=1))
    return 1 / (1 / 500 + sum(terms))


def _five_well(x, y):
    def well(depth, sharpness, a, b):
        return depth / (1 + sharpness * ((x - a) ** 2 + (y - b) ** 2))

    wells = (1, 0.05, 0, 10), (1, 0.05, 10, 0), (1.5, 0.03, -10, 0), (2, 0.05, 5, -10)
    plain = 1 - sum(well(*each) for each in (*wells, (1, 0.1, -5, -10)))
    return plain * (1 + 0.0001 * (x * x + y * y) ** 1.2)


def _goldstein_price(x, y):
    a = 19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2
    b = 18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2
    return (1 + (x + y + 1) ** 2 * a) * (30 + (2 * x - 3 * y) ** 2 * b)


def _squares(x):
    return sum(a * a for a in x)


def _sum(x, term):
    """sum of term(i, x_i), i from 1."""
    return sum(term(i, a) for i, a in enumerate(x, start=1))


def _zakharov(x):
    s = _sum(x, lambda i, a: i * a / 2)
    return _squares(x) + s**2 + s**4


# Every formula once more, in plain Python; "x" has any length, "x, y" are two numbers.
TWINS = {
    "sphere": _squares,
    "de-jong-1": _squares,
    "de-jong-2": _rosenbrock,
    "de-jong-3": lambda x: sum(floor(a) for a in x),
    "de-jong-4": lambda x: _sum(x, lambda i, a: i * a**4),
    "de-jong-5": lambda x: _foxholes(*x),
    "ellipsoid": lambda x: _sum(x, lambda i, a: (1000 ** ((i - 1) / (len(x) - 1)) * a) ** 2),
    "k-tablet": lambda x: _sum(x, lambda i, a: a * a * (1 if i <= max(1, len(x) // 4) else 1e4)),
    "weighted-sphere": lambda x: _sum(x, lambda i, a: i * a * a),
    "hyper-ellipsoid": lambda x: sum(_squares(x[: i + 1]) for i in range(len(x))),
    "double-sum": lambda x: sum(sum(x[: i + 1]) ** 2 for i in range(len(x))),
    "different-powers": lambda x: _sum(x, lambda i, a: abs(a) ** (i + 1)),
    "zakharov": _zakharov,
    "booth": lambda x: (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2,
    "matyas": lambda x: 0.26 * _squares(x) - 0.48 * x[0] * x[1],
    "rosenbrock": _rosenbrock,
    "beale": lambda x: sum(
        (c - x[0] + x[0] * x[1] ** k) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), start=1)
    ),
    "goldstein-price": lambda x: _goldstein_price(*x),
    "bukin-6": lambda x: 100 * sqrt(abs(x[1] - 0.01 * x[0] ** 2)) + 0.01 * abs(x[0] + 10),
    "mccormick": lambda x: sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1,
    "three-hump-camel": lambda x: (
        2 * x[0] ** 2 - 1.05 * x[0] ** 4 + x[0] ** 6 / 6 + x[0] * x[1] + x[1] ** 2
    ),
    "six-hump-camel": lambda x: (
        4 * x[0] ** 2
        - 2.1 * x[0] ** 4
        + x[0] ** 6 / 3
        + x[0] * x[1]
        - 4 * x[1] ** 2
        + 4 * x[1] ** 4
    ),
    "perm-0": lambda x: _perm(x, lambda i, j, a: (j + 10) * (a**i - j**-i)),
    "perm": lambda x: _perm(x, lambda i, j, a: (j**i + 0.5) * ((a / j) ** i - 1)),
    "ackley": lambda x: (
        20
        + math.e
        - 20 * exp(-0.2 * sqrt(_squares(x) / len(x)))
        - exp(sum(cos(2 * pi * a) for a in x) / len(x))
    ),
    "griewank": lambda x: (
        1 + _squares(x) / 4000 - prod(cos(a / sqrt(i)) for i, a in enumerate(x, start=1))
    ),
    "rastrigin": lambda x: sum(a * a + 10 - 10 * cos(2 * pi * a) for a in x),
    "schwefel": lambda x: sum(418.9828872724337 - a * sin(sqrt(abs(a))) for a in x),
    "levi-13": lambda x: (
        sin(3 * pi * x[0]) ** 2
        + (x[0] - 1) ** 2 * (1 + sin(3 * pi * x[1]) ** 2)
        + (x[1] - 1) ** 2 * (1 + sin(2 * pi * x[1]) ** 2)
    ),
    "schaffer-2": lambda x: _schaffer(*x, sin),
    "schaffer-4": lambda x: _schaffer(*x, lambda t: cos(sin(t))),
    "michalewicz": lambda x: -_sum(x, lambda i, a: sin(a) * sin(i * a * a / pi) ** 20),
    "shubert": lambda x: _shubert(x[0]) * _shubert(x[1]),
    "eggholder": lambda x: (
        -(x[1] + 47) * sin(sqrt(abs(x[0] / 2 + x[1] + 47)))
        - x[0] * sin(sqrt(abs(x[0] - x[1] - 47)))
    ),
    "xin-she-yang-1": lambda x: _sum(x, lambda i, a: abs(a) ** i / 2),
    "xin-she-yang-2": lambda x: sum(map(abs, x)) * exp(-sum(sin(a * a) for a in x)),
    "xin-she-yang-3": lambda x: (
        exp(-sum((a / 15) ** 10 for a in x)) - 2 * exp(-_squares(x)) * prod(cos(a) ** 2 for a in x)
    ),
    "xin-she-yang-4": lambda x: (
        (sum(sin(a) ** 2 for a in x) - exp(-_squares(x)))
        * exp(-sum(sin(sqrt(abs(a))) ** 2 for a in x))
    ),
    "easom": lambda x: -cos(x[0]) * cos(x[1]) * exp(-((x[0] - pi) ** 2) - (x[1] - pi) ** 2),
    "styblinski-tang": lambda x: sum(a**4 - 16 * a * a + 5 * a for a in x) / 2,
    "five-well": lambda x: _five_well(*x),
}

REQUIRED = set(
    """ackley sphere rosenbrock beale goldstein-price booth bukin-6 matyas levi-13 three-hump-camel
    six-hump-camel easom eggholder mccormick schaffer-2 schaffer-4 styblinski-tang de-jong-1
    de-jong-2 de-jong-3 de-jong-4 de-jong-5 ellipsoid k-tablet five-well weighted-sphere
    hyper-ellipsoid different-powers griewank michalewicz perm perm-0 rastrigin schwefel shubert
    xin-she-yang-1 xin-she-yang-2 xin-she-yang-3 xin-she-yang-4 zakharov""".split()  # noqa: SIM905
)

# As they are printed in the references, to the digits given there.
PUBLISHED = [
    ("eggholder", 2, "-959.6407"),
    ("schaffer-4", 2, "0.292579"),
    ("shubert", 2, "-186.7309"),
    ("six-hump-camel", 2, "-1.0316"),
    ("goldstein-price", 2, "3"),
    ("de-jong-5", 2, "0.998"),
    ("five-well", 2, "-1.4616"),
    ("mccormick", 2, "-1.9132"),
    ("michalewicz", 2, "-1.8013"),
    ("michalewicz", 5, "-4.687658"),
    ("michalewicz", 10, "-9.66015"),
    ("styblinski-tang", 1, "-39.16617"),
    ("easom", 2, "-1"),
    ("de-jong-3", 5, "-30"),
]


def sizes(surface):
    return [surface.dimension] if surface.dimension else [2, 5]


EVERY = [
    pytest.param(each, n, id=f"{name}-{n}") for name, each in SURFACES.items() for n in sizes(each)
]


def random_points(surface, n, count, seed=0):
    low, high = surface.corners(n)
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, n, generator=generator, dtype=torch.float64)


def gradient(surface, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(surface.function(x).sum(), x)[0]


def scale(surface, n):
    """The size of what the value at a minimiser is a difference of."""
    return max(1.0, abs(surface.minimum(n)), 420.0 * n if surface.name == "schwefel" else 0.0)


def test_the_table_has_every_name_and_the_names_can_be_typed():
    assert set(SURFACES) >= REQUIRED
    assert set(TWINS) == set(SURFACES)
    for name, each in SURFACES.items():
        assert each.name == name
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name)
        assert each.title
        assert each.reference
        assert each.function.__doc__


@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_the_formula_is_that_of_plain_python(surface, n):
    for point in random_points(surface, n, 20):
        expected = TWINS[surface.name](point.tolist())
        assert surface.function(point).item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_points_of_any_shape_have_the_values_of_each(surface, n):
    points = random_points(surface, n, 12)
    together = surface.function(points.reshape(3, 4, n))
    assert together.shape == (3, 4)
    each = torch.stack([surface.function(point) for point in points])
    torch.testing.assert_close(together.flatten(), each, rtol=1e-12, atol=1e-12)
    assert surface.function(points.float()).dtype == torch.float32


@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_the_minimum_is_the_value_at_every_minimiser_all_in_the_box(surface, n):
    minimisers = surface.minimisers(n)
    assert minimisers.dtype == torch.float64
    assert minimisers.shape == (len(minimisers), n)
    assert len({tuple(row) for row in minimisers.tolist()}) == len(minimisers) > 0
    low, high = surface.corners(n)
    assert ((low <= minimisers) & (minimisers <= high)).all()
    for value in surface.function(minimisers).tolist():
        assert abs(value - surface.minimum(n)) <= 1e-14 * scale(surface, n)


@pytest.mark.parametrize(("name", "n", "digits"), PUBLISHED)
def test_minima_begin_with_the_published_digits(name, n, digits):
    decimals = len(digits.partition(".")[2])
    assert abs(SURFACES[name].minimum(n) - float(digits)) <= 0.51 * 10**-decimals


@pytest.mark.parametrize(("surface", "n"), [case for case in EVERY if case.values[0].smooth])
def test_the_gradient_vanishes_at_every_minimiser(surface, n):
    for minimiser in surface.minimisers(n):
        curvature = torch.autograd.functional.hessian(surface.function, minimiser)
        # as far as it can: a coordinate is known to one part in 1e16
        rounding = 1e-15 * (float(curvature.abs().max()) * float(1 + minimiser.abs().max()) + 1)
        assert gradient(surface, minimiser).abs().max() <= rounding
        assert torch.linalg.eigvalsh(curvature)[0] >= -1e-9


@pytest.mark.parametrize(("surface", "n"), [case for case in EVERY if not case.values[0].smooth])
def test_where_the_gradient_does_not_vanish_nothing_nearby_is_lower(surface, n):
    assert surface.note  # says why
    low, high = surface.corners(n)
    minimiser = surface.minimisers(n)[0]
    for reach in (1e-8, 1e-4, 1e-2):
        around = minimiser + reach * torch.randn(
            500, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        rise = surface.function(around.clamp(low, high)) - surface.minimum(n)
        assert rise.min() >= -1e-12 * scale(surface, n)
        assert surface.name == "de-jong-3" or rise.max() > 0


def test_the_reasons_why_a_gradient_does_not_vanish():
    nearby = torch.tensor([1e-9, 0.0], dtype=torch.float64)
    for name in ("ackley", "xin-she-yang-1", "xin-she-yang-2", "xin-she-yang-4"):  # a kink
        assert gradient(SURFACES[name], nearby)[0] > 0.4
        assert gradient(SURFACES[name], -nearby)[0] < -0.4
    edge = gradient(SURFACES["eggholder"], SURFACES["eggholder"].minimisers(2)[0])
    assert edge[0] < -1  # still falls towards larger x
    assert abs(edge[1]) < 1e-12
    assert not gradient(SURFACES["de-jong-3"], random_points(SURFACES["de-jong-3"], 2, 50)).any()
    off = SURFACES["bukin-6"].minimisers(2)[0] + torch.tensor([0.0, 1e-12], dtype=torch.float64)
    assert gradient(SURFACES["bukin-6"], off)[1] > 1e6


def search(surface, n, points, polished, most):
    """Nothing lower in the box, and whatever is as low is a minimiser that is listed."""
    low, high = surface.corners(n)
    minimisers = surface.minimisers(n)
    points = random_points(surface, n, points, seed=1)
    values = surface.function(points)
    # from the lowest points there are, and from near a minimiser, where polishing must come back
    near = minimisers[0] + 1e-3 * (points[:1] - minimisers[0])
    tolerance = 1e-12 * scale(surface, n)
    assert values.min() >= surface.minimum(n) - tolerance

    def value_and_gradient(x):
        x = torch.tensor(x, requires_grad=True)
        value = surface.function(x)
        return value.item(), torch.autograd.grad(value, x)[0].numpy()

    for start in torch.cat([points[values.argsort()[:polished]], near]):
        end = minimize(
            value_and_gradient,
            start.numpy(),
            jac=True,
            bounds=torch.stack([low, high], dim=1).numpy(),
            options={"maxiter": most, "maxfun": 2 * most, "ftol": 1e-15, "gtol": 1e-12},
        )
        assert end.fun >= surface.minimum(n) - tolerance, end.x
        # the perm functions with n > 2 are said to have more minimisers than are known
        known = surface.name not in ("perm", "perm-0") or n == 2
        if known and surface.smooth and end.fun <= surface.minimum(n) + 1e-9 * scale(surface, n):
            far = (minimisers - torch.from_numpy(end.x)).abs().amax(dim=1).min()
            assert far < 0.01 * (high - low).max(), end.x


@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_a_search_finds_nothing_lower_and_no_other_minimiser(surface, n):
    search(surface, n, 10_000, polished=2, most=40)


@pytest.mark.slow
@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_a_long_search_finds_nothing_lower_and_no_other_minimiser(surface, n):
    search(surface, n, 200_000, polished=25, most=300)


@pytest.mark.parametrize("name", ["perm", "perm-0"])
def test_the_minimiser_that_the_library_does_not_list_is_one(name):
    listed, other = SURFACES[name].minimisers(2)
    assert SURFACES[name].function(other).item() == pytest.approx(0.0, abs=1e-25)
    assert (other - listed).norm() > 0.5


def test_shubert_has_18_minimisers():
    assert len(SURFACES["shubert"].minimisers(2)) == 18


# De Jong's steps are constant between jumps; that their gradient is zero is tested above.
@pytest.mark.parametrize(
    ("surface", "n"), [case for case in EVERY if case.values[0].name != "de-jong-3"]
)
def test_gradients_are_the_derivatives(surface, n):
    for point in random_points(surface, n, 3, seed=2):
        rounding = 1e-9 * float(surface.function(point).abs())
        assert torch.autograd.gradcheck(
            surface.function, point.requires_grad_(), atol=1e-4 + rounding, rtol=1e-4
        )


@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_gradients_are_numbers_at_kinks_and_at_every_minimiser(surface, n):
    low, high = surface.corners(n)
    zero = torch.zeros(n, dtype=torch.float64).clamp(low, high)
    for point in (zero, *surface.minimisers(n)):
        assert gradient(surface, point).isfinite().all()


def test_the_root_is_flat_where_it_has_a_cusp():
    x = torch.tensor([-4.0, 0.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert root(x).tolist() == [2.0, 0.0, 3.0]
    assert torch.autograd.grad(root(x).sum(), x)[0].tolist() == [-0.25, 0.0, pytest.approx(1 / 6)]


@pytest.mark.parametrize(("surface", "n"), EVERY)
def test_a_default_start_is_in_the_box_and_on_a_slope(surface, n):
    start = torch.tensor(surface.default_start(n), dtype=torch.float64)
    low, high = surface.corners(n)
    assert ((low <= start) & (start <= high)).all()
    assert surface.function(start) > surface.minimum(n) + 0.05
    slope = gradient(surface, start).norm() * float((high - low).max())
    assert slope > 1e-4 or surface.name == "de-jong-3"


def test_the_authors_starts_and_rates():
    drawn = {name: (s.start, s.authors_rate) for name, s in SURFACES.items() if s.authors_rate}
    assert drawn == {
        "beale": ((0.75, 1.0), 1e-3),
        "goldstein-price": ((-1.0, 0.0), 1e-5),
        "six-hump-camel": ((3.0, 2.5), 1e-4),
    }


@pytest.mark.parametrize(("name", "n"), [("beale", 3), ("rosenbrock", 1), ("sphere", 0)])
def test_a_dimension_it_is_not_defined_for_is_refused(name, n):
    with pytest.raises(ValueError, match=f"{name} .*{n}"):
        SURFACES[name].check_dimension(n)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean rastrigin"):
        get_surface("rastrigen")
