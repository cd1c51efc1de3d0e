"""Tables in files as what goes through them takes them: some rows of some columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from twinlens.core.tables import count_rows, read_slices, read_table

ROWS = 2**14  # of a slice


@dataclass(frozen=True)
class StoredTable:
    """A table in a file, of which a row group is in memory while it is gone through."""

    path: Path
    schema: pa.Schema

    def __len__(self) -> int:
        return count_rows(self.path)

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read all rows; raises as `tables.read_table` does."""
        return read_table(self.path, self.schema, columns)


Table = pl.DataFrame | StoredTable


def iter_slices(table: Table, columns: Sequence[str], rows: int | None = None) -> Iterator[pl.DataFrame]:
    """Iterate over some columns, so many rows at a time; raises as `tables.read_slices` does."""
    rows = ROWS if rows is None else rows
    if isinstance(table, StoredTable):
        yield from read_slices(table.path, table.schema, columns, rows)
    else:
        yield from table.select(columns).iter_slices(rows) if len(table) else ()
