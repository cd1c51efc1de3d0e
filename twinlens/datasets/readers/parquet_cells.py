"""Parquet files, opened and read column by column, no more of them than there may be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twinlens.core.bucket_files import AnyFile
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.readers.limits import (
    MAX_GROUP_BYTES,
    MAX_ROWS,
    MAX_TABLE_BYTES,
    MAX_TEXT_BYTES,
    MAX_VALUES,
    SPLIT,
    describe,
)

BUFFER_BYTES = 2**20  # of the file, read at a time
ROWS_AT_ONCE, FEW_ROWS = 4096, 64


def open_parquet(path: AnyFile, as_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file whose end is whole.

    Args:
        path: of the file.
        as_dictionary: paths of columns of texts or bytes, of which a value that repeats is held once.

    Raises:
        DataError: it is none.
    """
    try:
        source = path if isinstance(path, Path) else path.open()
        file = pq.ParquetFile(source, read_dictionary=list(as_dictionary), buffer_size=BUFFER_BYTES)
        _read_description(file)
        return file
    except Exception as error:  # Arrow raises whatever the bytes lead it to
        raise_if_memory(error, path)
        raise DataError(f"{path} is not a whole Parquet file ({describe(error)}): fetch it again") from None


def _read_description(file: pq.ParquetFile) -> None:
    """Read all names and sizes once: Arrow decodes each when it is asked for, and a damaged one ends in an error."""
    _ = file.schema_arrow.names, [file.schema.column(leaf).path for leaf in range(len(file.schema))]
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            _ = part.path_in_schema, part.total_uncompressed_size, part.num_values, part.has_dictionary_page


def raise_if_memory(error: Exception, path: AnyFile) -> None:
    """Raise an error again that says that memory ran out; a damaged size asks for more than any file can hold.

    Raises:
        MemoryError: memory ran out.
        FetchError: the file is in a bucket, and could not be had.
    """
    if isinstance(error, FetchError):
        raise error
    if isinstance(error, MemoryError):
        asked = max((int(number) for number in re.findall(r"\d+", str(error))), default=0)
        if asked <= MAX_GROUP_BYTES + path.stat().st_size:
            raise error


def read_cells(path: AnyFile, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Read the cells of some columns of every row; as `iter_cells`."""
    found: dict[str, list[Any]] = {column: [] for column in columns}
    for part in iter_cells(path, columns):
        for column, cells in part.items():
            found[column] += cells
    return found


def iter_cells(path: AnyFile, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Read the cells of some columns, or of fields of theirs (`image.path`), by column, some rows at a time.

    A text that repeats is held once, so that rows that share one take a few bytes each.

    Raises:
        DataError: the file is damaged, has no such column, or holds more than can be read as a whole.
    """
    file = open_parquet(path)
    leaves = [leaf for leaf in map(file.schema.column, range(len(file.schema))) if is_in(leaf.path, columns)]
    _refuse_many(path, file, {leaf.path for leaf in leaves})
    held = rows = 0
    batches = _iter_batches(path, columns, [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"])
    while True:
        try:
            if (batch := next(batches, None)) is None:
                break
            part = {column: _cells(_field(batch, column)) for column in columns}
        except DataError:
            raise
        except Exception as error:  # Arrow raises whatever the bytes lead it to
            raise_if_memory(error, path)
            raise DataError(f"{path} is damaged ({describe(error)}): fetch it again") from None
        held += sum(sum(map(_extent, cells)) for cells in part.values())
        if held > MAX_TEXT_BYTES:
            raise DataError(f"{path}: its texts have over {MAX_TEXT_BYTES:,} bytes, each time they stand. {SPLIT}")
        rows += len(batch)
        yield part
    if rows != file.metadata.num_rows:
        raise DataError(f"{path} is damaged (it has fewer rows than it says): fetch it again")


def _iter_batches(path: AnyFile, columns: Sequence[str], texts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some rows of a file at a time, with the texts that repeat in a dictionary."""
    file = open_parquet(path, texts)
    for group in range(file.num_row_groups):
        done = 0
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, [group], columns=list(columns)):
                yield batch
                done += len(batch)
        except pa.ArrowNotImplementedError:  # Arrow cannot do so where a nested column goes on without its dictionary
            plain = open_parquet(path).iter_batches(FEW_ROWS, [group], columns=list(columns))
            for batch in plain:
                skip = min(done, len(batch))
                done -= skip
                yield batch.slice(skip)


def is_in(leaf: str, columns: Sequence[str]) -> bool:
    """Whether a leaf of the schema, by its path, is one of some columns or lies in it."""
    return any(leaf == column or leaf.startswith(f"{column}.") for column in columns)


def _refuse_many(path: AnyFile, file: pq.ParquetFile, leaves: set[str]) -> None:
    """Refuse a file whose own description says that the columns' cells are too many, or too large."""
    rows = file.metadata.num_rows
    if rows > MAX_ROWS:
        raise DataError(f"{path} has {rows:,} rows, wanted at most {MAX_ROWS:,}. {SPLIT}")
    parts = [
        part
        for group in map(file.metadata.row_group, range(file.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if part.path_in_schema in leaves
    ]
    size, values = sum(part.total_uncompressed_size for part in parts), sum(part.num_values for part in parts)
    if size > MAX_TABLE_BYTES or size < 0:
        raise DataError(f"{path}: the columns that are read have {size:,} bytes, at most {MAX_TABLE_BYTES:,}. {SPLIT}")
    if values > MAX_VALUES * max(1, len(leaves)):
        raise DataError(f"{path}: the columns that are read have {values:,} values. {SPLIT}")


def _field(batch: pa.RecordBatch, column: str) -> pa.Array:
    if column in batch.schema.names:
        return batch.column(column)
    name, _, field = column.partition(".")
    whole = batch.column(name)
    return pc.if_else(whole.is_valid(), pc.struct_field(whole, field), None)


def _cells(array: pa.Array) -> list[Any]:
    """The cells of an array as Python objects; those that repeat in a dictionary are one object."""
    if isinstance(array, pa.DictionaryArray):
        words = _cells(array.dictionary)
        return [None if place is None else words[place] for place in array.indices.to_pylist()]
    if isinstance(array, pa.ListArray | pa.LargeListArray):
        items, start = _cells(array.flatten()), 0
        lists: list[Any] = []
        for length in array.value_lengths().to_pylist():
            lists.append(None if length is None else items[start : start + length])
            start += length or 0
        return lists
    return list(array.to_pylist())


def _extent(cell: Any) -> int:
    if isinstance(cell, str | bytes):
        return len(cell)
    return sum(map(_extent, cell)) + 8 * len(cell) if isinstance(cell, list) else 8
