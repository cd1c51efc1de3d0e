"""Photo-sized JPEGs to measure with: of a zip archive or folder of one's own, or drawn."""

from __future__ import annotations

import io
import multiprocessing
import os
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg
from PIL import Image

from twinlens.config.params import ResizeParams
from twinlens.core import tables
from twinlens.datasets.adapters.drawing import draw_scene
from twinlens.datasets.adapters.scenes import sample_scene
from twinlens.images.resize import resize_pictures


def jpegs(source: Path | None, count: int) -> list[bytes]:
    """The first `count` JPEGs of a zip archive or a folder; drawn at 640 x 640 px where there is none."""
    if source is None:
        return [_drawn(seed) for seed in range(count)]
    if source.is_dir():
        return [path.read_bytes() for path in sorted(source.glob("*.jpg"))[:count]]
    with zipfile.ZipFile(source) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
        return [archive.read(name) for name in names[:count]]


def _drawn(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    picture = np.asarray(draw_scene(scene.background, list(scene.things), 640, rng)).astype(np.int16)
    noisy = (picture + rng.integers(-12, 13, picture.shape)).clip(0, 255).astype(np.uint8)  # as much detail as a photo
    return bytes(simplejpeg.encode_jpeg(noisy, quality=90))


def multiply(originals: list[bytes], count: int) -> list[bytes]:
    """Make `count` photos of 640 x 480 of a few: seven tenths of one or more, cropped at random, perhaps mirrored."""
    chosen = [originals[n % len(originals)] for n in range(count)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        return list(pool.map(_crop, chosen, range(count), chunksize=max(1, count // 256)))


def _crop(jpeg: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    with Image.open(io.BytesIO(jpeg)) as opened:
        picture = opened.convert("RGB")
    share = rng.uniform(0.7, 1.0)
    width, height = (max(16, int(side * share)) for side in picture.size)
    left, top = (
        int(rng.integers(0, whole - part + 1)) for whole, part in zip(picture.size, (width, height), strict=True)
    )
    box = (left, top, left + width, top + height)
    made = picture.resize((640, 480), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(made), quality=90))


def shards(pictures: list[bytes], folder: Path, shortest_side_px: int, threads: int = 2) -> pl.DataFrame:
    """The pictures as the `resize` stage leaves them; returns the index."""
    params = ResizeParams(
        shortest_side_px=shortest_side_px, min_side_px=16, max_megapixels=100, jpeg_quality=95, images_per_shard=1000
    )
    named = ((f"{n:06d}", f"{n:06d}.jpg", raw) for n, raw in enumerate(pictures))
    index = resize_pictures(named, len(pictures), params, folder, threads).index
    tables.write_table(index, folder / "index.parquet", tables.INDEX)
    return index
