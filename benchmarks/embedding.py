"""The embedding loop against the bare forward pass over tensors that are already in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.paired import Row, alternate, median, ratio
from benchmarks.pictures import jpegs, shards
from twinlens.config.models import OpenClipTower
from twinlens.core.device import choose_device
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.images.transforms import batch_pixels
from twinlens.inference.loop import choose_batch_size, embed_pictures
from twinlens.models import encoders


def run(photos: Path | None, device: str, count: int, rounds: int, architecture: str = "ViT-B-32") -> list[Row]:
    """Random weights: speed does not depend on them."""
    placement = choose_device(device)
    encoder = encoders.load(OpenClipTower(open_clip=architecture), Path("none"), placement, random_weights=True).image
    assert encoder is not None
    batch = choose_batch_size(placement, texts=False)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "resized"
        rows = shards(jpegs(photos, count), prepared, shortest_side_px=384)
        decoded = [raw for _, raw in iter_pixels(prepared, rows)]
        ready = [batch_pixels(decoded[i : i + batch], encoder.pixels) for i in range(0, len(decoded), batch)]
        runs = iter(range(10_000))

        def bare() -> None:
            with torch.inference_mode():
                for pixels in ready:
                    encoder.encode(pixels)

        def whole() -> None:
            with Scratch("bench", f"{next(runs)}") as scratch:
                embed_pictures(encoder, prepared, rows, scratch, placement, batch=batch)

        taken = alternate({"bare": bare, "whole": whole}, rounds)
    share = 1 / ratio(taken, "whole", "bare")
    return [
        Row(
            f"embed {len(rows)} pictures, {architecture}, {placement.name}, batch {batch}",
            f"{len(rows) / median(taken, 'whole'):,.1f} img/s",
            f"bare forward pass {len(rows) / median(taken, 'bare'):,.1f} img/s",
            f"{share:.3f} of it",
            "at least 0.90",
        )
    ]
