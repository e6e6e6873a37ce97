"""Surfaces whose minimum lies in a curved or narrow valley, or behind a hump."""

import math

import torch
from torch import Tensor

from gradmem.lab.surfaces.surface import (
    DE_JONG,
    LIBRARY,
    SURVEY,
    Box,
    Surface,
    constant,
    counting,
    cube,
    diagonal,
    points,
    root,
    sides,
)


def rosenbrock(x: Tensor) -> Tensor:
    """sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2."""
    head, tail = x[..., :-1], x[..., 1:]
    return (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum(-1)


def beale(x: Tensor) -> Tensor:
    """(1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2."""
    x, y = x.unbind(-1)
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def goldstein_price(x: Tensor) -> Tensor:
    """(1 + (x + y + 1)^2 (19 - 14 x + 3 x^2 - 14 y + 6 x y + 3 y^2))
    (30 + (2 x - 3 y)^2 (18 - 32 x + 12 x^2 + 48 y - 36 x y + 27 y^2)).
    """
    x, y = x.unbind(-1)
    first = (x + y + 1) ** 2 * (19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2)
    second = (2 * x - 3 * y) ** 2 * (18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2)
    return (1 + first) * (30 + second)


def bukin_6(x: Tensor) -> Tensor:
    """100 sqrt|y - x^2 / 100| + |x + 10| / 100."""
    x, y = x.unbind(-1)
    return 100 * root(y - 0.01 * x**2) + 0.01 * (x + 10).abs()


def mccormick(x: Tensor) -> Tensor:
    """sin(x + y) + (x - y)^2 - 1.5 x + 2.5 y + 1."""
    x, y = x.unbind(-1)
    return (x + y).sin() + (x - y) ** 2 - 1.5 * x + 2.5 * y + 1


def three_hump_camel(x: Tensor) -> Tensor:
    """2 x^2 - 1.05 x^4 + x^6 / 6 + x y + y^2."""
    x, y = x.unbind(-1)
    return 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2


def six_hump_camel(x: Tensor) -> Tensor:
    """(4 - 2.1 x^2 + x^4 / 3) x^2 + x y + (4 y^2 - 4) y^2."""
    x, y = x.unbind(-1)
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


def perm_0(x: Tensor) -> Tensor:
    """sum over i of (sum over j of (j + 10) (x_j^i - j^-i))^2."""
    j = counting(x)
    i = j.unsqueeze(-1)
    return ((j + 10) * (x.unsqueeze(-2) ** i - j**-i)).sum(-1).square().sum(-1)


def perm(x: Tensor) -> Tensor:
    """sum over i of (sum over j of (j^i + 1/2) ((x_j / j)^i - 1))^2."""
    j = counting(x)
    i = j.unsqueeze(-1)
    return ((j**i + 0.5) * ((x / j).unsqueeze(-2) ** i - 1)).sum(-1).square().sum(-1)


def _perm_box(n: int) -> Box:
    return ((-float(n), float(n)),) * n


def _perm_0_minimisers(n: int) -> Tensor:
    rows = [[1 / j for j in range(1, n + 1)]]
    if n == 2:
        rows.append([11 / 23, 45 / 46])
    return torch.tensor(rows, dtype=torch.float64)


def _perm_minimisers(n: int) -> Tensor:
    rows = [[float(j) for j in range(1, n + 1)]]
    if n == 2:
        rows.append([23 / 13, 14 / 13])
    return torch.tensor(rows, dtype=torch.float64)


_SIX_HUMP = (0.08984201310031806, -0.7126564030207396)

VALLEYS = (
    Surface(
        *("rosenbrock", "Rosenbrock", rosenbrock, None),
        *(cube(-2.048, 2.048), diagonal(1.0), constant(0.0)),
        reference="Rosenbrock 1960, The Computer Journal 3(3)",
        note="for n of 4 to 7 there is a local minimum near (-1, 1, ..., 1)",
        start=(-1.2, 1.0),
        least_dimension=2,
    ),
    Surface(
        *("de-jong-2", "De Jong 2", rosenbrock, 2),
        *(cube(-2.048, 2.048), diagonal(1.0), constant(0.0)),
        reference=DE_JONG,
        note="Rosenbrock with n = 2",
        start=(-1.2, 1.0),
    ),
    Surface(
        *("beale", "Beale", beale, 2),
        *(cube(-4.5, 4.5), points((3.0, 0.5)), constant(0.0)),
        reference=SURVEY,
        start=(0.75, 1.0),
        authors_rate=1e-3,
    ),
    Surface(
        *("goldstein-price", "Goldstein-Price", goldstein_price, 2),
        *(cube(-2.0, 2.0), points((0.0, -1.0)), constant(3.0)),
        reference="Goldstein and Price 1971, Mathematics of Computation 25(115)",
        start=(-1.0, 0.0),
        authors_rate=1e-5,
    ),
    Surface(
        *("bukin-6", "Bukin N.6", bukin_6, 2),
        *(sides((-15.0, -5.0), (-3.0, 3.0)), points((-10.0, 1.0)), constant(0.0)),
        reference=SURVEY,
        smooth=False,
        note="a cusp along the whole parabola y = x^2 / 100: the slope grows beyond all bounds "
        "towards it",
    ),
    Surface(
        *("mccormick", "McCormick", mccormick, 2),
        sides((-1.5, 4.0), (-3.0, 4.0)),
        points((0.5 - math.pi / 3, -0.5 - math.pi / 3)),
        constant(-math.sqrt(3) / 2 - math.pi / 3),
        reference=SURVEY,
        note="without a lower bound outside the box",
    ),
    Surface(
        *("three-hump-camel", "Three-hump camel", three_hump_camel, 2),
        *(cube(-5.0, 5.0), points((0.0, 0.0)), constant(0.0)),
        reference=SURVEY,
    ),
    Surface(
        *("six-hump-camel", "Six-hump camel", six_hump_camel, 2),
        cube(-5.0, 5.0),
        points(_SIX_HUMP, (-_SIX_HUMP[0], -_SIX_HUMP[1])),
        constant(-1.0316284534898774),
        reference="Dixon and Szego 1978, Towards Global Optimisation 2",
        start=(3.0, 2.5),
        authors_rate=1e-4,
    ),
    Surface(
        *("perm-0", "Perm 0, d, 10", perm_0, None),
        *(_perm_box, _perm_0_minimisers, constant(0.0)),
        reference=LIBRARY,
        note="for n = 2 there is a second minimiser, (11/23, 45/46), which the library does not "
        "list; for larger n there may be more than the one given",
        least_dimension=2,
    ),
    Surface(
        *("perm", "Perm d, 1/2", perm, None),
        *(_perm_box, _perm_minimisers, constant(0.0)),
        reference=LIBRARY,
        note="for n = 2 there is a second minimiser, (23/13, 14/13), which the library does not "
        "list; for larger n there may be more than the one given",
        least_dimension=2,
    ),
)
