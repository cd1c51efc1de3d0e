"""The embedding loops of token matrices: as `loop` and `native_loop`, but what an input becomes has any number of rows.

A part is a `.npz` file: token vectors in float16, one input after another, and the length of each. On a GPU a batch is
on its way to the host while the next one is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float16, Int64

from twinlens.core.device import Placement, name_device_fault
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.core.token_matrices import join_matrices, refuse_useless
from twinlens.inference.loop import DeviceRoom, choose_batch_size, encode_in_halves
from twinlens.inference.native_loop import choose_native_batch_size, order_by_length, read_native
from twinlens.models.token_batch import TokenBatch, TokenPictureEncoder, TokenTextEncoder

PICTURES_PER_PART, TEXTS_PER_PART = 256, 2048  # what a killed run loses at most; each picture is some 200 KB

Matrix = Float16[np.ndarray, "tokens dim"]


@dataclass(frozen=True)
class _Plan:
    """How a part is computed: batches of its rows, in what order, and figures to note with it."""

    rows: slice
    order: Int64[np.ndarray, " rows"]
    batches: Iterator[list[TokenBatch]]
    figures: dict[str, float]


def embed_picture_tokens(
    encoder: TokenPictureEncoder,
    shards: Path,
    rows: pl.DataFrame,
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
    read_threads: int = 2,
    room: DeviceRoom | None = None,
) -> None:
    """Fill `scratch` with the token matrices of pictures, or of pictures with texts; see `native_loop.embed_native`.

    Raises:
        DataError: a token vector is NaN or not of unit length, or an input has none; it is named.
        ResourceError: the device is no longer there.
    """
    batch, room = batch or choose_native_batch_size(placement), room or DeviceRoom()
    missing = list_missing(len(rows), PICTURES_PER_PART, scratch)
    jpegs = (jpeg for part in missing for _, jpeg in iter_pixels(shards, rows[part]))

    def plan(part: slice) -> _Plan:
        mine = list(islice(jpegs, part.stop - part.start))
        texts = rows["text"][part].to_list() if "text" in rows.columns else None
        order = order_by_length(encoder, mine, texts)
        tasks = (
            ([mine[place] for place in some], None if texts is None else [texts[place] for place in some])
            for some in _cut(order, batch)
        )
        read = read_native(encoder, tasks, read_threads, placement)
        return _Plan(part, order, (encode_in_halves(encoder.encode_tokens, one, room) for one in read), {})

    _fill(missing, plan, rows["id"].to_list(), scratch, placement, "embed pictures", "img")


def embed_text_tokens(
    encoder: TokenTextEncoder,
    texts: Sequence[str],
    ids: Sequence[str],
    scratch: Scratch,
    placement: Placement,
    *,
    batch: int | None = None,
    room: DeviceRoom | None = None,
) -> None:
    """Fill `scratch` with the token matrices of texts; see `loop.embed_texts`.

    Raises:
        DataError: a token vector is NaN or not of unit length, or a text has none; it is named.
        ResourceError: the device is no longer there.
    """
    batch, room = batch or choose_batch_size(placement, texts=True), room or DeviceRoom()

    def plan(part: slice) -> _Plan:
        counts = np.asarray(encoder.token_counts(texts[part]), dtype=np.int64)
        order = np.argsort(counts, kind="stable")
        words = ([texts[part.start + place] for place in some] for some in _cut(order, batch))
        batches = (encode_in_halves(encoder.encode_tokens, some, room) for some in words)
        truncated, unknown = int((counts > encoder.max_tokens).sum()), int((counts == 0).sum())
        return _Plan(part, order, batches, {"truncated": truncated, "unknown": unknown})

    missing = list_missing(len(ids), TEXTS_PER_PART, scratch)
    _fill(missing, plan, ids, scratch, placement, "embed texts", "text")


def list_missing(count: int, per_part: int, scratch: Scratch) -> list[slice]:
    """List the rows of those parts that are not finished."""
    parts = [slice(start, min(start + per_part, count)) for start in range(0, count, per_part)]
    return [part for part in parts if not scratch.has(name_part(part))]


def name_part(part: slice) -> str:
    """Name the file of a part by its first row, so that names have the order of the rows."""
    return f"tokens-{part.start:09d}.npz"


def list_parts(scratch: Scratch) -> list[Path]:
    """List the files of all parts, in order."""
    return sorted(scratch.folder.glob("tokens-*.npz"))


def _cut(order: Int64[np.ndarray, " rows"], batch: int) -> Iterator[list[int]]:
    return (order[start : start + batch].tolist() for start in range(0, len(order), batch))


def _fill(
    missing: Sequence[slice],
    plan: Callable[[slice], _Plan],
    ids: Sequence[str],
    scratch: Scratch,
    placement: Placement,
    title: str,
    unit: str,
) -> None:
    todo = sum(part.stop - part.start for part in missing)
    with (
        name_device_fault(placement),
        Progress(title, total=len(ids), unit=unit, done=len(ids) - todo) as bar,
        torch.inference_mode(),
    ):
        for part in missing:
            started, matrices = time.perf_counter(), list[Matrix]()
            planned = plan(part)
            waiting: list[_OnItsWay] = []
            for batches in planned.batches:
                coming = [_OnItsWay(one, placement.device) for one in batches]
                for one in waiting:
                    matrices += one.take()
                waiting = coming
                bar.add(sum(len(one.kept) for one in batches))
            for one in waiting:
                matrices += one.take()
            place = np.argsort(planned.order)  # of each row among what was computed
            found = join_matrices([matrices[n] for n in place])
            refuse_useless(found, ids[part])
            scratch.note(name_part(part), seconds=time.perf_counter() - started, **planned.figures)
            arrays = {"values": found.values, "lengths": found.lengths}
            scratch.put(name_part(part), lambda path, arrays=arrays: _save(arrays, path))  # type: ignore[misc]


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


def _copy_behind(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
