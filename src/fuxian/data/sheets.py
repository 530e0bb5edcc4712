"""A `.csv` of one's own: its columns by name, and cells that are numbers, dates or words.

What is not as it should be raises DataMissing, one line with the file, the row and the column.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path

import numpy as np

from fuxian.data.own import asked, shown, text
from fuxian.errors import DataMissing, WrongInput
from fuxian.numbers import plural


@dataclass(frozen=True)
class Sheet:
    """A `.csv`: its columns by name and its cells as text. `number` is a row's place in the file: the names are row 1."""

    path: Path
    columns: tuple[str, ...]
    rows: list[list[str]]
    number: list[int]
    sha256: str

    def where(self, row: int, column: str) -> str:
        return f"{shown(self.path)}, row {self.number[row]}, column {column}"

    def cells(self, column: str) -> list[str]:
        """A column's cells without the blanks around them; none is empty."""
        at = self.columns.index(column)
        found = [row[at].strip() for row in self.rows]
        for i, cell in enumerate(found):
            if not cell:
                raise DataMissing(f"{self.where(i, column)}: the cell is empty")
        return found

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """(rows, columns) float64, all finite."""
        result = np.empty((len(self.rows), len(columns)))
        for place, column in enumerate(columns):
            for i, cell in enumerate(self.cells(column)):
                value = as_number(cell)
                if value is None:
                    raise DataMissing(f"{self.where(i, column)}: {cell!r} is not a number")
                if not math.isfinite(value):
                    raise DataMissing(f"{self.where(i, column)}: {cell} is not a finite number")
                result[i, place] = value
        return result

    def moments(self, column: str) -> np.ndarray:
        """(rows,) float64: a column of dates, in seconds, or of numbers; each is later than the one before."""
        cells, found = self.cells(column), np.empty(len(self.rows))
        for i, cell in enumerate(cells):
            moment = as_moment(cell)
            if moment is None:
                raise DataMissing(f"{self.where(i, column)}: {cell!r} is neither a date, as 2016-07-01 13:00, nor a number")
            if i and moment <= found[i - 1]:
                order = "is that of" if moment == found[i - 1] else f"comes after {cells[i - 1]} of"
                raise DataMissing(
                    f"{self.where(i, column)}: {cell} {order} row {self.number[i - 1]}",
                    do="sort the rows by time, and keep one of each",
                )
            found[i] = moment
        return found

    def target(self) -> str:
        """The column that `--target` names; "" where it is not given."""
        return self._named("target", asked().target)

    def time(self) -> str:
        """The column that `--time` names; "" where it is not given."""
        return self._named("time", asked().time)

    def _named(self, flag: str, name: str) -> str:
        if name and name not in self.columns:
            raise WrongInput(f"--{flag} {name}: {shown(self.path)} has no such column; it has {', '.join(self.columns)}")
        return name

    def ask_for_target(self) -> WrongInput:
        return WrongInput(
            f"{shown(self.path)}: which column is to be predicted? It has {', '.join(self.columns)}",
            do="--target COLUMN",
        )


def sheet(path: Path) -> Sheet:
    """Reads a `.csv`: commas, semicolons or tabs between cells, whichever its first line has most of."""
    written, sha256 = text(path)
    first = written.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(StringIO(written), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataMissing(f"{shown(path)} is not a .csv that can be read: {error}") from None
    columns = tuple(name.strip() for name in lines[0]) if lines else ()
    if not columns:
        raise DataMissing(f"{shown(path)} is empty")
    if all(as_number(name) is not None for name in columns):
        raise DataMissing(f"{shown(path)}, row 1: {columns[0]} is a number; the first row names the columns")
    for i, name in enumerate(columns):
        if not name or name in columns[:i]:
            raise DataMissing(f"{shown(path)}, row 1: column {i + 1} {'is a second ' + name if name else 'has no name'}")
    rows, numbers = [], []
    for number, row in enumerate(lines[1:], 2):
        if len(row) not in (0, len(columns)):
            raise DataMissing(
                f"{shown(path)}, row {number} has {plural(len(row), 'cell')}; the first row has {len(columns)}"
            )
        if row:  # an empty line is none
            rows.append(row)
            numbers.append(number)
    if not rows:
        raise DataMissing(f"{shown(path)} has no row but the names of its columns")
    return Sheet(path, columns, rows, numbers, sha256)


def as_number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def as_moment(cell: str) -> float | None:
    """A number as it is; a date, as 2016-07-01 or 2016-07-01 13:00, in seconds. One that names no zone is of UTC."""
    if (number := as_number(cell)) is not None:
        return number if math.isfinite(number) else None
    try:
        moment = datetime.fromisoformat(cell.replace("/", "-").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
