"""User tables: CSV, TSV, JSONL or Parquet as rows of a few named columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.readers.parquet import open_parquet

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")


def read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Read the named columns of every row, in the file's order.

    Raises:
        FetchError: the file is not there.
        DataError: its kind is unknown, a column is missing, or a line of JSON is none.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise FetchError(f"the table {path} is not there: the dataset's card names it")
    if path.suffix == ".parquet":
        return _parquet(path, wanted)
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if path.suffix == ".jsonl":
        return list(_jsonl(path, text, wanted))
    if path.suffix not in ENDINGS:
        raise DataError(f"{path}: what kind of table ends in '{path.suffix}'? Known: {', '.join(ENDINGS)}")
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",")
    _refuse_missing(path, wanted, reader.fieldnames or [])
    return [{name: row[name] for name in wanted} for row in reader]


def _parquet(path: Path, wanted: list[str]) -> list[dict[str, Any]]:
    file = open_parquet(path)
    _refuse_missing(path, wanted, file.schema_arrow.names)
    rows: list[dict[str, Any]] = file.read(columns=wanted).to_pylist()
    return rows


def _jsonl(path: Path, text: str, wanted: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is no JSON object: {line[:60]!r}")
        _refuse_missing(path, wanted[:1], list(row))  # the others may be absent where they are empty
        yield {name: row.get(name) for name in wanted}


def _refuse_missing(path: Path, wanted: list[str], found: Iterable[str]) -> None:
    found = list(found)
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(found) or 'nothing'}")


def split_texts(cell: Any, separator: str | None = None) -> list[str]:
    """Split a cell into strings: none, one, a list, or one that a separator divides."""
    if cell is None:
        return []
    if isinstance(cell, list):
        return [str(item) for item in cell if item is not None]
    parts = str(cell).split(separator) if separator else [str(cell)]
    return [part.strip() for part in parts] if separator else parts
