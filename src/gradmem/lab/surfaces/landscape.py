"""The values of a surface over a rectangle, and the levels worth a line."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from gradmem.lab.surfaces.paths import Array, Path
from gradmem.lab.surfaces.surface import Surface

CELLS = 160  # along each side of a picture
FINER = 4  # points along each side of a cell, the lowest of which stands for the cell
LEVELS = 11
BUSIEST = 30_000  # times that neighbouring cells of a picture may lie on two sides of a line


@dataclass(frozen=True)
class View:
    """A rectangle: lowest and highest x, lowest and highest y."""

    x: tuple[float, float]
    y: tuple[float, float]


def whole(surface: Surface, start: tuple[float, ...]) -> View:
    """The box of a surface of two coordinates, wider if the start lies outside."""
    x, y = (
        (min(low, at), max(high, at)) for (low, high), at in zip(surface.box(2), start, strict=True)
    )
    return View(x, y)


def close_up(surface: Surface, paths: tuple[Path, ...]) -> View | None:
    """What holds all paths as far as they are in the box, in the box's proportions.

    The minimiser nearest to an end is held too, unless that more than doubles it. None if it is
    most of the box, or a single point.
    """
    held = np.concatenate([path.points[path.inside] for path in paths])
    ends = np.stack([path.points[path.inside][-1] for path in paths])
    minimisers = surface.minimisers(2).numpy()
    far = np.linalg.norm(minimisers[:, None] - ends, axis=2).min(axis=1)
    both = np.concatenate([held, minimisers[[far.argmin()]]])
    corners = np.array(surface.box(2))
    size = corners[:, 1] - corners[:, 0]
    if _share(both, size) <= 2 * _share(held, size):
        held = both
    share = 1.3 * _share(held, size)
    if share == 0 or share > 0.7:
        return None
    middle = (held.min(axis=0) + held.max(axis=0)) / 2
    (x0, y0), (x1, y1) = middle - share * size / 2, middle + share * size / 2
    return View((float(x0), float(x1)), (float(y0), float(y1)))


def _share(points: Array, size: Array) -> float:
    """How much of the box, along x or y, the points take up."""
    return float(((points.max(axis=0) - points.min(axis=0)) / size).max())


@lru_cache(maxsize=4)
def heights(surface: Surface, view: View) -> tuple[Array, Array, Array]:
    """The middles of the cells along x and y, and the lowest value in each cell, rows along y.

    Where ripples are finer than cells, the lowest values are the hull under them; means or single
    values would be patterns of the grid's. The cells are larger where lines would be too many.
    """
    fine = CELLS * FINER
    x, y = (_middles(*side, fine) for side in (view.x, view.y))
    rows = []
    for some in torch.split(y, FINER * 10):  # in strips: a surface may have many terms
        grid = torch.stack(torch.meshgrid(x, some, indexing="xy"), dim=-1)
        rows.append(surface.function(grid).reshape(-1, FINER, CELLS, FINER).amin((1, 3)))
    values: Array = torch.cat(rows).numpy()
    while _crossings(values) > BUSIEST:
        half = len(values) // 2
        values = values.reshape(half, 2, half, 2).min((1, 3))
    columns, lines = (_middles(*side, len(values)).numpy() for side in (view.x, view.y))
    return columns, lines, values


def _crossings(values: Array) -> int:
    band = np.digitize(values, levels(values))
    return int(sum(np.abs(np.diff(band, axis=axis)).sum() for axis in (0, 1)))


def _middles(low: float, high: float, count: int) -> torch.Tensor:
    edges = torch.linspace(low, high, count + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2


def levels(values: Array) -> Array:
    """Heights for lines that part the picture: quantiles, closer together towards the minimum.

    Evenly spaced heights where most of the surface is a plain, on which quantiles mean nothing.
    """
    shares = np.linspace(0, 1, LEVELS + 2)[1:-1] ** 1.5
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.array([])
    found = np.quantile(values, shares)
    apart = np.diff(found, prepend=low) > 1e-4 * (high - low)
    steep = np.diff(found, prepend=low) > 1e-9 * (high - low)
    if apart.sum() < LEVELS // 3:
        return np.linspace(low, high, LEVELS + 2)[1:-1]
    return found[steep]
