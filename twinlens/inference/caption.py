"""The captioning loop: part by part, so that a killed run goes on where it was.

Three things go on at once: threads decode pictures, the main thread queues batches on the device, and one more thread
reads words and writes parts. Parts are of one size everywhere, and a batch may reach over several of them.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from jaxtyping import UInt8

from twinlens.core.device import Placement
from twinlens.core.errors import ResourceError
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
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
    return min(LARGEST_BATCH, max(32, free_bytes // BYTES_PER_PICTURE // 32 * 32))


def caption_pictures(
    captioner: Captioner,
    shards: Path,
    rows: pl.DataFrame,
    scratch: Scratch,
    *,
    batch: int | None = None,
    decode_threads: int = 2,
) -> list[str]:
    """Write one caption per picture, in the order of `rows`.

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
    names = [f"part-{n:05d}.json" for n in range(-(-len(rows) // PICTURES_PER_PART))]
    spans = {name: rows[n * PICTURES_PER_PART : (n + 1) * PICTURES_PER_PART] for n, name in enumerate(names)}
    missing = {name: len(spans[name]) for name in names if not scratch.has(name)}
    if missing:
        todo = pl.concat([spans[name] for name in missing])
        with Progress("caption", total=len(rows), unit="img", done=len(rows) - len(todo)) as bar:
            writer = _Writer(scratch, missing, bar)
            batches = _read_batches(captioner, shards, todo, batch, decode_threads)
            with ThreadPoolExecutor(1, thread_name_prefix="words") as thread:
                queued: deque[Future[None]] = deque()
                for pixels, asked in batches:
                    ready = time.perf_counter()
                    started = _Started(_start(captioner, pixels), asked, ready)
                    del pixels
                    queued.append(thread.submit(writer.write, started))
                    while len(queued) >= QUEUED or (queued and queued[0].done()):
                        queued.popleft().result()
                while queued:
                    queued.popleft().result()
    return [text for name in names for text in json.loads(scratch.path(name).read_text(encoding="utf-8"))]


Pixels = UInt8[torch.Tensor, "images 3 height width"]
Words = Callable[[], list[str]]


def _read_batches(
    captioner: Captioner, shards: Path, rows: pl.DataFrame, batch: int | None, decode_threads: int
) -> Iterator[tuple[Pixels, float]]:
    """Batches on their way to the device, each valid until the next is asked for, and when it was asked for."""
    placement = captioner.placement
    batch = min(batch or choose_batch_size(placement), captioner.largest_batch or len(rows), len(rows))
    captioner.expect(batch if len(rows) >= BATCHES_WORTH_RECORDING * batch else None)
    sizes = [min(batch, len(rows) - at) for at in range(0, len(rows), batch)]
    jpegs = (jpeg for _, jpeg in iter_pixels(shards, rows))
    feed = Feed(captioner.pixels, batch, open_transfers(placement), decode_threads)
    with closing(feed.batches(jpegs, sizes)) as ready:
        for _ in sizes:
            asked = time.perf_counter()
            yield next(ready), asked


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

    def __init__(self, scratch: Scratch, missing: dict[str, int], bar: Progress) -> None:
        self._scratch, self._bar = scratch, bar
        self._missing = deque(missing.items())
        self._ended = time.perf_counter()  # the batch before
        self._texts: list[str] = []
        self._seconds, self._waiting = 0.0, 0.0  # of these texts

    def write(self, batch: _Started) -> None:
        """Wait for a batch's words and write the parts that are full by then."""
        texts = [text for words in batch.words for text in words()]
        ended = time.perf_counter()
        # Pixels that came while the device was still at work on the batch before have kept nobody waiting.
        waiting = max(0.0, batch.ready - max(batch.asked, self._ended)) / len(texts)
        seconds = (ended - self._ended) / len(texts)
        self._ended = ended
        while texts:
            name, size = self._missing[0]
            mine, texts = texts[: size - len(self._texts)], texts[size - len(self._texts) :]
            self._texts += mine
            self._seconds += seconds * len(mine)
            self._waiting += waiting * len(mine)
            if len(self._texts) == size:
                self._put(name)
            self._bar.add(len(mine))

    def _put(self, name: str) -> None:
        text = json.dumps(self._texts)
        self._scratch.note(name, seconds=self._seconds, waiting_s=self._waiting)
        self._scratch.put(name, lambda path: _write(path, text))
        self._missing.popleft()
        self._texts, self._seconds, self._waiting = [], 0.0, 0.0


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
