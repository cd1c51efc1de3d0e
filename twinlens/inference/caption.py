"""The captioning loop: part by part, so that a killed run goes on where it was.

Three things go on at once: threads decode pictures, the main thread queues batches on the device, and one more thread
reads words and writes parts. Parts are of one size everywhere; a worker is given several at once, as a batch may reach
over several of them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl
import torch
from jaxtyping import UInt8

from twinlens.core.device import Placement
from twinlens.core.errors import ResourceError
from twinlens.core.part_store import Receipt
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels_of
from twinlens.engines import Seat
from twinlens.inference.caption_parts import (
    CaptionTask,
    accept,
    list_missing,
    put_texts,
    read_texts,
    show_progress,
)
from twinlens.inference.feed import Feed
from twinlens.inference.transfers import open_transfers
from twinlens.models.captioners.transformers import Captioner

log = logging.getLogger("twinlens")

PICTURES_PER_PART = 128  # what a killed run loses at most, beside the batches that were not finished
QUEUED = 2  # batches whose words are awaited while the next is begun
BATCHES_WORTH_RECORDING = 4  # recording takes about a second of a GPU's time
LARGEST_BATCH = 512
BYTES_PER_PICTURE = 40_000_000  # of a GPU's memory, in the vision tower of a large BLIP in bfloat16


def choose_batch_size(placement: Placement, free_bytes: int | None = None) -> int:
    """Choose a batch size that suits the device.

    Args:
        placement: where the captioner runs.
        free_bytes: memory that is free on a GPU; asked of it if absent.
    """
    if placement.device.type != "cuda":
        return 32
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(placement.device)[0]
    fitting = min(LARGEST_BATCH, max(32, free_bytes // BYTES_PER_PICTURE))
    return 1 << (fitting.bit_length() - 1)  # a power of two, so that batches of one size fill a task


def caption_pictures(
    captioner: Captioner,
    shards: Path,
    rows: pl.DataFrame,
    scratch: Scratch,
    *,
    batch: int | None = None,
    decode_threads: int = 2,
) -> list[str]:
    """Write one caption per picture, in the order of `rows`, in this process.

    Args:
        captioner: with its weights.
        shards: folder of the `resize` stage.
        rows: `image_id`, `shard`, `row` of the pictures.
        scratch: where finished parts are kept; parts that are there are not made again.
        batch: pictures a step; halved for good where that many do not fit into the device's memory.
        decode_threads: threads that decode ahead of the model.

    Raises:
        ResourceError: not even one picture fits into the device's memory beside the model.
    """
    tasks = list_missing(rows, PICTURES_PER_PART, choose_parts_per_task(batch), shards, scratch)
    with show_progress(rows, tasks) as bar:
        accept(scratch, stream_captions(captioner, tasks, Seat(decode_threads, bar.add), batch))
    return read_texts(rows, PICTURES_PER_PART, scratch)


def choose_parts_per_task(batch: int | None) -> int:
    """Choose how many parts a worker is given at once: a batch never reaches over two tasks, whoever works on them."""
    return -(-max(LARGEST_BATCH, batch or 0) // PICTURES_PER_PART)


def stream_captions(
    captioner: Captioner, tasks: Iterable[CaptionTask], seat: Seat, batch: int | None
) -> Iterator[list[Receipt]]:
    """Put the captions of pictures into the store part by part; as `caption_pictures`.

    Args:
        captioner: with its weights.
        tasks: taken, and their pictures read and decoded, ahead of the model.
        seat: where the work is done.
        batch: pictures a step.

    Yields:
        The receipts of each task.
    """
    tasks = iter(tasks)
    if (first := next(tasks, None)) is None:
        return
    expected = first.expected
    most = min(batch or choose_batch_size(captioner.placement), captioner.largest_batch or expected, expected)
    captioner.expect(most if expected >= BATCHES_WORTH_RECORDING * most else None)
    writer = _Writer(seat)
    taken = deque[CaptionTask]()

    def list_sizes() -> Iterator[int]:
        for task in chain([first], tasks):
            taken.append(task)
            writer.expect(task)
            yield from (min(most, task.size - at) for at in range(0, task.size, most))

    def list_rows() -> Iterator[pl.DataFrame]:
        while taken:  # pictures are asked for once the size of their batch is known
            yield taken.popleft().rows

    jpegs = (jpeg for _, jpeg in iter_pixels_of(first.shards, list_rows()))
    feed = Feed(captioner.pixels, most, open_transfers(captioner.placement), seat.decode_threads)
    with closing(feed.batches(jpegs, list_sizes())) as batches, ThreadPoolExecutor(1, "words") as thread:
        queued: deque[Future[list[list[Receipt]]]] = deque()
        while True:
            asked = time.perf_counter()
            if (pixels := next(batches, None)) is None:
                break
            ready = time.perf_counter()
            started = _Started(_start(captioner, pixels), asked, ready)
            del pixels
            queued.append(thread.submit(writer.write, started))
            while len(queued) >= QUEUED or (queued and queued[0].done()):
                yield from queued.popleft().result()
        while queued:
            yield from queued.popleft().result()


Pixels = UInt8[torch.Tensor, "images 3 height width"]
Words = Callable[[], list[str]]


def _start(captioner: Captioner, pixels: Pixels) -> list[Words]:
    """Start on a batch, in pieces where it does not fit into the device's memory; the size that fits is remembered."""
    words: list[Words] = []
    at = 0
    while at < len(pixels):
        size = min(len(pixels) - at, captioner.largest_batch or len(pixels))
        try:
            words.append(captioner.start(pixels[at : at + size]))
            at += size
            continue
        except torch.OutOfMemoryError:
            if size == 1:
                raise ResourceError(
                    f"the captioner and one picture do not fit into the memory of {captioner.placement.device}; choose "
                    "a smaller captioner, free the device, or set `compute.device: cpu`"
                ) from None
        captioner.largest_batch = size // 2  # outside of `except`, whose traceback holds what filled the memory
        captioner.release()
        captioner.expect(captioner.largest_batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("%d pictures at a time do not fit into the device's memory: %d from now on", size, size // 2)
    return words


@dataclass(frozen=True)
class _Started:
    """A batch at work: its words, and when its pixels were asked for and there (seconds of the same clock)."""

    words: list[Words]
    asked: float
    ready: float


class _Writer:
    """Writes parts as their captions come, in order."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._tasks: deque[CaptionTask] = deque()
        self._ended = time.perf_counter()  # the batch before
        self._texts: list[str] = []
        self._seconds, self._waiting = 0.0, 0.0  # of these texts
        self._receipts: list[list[Receipt]] = []  # of the first task's parts

    def expect(self, task: CaptionTask) -> None:
        """Expect the captions of one more task."""
        self._tasks.append(task)

    def write(self, batch: _Started) -> list[list[Receipt]]:
        """Wait for a batch's words and write the parts that are full by then; gives the receipts of finished tasks."""
        texts = [text for words in batch.words for text in words()]
        ended = time.perf_counter()
        # Pixels that came while the device was still at work on the batch before have kept nobody waiting.
        waiting = max(0.0, batch.ready - max(batch.asked, self._ended)) / len(texts)
        seconds = (ended - self._ended) / len(texts)
        self._ended = ended
        finished: list[list[Receipt]] = []
        while texts:
            task = self._tasks[0]
            part = task.parts[len(self._receipts)]
            mine, texts = texts[: part.size - len(self._texts)], texts[part.size - len(self._texts) :]
            self._texts += mine
            self._seconds += seconds * len(mine)
            self._waiting += waiting * len(mine)
            if len(self._texts) == part.size:
                figures = {"seconds": self._seconds, "waiting_s": self._waiting}
                self._receipts.append(put_texts(task.store, part.name, self._texts, **figures))
                self._texts, self._seconds, self._waiting = [], 0.0, 0.0
            if len(self._receipts) == len(task.parts):
                finished.append([receipt for receipts in self._receipts for receipt in receipts])
                self._receipts = []
                self._tasks.popleft()
            self._seat.count(len(mine))
        return finished
