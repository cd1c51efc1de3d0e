"""The embedding loops of token matrices: as `loop` and `native_loop`, but what an input becomes has any number of rows.

A part holds token vectors in float16, one input after another (`values`), and how many each has (`lengths`). On a GPU
a batch is on its way to the host while the next one is computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Int64

from twinlens.core.device import Placement, name_device_fault
from twinlens.core.shards import iter_pixels
from twinlens.core.token_matrices import join_matrices, refuse_useless
from twinlens.engines.base import Seat
from twinlens.inference.loop import DeviceRoom, choose_batch_size, encode_halving
from twinlens.inference.native_loop import choose_native_batch_size, order_by_length, read_native
from twinlens.inference.parts import Finished, Part, PicturePart, TextPart
from twinlens.models.token_batch import TokenBatch, TokenPictureEncoder, TokenTextEncoder

Matrix = Float16[np.ndarray, "tokens dim"]


def stream_picture_tokens(
    encoder: TokenPictureEncoder,
    parts: Iterable[PicturePart],
    placement: Placement,
    seat: Seat,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
) -> Iterator[Finished]:
    """Put the token matrices of pictures, or of pictures with texts, into the store; as `native_loop.stream_native`.

    Raises:
        DataError: a token vector is NaN or not of unit length, or an input has none; it is named.
        ResourceError: the device is no longer there.
    """
    batch, room = batch or choose_native_batch_size(placement), room or DeviceRoom()
    for part in parts:
        started = time.perf_counter()
        assert part.source.shards is not None
        jpegs = [jpeg for _, jpeg in iter_pixels(part.source.shards, part.rows)]
        texts = part.rows["text"].to_list() if "text" in part.rows.columns else None
        order = order_by_length(encoder, jpegs, texts)
        tasks = (
            ([jpegs[place] for place in some], None if texts is None else [texts[place] for place in some])
            for some in _cut(order, batch)
        )
        read = read_native(encoder, tasks, seat.decode_threads, placement)
        batches = (encode_halving(encoder.encode_tokens, one, room) for one in read)
        yield _put(part, order, batches, placement, seat, started)


def stream_text_tokens(
    encoder: TokenTextEncoder,
    parts: Iterable[TextPart],
    placement: Placement,
    seat: Seat,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
) -> Iterator[Finished]:
    """Put the token matrices of texts into the store; as `loop.stream_texts`.

    Raises:
        DataError: a token vector is NaN or not of unit length, or a text has none; it is named.
        ResourceError: the device is no longer there.
    """
    batch, room = batch or choose_batch_size(placement, texts=True), room or DeviceRoom()
    for part in parts:
        started = time.perf_counter()
        counts = np.asarray(encoder.token_counts(part.texts), dtype=np.int64)
        order = np.argsort(counts, kind="stable")
        words = ([part.texts[place] for place in some] for some in _cut(order, batch))
        batches = (encode_halving(encoder.encode_tokens, some, room) for some in words)
        truncated, unknown = int((counts > encoder.max_tokens).sum()), int((counts == 0).sum())
        yield _put(part, order, batches, placement, seat, started, truncated=truncated, unknown=unknown)


def _cut(order: Int64[np.ndarray, " rows"], batch: int) -> Iterator[list[int]]:
    return (order[start : start + batch].tolist() for start in range(0, len(order), batch))


def _put(
    part: Part,
    order: Int64[np.ndarray, " rows"],
    batches: Iterable[list[TokenBatch]],
    placement: Placement,
    seat: Seat,
    started: float,
    **figures: float,
) -> Finished:
    """Compute the batches of a part, whose rows come in some order, and put it into the store."""
    computed: list[Matrix] = []
    waiting: list[_OnItsWay] = []
    with name_device_fault(placement):
        for some in batches:
            coming = [_OnItsWay(one, placement.device) for one in some]
            computed += _take(waiting)
            waiting = coming
            seat.count(sum(len(one.kept) for one in some))
        computed += _take(waiting)
    found = join_matrices([computed[place] for place in np.argsort(order)])
    refuse_useless(found, part.ids)
    store, seconds = part.source.store, time.perf_counter() - started
    note = store.note(part.name, seconds=seconds, tokens=len(found.values), **figures)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, values=found.values, lengths=found.lengths)

    return Finished((note, store.put(part.name, write)))


class _OnItsWay:
    """A batch on its way to the host; on a CPU it is there."""

    def __init__(self, batch: TokenBatch, device: torch.device) -> None:
        narrow = batch.vectors.half()
        self.there: Any = None
        if device.type != "cuda":
            self.vectors, self.kept = narrow.cpu(), batch.kept.cpu()
            return
        self.vectors, self.kept = (_copy_behind(one) for one in (narrow, batch.kept))
        self.there = torch.cuda.Event()
        self.there.record(torch.cuda.current_stream(device))

    def take(self) -> list[Matrix]:
        """Wait for the batch; its matrices, without padding."""
        if self.there is not None:
            self.there.synchronize()
        vectors, kept = self.vectors.numpy(), self.kept.numpy()
        return [rows[own] for rows, own in zip(vectors, kept, strict=True)]


def _take(batches: Sequence[_OnItsWay]) -> Iterator[Matrix]:
    for one in batches:
        yield from one.take()


def _copy_behind(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
