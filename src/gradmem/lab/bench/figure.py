"""The ratios of a book as a picture: a dot and an interval for each contestant, a panel a set."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from gradmem.lab.axes import plain
from gradmem.lab.bench.book import Book
from gradmem.lab.bench.contestants import OURS, Entry
from gradmem.lab.bench.measure import Measurement
from gradmem.lab.drawing import HUES, INK, picture, slim

ROW = 0.22  # inches
ROOM = 1.1  # for heading and axis


def draw(book: Book) -> str | None:
    """The picture as SVG, None if nothing was measured. Ours are filled dots, others rings."""
    measured = {key: each for key, each in book.measurements.items() if each.status == "measured"}
    sets = [name for name in book.sets if any(on == name for on, _ in measured)]
    rows = [e for e in book.entries if any((on, e.key) in measured for on in sets)]
    if not sets:
        return None
    return slim(picture([(plain(name), _panel(name, rows, measured)) for name in sets]))


def _panel(
    name: str, rows: Sequence[Entry], measured: dict[tuple[str, str], Measurement]
) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        if isinstance(axes.figure, Figure):
            axes.figure.set_figheight(ROOM + ROW * len(rows))
        axes.axvline(1.0, color=INK, linewidth=0.8)
        for height, entry in enumerate(rows):
            if (name, entry.key) in measured:
                _mark(axes, height, entry, measured[name, entry.key])
        axes.set_yticks(range(len(rows)), [entry.title for entry in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("time of a step / Adam fused")
        _scale(axes)

    return panel


def _mark(axes: Axes, height: int, entry: Entry, found: Measurement) -> None:
    ratio = found.to("reference")
    if ratio is None:
        return
    colour = HUES[entry.contestant.hue]
    axes.plot([ratio.low, ratio.high], [height, height], color=colour, linewidth=2)
    filled = colour if entry.contestant.module == OURS else "none"
    axes.plot(
        ratio.median, height, "o", color=colour, markerfacecolor=filled, markersize=5, zorder=3
    )


def _scale(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers: twice as long is as far as half as long."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), max(high, 1.1))
    wide = max(high, 1.1) / min(low, 0.9) > 30
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
