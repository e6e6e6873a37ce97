"""The house style of every figure: colours, SVG for a page or alone, names at the ends of lines."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib is given these stand-ins; the page's style sheet says what each looks like.
INK, GRID = "#010101", "#020202"
HUES = {
    "sgd": "#030303",
    "rmsprop": "#040404",
    "adam": "#050505",
    "adamw": "#060606",
    "sgdm": "#070707",
    "nadam": "#080808",
    "muon": "#090909",
    "lion": "#0a0a0a",
}
CSS_COLOURS = {INK: "var(--ink)", GRID: "var(--grid)"} | {
    stand_in: f"var(--{name})" for name, stand_in in HUES.items()
}

# The colours of a picture outside the report, which has no style sheet: the page's in light.
PRINTED = {
    "paper": "#ffffff",
    "ink": "#1d2330",
    "grid": "#e3e6eb",
    "sgd": "#2f7d4f",
    "rmsprop": "#8a55b8",
    "adam": "#1f6fc4",
    "adamw": "#c4551a",
    "sgdm": "#0f7f86",
    "nadam": "#b8327a",
    "muon": "#a3312f",
    "lion": "#857000",
}

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be selected, read aloud, and is small
    "svg.hashsalt": "gradmem",  # the same figure is the same bytes
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
}


Draw = Callable[[Axes], None]


def _render(draws: Sequence[Draw], height: float) -> str:
    """Panels side by side as one SVG element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9 * len(draws), height), layout="constrained")
        for i, draw in enumerate(draws):
            draw(figure.add_subplot(1, len(draws), i + 1))
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def panel(draw: Draw, height: float = 3.3) -> str:
    """One drawing for a page: as wide as its place, in the page's colours and font."""
    text = _render([draw], height)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text)
    for stand_in, css in CSS_COLOURS.items():
        text = text.replace(stand_in, css)
    return text


def picture(panels: Sequence[tuple[str, Draw]]) -> str:
    """A picture of its own: drawings side by side with headings, on white."""
    text = _render([_titled(heading, draw) for heading, draw in panels], height=3.5)
    paper = f"<style>svg {{ background: {PRINTED['paper']} }}</style>"
    text = text.replace("<defs>", paper + "<defs>", 1)
    for stand_in, css in CSS_COLOURS.items():
        text = text.replace(stand_in, PRINTED[css.removeprefix("var(--").removesuffix(")")])
    return text


def _titled(heading: str, draw: Draw) -> Draw:
    def both(axes: Axes) -> None:
        axes.set_title(heading, loc="left", fontsize=10)
        draw(axes)

    return both


def name_ends(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Names at the right ends of lines: name, colour and height of each, in data units."""
    if not ends:
        return
    axes.figure.canvas.draw()  # limits are final only now
    to_axes = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    heights = [float(to_axes.transform((right, y))[1]) for _, _, y in ends]
    heights = [height if math.isfinite(height) else 1.0 for height in heights]
    order = sorted(range(len(ends)), key=heights.__getitem__)
    size = axes.get_window_extent().height  # in dots
    gap = min(1.2 * mpl.rcParams["font.size"] / 72 * axes.figure.dpi / size, 1 / len(ends))
    for i, height in zip(order, spread([heights[i] for i in order], gap), strict=True):
        name, colour, _ = ends[i]
        axes.annotate(
            name,
            (1.0, height),
            xytext=(4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float, ceiling: float = 1.0) -> list[float]:
    """Ascending heights up to a ceiling, moved apart just enough to be ``gap`` from each other."""
    moved = [min(max(height, 0.0), ceiling) for height in heights]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def power(value: float) -> str:
    """0.01 and 100 as they are, 1e-5 and 1e6 short."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits}e{int(exponent)}"


def slim(svg: str) -> str:
    """The same picture with coordinates to a tenth of a point."""

    def shorter(path: re.Match[str]) -> str:
        return re.sub(r"\s+", " ", re.sub(r"-?\d+\.\d+", _tenths, path.group()))

    return re.sub(r'\bd="[^"]*"', shorter, svg)


def _tenths(number: re.Match[str]) -> str:
    return f"{round(float(number.group()), 1) + 0.0:.10g}"  # adding zero makes -0 a 0


def printed(stand_in: str) -> str:
    """The colour on paper of one of the house's stand-ins."""
    name = CSS_COLOURS[stand_in].removeprefix("var(--").removesuffix(")")
    return PRINTED[name]
