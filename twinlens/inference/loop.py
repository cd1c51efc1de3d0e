"""The embedding loops: batches in, vectors out, part by part so that a killed run goes on.

Parts hold the vectors as the tower gave them, as heads are trained on those; `collect` makes the
unit vectors that everything else compares.

The same loops run every encoder. Threads decode pixels and tokenize texts ahead of the model; texts are
batched by length, so that little is spent on padding. Both run in inference mode on models in eval
mode: a vector never depends on which pictures shared its batch.

A GPU is given its work and not waited for: batches are queued behind each other, vectors stay on the device until a
part is whole, and come back while the next part is computed (`Transfers`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64

from twinlens.core.device import Placement, name_device_fault
from twinlens.core.progress import Progress
from twinlens.core.resources import name_disk_fault, reserve_room
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.core.vectors import compute_lengths, normalise_rows
from twinlens.images.transforms import map_ahead
from twinlens.inference.feed import Feed
from twinlens.inference.transfers import Fetched, Transfers, open_transfers
from twinlens.models.encoders.base import ImageEncoder, TextEncoder, TokenizedTexts, read_texts
from twinlens.models.native import NativeBatch

# What a killed run loses at most. On a GPU a part is several batches, so that its device never waits for a disk; as
# device and dtype are in the key of kept parts, those of one size are never taken for those of another.
PICTURES_PER_PART, PICTURES_PER_PART_ON_GPU = 256, 2048
TEXTS_PER_PART, TEXTS_PER_PART_ON_GPU = 2048, 4096

log = logging.getLogger("twinlens")


def choose_batch_size(placement: Placement, texts: bool) -> int:
    """Choose a batch size that suits the device: on CPUs small ones are as fast as large ones and pad less."""
    if placement.device.type == "cpu":
        return 64 if texts else 32
    return 1024 if texts else 256


def choose_part_size(placement: Placement, texts: bool) -> int:
    """Choose how many rows are kept as one part."""
    if placement.device.type == "cuda":
        return TEXTS_PER_PART_ON_GPU if texts else PICTURES_PER_PART_ON_GPU
    return TEXTS_PER_PART if texts else PICTURES_PER_PART


class DeviceRoom:
    """The largest batch that the device's memory was found to hold; None where none was too large."""

    def __init__(self) -> None:
        self.most: int | None = None


def embed_pictures(
    encoder: ImageEncoder,
    shards: Path,
    rows: pl.DataFrame,
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
    decode_threads: int = 2,
    room: DeviceRoom | None = None,
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
        room: what is known of the device's memory, and will be for the next call.
        read: makes a batch's pixels of JPEG bytes where threads do not decode them, on the device for instance.

    Raises:
        DataError: a vector is NaN, infinite or zero; the pictures are named.
        ResourceError: the device is no longer there.
    """
    per_part = choose_part_size(placement, texts=False)
    batch = min(batch or choose_batch_size(placement, texts=False), per_part)
    parts = PartsAtWork(rows["image_id"].to_list(), per_part, scratch, open_transfers(placement))
    missing = pl.concat([rows[part.rows] for part in parts.missing]) if parts.missing else rows[:0]
    if not len(missing):
        return
    room = room or DeviceRoom()
    sizes = [min(batch, part.size - at) for part in parts.missing for at in range(0, part.size, batch)]
    jpegs = (jpeg for _, jpeg in iter_pixels(shards, missing))
    with (
        name_device_fault(placement),
        ExitStack() as stack,
        Progress("embed pictures", total=len(rows), unit="img", done=len(rows) - len(missing)) as bar,
    ):
        if read is None:
            feed = Feed(encoder.pixels, max(sizes), parts.transfers, decode_threads)
            ready = stack.enter_context(closing(feed.batches(jpegs, sizes)))
        else:
            ready = (read(list(islice(jpegs, size))) for size in sizes)
        parts.start()
        for part in parts.missing:
            while parts.count < part.size:
                pixels = next(ready)
                parts.add(encoder.encode, pixels, room)
                bar.add(len(pixels))
            parts.end(part)
        parts.finish()


def embed_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    ids: Sequence[str],
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
) -> None:
    """Fill `scratch` with the vectors of texts; notes how many the tower could not read to their end, or at all.

    Args:
        encoder: a text tower.
        texts: what to embed.
        ids: their names, for messages.
        scratch: where finished parts are kept; parts that are there are not made again.
        placement: where the encoder runs.
        batch: texts a step.
        room: what is known of the device's memory, and will be for the next call.

    Raises:
        DataError: a vector is NaN, infinite or zero; the texts are named.
        ResourceError: the device is no longer there.
    """
    batch = batch or choose_batch_size(placement, texts=True)
    room = room or DeviceRoom()
    parts = PartsAtWork(ids, choose_part_size(placement, texts=True), scratch, open_transfers(placement))
    todo = sum(part.size for part in parts.missing)
    with (
        name_device_fault(placement),
        Progress("embed texts", total=len(texts), unit="text", done=len(texts) - todo) as bar,
    ):
        parts.start()
        for part, found in zip(parts.missing, _read_ahead(encoder, texts, parts.missing), strict=True):
            by_length = np.argsort(found.counts, kind="stable")
            for start in range(0, part.size, batch):
                chosen = by_length[start : start + batch]
                parts.add(found.encode, chosen, room)
                bar.add(len(chosen))
            too_long, unknown = int((found.counts > encoder.max_tokens).sum()), int((found.counts == 0).sum())
            parts.end(part, by_length, truncated=too_long, unknown=unknown)
        parts.finish()


def _read_ahead(encoder: TextEncoder, texts: Sequence[str], parts: Iterable[_Part]) -> Iterator[TokenizedTexts]:
    """The texts of some parts, tokenized by a thread while the device works; in turn where `encode` tokenizes too."""

    def read(part: _Part) -> TokenizedTexts:
        return read_texts(encoder, texts[part.rows])

    return map_ahead(read, parts, threads=1) if hasattr(encoder, "tokenize") else map(read, parts)


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
    for part in _list_missing(len(ids), per_part, scratch):
        started = time.perf_counter()
        rows = take(part.rows)
        compute_lengths(rows, list(ids[part.rows]))
        _put(scratch, part, rows, seconds=time.perf_counter() - started)


def is_complete(scratch: Scratch, count: int, per_part: int) -> bool:
    """Whether all parts are finished, so that no model is needed."""
    return not _list_missing(count, per_part, scratch)


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


Batch = TypeVar("Batch", torch.Tensor, np.ndarray, NativeBatch)
Some = TypeVar("Some", torch.Tensor, np.ndarray, NativeBatch, list[str])
Made = TypeVar("Made")


class _Part:
    def __init__(self, number: int, start: int, stop: int) -> None:
        self.name, self.rows, self.size = f"part-{number:05d}.npy", slice(start, stop), stop - start


def _list_missing(count: int, size: int, scratch: Scratch) -> list[_Part]:
    """The parts of a job that are not finished."""
    every = [_Part(n, start, min(start + size, count)) for n, start in enumerate(range(0, count, size))]
    return [part for part in every if not scratch.has(part.name)]


def _put(scratch: Scratch, part: _Part, vectors: Float32[np.ndarray, "rows dim"], **figures: float) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, vectors)

    scratch.note(part.name, **figures)
    scratch.put(part.name, write)


class PartsAtWork:
    """The parts of one job: vectors on the device, on their way to the host, and finished in the scratch folder."""

    def __init__(self, ids: Sequence[str], size: int, scratch: Scratch, transfers: Transfers) -> None:
        self.ids, self.scratch, self.transfers = ids, scratch, transfers
        self.missing = _list_missing(len(ids), size, scratch)
        self.count = 0  # rows of the part at hand
        self._vectors: list[torch.Tensor] = []
        self._marks: list[Any] = []  # start and end of each of its batches, behind the end of the batch before it
        self._under_way: deque[tuple[_Part, Fetched, list[Any], np.ndarray | None, dict[str, float]]] = deque()

    def start(self) -> None:
        """Begin to count the seconds."""
        self.started = time.perf_counter()
        self._marks = [self.transfers.mark()]

    def add(self, encode: Callable[[Batch], torch.Tensor], batch: Batch, room: DeviceRoom) -> None:
        """Compute the vectors of a batch."""
        self._marks.append(self.transfers.mark())
        self._vectors += encode_in_halves(encode, batch, room)
        self._marks.append(self.transfers.mark())
        self.count += len(batch)

    def end(self, part: _Part, order: Int64[np.ndarray, " rows"] | None = None, **figures: float) -> None:
        """End a part, whose rows were added in some `order`; it is put when its vectors are on the host."""
        self._under_way.append((part, self.transfers.fetch(self._vectors), self._marks, order, figures))
        self._vectors, self._marks, self.count = [], self._marks[-1:], 0
        self.finish(self.transfers.behind)

    def finish(self, but: int = 0) -> None:
        """Put all parts that have ended, but for the last ones.

        Raises:
            DataError: a vector is NaN, infinite or zero; the rows are named.
        """
        while len(self._under_way) > but:
            part, fetched, marks, order, figures = self._under_way.popleft()
            vectors = fetched()
            if order is not None:
                ordered = np.empty_like(vectors)
                ordered[order] = vectors
                vectors = ordered
            compute_lengths(vectors, list(self.ids[part.rows]))
            idle = sum(self.transfers.measure(*pair) for pair in zip(marks[::2], marks[1::2], strict=False))
            now = time.perf_counter()
            _put(self.scratch, part, vectors, seconds=now - self.started, idle=idle, **figures)
            self.started = now


def encode_in_halves(encode: Callable[[Some], Made], batch: Some, room: DeviceRoom) -> list[Made]:
    """Run the model; a batch that does not fit into the device's memory is halved until it does, and so are all later.

    Raises:
        OutOfMemoryError: of torch: nor does one alone.
    """
    vectors: list[Made] = []
    at, tried = 0, room.most
    while at < len(batch):
        some = batch[at : at + (room.most or len(batch))]
        try:
            with torch.inference_mode():
                vectors.append(encode(some))
            at += len(some)
            continue
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
            room.most = len(some) // 2
        torch.cuda.empty_cache()  # beyond the `except`, which holds on to what was computed
    if room.most != tried:
        log.warning("a batch of %d does not fit into the device's memory; going on with %d", len(batch), room.most)
    return vectors
