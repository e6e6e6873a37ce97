"""Surfaces with one valley that is easy to see: bowls, plates and steps."""

import torch
from torch import Tensor

from gradmem.lab.surfaces.surface import (
    DE_JONG,
    LIBRARY,
    SURVEY,
    Surface,
    constant,
    counting,
    cube,
    diagonal,
    per_coordinate,
    points,
)


def sphere(x: Tensor) -> Tensor:
    """sum x_i^2."""
    return x.square().sum(-1)


def ellipsoid(x: Tensor) -> Tensor:
    """sum (1000^((i - 1) / (n - 1)) x_i)^2."""
    shares = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype, device=x.device)
    return (1000.0**shares * x).square().sum(-1)


def k_tablet(x: Tensor) -> Tensor:
    """sum of x_i^2 over the first k, of (100 x_i)^2 over the others; k = n / 4, at least 1."""
    k = max(1, x.shape[-1] // 4)
    return x[..., :k].square().sum(-1) + (100 * x[..., k:]).square().sum(-1)


def weighted_sphere(x: Tensor) -> Tensor:
    """sum i x_i^2."""
    return (counting(x) * x.square()).sum(-1)


def hyper_ellipsoid(x: Tensor) -> Tensor:
    """sum over i of x_1^2 + ... + x_i^2."""
    return x.square().cumsum(-1).sum(-1)


def double_sum(x: Tensor) -> Tensor:
    """sum over i of (x_1 + ... + x_i)^2."""
    return x.cumsum(-1).square().sum(-1)


def different_powers(x: Tensor) -> Tensor:
    """sum |x_i|^(i + 1)."""
    return (x.abs() ** (counting(x) + 1)).sum(-1)


def zakharov(x: Tensor) -> Tensor:
    """sum x_i^2 + s^2 + s^4 with s = sum i x_i / 2."""
    s = (counting(x) * x).sum(-1) / 2
    return x.square().sum(-1) + s**2 + s**4


def booth(x: Tensor) -> Tensor:
    """(x + 2y - 7)^2 + (2x + y - 5)^2."""
    x, y = x.unbind(-1)
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def matyas(x: Tensor) -> Tensor:
    """0.26 (x^2 + y^2) - 0.48 x y."""
    x, y = x.unbind(-1)
    return 0.26 * (x**2 + y**2) - 0.48 * x * y


def step(x: Tensor) -> Tensor:
    """sum floor(x_i)."""
    return x.floor().sum(-1)


def quartic(x: Tensor) -> Tensor:
    """sum i x_i^4."""
    return (counting(x) * x**4).sum(-1)


BOWLS = (
    Surface(
        *("sphere", "Sphere", sphere, None),
        *(cube(-5.12, 5.12), diagonal(0.0), constant(0.0)),
        reference=DE_JONG,
    ),
    Surface(
        *("de-jong-1", "De Jong 1", sphere, None),
        *(cube(-5.12, 5.12), diagonal(0.0), constant(0.0)),
        reference=DE_JONG,
        note="the sphere; De Jong has n = 3",
    ),
    Surface(
        *("de-jong-3", "De Jong 3, step", step, None),
        *(cube(-5.12, 5.12), diagonal(-5.06), per_coordinate(-6.0)),
        reference=DE_JONG,
        smooth=False,
        note="constant on every step, so its gradient is zero everywhere and no path moves; least "
        "wherever all coordinates are below -5, the minimiser given being the middle; De Jong has "
        "n = 5",
    ),
    Surface(
        *("de-jong-4", "De Jong 4, quartic", quartic, None),
        *(cube(-1.28, 1.28), diagonal(0.0), constant(0.0)),
        reference=DE_JONG,
        note="without the normal noise De Jong adds to the value, which has no gradient; --noise "
        "adds noise to the gradient instead; the curvature at the minimum is zero; De Jong has "
        "n = 30",
    ),
    Surface(
        *("ellipsoid", "Ellipsoid", ellipsoid, None),
        *(cube(-5.12, 5.12), diagonal(0.0), constant(0.0)),
        reference="Hansen and Ostermeier 2001, Evolutionary Computation 9(2)",
        note="condition number 1e6",
    ),
    Surface(
        *("k-tablet", "k-tablet", k_tablet, None),
        *(cube(-5.12, 5.12), diagonal(0.0), constant(0.0)),
        reference="Sakuma and Kobayashi 2005, Genetic and Evolutionary Computation Conference",
        note="condition number 1e4; k = n / 4 rounded down, but at least 1",
        least_dimension=2,
    ),
    Surface(
        *("weighted-sphere", "Weighted sphere", weighted_sphere, None),
        *(cube(-5.12, 5.12), diagonal(0.0), constant(0.0)),
        reference=LIBRARY,
        note="also called sum of squares, or axis-parallel hyper-ellipsoid",
    ),
    Surface(
        *("hyper-ellipsoid", "Hyper-ellipsoid", hyper_ellipsoid, None),
        *(cube(-65.536, 65.536), diagonal(0.0), constant(0.0)),
        reference=LIBRARY,
        note="called rotated there, but its axes are the coordinates'; double-sum is rotated",
    ),
    Surface(
        *("double-sum", "Double sum", double_sum, None),
        *(cube(-65.536, 65.536), diagonal(0.0), constant(0.0)),
        reference="Schwefel 1981, Numerical Optimization of Computer Models, problem 1.2",
        note="a hyper-ellipsoid that is rotated; also called Schwefel 1.2",
    ),
    Surface(
        *("different-powers", "Sum of different powers", different_powers, None),
        *(cube(-1.0, 1.0), diagonal(0.0), constant(0.0)),
        reference=LIBRARY,
        note="the curvature at the minimum is zero in all coordinates but the first",
    ),
    Surface(
        *("zakharov", "Zakharov", zakharov, None),
        *(cube(-5.0, 10.0), diagonal(0.0), constant(0.0)),
        reference=LIBRARY,
    ),
    Surface(
        *("booth", "Booth", booth, 2),
        *(cube(-10.0, 10.0), points((1.0, 3.0)), constant(0.0)),
        reference=SURVEY,
    ),
    Surface(
        *("matyas", "Matyas", matyas, 2),
        *(cube(-10.0, 10.0), points((0.0, 0.0)), constant(0.0)),
        reference=SURVEY,
    ),
)
