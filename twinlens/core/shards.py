"""Shards of JPEG bytes, as the `resize` stage writes them and every later stage reads pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from twinlens.core import tables
from twinlens.core.errors import DataError, remake


def shard_path(folder: Path, shard: int) -> Path:
    """The file of one shard."""
    return folder / name_shard(shard)


def name_shard(shard: int) -> str:
    """The name of the file of one shard."""
    return f"shard-{shard:05d}.parquet"


def iter_pixels(folder: Path, rows: pl.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Iterate over the JPEG bytes of some pictures, one shard in memory at a time.

    Args:
        folder: of the `resize` stage.
        rows: `image_id`, `shard` and `row`; shards must not return once left. Where they have `sha256`, bytes are
            compared with it, which takes a fiftieth of what decoding takes.

    Returns:
        image_id and bytes, in the order of `rows`.

    Raises:
        DataError: a picture is not where `rows` say, or not as `resize` wrote it.
    """
    return iter_pixels_of(folder, [rows])


def iter_pixels_of(folder: Path, tables_of_rows: Iterable[pl.DataFrame]) -> Iterator[tuple[str, bytes]]:
    """Iterate over the JPEG bytes of the pictures of one table after the other; otherwise as `iter_pixels`."""
    shard, table = -1, None
    for image_id, at_shard, row, sha256 in (one for rows in tables_of_rows for one in _list_places(rows)):
        path = shard_path(folder, at_shard)
        if at_shard != shard or table is None:
            shard, table = at_shard, _read_shard(path)
        found = table["image_id"][row].as_py() if 0 <= row < len(table) else "not there"
        if found != image_id:
            raise DataError(
                f"{path}: row {row} is {found}, expected {image_id}; "
                f"the shards and their index do not belong together: {remake('resize')}"
            )
        jpeg = table["jpeg"][row].as_py()
        if sha256 is not None and hashlib.sha256(jpeg).hexdigest() != sha256:
            raise DataError(f"{path}: row {row}, {image_id}, has other bytes than were written: {remake('resize')}")
        yield image_id, jpeg


def _list_places(rows: pl.DataFrame) -> Iterator[tuple[str, int, int, str | None]]:
    digests = rows["sha256"] if "sha256" in rows.columns else [None] * len(rows)
    places = rows.select("image_id", "shard", "row").iter_rows()
    return ((*place, sha256) for place, sha256 in zip(places, digests, strict=True))


def _read_shard(path: Path) -> pa.Table:
    if not path.exists():
        return tables.PIXELS.empty_table()
    return tables.conform(tables.read_arrow(path, "resize"), tables.PIXELS, str(path))
