"""Surfaces with a few separate wells, some of them in a wide plain."""

import math

import torch
from torch import Tensor

from gradmem.lab.surfaces.surface import (
    DE_JONG,
    SURVEY,
    Surface,
    constant,
    cube,
    diagonal,
    per_coordinate,
    points,
)

FIVE_WELLS = (  # depth, sharpness, x, y
    (1.0, 0.05, 0.0, 10.0),
    (1.0, 0.05, 10.0, 0.0),
    (1.5, 0.03, -10.0, 0.0),
    (2.0, 0.05, 5.0, -10.0),
    (1.0, 0.1, -5.0, -10.0),
)


def easom(x: Tensor) -> Tensor:
    """-cos(x) cos(y) exp(-(x - pi)^2 - (y - pi)^2)."""
    return -x.cos().prod(-1) * (-(x - math.pi).square().sum(-1)).exp()


def styblinski_tang(x: Tensor) -> Tensor:
    """sum (x_i^4 - 16 x_i^2 + 5 x_i) / 2."""
    return (x**4 - 16 * x**2 + 5 * x).sum(-1) / 2


def foxholes(x: Tensor) -> Tensor:
    """1 / (1/500 + sum over j from 1 to 25 of 1 / (j + (x - a_j)^6 + (y - b_j)^6))."""
    side = torch.tensor((-32.0, -16.0, 0.0, 16.0, 32.0), dtype=x.dtype, device=x.device)
    a, b = side.repeat(5), side.repeat_interleave(5)
    j = torch.arange(1, 26, dtype=x.dtype, device=x.device)
    x, y = x.unsqueeze(-1).unbind(-2)
    return 1 / (0.002 + (1 / (j + (x - a) ** 6 + (y - b) ** 6)).sum(-1))


def five_well(x: Tensor) -> Tensor:
    """(1 - sum d / (1 + s |x - c|^2)) (1 + (|x|^2)^1.2 / 10000) over the five wells."""
    depth, sharpness, *centres = torch.tensor(FIVE_WELLS, dtype=x.dtype, device=x.device).T
    far = (x.unsqueeze(-2) - torch.stack(centres, -1)).square().sum(-1)
    plain = 1 - (depth / (1 + sharpness * far)).sum(-1)
    value: Tensor = plain * (1 + 0.0001 * x.square().sum(-1) ** 1.2)
    return value


_FOXHOLES_MINIMISER = points((-31.97833483565697, -31.978334837300796))
_FIVE_WELL_MINIMISER = points((4.921252875802033, -9.887275987465122))

WELLS = (
    Surface(
        *("easom", "Easom", easom, 2),
        *(cube(-100.0, 100.0), points((math.pi, math.pi)), constant(-1.0)),
        reference=SURVEY,
        note="flat but for one narrow well: its default start is at the rim of it",
        start=(1.7, 2.0),
    ),
    Surface(
        *("styblinski-tang", "Styblinski-Tang", styblinski_tang, None),
        *(cube(-5.0, 5.0), diagonal(-2.903534027771177), per_coordinate(-39.16616570377141)),
        reference="Styblinski and Tang 1990, Neural Networks 3(4)",
        start=(0.0, 4.0),
    ),
    Surface(
        *("de-jong-5", "De Jong 5, foxholes", foxholes, 2),
        *(cube(-65.536, 65.536), _FOXHOLES_MINIMISER, constant(0.9980038377944502)),
        reference=DE_JONG,
        note="Shekel's foxholes: 25 narrow holes in a plain, nearly flat between them and at their "
        "bottoms",
        start=(-24.0, -38.0),
    ),
    Surface(
        *("five-well", "Five-well potential", five_well, 2),
        *(cube(-20.0, 20.0), _FIVE_WELL_MINIMISER, constant(-1.4616377135103535)),
        reference="Pavlyukevich 2007, Journal of Computational Physics 226(2)",
    ),
)
