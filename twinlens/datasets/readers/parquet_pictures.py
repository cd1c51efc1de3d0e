"""Pictures of Parquet files, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from twinlens.core.bucket_files import AnyFile
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.readers.limits import MAX_GROUP_BYTES, MAX_PICTURE_BYTES, MAX_RATIO, describe, explain_size
from twinlens.datasets.readers.parquet_cells import is_in, open_parquet, raise_if_memory

BYTES_AT_ONCE, MAX_PICTURES_AT_ONCE = 64 * 2**20, 64  # of pictures that are held, by their mean size


def read_pictures(places: Mapping[str, AnyFile], files: Sequence[str], column: str) -> Iterator[bytes | str]:
    """Picture bytes of rows named `<file>#<row>`, a few rows in memory at a time while rows are in order."""
    opened: _Pictures | None = None
    for place in files:
        wanted, _, number = place.rpartition("#")
        if wanted not in places:
            yield MISSING
            continue
        if opened is None or opened.name != wanted:
            opened = _Pictures(wanted, places[wanted], column)
        yield opened.read(int(number))


class _Pictures:
    """The pictures of one file, read ahead row by row; going back begins the row group anew."""

    def __init__(self, name: str, path: AnyFile, column: str) -> None:
        self.name, self.path, self.column = name, path, column
        self.file = open_parquet(path)
        self.groups = [self.file.metadata.row_group(group) for group in range(self.file.num_row_groups)]
        self.group, self.first = -1, 0
        self.cells = pa.array([], pa.binary())
        self.batches: Iterator[pa.RecordBatch] = iter(())

    def read(self, row: int) -> bytes | str:
        group, start = self._group(row)
        if group is None:
            return MISSING
        if group != self.group or row < self.first:
            self._forget()
            if large := self._explain_large(group):
                return f"not read from {self.name}: {large}"
            self.group, self.first = group, start
            self.batches = iter(self.file.iter_batches(self._rows_at_once(group), [group], columns=[self.column]))
        try:
            while row >= self.first + len(self.cells):
                self.first += len(self.cells)
                self.cells = next(self.batches).column(self.column)
            return _bytes(self.cells[row - self.first])
        except Exception as error:  # Arrow raises whatever the bytes lead it to
            self._forget()
            raise_if_memory(error, self.path)
            return f"damaged in {self.name}: {describe(error)}"

    def _forget(self) -> None:
        self.group, self.first, self.cells, self.batches = -1, 0, pa.array([], pa.binary()), iter(())

    def _group(self, row: int) -> tuple[int | None, int]:
        start = 0
        for group, described in enumerate(self.groups):
            if start <= row < start + described.num_rows:
                return group, start
            start += described.num_rows
        return None, 0

    def _sizes(self, group: int) -> tuple[int, bool]:
        """Bytes of the group's pictures as they lie in the file, unpacked, and whether one may stand for many rows."""
        described = self.groups[group]
        parts = [
            part
            for part in map(described.column, range(described.num_columns))
            if is_in(part.path_in_schema, [self.column])
        ]
        return sum(part.total_uncompressed_size for part in parts), any(part.has_dictionary_page for part in parts)

    def _explain_large(self, group: int) -> str | None:
        size, _ = self._sizes(group)
        most = min(MAX_GROUP_BYTES, MAX_PICTURE_BYTES * self.groups[group].num_rows)
        packed = max(1, self.path.stat().st_size)
        if size > MAX_PICTURE_BYTES and size > MAX_RATIO * packed:
            return f"its row group unpacks to {size:,} bytes, over {MAX_RATIO} times the file"
        return explain_size(size, most, "in its row group")

    def _rows_at_once(self, group: int) -> int:
        size, shared = self._sizes(group)
        each = size if shared else size / max(1, self.groups[group].num_rows)
        return int(min(MAX_PICTURES_AT_ONCE, max(1, BYTES_AT_ONCE // max(1, each))))


def _bytes(scalar: pa.Scalar) -> bytes | str:
    own = scalar["bytes"] if isinstance(scalar, pa.StructScalar) and scalar.is_valid and "bytes" in scalar else scalar
    buffer = own.as_buffer() if isinstance(own, pa.BinaryScalar | pa.LargeBinaryScalar) else None
    if buffer is not None and (large := explain_size(buffer.size, MAX_PICTURE_BYTES, "in the row")):
        return large
    cell = own.as_py()
    raw = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(raw, bytes):
        return raw
    named = isinstance(scalar, pa.StructScalar) and scalar.is_valid and "path" in scalar and scalar["path"].as_py()
    if raw is None and named:
        return (
            f"the row holds no bytes but the name of a file, {named!r}: write the pictures into the Parquet "
            "(`push_to_hub` of `datasets` does), or read the files by `adapter: folder` and a table of their names"
        )
    if raw is None:
        return "the row holds no bytes: write the picture's into it, or leave the row out"
    if isinstance(raw, list):
        return f"the row holds a list of {len(raw)}, no bytes: write a row for each picture"
    advice = "decode them (`base64.b64decode`) and write bytes" if isinstance(raw, str) else "write the file's bytes"
    return f"the row holds {type(raw).__name__}, no bytes: {advice}"
