"""What was measured, as tables and a page: pure functions of a book."""

from collections.abc import Container, Iterable, Iterator, Sequence

from gradmem.lab.bench.book import Book
from gradmem.lab.bench.contestants import REFERENCE, Entry
from gradmem.lab.bench.measure import Measurement
from gradmem.lab.findings import Table
from gradmem.lab.markup import markdown_table

PICTURE = "bench.svg"
NOTES = (
    "Time: a step's, as a ratio to that of torch's fused Adam and to that of the optimizer the "
    "memory was put on: median over rounds, in each of which they took turns on the same "
    "parameters and gradients, with the 95% interval from order statistics. Adam fused itself is "
    "compared with a second one like it: what is off 1 there, the machine did.",
    '"keeps" is a full memory that refuses every gradient, "replaces" one that takes every one; '
    "the number is the capacity.",
    "Bytes for each parameter: state, what a checkpoint holds (on host: those of "
    "them that are not on the accelerator); work, what is kept from step to "
    "step besides, and the most that a step allocates.",
)


CLIPPED = (
    "A step begins by clipping the gradients, every time a little: by torch's clip_grad_norm_, and "
    "ours by their own, after which they need not measure the gradients again."
)


def notes(book: Book) -> tuple[str, ...]:
    """What a reader of these tables has to know."""
    return (*NOTES, CLIPPED) if book.settings.clip else NOTES


def shown(book: Book, sets: Iterable[str], entries: Sequence[Entry]) -> Iterator[tuple[str, Table]]:
    """For each of the sets, a heading and the table of what was measured of these entries."""
    for name in sets:
        found = [
            each
            for entry in entries
            if (each := book.measurements.get((name, entry.key))) and each.status == "measured"
        ]
        if found:
            title = f"{name}: {book.sets[name].describe()}"
            yield title, _table(found, absolute=book.settings.device != "cpu")


def _table(found: Sequence[Measurement], *, absolute: bool) -> Table:
    """Without columns that would be empty, and without times where they are ratios only."""
    smaller = sorted({each.entry.smaller for each in found if each.entry.smaller is not None})
    heading = (
        *("optimizer", "memory", "/ Adam fused", "/ its base"),
        *(f"/ capacity {', '.join(map(str, smaller))}", "µs", "state", "on host", "work"),
    )
    rows = [_row(each) for each in found]
    empty = {heading[i] for i in range(len(heading)) if not any(row[i] for row in rows)}
    return _without(empty if absolute else empty | {"µs"}, Table(heading, tuple(rows)))


def _without(names: Container[str], table: Table) -> Table:
    """The table without the columns of these names."""
    kept = [i for i, name in enumerate(table.heading) if name not in names]
    heading, *rows = (tuple(row[i] for i in kept) for row in (table.heading, *table.rows))
    return Table(heading, tuple(rows))


def fitting(table: Table, width: int) -> Table:
    """The table without the ratio to the base, if it is too wide for the terminal with it.

    >>> wide = Table(("optimizer", "/ its base"), (("Adam_C", "1.50 (1.48-1.52)"),))
    >>> fitting(wide, 40).heading, fitting(wide, 20).heading
    (('optimizer', '/ its base'), ('optimizer',))
    """
    columns = zip(table.heading, *table.rows, strict=True)
    needed = sum(max(map(len, (*cells, *name.split()))) + 1 for name, *cells in columns)
    return table if needed <= width else _without({"/ its base"}, table)


def _row(found: Measurement) -> tuple[str, ...]:
    contestant = found.entry.contestant
    base = "reference" if contestant.base == REFERENCE else "base"
    return (
        contestant.label,
        found.entry.memory,
        *(_cell(found, other) for other in ("reference", base, "lesser")),
        f"{microseconds(found):,.0f}",
        per_parameter(found.state_bytes, found),
        host if (host := per_parameter(found.host_bytes, found)) != "0.0" else "",
        per_parameter(found.working_bytes, found),
    )


def _cell(found: Measurement, other: str) -> str:
    ratio = found.to(other)
    return str(ratio) if ratio else ""


def microseconds(found: Measurement) -> float:
    """The median time of a step."""
    times = sorted(found.per_round("own"))
    middle = len(times) // 2
    return 1e6 * (times[middle] + times[~middle]) / 2


def per_parameter(count: int, found: Measurement) -> str:
    """Bytes for each element of the parameters.

    >>> from gradmem.lab.bench.contestants import CONTESTANTS
    >>> adam = Entry(CONTESTANTS["adam"])
    >>> per_parameter(8_004, Measurement("mlp", adam, "measured", elements=1000))
    '8.0'
    """
    return f"{count / found.elements:.1f}"


def left_out(book: Book, sets: Iterable[str], entries: Sequence[Entry]) -> list[str]:
    """A line for each contestant that has no row, and why; alike ones once."""
    lines: dict[str, list[str]] = {}
    for name in sets:
        for entry in entries:
            found = book.measurements.get((name, entry.key))
            if found is not None and found.status == "not installed":
                lines[f"{entry.contestant.label}: not installed: {found.reason}"] = []
            elif found is not None and found.status != "measured":
                lines.setdefault(f"{entry.title}: {found.status}: {found.reason}", []).append(name)
    return [f"{line} ({', '.join(where)})" if where else line for line, where in lines.items()]


def warned(book: Book, sets: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """What was warned of while these were measured, and whose it was; each once."""
    lines: dict[str, dict[str, None]] = {}
    for name in sets:
        for entry in entries:
            found = book.measurements.get((name, entry.key))
            for text in found.warned if found is not None else ():
                lines.setdefault(text, {})[entry.contestant.label] = None
    return [f"{', '.join(labels)}: {text}" for text, labels in lines.items()]


def page(book: Book) -> str:
    """Everything in the book as Markdown, with the machine named."""
    sets, entries = list(book.sets), book.entries
    parts = ["# What a step costs", book.machine.describe(book.settings.threads) + "."]
    first, *others = notes(book)
    parts += [f"{book.settings.rounds} rounds of two steps. {first}", *others]
    if any(found.status == "measured" for found in book.measurements.values()):
        parts.append(f"![Time of a step as a ratio to fused Adam's, by optimizer]({PICTURE})")
    for title, table in shown(book, sets, entries):
        parts += [f"## {title}", markdown_table(table)]
    if said := warned(book, sets, entries):
        parts += ["## Warnings", "\n".join(f"- {line}" for line in said)]
    if missing := left_out(book, sets, entries):
        parts += ["## Not measured", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"
