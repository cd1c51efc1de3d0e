"""The embedding loop of pictures at their own size: batches of equal length, in parts as in `loop`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64

from twinlens.core.device import Placement, name_device_fault
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.engines.base import Seat
from twinlens.images.transforms import map_ahead
from twinlens.inference.loop import DeviceRoom, choose_part_size, encode_halving, show_progress
from twinlens.inference.parts import Finished, PartsAtWork, PicturePart, accept, list_missing, slice_pictures
from twinlens.inference.threads import hold_threads
from twinlens.inference.transfers import open_transfers
from twinlens.models.encoders.base import NativeEncoder
from twinlens.models.native import NativeBatch, read_size


def choose_native_batch_size(placement: Placement) -> int:
    """Choose a batch size for pictures at their own size, which may have many times the pixels of others."""
    return 16 if placement.device.type == "cpu" else 64


def embed_native(
    encoder: NativeEncoder,
    shards: Path,
    rows: pl.DataFrame,
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
    read_threads: int = 2,
    room: DeviceRoom | None = None,
) -> None:
    """Fill `scratch` with the vectors of pictures at their own size, or of pictures with texts.

    Of a part, those that make as many tokens go together, the longest first: a batch that is too large is met at once.
    The next batches are read while a GPU works.

    Args:
        encoder: an image tower with a processor of its own.
        shards: folder of the `resize` stage.
        rows: `id`, `image_id`, `shard`, `row` and, for pairs, `text` of the inputs wanted, in the order wanted.
        scratch: where finished parts are kept; parts that are there are not made again.
        placement: where the encoder runs.
        batch: inputs a step.
        read_threads: threads that read ahead of the model, where it allows several.
        room: what is known of the device's memory, and will be for the next call.

    Raises:
        DataError: a vector is NaN, infinite or zero; the inputs are named.
        ResourceError: the device is no longer there.
    """
    size = choose_part_size(placement, texts=False)
    spans = list_missing(len(rows), size, scratch)
    parts = slice_pictures(rows, spans, scratch.open_store(), shards, size)
    with show_progress("embed pictures", "img", len(rows), spans) as bar:
        accept(scratch, stream_native(encoder, parts, placement, Seat(read_threads, bar.add), batch=batch, room=room))


def stream_native(
    encoder: NativeEncoder,
    parts: Iterable[PicturePart],
    placement: Placement,
    seat: Seat,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
) -> Iterator[Finished]:
    """Put vectors into the store part by part, and give back what was put; as `embed_native`."""
    batch, room = batch or choose_native_batch_size(placement), room or DeviceRoom()
    begun = deque[tuple[PicturePart, Int64[np.ndarray, " rows"]]]()

    def list_batches() -> Iterator[tuple[list[bytes], list[str] | None]]:
        for part in parts:
            assert part.source.shards is not None
            mine = [jpeg for _, jpeg in iter_pixels(part.source.shards, part.rows)]
            texts = part.rows["text"].to_list() if "text" in part.rows.columns else None
            order = order_by_length(encoder, mine, texts)
            begun.append((part, order))
            for at in range(0, part.size, batch):
                some = order[at : at + batch]
                yield [mine[place] for place in some], None if texts is None else [texts[place] for place in some]

    with name_device_fault(placement):
        work = PartsAtWork(open_transfers(placement), partial(encode_halving, room=room))
        for pictures in read_native(encoder, list_batches(), seat.decode_threads, placement):
            with hold_threads(placement, len(pictures) < batch):
                work.add(encoder.encode, pictures)
            seat.count(len(pictures))
            if work.count == begun[0][0].size:
                yield from work.end(*begun.popleft())
        yield from work.finish()


def order_by_length(
    encoder: NativeEncoder, jpegs: Sequence[bytes], texts: Sequence[str] | None
) -> Int64[np.ndarray, " inputs"]:
    """Order pictures, or pictures with texts, the longest first: those that make as many tokens go together."""
    lengths = encoder.count_tokens([read_size(jpeg) for jpeg in jpegs])
    if texts is not None:
        lengths = lengths * max(map(len, texts)) + [len(text) for text in texts]  # by picture, then by words
    order: Int64[np.ndarray, " inputs"] = np.argsort(-lengths, kind="stable")
    return order


def read_native(
    encoder: NativeEncoder, tasks: Iterable[tuple[list[bytes], list[str] | None]], threads: int, placement: Placement
) -> Iterator[NativeBatch]:
    """Read batches (JPEG bytes, and texts or None) ahead of a GPU, by as many threads as the encoder allows."""
    if placement.device.type == "cpu":  # a thread of Python beside a model that has all cores holds it up
        return (encoder.read(*task) for task in tasks)
    threads = threads if encoder.threads is None else min(threads, encoder.threads)
    return map_ahead(lambda task: encoder.read(*task), tasks, threads, waiting=threads)
