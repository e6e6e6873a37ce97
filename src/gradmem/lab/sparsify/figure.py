"""The curves: test score against the share of zero channels, a panel for each base."""

from matplotlib.axes import Axes

from gradmem.lab.axes import plain
from gradmem.lab.drawing import HUES, INK, Draw, picture, slim
from gradmem.lab.sparsify.findings import Findings, Point
from gradmem.lab.sparsify.methods import METHODS, WORDS, Kind, Method
from gradmem.lab.statistics import Estimate

COLOURS: dict[Kind, str] = {
    "diagonal": HUES["adamw"],
    "plain": HUES["adam"],
    "subgradient": HUES["sgd"],
}
DEPTH = 12.0  # points of score below the best that are shown: what lies lower is no choice


def draw(found: Findings) -> str:
    """The picture as SVG."""
    bases = [METHODS[base] for base in found.plan.bases]
    return slim(picture([(plain(base.base_label), _panel(found, base)) for base in bases]))


def _panel(found: Findings, base: Method) -> Draw:
    scale = found.metric.scale

    def panel(axes: Axes) -> None:
        (own,) = found.points[base.name]
        low, high = _ends(own.score)
        axes.axhspan(scale * low, scale * high, color=INK, alpha=0.07, linewidth=0)
        axes.axhline(scale * own.score.mean, color=INK, linewidth=0.9, label=WORDS["none"])
        for method in found.penalised:
            if method.base == base.base:
                _curve(axes, found, method)
        axes.set_xlim(-2, 102)
        axes.set_ylim(*_limits(found))
        axes.set_xlabel("zero channels, % of the hidden ones")
        axes.set_ylabel(f"test {plain(found.metric.name)}, {found.metric.unit}")
        axes.legend(loc="best", frameon=False, fontsize=9)

    return panel


def _curve(axes: Axes, found: Findings, method: Method) -> None:
    scale, colour = found.metric.scale, COLOURS[method.kind]
    shown = found.points[method.name]
    shares = [100 * each.share.mean for each in shown]
    scores = [scale * each.score.mean for each in shown]
    for point, share, score in zip(shown, shares, scores, strict=True):
        if score > _limits(found)[0]:  # else its intervals would hang in from below
            _interval(axes, point, share, score, scale, colour)
    axes.plot(
        *(shares, scores),
        color=colour,
        linestyle="-" if method.proximal else (0, (3, 2)),
        linewidth=1.6,
        marker="o",
        markersize=4.5,
        markerfacecolor=colour if method.proximal else "none",
        label=WORDS[method.kind],
    )
    if (best := found.chosen(method)) is not None:
        ring = axes.plot(100 * best.share.mean, scale * best.score.mean, "o", color=colour)[0]
        ring.set(markersize=10, markerfacecolor="none", markeredgewidth=1.1)


def _interval(
    axes: Axes, point: Point, share: float, score: float, scale: float, colour: str
) -> None:
    low, high = _ends(point.score)
    axes.plot([share, share], [scale * low, scale * high], color=colour, alpha=0.45, linewidth=1)
    low, high = _ends(point.share)
    axes.plot([100 * low, 100 * high], [score, score], color=colour, alpha=0.45, linewidth=1)


def _ends(found: Estimate) -> tuple[float, float]:
    return found.interval or (found.mean, found.mean)


def _limits(found: Findings) -> tuple[float, float]:
    """From a little above the best to the worst mean, but not below what is no choice."""
    scale = found.metric.scale
    means = [scale * each.score.mean for group in found.points.values() for each in group]
    best = max(means)
    worst = max(min(means), best - DEPTH)
    room = 0.08 * max(best - worst, 1.0)
    return worst - room, best + 2 * room
