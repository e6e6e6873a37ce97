"""Tables on the terminal."""

from rich import box
from rich.table import Table as Grid

from gradmem.lab.findings import Table


def grid(table: Table) -> Grid:
    """A table for the terminal. Headings wrap between words, cells never: it fits 80 columns."""
    shown = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for name, *cells in zip(table.heading, *table.rows, strict=True):
        width = max(len(text) for text in (*cells, *name.split()))
        shown.add_column(name, width=width, justify="right" if shown.columns else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown
