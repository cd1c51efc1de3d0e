"""The loop of the `resize` stage: every picture opened once, mended or set aside, and put into a shard.

A shard is made of a range of the listed pictures, and holds those of them that are usable. So any worker can make any
shard, knowing nothing of the others; what it took and what it says of each picture stands in a table beside it.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

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
from twinlens.core.shards import name_shard
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


R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Store(Protocol[R_co]):
    """Place where finished files are put, each whole or not at all; what it gives for one is handed on."""

    def put(self, name: str, write: Callable[[Path], None]) -> R_co:
        """Let `write` fill a file, which then takes its name."""
        ...

    def note(self, name: str, **figures: float) -> R_co:
        """Record figures of a file that is about to be put."""
        ...


def name_outcomes(shard: int) -> str:
    """Name the table of what became of each picture of a shard; where it is there, the shard is finished."""
    return f"outcomes-{shard:05d}.parquet"


def write_shards(
    pictures: Iterator[Picture],
    shards: Iterator[tuple[int, int]],
    params: ResizeParams,
    store: Store[R],
    threads: int,
    advance: Callable[[int], object],
) -> Iterator[list[R]]:
    """Write shards of upright RGB JPEGs, one in memory while the one before is written.

    Beside each shard that holds a picture, `name_shard`, stands its table of outcomes, `name_outcomes`, with the
    `seconds` that both took; a shard whose pictures are all set aside has that table alone.

    Args:
        pictures: those listed for the shards, in order; a reason instead of bytes where they cannot be had.
        shards: number of each, and how many pictures are listed for it; asked for once its first picture is there.
        params: the limits and the size.
        store: where they are put.
        threads: that decode and encode; processes where more than threads can use, see `map_on_cores`.
        advance: is told how many more pictures are done.

    Yields:
        What the store gave for the files of each shard, once they are there.

    Raises:
        ResourceError: memory or disk space ran out; no picture is set aside for that.
    """
    remedy = (
        f"Lower compute.decode_threads (now {threads}), which reruns nothing, or resize.max_megapixels "
        f"(now {params.max_megapixels:g}), which leaves larger pictures out"
    )
    work = _Preparation(params, remedy)
    shard: _Shard | None = None
    with (
        closing(map_on_cores(work, pictures, threads, size_of, remedy)) as prepared,
        _ShardWriter(store) as writer,
    ):
        for outcome in prepared:
            if shard is None:
                shard = _Shard(*next(shards))
            shard.add(*outcome)
            del outcome
            advance(1)
            if shard.is_full:
                yield from writer.write(shard)
                shard = None
        yield from writer.finish()


def resize_pictures(
    pictures: Iterator[Picture], total: int, params: ResizeParams, out: Path, threads: int
) -> ResizeResult:
    """Write the shards of some pictures into a folder; see `write_shards`.

    Args:
        pictures: what the dataset lists, in order; a reason instead of bytes where they cannot be had.
        total: how many.
        params: the limits and the size.
        out: a folder, made if need be.
        threads: that decode and encode.

    Raises:
        DataError: no picture is usable.
        ResourceError: memory or disk space ran out; no picture is set aside for that.
    """
    out.mkdir(parents=True, exist_ok=True)
    sizes = list(split_evenly(total, params.images_per_shard))
    with Progress("resize", total=total, unit="img") as bar:
        deque(write_shards(pictures, iter(sizes), params, _Folder(out), threads, bar.add), maxlen=0)
    outcomes = []
    for number, _ in sizes:
        path = out / name_outcomes(number)
        outcomes.append(tables.read_table(path, tables.OUTCOMES))
        path.unlink()
    made = pl.concat([read_outcomes(tables.OUTCOMES.empty_table()), *outcomes])
    found = ResizeResult(select_index(made), select_hashes(made), select_notes(made))
    if found.index.is_empty():
        raise DataError(explain_nothing(total, found.notes))
    return found


def split_evenly(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Split a number of things into ranges of one size, the last one smaller: the number and the size of each."""
    return ((number, min(size, total - number * size)) for number in range(-(-total // size)))


def read_outcomes(table: pa.Table) -> pl.DataFrame:
    """Read a table of outcomes as polars."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def select_index(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Select the table INDEX of what became of pictures: where those that are usable lie."""
    return outcomes.filter(pl.col("row").is_not_null()).select(tables.INDEX.names)


def select_hashes(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Select the table HASHES of what became of pictures."""
    return outcomes.filter(pl.col("row").is_not_null()).select(tables.HASHES.names)


def select_notes(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Select the table NOTES of what became of pictures: a row for each note."""
    kept = pl.col("row").is_not_null().alias("kept")
    noted = outcomes.select("image_id", kept, pl.col("notes").alias("note")).explode("note", empty_as_null=False)
    return noted.select(tables.NOTES.names)


def explain_nothing(total: int, notes: pl.DataFrame) -> str:
    """Say that no picture is usable, with the first reason."""
    why = "" if notes.is_empty() else f"; the first was set aside because: {notes['note'][0]}"
    return f"none of {total} pictures is usable{why}"


@dataclass(frozen=True)
class _Folder:
    """A folder as a store."""

    folder: Path

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        write(self.folder / name)

    def note(self, name: str, **figures: float) -> None:
        """Nobody asks."""


@dataclass
class _Shard:
    """A shard that is being made."""

    number: int
    listed: int  # pictures
    jpegs: list[tuple[str, bytes]] = field(default_factory=list)
    outcomes: list[tuple[object, ...]] = field(default_factory=list)  # rows of OUTCOMES

    @property
    def is_full(self) -> bool:
        """Whether all pictures that are listed for it have been added."""
        return len(self.outcomes) == self.listed

    def add(self, image_id: str, made: PreparedPicture | str, sha256: str) -> None:
        """Add a picture, or the reason why it is set aside."""
        if isinstance(made, str):
            self.outcomes.append((image_id, self.number, None, None, None, None, None, [made]))
            return
        place = (self.number, len(self.jpegs), made.width, made.height)
        self.outcomes.append((image_id, *place, sha256, made.perceptual_hash, list(made.mended)))
        self.jpegs.append((image_id, made.jpeg))


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


class _ShardWriter(Generic[R]):
    """Writes shards in a thread, one at a time, while the pictures of the next are prepared."""

    def __init__(self, store: Store[R]) -> None:
        self.store = store
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self.writing: Future[list[R]] | None = None
        self.ended = time.perf_counter()  # the shard before

    def write(self, shard: _Shard) -> Iterator[list[R]]:
        """Begin to write a shard, once the one before is written, so that two are in memory at most; gives that one."""
        now = time.perf_counter()
        seconds, self.ended = now - self.ended, now
        yield from self.finish()
        self.writing = self.pool.submit(_write_shard, self.store, shard, seconds)

    def finish(self) -> Iterator[list[R]]:
        """Wait for what is being written, if anything is, and give what the store gave for it."""
        if self.writing is not None:
            written, self.writing = self.writing, None
            yield written.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()


def _write_shard(store: Store[R], shard: _Shard, seconds: float) -> list[R]:
    """Write a shard, and last the table that says that it is finished."""
    given: list[R] = []
    if shard.jpegs:
        given.append(store.put(name_shard(shard.number), lambda path: _write_pixels(path, shard.jpegs)))
    outcomes = pl.DataFrame(shard.outcomes, schema=read_outcomes(tables.OUTCOMES.empty_table()).schema, orient="row")
    name = name_outcomes(shard.number)
    given.append(store.note(name, seconds=seconds))
    given.append(store.put(name, lambda path: tables.write_table(outcomes, path, tables.OUTCOMES)))
    return given


def _write_pixels(path: Path, jpegs: Sequence[tuple[str, bytes]]) -> None:
    rows = {"image_id": [i for i, _ in jpegs], "jpeg": [jpeg for _, jpeg in jpegs]}
    table = pa.table(rows, schema=tables.PIXELS)
    pq.write_table(table, path, compression="none", row_group_size=len(jpegs))


def size_of(picture: Picture) -> int:
    """Size of what a picture's file holds, in bytes."""
    return len(picture[2])


def hash_picture(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Compute the perceptual hash, shrunk by our own resize first: a quarter of PIL's time, the same bits or nearly."""
    small = to_numpy(resize(to_tensor(picture), HASHED_PX, HASHED_PX))
    return compute_perceptual_hash(np.ascontiguousarray(small))
