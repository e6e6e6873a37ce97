"""Axes that a reader can read a value off."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

LONGEST = 28  # letters beside a figure; more would leave it no room


def plain(text: str) -> str:
    """``text`` as Matplotlib draws it letter by letter, cut where it is too long for a figure.

    >>> plain("RMSE, $")  # a dollar would begin a formula
    'RMSE, \\\\$'
    """
    cut = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return cut.replace("$", r"\$")


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers on it; linear where a value is not positive."""
    lowest = axes.dataLim.y0
    if math.isfinite(lowest) and lowest <= 0:
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs: tuple[float, ...] = (1,) if high / low > 300 else (1, 2, 5)
    if high / low <= 5:
        subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    if high / low <= 1.25:
        # Between so few numbers a logarithm is as good as straight.
        axes.set_yscale("linear")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        return
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def rate_axis(axes: Axes, spaces: Sequence[tuple[float, float]]) -> None:
    """A logarithmic x axis that shows all of the spaces searched and nothing else."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=7))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    if spaces:
        axes.set_xlim(min(low for low, _ in spaces), max(high for _, high in spaces))


def zoom(axes: Axes, values: Sequence[float], *, upper: bool) -> None:
    """Leave out the worst of ``values``, so that the ends, which are compared, can be told apart.

    Args:
        axes: whose y axis is set.
        values: all that are drawn.
        upper: whether the upper end is the better one.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    low, high = np.quantile(finite, (0.03, 1.0) if upper else (0.0, 0.97)).tolist()
    if high > low:
        room = 0.06 * (high - low)
        axes.set_ylim(low - (0 if upper else room), high + (room if upper else 0))
