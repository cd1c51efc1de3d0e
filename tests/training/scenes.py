"""A few drawn scenes, as a training reads them."""

from __future__ import annotations

from pathlib import Path

from twinlens.config.datasets import ScenesCard
from twinlens.config.params import FilterParams, ResizeParams
from twinlens.datasets.adapters.scenes import Scenes
from twinlens.datasets.filter import apply_rules
from twinlens.datasets.pool import group_images
from twinlens.images.resize import resize_pictures
from twinlens.training.data import TrainingData


def drawn(folder: Path, train: int = 192, val: int = 48, test: int = 4, side_px: int = 48) -> TrainingData:
    """What the stages up to `group` make of a small dataset of scenes."""
    card = ScenesCard(adapter="scenes", train=train, val=val, test=test, side_px=side_px)
    scenes = Scenes(card)
    scenes.download(folder / "raw")
    kept = apply_rules(scenes.annotations(folder / "raw"), FilterParams(require_caption=True, require_label=False))
    rows = list(kept.images.select("image_id", "file").iter_rows())
    jpegs = scenes.read_pictures(folder / "raw", [file for _, file in rows])
    pictures = ((image_id, file, jpeg) for (image_id, file), jpeg in zip(rows, jpegs, strict=True))
    limits = ResizeParams(
        shortest_side_px=None, min_side_px=16, max_megapixels=1, jpeg_quality=95, images_per_shard=100
    )
    made = resize_pictures(pictures, len(rows), limits, folder / "resized", 2)
    groups = group_images(kept.images, kept.captions, made.index, "test", 2)
    return TrainingData(groups, kept.captions, folder / "resized", 2)


def files(folder: Path) -> dict[str, bytes]:
    """What a training has written."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
