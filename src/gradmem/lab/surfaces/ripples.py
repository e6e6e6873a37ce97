"""Surfaces with very many local minima."""

import math
from functools import cache
from itertools import product

import torch
from torch import Tensor

from gradmem.lab.surfaces.surface import (
    SURVEY,
    YANG,
    Surface,
    constant,
    counting,
    cube,
    diagonal,
    points,
    root,
)

SCHWEFEL = 420.96874635998203  # where t sin(sqrt t) is largest up to 500


def ackley(x: Tensor) -> Tensor:
    """20 + e - 20 exp(-0.2 sqrt(mean x_i^2)) - exp(mean cos(2 pi x_i))."""
    bowl = 20 * (-0.2 * root(x.square().mean(-1))).exp()
    return 20 + math.e - bowl - (2 * math.pi * x).cos().mean(-1).exp()


def griewank(x: Tensor) -> Tensor:
    """1 + sum x_i^2 / 4000 - product cos(x_i / sqrt i)."""
    return 1 + x.square().sum(-1) / 4000 - (x / counting(x).sqrt()).cos().prod(-1)


def rastrigin(x: Tensor) -> Tensor:
    """sum x_i^2 + 10 - 10 cos(2 pi x_i)."""
    return (x.square() + 10 - 10 * (2 * math.pi * x).cos()).sum(-1)


def schwefel(x: Tensor) -> Tensor:
    """sum c - x_i sin(sqrt|x_i|), with c such that the minimum is 0."""
    depth = SCHWEFEL * math.sin(math.sqrt(SCHWEFEL))
    return (depth - x * root(x).sin()).sum(-1)


def levi_13(x: Tensor) -> Tensor:
    """sin(3 pi x)^2 + (x - 1)^2 (1 + sin(3 pi y)^2) + (y - 1)^2 (1 + sin(2 pi y)^2)."""
    x, y = (x - 1).unbind(-1)  # the sines have period 1, up to their sign
    wave_x, wave_y = (3 * math.pi * x).sin() ** 2, (3 * math.pi * y).sin() ** 2
    return wave_x + x**2 * (1 + wave_y) + y**2 * (1 + (2 * math.pi * y).sin() ** 2)


def schaffer_2(x: Tensor) -> Tensor:
    """1/2 + (sin(x^2 - y^2)^2 - 1/2) / (1 + (x^2 + y^2) / 1000)^2."""
    x, y = x.square().unbind(-1)
    return 0.5 + ((x - y).sin() ** 2 - 0.5) / (1 + 0.001 * (x + y)) ** 2


def schaffer_4(x: Tensor) -> Tensor:
    """1/2 + (cos(sin|x^2 - y^2|)^2 - 1/2) / (1 + (x^2 + y^2) / 1000)^2."""
    x, y = x.square().unbind(-1)
    # cos(sin t)^2 is even in t, so the magnitude, with its kink, can be left out
    return 0.5 + ((x - y).sin().cos() ** 2 - 0.5) / (1 + 0.001 * (x + y)) ** 2


def michalewicz(x: Tensor) -> Tensor:
    """-sum sin(x_i) sin(i x_i^2 / pi)^20."""
    return -(x.sin() * (counting(x) * x.square() / math.pi).sin() ** 20).sum(-1)


def shubert(x: Tensor) -> Tensor:
    """s(x) s(y) with s(t) = sum over i from 1 to 5 of i cos((i + 1) t + i)."""
    i = torch.arange(1, 6, dtype=x.dtype, device=x.device)
    return (i * ((i + 1) * x.unsqueeze(-1) + i).cos()).sum(-1).prod(-1)


def eggholder(x: Tensor) -> Tensor:
    """-(y + 47) sin(sqrt|x / 2 + y + 47|) - x sin(sqrt|x - y - 47|)."""
    x, y = x.unbind(-1)
    y = y + 47
    return -y * root(x / 2 + y).sin() - x * root(x - y).sin()


def xin_she_yang_1(x: Tensor) -> Tensor:
    """sum |x_i|^i / 2."""
    return (x.abs() ** counting(x)).sum(-1) / 2


def xin_she_yang_2(x: Tensor) -> Tensor:
    """sum |x_i| exp(-sum sin(x_i^2))."""
    return x.abs().sum(-1) * (-x.square().sin().sum(-1)).exp()


def xin_she_yang_3(x: Tensor) -> Tensor:
    """exp(-sum (x_i / 15)^10) - 2 exp(-sum x_i^2) product cos(x_i)^2."""
    plateau = (-((x / 15) ** 10).sum(-1)).exp()
    return plateau - 2 * (-x.square().sum(-1)).exp() * x.cos().square().prod(-1)


def xin_she_yang_4(x: Tensor) -> Tensor:
    """(sum sin(x_i)^2 - exp(-sum x_i^2)) exp(-sum sin(sqrt|x_i|)^2)."""
    hole = x.sin().square().sum(-1) - (-x.square().sum(-1)).exp()
    return hole * (-root(x).sin().square().sum(-1)).exp()


@cache
def _michalewicz_coordinate(i: int) -> float:
    """Where -sin(t) sin(i t^2 / pi)^20 is least on [0, pi].

    With g = log(sin t) + 20 log sin(i t^2 / pi), the derivative of g falls from plus to minus
    infinity within the ripple, where i t^2 / pi goes through pi; the ripple whose middle is nearest
    to pi / 2 has the largest sin t.
    """

    def slope(t: float) -> float:
        angle = i * t * t / math.pi
        return 1 / math.tan(t) + 40 * i * t / math.pi / math.tan(angle)

    ripple = min(range(i), key=lambda k: abs(math.pi * math.sqrt((k + 0.5) / i) - math.pi / 2))
    low, high = math.pi * math.sqrt(ripple / i), math.pi * math.sqrt((ripple + 1) / i)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return middle


def _michalewicz_minimisers(n: int) -> Tensor:
    row = [_michalewicz_coordinate(i) for i in range(1, n + 1)]
    return torch.tensor([row], dtype=torch.float64)


def _michalewicz_minimum(n: int) -> float:
    return float(michalewicz(_michalewicz_minimisers(n))[0])


def _shubert_minimisers(_: int) -> Tensor:
    """All pairs of a lowest and a highest point of s, three each in [-10, 10]."""
    low, high = -1.425128428319761, -0.8003211004719731
    turns = [2 * math.pi * k for k in (-1, 0, 1)]
    pairs = [(low + a, high + b) for a, b in product(turns, turns)]
    return torch.tensor([*pairs, *((y, x) for x, y in pairs)], dtype=torch.float64)


_SCHAFFER_4 = 1.2531318314637332
RIPPLES = (
    Surface(
        *("ackley", "Ackley", ackley, None),
        *(cube(-32.768, 32.768), diagonal(0.0), constant(0.0)),
        reference="Ackley 1987, A Connectionist Machine for Genetic Hillclimbing",
        smooth=False,
        note="a cone at the minimum",
    ),
    Surface(
        *("griewank", "Griewank", griewank, None),
        *(cube(-600.0, 600.0), diagonal(0.0), constant(0.0)),
        reference=SURVEY,
    ),
    Surface(
        *("rastrigin", "Rastrigin", rastrigin, None),
        *(cube(-5.12, 5.12), diagonal(0.0), constant(0.0)),
        reference=SURVEY,
    ),
    Surface(
        *("schwefel", "Schwefel", schwefel, None),
        *(cube(-500.0, 500.0), diagonal(SCHWEFEL), constant(0.0)),
        reference="Schwefel 1981, Numerical Optimization of Computer Models, problem 2.26",
        note="has lower points outside the box",
    ),
    Surface(
        *("levi-13", "Levi N.13", levi_13, 2),
        *(cube(-10.0, 10.0), points((1.0, 1.0)), constant(0.0)),
        reference=SURVEY,
    ),
    Surface(
        *("schaffer-2", "Schaffer N.2", schaffer_2, 2),
        *(cube(-100.0, 100.0), points((0.0, 0.0)), constant(0.0)),
        reference=SURVEY,
        note="ripples that are the finer the farther out: its default start is in the middle",
        start=(-5.0, 3.5),
    ),
    Surface(
        *("schaffer-4", "Schaffer N.4", schaffer_4, 2),
        cube(-100.0, 100.0),
        points((0.0, _SCHAFFER_4), (0.0, -_SCHAFFER_4), (_SCHAFFER_4, 0.0), (-_SCHAFFER_4, 0.0)),
        constant(0.29257863203598056),
        reference=SURVEY,
        note="ripples that are the finer the farther out: its default start is in the middle",
        start=(-5.0, 3.5),
    ),
    Surface(
        *("michalewicz", "Michalewicz", michalewicz, None),
        *(cube(0.0, math.pi), _michalewicz_minimisers, _michalewicz_minimum),
        reference="Michalewicz 1992, Genetic Algorithms + Data Structures = Evolution Programs",
        note="flat between its ridges",
        start=(1.8, 1.35),
    ),
    Surface(
        *("shubert", "Shubert", shubert, 2),
        *(cube(-10.0, 10.0), _shubert_minimisers, constant(-186.73090883102384)),
        reference=SURVEY,
        note="18 minimisers",
    ),
    Surface(
        *("eggholder", "Eggholder", eggholder, 2),
        *(cube(-512.0, 512.0), points((512.0, 404.2318051137578)), constant(-959.6406627208508)),
        reference=SURVEY,
        smooth=False,
        note="least on the edge x = 512 of the box, where it still falls towards larger x: a path "
        "that finds it leaves the box",
    ),
    Surface(
        *("xin-she-yang-1", "Xin-She Yang 1", xin_she_yang_1, None),
        *(cube(-5.0, 5.0), diagonal(0.0), constant(0.0)),
        reference=YANG,
        smooth=False,
        note="with the mean, 1/2, in place of the random weights in [0, 1]; a kink in x_1 at the "
        "minimum",
    ),
    Surface(
        *("xin-she-yang-2", "Xin-She Yang 2", xin_she_yang_2, None),
        *(cube(-2 * math.pi, 2 * math.pi), diagonal(0.0), constant(0.0)),
        reference=YANG,
        smooth=False,
        note="a kink at the minimum",
    ),
    Surface(
        *("xin-she-yang-3", "Xin-She Yang 3", xin_she_yang_3, None),
        *(cube(-20.0, 20.0), diagonal(0.0), constant(-1.0)),
        reference=YANG,
        note="flat on most of the box: its default start is near the hole",
        start=(-1.2, 1.0),
    ),
    Surface(
        *("xin-she-yang-4", "Xin-She Yang 4", xin_she_yang_4, None),
        *(cube(-10.0, 10.0), diagonal(0.0), constant(-1.0)),
        reference=YANG,
        smooth=False,
        note="a kink at the minimum",
    ),
)
