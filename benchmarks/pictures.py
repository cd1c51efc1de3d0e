"""Photo-sized JPEGs to measure with: of a zip archive or folder of one's own, or drawn."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg

from twinlens import tables
from twinlens.config.params import ResizeParams
from twinlens.datasets.drawing import draw_scene
from twinlens.datasets.scenes import sample_scene
from twinlens.resizing import resize_pictures


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


def shards(pictures: list[bytes], folder: Path, shortest_side_px: int) -> pl.DataFrame:
    """The pictures as the `resize` stage leaves them; returns the index."""
    params = ResizeParams(
        shortest_side_px=shortest_side_px, min_side_px=16, max_megapixels=100, jpeg_quality=95, images_per_shard=1000
    )
    named = ((f"{n:06d}", f"{n:06d}.jpg", raw) for n, raw in enumerate(pictures))
    index = resize_pictures(named, len(pictures), params, folder, threads=2).index
    tables.write_table(index, folder / "index.parquet", tables.INDEX)
    return index
