"""The loop of the `resize` stage: every picture opened once, mended or set aside, and put into a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from twinlens.config.params import ResizeParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.progress import Progress
from twinlens.core.resources import name_memory_shortage
from twinlens.core.shards import shard_path
from twinlens.images.decode import BadPictureError, PreparedPicture, prepare_jpeg
from twinlens.images.duplicates import HASHED_PX, compute_perceptual_hash
from twinlens.images.transforms import map_ahead, resize, to_numpy, to_tensor


@dataclass(frozen=True)
class ResizeResult:
    """Outcome of resizing the pictures."""

    index: pl.DataFrame  # table INDEX
    hashes: pl.DataFrame  # table HASHES
    notes: pl.DataFrame  # table NOTES


Picture = tuple[str, str, bytes | str]  # image_id, file, bytes or the reason why there are none


def resize_pictures(
    pictures: Iterator[Picture], total: int, params: ResizeParams, out: Path, threads: int
) -> ResizeResult:
    """Write shards of upright RGB JPEGs into `out`, a shard in memory at a time.

    Args:
        pictures: what the dataset lists, in order; a reason instead of bytes where they cannot be had.
        total: how many, for the progress bar.
        params: the limits and the size.
        out: a folder, made if need be.
        threads: that decode and encode.

    Raises:
        DataError: no picture is usable.
        ResourceError: memory or disk space ran out; no picture is set aside for that.
    """
    out.mkdir(parents=True, exist_ok=True)
    index: list[tuple[str, int, int, int, int, str]] = []
    hashes: list[bytes] = []
    notes: list[tuple[str, bool, str]] = []
    shard: list[tuple[str, bytes]] = []

    remedy = (
        f"Lower compute.decode_threads (now {threads}), which reruns nothing, or resize.max_megapixels "
        f"(now {params.max_megapixels:g}), which leaves larger pictures out"
    )

    def prepare(picture: Picture) -> tuple[str, PreparedPicture | str]:
        image_id, file, raw = picture
        if isinstance(raw, str):
            return image_id, raw
        try:
            with name_memory_shortage(f"{file} ({len(raw):,} bytes) was being opened", remedy):
                return image_id, prepare_jpeg(
                    raw,
                    shortest_side_px=params.shortest_side_px,
                    min_side_px=params.min_side_px,
                    max_megapixels=params.max_megapixels,
                    quality=params.jpeg_quality,
                    name=file,
                    perceptual_hash=hash_picture,
                )
        except BadPictureError as bad:
            return image_id, str(bad)

    def flush(number: int) -> None:
        rows = {"image_id": [i for i, _ in shard], "jpeg": [jpeg for _, jpeg in shard]}
        table = pa.table(rows, schema=tables.PIXELS)
        pq.write_table(table, shard_path(out, number), compression="none", row_group_size=len(shard))
        shard.clear()

    number = 0
    with Progress("resize", total=total, unit="img") as bar:
        for image_id, made in map_ahead(prepare, pictures, threads, waiting=8 * threads, bytes_of=size_of):
            bar.add(1)
            if isinstance(made, str):
                notes.append((image_id, False, made))
                continue
            notes += [(image_id, True, note) for note in made.mended]
            digest = hashlib.sha256(made.jpeg).hexdigest()
            index.append((image_id, number, len(shard), made.width, made.height, digest))
            hashes.append(made.perceptual_hash)
            shard.append((image_id, made.jpeg))
            if len(shard) == params.images_per_shard:
                flush(number)
                number += 1
    if shard:
        flush(number)
    if not index:
        why = f"; the first was set aside because: {notes[0][2]}" if notes else ""
        raise DataError(f"none of {total} pictures is usable{why}")
    columns = ["image_id", "shard", "row", "width", "height", "sha256"]
    return ResizeResult(
        pl.DataFrame(index, schema=columns, orient="row"),
        pl.DataFrame(
            {"image_id": [row[0] for row in index], "perceptual_hash": hashes},
            schema={"image_id": pl.String, "perceptual_hash": pl.Binary},
        ),
        pl.DataFrame(notes, schema={"image_id": pl.String, "kept": pl.Boolean, "note": pl.String}, orient="row"),
    )


def size_of(picture: Picture) -> int:
    """Size of what a picture's file holds, in bytes."""
    return len(picture[2])


def hash_picture(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Compute the perceptual hash, shrunk by our own resize first: a quarter of PIL's time, the same bits or nearly."""
    small = to_numpy(resize(to_tensor(picture), HASHED_PX, HASHED_PX))
    return compute_perceptual_hash(np.ascontiguousarray(small))
