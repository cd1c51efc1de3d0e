"""Decode and resize against PIL with bicubic resampling, per core."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import torch
from open_clip.transform import image_transform
from PIL import Image

from benchmarks.paired import Row, alternate, median, ratio
from benchmarks.pictures import jpegs
from twinlens.images.transforms import PixelSpec, decode_and_fit, scale_size

SIDE = 224
SPEC = PixelSpec(SIDE, SIDE, "shortest", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def by_pil(raw: bytes, horizontal_first: bool = False) -> np.ndarray:
    """Open, convert, resize bicubic, crop the middle: the transform of open_clip and torchvision before normalising."""
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    height, width = scale_size(picture.height, picture.width, SIDE)
    if horizontal_first:
        picture = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def run(photos: Path | None, count: int, rounds: int) -> list[Row]:
    """On one thread, in CPU seconds."""
    raws, by_open_clip = jpegs(photos, count), image_transform(SIDE, is_train=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = alternate(
            {
                "pil": lambda: [by_pil(raw) for raw in raws],
                "open_clip": lambda: [by_open_clip(Image.open(io.BytesIO(raw))) for raw in raws],
                "ours": lambda: [decode_and_fit(raw, SPEC) for raw in raws],
            },
            rounds,
            clock=time.process_time,
        )
    finally:
        torch.set_num_threads(threads)
    apart = [
        np.abs(by_pil(raw, horizontal_first=True).astype(int) - decode_and_fit(raw, SPEC).permute(1, 2, 0).numpy())
        for raw in raws
    ]
    beyond, samples = sum(int((a > 1).sum()) for a in apart), sum(a.size for a in apart)
    return [
        Row(
            f"decode and resize {len(raws)} pictures to {SIDE} px, one core",
            f"{len(raws) / median(taken, 'ours'):,.0f} img/s",
            f"PIL, bicubic: {len(raws) / median(taken, 'pil'):,.0f} img/s",
            f"{ratio(taken, 'pil', 'ours'):.2f} times",
            "at least 2",
        ),
        Row(
            "the same; ours is normalised later, on the model's device",
            f"{len(raws) / median(taken, 'ours'):,.0f} img/s",
            f"open_clip's own transform, to normalised floats: {len(raws) / median(taken, 'open_clip'):,.0f} img/s",
            f"{ratio(taken, 'open_clip', 'ours'):.2f} times",
        ),
        Row(
            "the same pixels, furthest apart",
            f"{max(int(a.max()) for a in apart)} grey levels, {beyond} of {samples:,} samples more than 1",
            "PIL, horizontal pass first",
            f"mean {np.mean([a.mean() for a in apart]):.3f}",
            "within 1",
        ),
    ]
