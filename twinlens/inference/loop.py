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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32

from twinlens.core.device import Placement, name_device_fault
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels_of
from twinlens.core.vectors import normalise_rows, write_rows
from twinlens.engines.base import Seat
from twinlens.images.transforms import map_ahead
from twinlens.inference.feed import Feed
from twinlens.inference.parts import (
    Finished,
    PartsAtWork,
    PicturePart,
    Span,
    TextPart,
    accept,
    list_missing,
    slice_pictures,
    slice_texts,
)
from twinlens.inference.threads import hold_threads
from twinlens.inference.transfers import open_transfers
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
    """Fill `scratch` with the vectors of pictures, in this process.

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
    size = choose_part_size(placement, texts=False)
    spans = list_missing(len(rows), size, scratch)
    parts = slice_pictures(rows, spans, scratch.open_store(), shards, size)
    with show_progress("embed pictures", "img", len(rows), spans) as bar:
        seat = Seat(decode_threads, bar.add)
        accept(scratch, stream_pictures(encoder, parts, placement, seat, batch=batch, room=room, read=read))


def show_progress(what: str, unit: str, total: int, missing: Sequence[Span]) -> Progress:
    """A bar for some work of which parts are missing."""
    return Progress(what, total, unit, done=total - sum(span.stop - span.start for span in missing))


def stream_pictures(
    encoder: ImageEncoder,
    parts: Iterable[PicturePart],
    placement: Placement,
    seat: Seat,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
    read: Callable[[Sequence[bytes]], torch.Tensor] | None = None,
) -> Iterator[Finished]:
    """Put the vectors of pictures into the store part by part, and give back what was put; as `embed_pictures`.

    Parts are taken, and their pictures read and decoded, ahead of the model, across their ends.
    """
    first, parts = _peek(parts)
    if first is None:
        return
    most = min(batch or choose_batch_size(placement, texts=False), first.source.largest)
    room, transfers = room or DeviceRoom(), open_transfers(placement)
    taken, begun = deque[PicturePart](), deque[PicturePart]()

    def list_sizes() -> Iterator[int]:
        for part in parts:
            taken.append(part)
            begun.append(part)
            yield from (min(most, part.size - at) for at in range(0, part.size, most))

    def list_rows() -> Iterator[pl.DataFrame]:
        while taken:  # pictures are asked for once the size of their batch is known
            yield taken.popleft().rows

    assert first.source.shards is not None
    jpegs = (jpeg for _, jpeg in iter_pixels_of(first.source.shards, list_rows()))
    with name_device_fault(placement), ExitStack() as stack:
        if read is None:
            feed = Feed(encoder.pixels, most, transfers, seat.decode_threads)
            ready = stack.enter_context(closing(feed.batches(jpegs, list_sizes())))
        else:
            ready = (read(list(islice(jpegs, size))) for size in list_sizes())
        work = PartsAtWork(transfers, partial(encode_halving, room=room))
        for pixels in ready:
            with hold_threads(placement, len(pixels) < most):
                work.add(encoder.encode, pixels)
            seat.count(len(pixels))
            if work.count == begun[0].size:
                refused = {} if read is None else _count_refused(read)
                yield from work.end(begun.popleft(), None, **refused)
        yield from work.finish()


def _count_refused(read: Callable[[Sequence[bytes]], torch.Tensor]) -> dict[str, float]:
    """The pictures of a part that the device's decoder did not take."""
    take = getattr(read, "take_refused", None)
    count = 0 if take is None else take()
    return {"decoded_on_cpu": count} if count else {}


P = TypeVar("P", PicturePart, TextPart)


def _peek(parts: Iterable[P]) -> tuple[P | None, Iterator[P]]:
    """The first of some parts, and all of them."""
    rest = iter(parts)
    first = next(rest, None)
    return first, rest if first is None else chain([first], rest)


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
    """Fill `scratch` with the vectors of texts, in this process; notes how many the tower could not read, or not whole.

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
    size = choose_part_size(placement, texts=True)
    spans = list_missing(len(texts), size, scratch)
    parts = slice_texts(texts, ids, spans, scratch.open_store(), size)
    with show_progress("embed texts", "text", len(texts), spans) as bar:
        accept(scratch, stream_texts(encoder, parts, placement, Seat(1, bar.add), batch=batch, room=room))


def stream_texts(
    encoder: TextEncoder,
    parts: Iterable[TextPart],
    placement: Placement,
    seat: Seat,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
) -> Iterator[Finished]:
    """Put the vectors of texts into the store part by part, and give back what was put; as `embed_texts`."""
    batch = batch or choose_batch_size(placement, texts=True)
    room, begun = room or DeviceRoom(), deque[TextPart]()

    def list_parts() -> Iterator[TextPart]:
        for part in parts:
            begun.append(part)
            yield part

    with name_device_fault(placement):
        work = PartsAtWork(open_transfers(placement), partial(encode_halving, room=room))
        for found in _read_ahead(encoder, list_parts()):
            part = begun.popleft()
            by_length = np.argsort(found.counts, kind="stable")
            for start in range(0, part.size, batch):
                chosen = by_length[start : start + batch]
                with hold_threads(placement, len(chosen) < batch):
                    work.add(found.encode, chosen)
                seat.count(len(chosen))
            too_long, unknown = int((found.counts > encoder.max_tokens).sum()), int((found.counts == 0).sum())
            yield from work.end(part, by_length, truncated=too_long, unknown=unknown)
        yield from work.finish()


def _read_ahead(encoder: TextEncoder, parts: Iterable[TextPart]) -> Iterator[TokenizedTexts]:
    """The texts of some parts, tokenized by a thread while the device works; in turn where `encode` tokenizes too."""

    def read(part: TextPart) -> TokenizedTexts:
        return read_texts(encoder, part.texts)

    return map_ahead(read, parts, threads=1) if hasattr(encoder, "tokenize") else map(read, parts)


def is_complete(scratch: Scratch, count: int, per_part: int) -> bool:
    """Whether all parts are finished, so that no model is needed."""
    return not list_missing(count, per_part, scratch)


def iter_finished(scratch: Scratch) -> Iterator[Float32[np.ndarray, "rows dim"]]:
    """Iterate over the vectors of all parts in order, as the tower gave them."""
    files = scratch.iter_paths(scratch.list_parts("part-*.npy"))
    return (np.load(file, allow_pickle=False) for file in files)


def regroup(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join and cut blocks of rows into blocks of `size` rows; the last one has what is left."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        while sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting = [joined[size:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def join_parts(scratch: Scratch) -> Float32[np.ndarray, "rows dim"]:
    """Join the vectors of all parts in memory, as the tower gave them."""
    return np.concatenate(list(iter_finished(scratch)))


def collect(scratch: Scratch, count: int, path: Path) -> int:
    """Write the unit vectors of all parts as `vectors.write_rows` does; returns the number of dimensions.

    Raises:
        ResourceError: the disk is full; the message has the bytes that are needed and free.
    """
    return write_rows(path, (normalise_rows(part) for part in iter_finished(scratch)), count)


Batch = TypeVar("Batch", torch.Tensor, np.ndarray, NativeBatch, list[str])
Made = TypeVar("Made")


def encode_halving(encode: Callable[[Batch], Made], batch: Batch, room: DeviceRoom) -> list[Made]:
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
