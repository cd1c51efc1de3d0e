"""The loop of the `resize` stage: every picture opened once, mended or set aside, and put into a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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
from twinlens.images.transforms import resize, to_numpy, to_tensor
from twinlens.images.workers import map_on_cores


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
    """Write shards of upright RGB JPEGs into `out`, one in memory while the one before is written.

    Args:
        pictures: what the dataset lists, in order; a reason instead of bytes where they cannot be had.
        total: how many, for the progress bar.
        params: the limits and the size.
        out: a folder, made if need be.
        threads: that decode and encode; processes where more than threads can use, see `map_on_cores`.

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
    number = 0
    with Progress("resize", total=total, unit="img") as bar, _ShardWriter(out) as writer:
        work = _Preparation(params, remedy)
        for image_id, made, sha256 in map_on_cores(work, pictures, threads, size_of, remedy):
            bar.add(1)
            if isinstance(made, str):
                notes.append((image_id, False, made))
                continue
            notes += [(image_id, True, note) for note in made.mended]
            index.append((image_id, number, len(shard), made.width, made.height, sha256))
            hashes.append(made.perceptual_hash)
            shard.append((image_id, made.jpeg))
            if len(shard) == params.images_per_shard:
                writer.write(number, shard)
                number, shard = number + 1, []
        if shard:
            writer.write(number, shard)
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


@dataclass(frozen=True)
class _Preparation:
    """What is done with each picture; sent to worker processes where there are some."""

    params: ResizeParams
    remedy: str

    def __call__(self, picture: Picture) -> tuple[str, PreparedPicture | str, str]:
        """The picture's id, what it became or why it is set aside, and the SHA-256 of its JPEG."""
        image_id, file, raw = picture
        if isinstance(raw, str):
            return image_id, raw, ""
        try:
            with name_memory_shortage(f"{file} ({len(raw):,} bytes) was being opened", self.remedy):
                made = prepare_jpeg(
                    raw,
                    shortest_side_px=self.params.shortest_side_px,
                    min_side_px=self.params.min_side_px,
                    max_megapixels=self.params.max_megapixels,
                    quality=self.params.jpeg_quality,
                    name=file,
                    perceptual_hash=hash_picture,
                )
        except BadPictureError as bad:
            return image_id, str(bad), ""
        return image_id, made, hashlib.sha256(made.jpeg).hexdigest()


class _ShardWriter:
    """Writes shards in a thread, one at a time, while the pictures of the next are prepared."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self.writing: Future[None] | None = None

    def write(self, number: int, shard: list[tuple[str, bytes]]) -> None:
        """Begin to write a shard, once the one before is written, so that two are in memory at most."""
        self._wait()
        self.writing = self.pool.submit(_write_shard, self.out, number, shard)

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            self.pool.shutdown()


def _write_shard(out: Path, number: int, shard: list[tuple[str, bytes]]) -> None:
    rows = {"image_id": [i for i, _ in shard], "jpeg": [jpeg for _, jpeg in shard]}
    table = pa.table(rows, schema=tables.PIXELS)
    pq.write_table(table, shard_path(out, number), compression="none", row_group_size=len(shard))


def size_of(picture: Picture) -> int:
    """Size of what a picture's file holds, in bytes."""
    return len(picture[2])


def hash_picture(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Compute the perceptual hash, shrunk by our own resize first: a quarter of PIL's time, the same bits or nearly."""
    small = to_numpy(resize(to_tensor(picture), HASHED_PX, HASHED_PX))
    return compute_perceptual_hash(np.ascontiguousarray(small))
