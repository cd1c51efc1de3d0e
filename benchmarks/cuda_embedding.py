"""Pictures on a CUDA device: the embedding loop beside the bare forward pass, and whether a batch decides a result."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import polars as pl
import torch
from open_clip.model import CLIP

from benchmarks.paired import Row, alternate, median, ratio
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.core.vectors import normalise_rows
from twinlens.images.transforms import batch_pixels, map_ahead
from twinlens.inference.batches import count_changed_tops
from twinlens.inference.loop import choose_batch_size, embed_pictures
from twinlens.models.encoders.base import ImageEncoder, LoadedEncoders
from twinlens.models.encoders.open_clip import wrap

SMALL = "a small CLIP"  # to try the script
COMPARED = 1024  # pictures of which each batch size finds the ten nearest


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """Rows of a large tower with random weights, as its speed does not depend on them; `small` takes a small one.

    Args:
        placement: of the towers.
        prepared: shards of the `resize` stage.
        index: their index.
        small: to try the script on a CPU.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = SMALL if small else "ViT-L-14"
    yield _embed(name, placement, prepared, index, threads, rounds=1 if small else 2)
    compared = index.head(16 if small else COMPARED)
    for precision in ("bfloat16", "tf32", "float32"):
        yield _compare(SMALL if small else "ViT-B-32", placement, precision, prepared, compared, threads)


def build(name: str, placement: Placement) -> LoadedEncoders:
    """Build an architecture of open_clip, or the `SMALL` one, with random weights, on the device itself."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")  # CLIP's, which all of them read
    with torch.device(placement.device):
        if name == SMALL:
            vision = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
            text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
            model: Any = CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)
            open_clip.model.set_model_preprocess_cfg(model, {"size": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3})
        else:
            model = open_clip.create_model(name, device=placement.device, pretrained_text=False)
    return wrap(model, tokenizer, placement)


@contextmanager
def own_scratch() -> Iterator[None]:
    """Keep parts in a folder of its own, which goes."""
    before = os.environ.get("TWINLENS_SCRATCH")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TWINLENS_SCRATCH"] = folder
        try:
            yield
        finally:
            os.environ.pop("TWINLENS_SCRATCH")
            if before is not None:
                os.environ["TWINLENS_SCRATCH"] = before


def _embed(name: str, placement: Placement, prepared: Path, index: pl.DataFrame, threads: int, rounds: int) -> Row:
    encoder = _image(name, placement)
    batch = min(choose_batch_size(placement, texts=False), len(index))
    ready = _pixels(encoder, prepared, index.head(2 * batch), threads).to(placement.device)
    figures: list[tuple[float, float]] = []

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, len(index) - batch + 1, batch):
                encoder.encode(ready[start % len(ready) :][:batch])

    def whole() -> None:
        with Scratch("bench", f"{len(figures)}") as scratch:
            embed_pictures(encoder, prepared, index, scratch, placement, decode_threads=threads)
            figures.append((scratch.total("seconds"), scratch.total("idle")))

    with own_scratch():
        taken = alternate({"bare": bare, "whole": whole}, rounds)
    done = len(index) // batch * batch
    bare_rate = done / median(taken, "bare")
    seconds, idle = figures[-1]
    return Row(
        f"embed {len(index):,} pictures, {name}, {placement.name}, batch {batch}, {threads} threads",
        f"{len(index) / seconds:,.0f} img/s of the stage's own time, idle {idle / seconds:.1%} of it",
        f"bare forward pass {bare_rate:,.0f} img/s",
        f"{len(index) / seconds / bare_rate:.3f} of it; with processes and buffers begun and ended, "
        f"{ratio(taken, 'bare', 'whole') * len(index) / done:.3f}",
        "at least 0.90",
    )


def _compare(name: str, placement: Placement, precision: str, prepared: Path, index: pl.DataFrame, threads: int) -> Row:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    here = Placement(placement.device, dtype)
    default = min(choose_batch_size(placement, texts=False), len(index))
    with _tensor_cores(precision == "tf32"), torch.inference_mode():
        encoder = _image(name, here)
        pixels = _pixels(encoder, prepared, index, threads).to(here.device)
        rows = {
            batch: normalise_rows(torch.cat([encoder.encode(some) for some in pixels.split(batch)]).cpu().numpy())
            for batch in (1, default, len(index))
        }
    alone, largest = (count_changed_tops(rows[default], rows[batch]) / len(index) for batch in (1, len(index)))
    apart = max(float(np.abs(rows[default] - rows[batch]).max()) for batch in (1, len(index)))
    return Row(
        f"the ten nearest of {len(index):,} pictures, {name} of random weights, {precision}",
        f"batch 1 against {default}: {alone:.1%} have others",
        f"batch {len(index)} against {default}: {largest:.1%}",
        f"{apart:.1g} apart at the most, in unit vectors",
    )


def _image(name: str, placement: Placement) -> ImageEncoder:
    encoder = build(name, placement).image
    assert encoder is not None
    return encoder


def _pixels(encoder: ImageEncoder, prepared: Path, index: pl.DataFrame, threads: int) -> torch.Tensor:
    raws = [raw for _, raw in iter_pixels(prepared, index)]
    tasks = [raws[at : at + 16] for at in range(0, len(raws), 16)]
    return torch.cat(list(map_ahead(lambda some: batch_pixels(some, encoder.pixels), tasks, threads)))


@contextmanager
def _tensor_cores(allowed: bool) -> Iterator[None]:
    """Whether products of float32 may be rounded to TF32; convolutions with them."""
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = allowed
    try:
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.allow_tf32 = was
