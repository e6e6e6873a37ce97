"""Tables as text: CSV and the like, with or without a header, packed or not.

What is a number and what a category is inferred from the values, and can be said.
"""

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradmem.lab.data.contents import contents

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})  # in whatever case
SEPARATORS = ",\t;|"

Numbers = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]
Columns = dict[str, list[str]]


@dataclass(frozen=True)
class Table:
    """Named columns of text, all of the same length; `where` is the file, for messages."""

    where: str
    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> list[str]:
        """One column; ValueError with the names there are if there is none of this name."""
        if name not in self.columns:
            known = ", ".join(list(self.columns)[:20]) + (", ..." if len(self.columns) > 20 else "")
            raise ValueError(f"{self.where} has no column {name!r}; it has {known}")
        return self.columns[name]

    def without(self, names: Collection[str]) -> "Table":
        """The table without these columns, all of which have to be there."""
        for name in names:
            self.column(name)
        kept = {name: values for name, values in self.columns.items() if name not in names}
        return Table(self.where, kept)

    def replaced(self, name: str, values: list[str]) -> "Table":
        """The table with other values in one column."""
        return Table(self.where, {**self.columns, name: values})


@dataclass(frozen=True)
class NumericColumn:
    """Numbers; a missing one is NaN."""

    name: str
    values: Numbers


@dataclass(frozen=True)
class CategoricalColumn:
    """Categories; a missing one is the empty text."""

    name: str
    values: Text


Column = NumericColumn | CategoricalColumn


def read_table(
    path: Path,
    *,
    names: Sequence[str] | None = None,
    separator: str | None = None,
    sha256: str | None = None,
) -> Table:
    """The columns of a file of separated values.

    Args:
        path: the file, plain or packed, in UTF-8.
        names: the columns' names if the file has no header.
        separator: what stands between two values; None for that of comma, tab, semicolon and bar
            which occurs most often in the first line.
        sha256: checksum of the unpacked contents, if they have to be these.

    Raises:
        ValueError: the file is damaged, empty, not text, has two columns of a name, or a line has
            more or fewer values than there are columns; names file and line.
    """
    try:
        text = contents(path, sha256).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start:,}); convert it first"
        ) from None
    first = text.lstrip().partition("\n")[0]
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator or max(SEPARATORS, key=first.count),
        skipinitialspace=True,
    )
    try:
        # an empty line is none
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    header = list(names) if names is not None else rows.pop(0)[1] if rows else []
    return Table(str(path), _columns(path, [name.strip() for name in header], rows))


def _columns(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> Columns:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns called {twice!r}; a name may occur once")
    if not rows:
        raise ValueError(f"{path} has no rows")
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} values where there are {len(header)} columns; "
                "correct the line, or say which separator the file has"
            )
    values = zip(*(row for _, row in rows), strict=True)
    return dict(zip(header, map(list, values), strict=True))


def joined(first: Table, second: Table) -> Table:
    """The rows of both, of equal columns."""
    columns = {name: values + second.column(name) for name, values in first.columns.items()}
    return Table(f"{first.where} and {second.where}", columns)


def typed(
    table: Table, *, numeric: Collection[str] = (), categorical: Collection[str] = ()
) -> list[Column]:
    """Each column as numbers if all values that are not missing are numbers, else as categories.

    Args:
        table: columns of text.
        numeric: columns that have to be numbers; a value that is none is then an error.
        categorical: columns that are categories though their values are numbers, as codes are.

    Raises:
        ValueError: a column named is not there, or one said to be numeric is not.
    """
    for name in (*numeric, *categorical):
        table.column(name)
    return [
        categories(name, values)
        if name in categorical
        else _inferred(table, name, values, name in numeric)
        for name, values in table.columns.items()
    ]


def _inferred(table: Table, name: str, values: list[str], has_to_be: bool) -> Column:
    try:
        return NumericColumn(name, numbers(table, name, values))
    except ValueError:
        if has_to_be:
            raise
        return categories(name, values)


def numbers(table: Table, name: str, values: list[str]) -> Numbers:
    """A column as numbers; ValueError names the first row whose value is none."""
    try:
        found = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:  # slower, but knows what is missing and where an error is
        rows = enumerate(values, start=1)
        found = np.array([_number(table, name, row, value) for row, value in rows])
    if np.isinf(found).any():
        row = int(np.isinf(found).argmax())
        raise _not_a_number(table, name, row + 1, values[row])
    return found


def _number(table: Table, name: str, row: int, value: str) -> float:
    if is_missing(value):
        return float("nan")
    try:
        return float(value)
    except ValueError:
        raise _not_a_number(table, name, row, value) from None


def _not_a_number(table: Table, name: str, row: int, value: str) -> ValueError:
    return ValueError(
        f"{table.where}: column {name!r} has {value!r} in row {row:,}, which is not a number"
    )


def categories(name: str, values: list[str]) -> CategoricalColumn:
    """A column as categories, without the blanks around them."""
    tidy = {value: "" if is_missing(value) else value.strip() for value in set(values)}
    return CategoricalColumn(name, np.array([tidy[value] for value in values], dtype=np.str_))


def is_missing(value: str) -> bool:
    """Whether a value stands for none.

    >>> is_missing(" NaN "), is_missing("?"), is_missing("0")
    (True, True, False)
    """
    return value.strip().lower() in MISSING
