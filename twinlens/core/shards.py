"""Shards of JPEG bytes, as the `resize` stage writes them and every later stage reads pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from twinlens.core import tables
from twinlens.core.errors import DataError


def shard_path(folder: Path, shard: int) -> Path:
    """The file of one shard."""
    return folder / f"shard-{shard:05d}.parquet"


def iter_pixels(folder: Path, rows: pl.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Iterate over the JPEG bytes of some pictures, one shard in memory at a time.

    Args:
        folder: of the `resize` stage.
        rows: `image_id`, `shard` and `row`; shards must not return once left.

    Yields:
        image_id and bytes, in the order of `rows`.

    Raises:
        DataError: a picture is not where `rows` say.
    """
    shard, table = -1, None
    for image_id, at_shard, row in rows.select("image_id", "shard", "row").iter_rows():
        path = shard_path(folder, at_shard)
        if at_shard != shard or table is None:
            shard, table = at_shard, pq.read_table(path) if path.exists() else tables.PIXELS.empty_table()
        found = table["image_id"][row].as_py() if row < len(table) else "not there"
        if found != image_id:
            raise DataError(
                f"{path}: row {row} is {found}, expected {image_id}; "
                "the shards and their index do not belong together: `dvc repro -f resize`"
            )
        yield image_id, table["jpeg"][row].as_py()
