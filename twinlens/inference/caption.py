"""The captioning loop: part by part, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

import polars as pl
import torch

from twinlens.core.device import Placement
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.images.transforms import batch_pixels, map_ahead
from twinlens.models.captioners.transformers import Captioner

PICTURES_PER_PART = 128  # what a killed run loses at most


def choose_batch_size(placement: Placement) -> int:
    """Choose a batch size that suits the device."""
    return 32 if placement.device.type == "cpu" else 128


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
        batch: pictures a step.
        decode_threads: threads that decode ahead of the model.
    """
    batch = batch or choose_batch_size(captioner.placement)
    names = [f"part-{n:05d}.json" for n in range(-(-len(rows) // PICTURES_PER_PART))]
    spans = {name: rows[n * PICTURES_PER_PART : (n + 1) * PICTURES_PER_PART] for n, name in enumerate(names)}
    missing = [name for name in names if not scratch.has(name)]
    todo = pl.concat([spans[name] for name in missing]) if missing else rows[:0]
    pictures = iter_pixels(shards, todo)

    def tasks() -> list[tuple[str, int]]:
        return [
            (name, min(batch, len(spans[name]) - at)) for name in missing for at in range(0, len(spans[name]), batch)
        ]

    def read(jpegs: list[bytes]) -> torch.Tensor:
        return batch_pixels(jpegs, captioner.pixels)

    ready = map_ahead(read, ([next(pictures)[1] for _ in range(count)] for _, count in tasks()), decode_threads)
    with Progress("caption", total=len(rows), unit="img", done=len(rows) - len(todo)) as bar:
        for name in missing:
            started = time.perf_counter()
            texts: list[str] = []
            while len(texts) < len(spans[name]):
                words = captioner.caption(next(ready))
                texts += words
                bar.add(len(words))
            scratch.note(name, seconds=time.perf_counter() - started)
            scratch.put(name, lambda path, texts=texts: path.write_text(json.dumps(texts), encoding="utf-8"))  # type: ignore[misc]
    return [text for name in names for text in json.loads(scratch.path(name).read_text(encoding="utf-8"))]
