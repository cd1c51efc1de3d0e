"""User tables: CSV, TSV, JSONL, JSON or Parquet as rows of a few named columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.readers.delimited import read_delimited, refuse_missing
from twinlens.datasets.readers.json_tables import read_json_table
from twinlens.datasets.readers.limits import refuse_large
from twinlens.datasets.readers.parquet_cells import iter_cells, open_parquet
from twinlens.datasets.readers.texts import decode, parse_json, read_text_cell, split_texts

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class TableRow:
    """A row of a table, which knows where it stands."""

    table: str  # the file's name
    place: str  # `line 7` or `row 7`
    cells: dict[str, Any]
    lacks: tuple[str, ...] = ()  # wanted columns that a row between separators ends before

    def where(self, column: str) -> str:
        """The row and a column of it, as messages name them."""
        return f"{self.table}, {self.place}, column {column}"

    def text(self, column: str | None) -> str | None:
        """The one text of a cell; None where there is none, or no such column is wanted."""
        return None if column is None else read_text_cell(self.cells.get(column), self.where(column))

    def texts(self, column: str | None, separator: str | None = None) -> list[str]:
        """The texts of a cell, of which there may be any number."""
        return [] if column is None else split_texts(self.cells.get(column), self.where(column), separator)


def read_rows(path: Path, columns: Iterable[str]) -> list[TableRow]:
    """Read the named columns of every row, in the file's order; as `iter_rows`."""
    return list(iter_rows(path, columns))


def iter_rows(path: Path, columns: Iterable[str]) -> Iterator[TableRow]:
    """Read the named columns of every row, in the file's order, one at a time.

    Raises:
        FetchError: the file is not there.
        DataError: its kind is unknown, a column is missing, a line is none of its kind, or it is too large.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise FetchError(f"the table {path} is not there: the dataset's card names it")
    ending = path.suffix.lower()
    if ending == ".parquet":
        yield from _parquet(path, wanted)
        return
    if ending not in ENDINGS:
        raise DataError(f"{path}: what kind of table ends in '{path.suffix}'? Known: {', '.join(ENDINGS)}")
    refuse_large(path)
    text = decode(path.read_bytes())
    if ending == ".jsonl":
        yield from _jsonl(path, text, wanted)
    elif ending == ".json":
        yield from (TableRow(path.name, place, cells) for place, cells in read_json_table(path, text, wanted))
    else:
        for number, cells in read_delimited(path, text, wanted):
            yield TableRow(path.name, f"line {number}", cells, tuple(name for name in wanted if name not in cells))


def _parquet(path: Path, wanted: list[str]) -> Iterator[TableRow]:
    refuse_missing(path, wanted, open_parquet(path).schema_arrow.names)
    number = 0
    for columns in iter_cells(path, wanted):
        for cells in zip(*columns.values(), strict=True):
            yield TableRow(path.name, f"row {number}", dict(zip(columns, cells, strict=True)))
            number += 1


def _jsonl(path: Path, text: str, wanted: list[str]) -> Iterator[TableRow]:
    # At line feeds alone: any other line end may stand within a JSON string as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is no JSON object: {line[:60]!r}")
        refuse_missing(path, wanted[:1], list(row))  # the others may be absent where they are empty
        yield TableRow(path.name, f"line {number}", row)
