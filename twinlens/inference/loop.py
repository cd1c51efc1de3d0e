"""The embedding loops: batches in, vectors out, part by part so that a killed run goes on.

Parts hold the vectors as the tower gave them, as heads are trained on those; `collect` makes the
unit vectors that everything else compares.

The same loops run every encoder. Pixels are decoded by threads while the model works; texts are
batched by length, so that little is spent on padding. Both run in inference mode on models in eval
mode: a vector never depends on which pictures shared its batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32

from twinlens.core.device import Placement
from twinlens.core.progress import Progress
from twinlens.core.resources import name_disk_fault, reserve_room
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.core.vectors import compute_lengths, normalise_rows
from twinlens.images.transforms import batch_pixels, map_ahead
from twinlens.models.encoders.base import ImageEncoder, TextEncoder

PICTURES_PER_PART = 256  # what a killed run loses at most
TEXTS_PER_PART = 2048


def choose_batch_size(placement: Placement, texts: bool) -> int:
    """Choose a batch size that suits the device: on CPUs small ones are as fast as large ones and pad less."""
    if placement.device.type == "cpu":
        return 64 if texts else 32
    return 1024 if texts else 256


def embed_pictures(
    encoder: ImageEncoder,
    shards: Path,
    rows: pl.DataFrame,
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
    decode_threads: int = 2,
    read: Callable[[Sequence[bytes]], torch.Tensor] | None = None,
) -> None:
    """Fill `scratch` with the vectors of pictures.

    Args:
        encoder: an image tower.
        shards: folder of the `resize` stage.
        rows: `image_id`, `shard`, `row` of the pictures wanted, in the order wanted.
        scratch: where finished parts are kept; parts that are there are not made again.
        placement: where the encoder runs.
        batch: pictures a step.
        decode_threads: threads that decode ahead of the model.
        read: makes a batch's pixels of JPEG bytes where threads do not decode them, on the device for instance.

    Raises:
        DataError: a vector is NaN, infinite or zero; the pictures are named.
    """
    batch = batch or choose_batch_size(placement, texts=False)
    pinned = placement.device.type == "cuda"

    def read_batch(part: list[tuple[str, bytes]]) -> torch.Tensor:
        jpegs = [jpeg for _, jpeg in part]
        if read is not None:
            return read(jpegs)
        pixels = batch_pixels(jpegs, encoder.pixels)
        return pixels.pin_memory() if pinned else pixels

    parts = _Parts(len(rows), PICTURES_PER_PART, scratch)
    missing = pl.concat([rows[part.rows] for part in parts.missing]) if parts.missing else rows[:0]
    pictures = iter_pixels(shards, missing)
    tasks = (task for part in parts.missing for task in _batches(pictures, part.size, batch))
    with Progress("embed pictures", total=len(rows), unit="img", done=len(rows) - len(missing)) as bar:
        ready = map_ahead(read_batch, tasks, decode_threads if read is None else 1)
        for part in parts.missing:
            started = time.perf_counter()
            vectors: list[torch.Tensor] = []
            while sum(map(len, vectors)) < part.size:
                vectors.append(_encode(encoder.encode, next(ready)))
                bar.add(len(vectors[-1]))
            ids = rows["image_id"][part.rows].to_list()
            found = torch.cat(vectors).numpy()
            compute_lengths(found, ids)
            parts.put(part, found, seconds=time.perf_counter() - started)


def embed_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    ids: Sequence[str],
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
) -> None:
    """Fill `scratch` with the vectors of texts; notes how many the tower could not read to their end, or at all.

    Args:
        encoder: a text tower.
        texts: what to embed.
        ids: their names, for messages.
        scratch: where finished parts are kept; parts that are there are not made again.
        placement: where the encoder runs.
        batch: texts a step.

    Raises:
        DataError: a vector is NaN, infinite or zero; the texts are named.
    """
    batch = batch or choose_batch_size(placement, texts=True)
    parts = _Parts(len(texts), TEXTS_PER_PART, scratch)
    todo = sum(part.size for part in parts.missing)
    with Progress("embed texts", total=len(texts), unit="text", done=len(texts) - todo) as bar:
        for part in parts.missing:
            started = time.perf_counter()
            mine = list(texts[part.rows])
            counts = np.array(encoder.token_counts(mine))
            by_length = np.argsort(counts, kind="stable")
            vectors: Float32[np.ndarray, "texts dim"] | None = None
            for start in range(0, len(mine), batch):
                chosen = by_length[start : start + batch]
                found = _encode(encoder.encode, [mine[i] for i in chosen]).numpy()
                if vectors is None:
                    vectors = np.empty((len(mine), found.shape[1]), dtype=np.float32)
                vectors[chosen] = found
                bar.add(len(chosen))
            assert vectors is not None
            cut = {"truncated": int((counts > encoder.max_tokens).sum()), "unknown": int((counts == 0).sum())}
            compute_lengths(vectors, list(ids[part.rows]))
            parts.put(part, vectors, seconds=time.perf_counter() - started, **cut)


def store_rows(
    take: Callable[[slice], Float32[np.ndarray, "rows dim"]], ids: Sequence[str], scratch: Scratch, per_part: int
) -> None:
    """Fill `scratch` with vectors that are there already.

    Args:
        take: gives some of the rows.
        ids: of all rows, for messages.
        scratch: where finished parts are kept; parts that are there are not made again.
        per_part: rows of a part.

    Raises:
        DataError: a vector is NaN, infinite or zero; the rows are named.
    """
    parts = _Parts(len(ids), per_part, scratch)
    for part in parts.missing:
        started = time.perf_counter()
        rows = take(part.rows)
        compute_lengths(rows, list(ids[part.rows]))
        parts.put(part, rows, seconds=time.perf_counter() - started)


def is_complete(scratch: Scratch, count: int, per_part: int) -> bool:
    """Whether all parts are finished, so that no model is needed."""
    return not _Parts(count, per_part, scratch).missing


def iter_finished(scratch: Scratch) -> Iterator[Float32[np.ndarray, "rows dim"]]:
    """Iterate over the vectors of all parts in order, as the tower gave them."""
    return (np.load(file, allow_pickle=False) for file in sorted(scratch.folder.glob("part-*.npy")))


def join_parts(scratch: Scratch) -> Float32[np.ndarray, "rows dim"]:
    """Join the vectors of all parts in memory, as the tower gave them."""
    return np.concatenate(list(iter_finished(scratch)))


def collect(scratch: Scratch, count: int, path: Path) -> int:
    """Write the unit vectors of all parts as one `.npy` file of float32 rows; returns the number of dimensions.

    Written rather than mapped: where a disk is full, a mapped file ends the process without a word.

    Raises:
        ResourceError: the disk is full; the message has the bytes that are needed and free.
    """
    dim, row = 0, 0
    with name_disk_fault(path), path.open("wb") as file:
        for part in iter_finished(scratch):
            if not dim:
                dim = int(part.shape[1])
                described = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
                np.lib.format.write_array_header_1_0(file, described)
                reserve_room(file, path, file.tell() + 4 * count * dim)
            file.write(np.ascontiguousarray(normalise_rows(part), dtype="<f4").data)
            row += len(part)
    assert dim and row == count, f"{scratch.folder} holds {row} rows of {count}"
    return dim


class _Part:
    def __init__(self, number: int, start: int, stop: int) -> None:
        self.name, self.rows, self.size = f"part-{number:05d}.npy", slice(start, stop), stop - start


class _Parts:
    """The rows of one job, cut into parts of which some may be finished."""

    def __init__(self, count: int, size: int, scratch: Scratch) -> None:
        self.scratch = scratch
        every = [_Part(n, start, min(start + size, count)) for n, start in enumerate(range(0, count, size))]
        self.missing = [part for part in every if not scratch.has(part.name)]

    def put(self, part: _Part, vectors: Float32[np.ndarray, "rows dim"], **figures: float) -> None:
        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, vectors)

        self.scratch.note(part.name, **figures)
        self.scratch.put(part.name, write)


T = TypeVar("T")
Batch = TypeVar("Batch", torch.Tensor, list[str])


def _batches(source: Iterator[T], count: int, size: int) -> Iterator[list[T]]:
    """The next `count` of `source`, in lists of at most `size`."""
    for start in range(0, count, size):
        yield [next(source) for _ in range(min(size, count - start))]


def _encode(encode: Callable[[Batch], torch.Tensor], batch: Batch) -> torch.Tensor:
    """Run the model; a batch that does not fit into the device's memory is halved until it does."""
    try:
        with torch.inference_mode():
            return encode(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return torch.cat([_encode(encode, batch[:half]), _encode(encode, batch[half:])])
