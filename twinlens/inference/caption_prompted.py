"""The captioning loop of models that read pictures at their own size, part by part, so that a killed run goes on.

Pictures of one size make one batch where there are enough of them: a batch is as long as its longest row, and what
shorter ones are padded with is computed for nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import simplejpeg
import torch

from twinlens.core.device import Placement
from twinlens.core.errors import ResourceError
from twinlens.core.part_store import Receipt
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.engines import Seat
from twinlens.images.transforms import map_ahead
from twinlens.inference.caption_parts import (
    CaptionTask,
    accept,
    list_missing,
    put_texts,
    read_texts,
    show_progress,
)
from twinlens.models.captioners.prompted import Caption, Inputs, PromptedCaptioner
from twinlens.models.state_dicts import without_reports

log = logging.getLogger("twinlens")

PICTURES_PER_PART = 128  # what a killed run loses at most; also those among which some of one size are looked for
LARGEST_BATCH = 32
BYTES_PER_PICTURE = 500_000_000  # of a GPU's memory: a thousand tokens of a model with some billion parameters
BATCHES_AHEAD = 2


def choose_batch_size(placement: Placement, free_bytes: int | None = None) -> int:
    """Choose a batch size that suits the device.

    Args:
        placement: where the captioner runs.
        free_bytes: memory that is free on a GPU beside the model; asked of it if absent.
    """
    if placement.device.type != "cuda":
        return 4
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(placement.device)[0]
    return min(LARGEST_BATCH, max(1, free_bytes // BYTES_PER_PICTURE))


def caption_by_prompt(
    captioner: PromptedCaptioner, shards: Path, rows: pl.DataFrame, scratch: Scratch, *, batch: int | None = None
) -> list[str]:
    """Write one caption per picture, in the order of `rows`, in this process.

    Args:
        captioner: with its weights.
        shards: folder of the `resize` stage.
        rows: `image_id`, `shard`, `row` of the pictures.
        scratch: where finished parts are kept, with what they took: `seconds`, `waiting_s`, `tokens`, and how many
            captions were `cut`; parts that are there are not made again.
        batch: pictures a step; halved for good where that many do not fit into the device's memory.

    Raises:
        ResourceError: not even one picture fits into the device's memory beside the model.
    """
    tasks = list_missing(rows, PICTURES_PER_PART, 1, shards, scratch)
    with show_progress(rows, tasks) as bar:
        accept(scratch, stream_prompted(captioner, tasks, Seat(1, bar.add), batch))
    texts = read_texts(rows, PICTURES_PER_PART, scratch)
    tell_shortcomings(captioner.card.max_new_tokens, texts, int(scratch.total("cut")))
    return texts


def stream_prompted(
    captioner: PromptedCaptioner, tasks: Iterable[CaptionTask], seat: Seat, batch: int | None
) -> Iterator[list[Receipt]]:
    """Put the captions of pictures into the store part by part, and give the receipts of each; as `caption_by_prompt`.

    Tasks of one part each are taken, and their pictures prepared, ahead of the model.
    """
    size = batch or choose_batch_size(captioner.placement)
    with without_reports():
        part = _Part({})
        ended = time.perf_counter()
        # One thread prepares: a tokenizer is not to be used by several.
        for prepared in map_ahead(_Preparing(captioner), _read_batches(captioner, tasks, size), 1, BATCHES_AHEAD):
            ready = time.perf_counter()
            some = _caption(captioner, prepared)
            part.captions |= dict(zip(prepared.batch.places, some, strict=True))
            part.waiting_s += ready - ended
            part.seconds += time.perf_counter() - ended
            ended = time.perf_counter()
            seat.count(len(some))
            if len(part.captions) == prepared.batch.task.size:
                yield part.put(prepared.batch.task)
                part = _Part({})


@dataclass(frozen=True)
class _Batch:
    """Pictures of one part that are captioned together."""

    task: CaptionTask
    places: list[int]  # of the pictures in its part
    jpegs: list[bytes]


@dataclass(frozen=True)
class _Prepared:
    batch: _Batch
    inputs: Inputs


@dataclass(frozen=True)
class _Preparing:
    captioner: PromptedCaptioner

    def __call__(self, batch: _Batch) -> _Prepared:
        return _Prepared(batch, self.captioner.prepare(batch.jpegs))


@dataclass
class _Part:
    """A part that is being made."""

    captions: dict[int, Caption]  # by the picture's place
    seconds: float = 0.0
    waiting_s: float = 0.0

    def put(self, task: CaptionTask) -> list[Receipt]:
        captions = [self.captions[place] for place in range(len(self.captions))]
        tokens, cut = sum(one.tokens for one in captions), sum(one.cut for one in captions)
        figures = {"seconds": self.seconds, "waiting_s": self.waiting_s, "tokens": tokens, "cut": cut}
        return put_texts(task.store, task.parts[0].name, [one.text for one in captions], **figures)


def _read_batches(captioner: PromptedCaptioner, tasks: Iterable[CaptionTask], size: int) -> Iterator[_Batch]:
    """Batches of each part in turn: pictures of about the same number of pixels, those of one shape together."""
    for task in tasks:
        mine = [jpeg for _, jpeg in iter_pixels(task.shards, task.rows)]
        shapes = [simplejpeg.decode_jpeg_header(jpeg)[:2] for jpeg in mine]
        order = sorted(range(len(mine)), key=lambda place: (shapes[place][0] * shapes[place][1], shapes[place]))
        while order:
            size = min(size, captioner.largest_batch or size)
            places, order = order[:size], order[size:]
            yield _Batch(task, places, [mine[place] for place in places])


def _caption(captioner: PromptedCaptioner, prepared: _Prepared) -> list[Caption]:
    """Caption a batch, in pieces where it does not fit into the device's memory; the size that fits is remembered."""
    jpegs = prepared.batch.jpegs
    captions: list[Caption] = []
    while len(captions) < len(jpegs):
        at = len(captions)
        size = min(len(jpegs) - at, captioner.largest_batch or len(jpegs))
        try:
            whole = size == len(jpegs)
            captions += captioner.caption(prepared.inputs if whole else captioner.prepare(jpegs[at : at + size]))
            continue
        except torch.OutOfMemoryError:
            if size == 1:
                raise ResourceError(
                    f"the captioner and one picture do not fit into the memory of {captioner.placement.device}; choose "
                    "a smaller captioner, give the card a `max_side_px`, free the device, or set `compute.device: cpu`"
                ) from None
        captioner.largest_batch = size // 2  # outside of `except`, whose traceback holds what filled the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("%d pictures at a time do not fit into the device's memory: %d from now on", size, size // 2)
    return captions


def tell_shortcomings(most: int, texts: list[str], cut: int) -> None:
    """Tell of captions that are empty, or were cut at so many tokens."""
    if cut:
        log.warning(
            "%s of %s captions were cut at max_new_tokens, %d: raise it, or ask for shorter ones",
            f"{cut:,}",
            f"{len(texts):,}",
            most,
        )
    if empty := sum(not text for text in texts):
        log.warning("%s of %s captions are empty", f"{empty:,}", f"{len(texts):,}")
