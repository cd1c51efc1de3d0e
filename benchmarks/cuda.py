"""A CUDA device at work: ViT-L-14 and BLIP-base, and what share of the device's matrix rate they reach."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.paired import Row
from benchmarks.pictures import jpegs, shards
from twinlens.config.models import OpenClipTower
from twinlens.core.device import Placement, choose_device
from twinlens.core.shards import iter_pixels
from twinlens.images.transforms import PixelSpec, batch_pixels, map_ahead
from twinlens.inference.loop import choose_batch_size
from twinlens.models import encoders
from twinlens.models.encoders.base import normalise_pixels

VIT_L_14_FLOP = 162e9  # one picture
BLIP_FLOP = 133e9  # one caption of 20 tokens, with a key-value cache
BLIP_PIXELS = PixelSpec(384, 384, "squash", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def matrix_rate(placement: Placement, size: int = 8192, repeats: int = 10) -> float:
    """Floating-point operations a second of a large matrix product on random numbers."""
    left, right = (torch.randn(size, size, device=placement.device, dtype=placement.dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    _wait(placement)
    started = time.perf_counter()
    for _ in range(repeats):
        left @ right
    _wait(placement)
    return 2 * size**3 * repeats / (time.perf_counter() - started)


def run(photos: Path | None, device: str, count: int, threads: int, small: bool = False) -> list[Row]:
    """Both models with random weights; `small` uses tiny ones, to try the script where there is no device."""
    placement = choose_device(device)
    rate = matrix_rate(placement, 1024 if small else 8192)
    rows = [Row(f"matrix product, {placement.name}", f"{rate / 1e12:,.1f} TFLOP/s", "", "")]
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "resized"
        index = shards(jpegs(photos, count), prepared, shortest_side_px=384)
        name = "ViT-B-32" if small else "ViT-L-14"
        encoder = encoders.load(OpenClipTower(open_clip=name), Path("none"), placement, random_weights=True).image
        assert encoder is not None
        flop = 8.8e9 if small else VIT_L_14_FLOP
        batch = choose_batch_size(placement, texts=False)
        made = _drive(encoder.encode, encoder.pixels, prepared, index, batch, threads, placement)
        rows.append(_row(f"{name}, batch {batch}", made, flop, rate))
        captioner = _blip(placement, small)

        def caption(pixels: torch.Tensor) -> torch.Tensor:
            seen = normalise_pixels(pixels, BLIP_PIXELS, placement)
            return captioner.generate(pixel_values=seen, max_new_tokens=20, min_new_tokens=20, do_sample=False)

        batch = 8 if small else 128
        made = _drive(caption, BLIP_PIXELS, prepared, index, batch, threads, placement)
        rows.append(_row(f"BLIP-base, 20 tokens, batch {batch}", made, BLIP_FLOP, rate))
    return rows


def _blip(placement: Placement, small: bool) -> Any:
    config = transformers.BlipConfig()
    config.vision_config.image_size = BLIP_PIXELS.height
    if small:
        config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = 1
    model = transformers.BlipForConditionalGeneration(config)
    return model.eval().to(placement.device, placement.dtype)


def _drive(
    work: Any, spec: PixelSpec, prepared: Path, index: Any, batch: int, threads: int, placement: Placement
) -> tuple[int, float, float]:
    """Pictures, seconds, and the share of them in which the model waited for pixels."""
    pictures = [raw for _, raw in iter_pixels(prepared, index)]

    def tasks() -> Iterator[list[bytes]]:
        for start in range(0, len(pictures), batch):
            yield pictures[start : start + batch]

    pinned = placement.device.type == "cuda"

    def read(raws: list[bytes]) -> torch.Tensor:
        pixels = batch_pixels(raws, spec)
        return pixels.pin_memory() if pinned else pixels

    with torch.inference_mode():
        work(read(pictures[:batch]))  # first calls load kernels
        _wait(placement)
        started, waited, ready = time.perf_counter(), 0.0, map_ahead(read, tasks(), threads)
        while True:
            asked = time.perf_counter()
            pixels = next(ready, None)
            waited += time.perf_counter() - asked
            if pixels is None:
                break
            work(pixels)
        _wait(placement)
        seconds = time.perf_counter() - started
    return len(pictures), seconds, waited / seconds


def _row(what: str, made: tuple[int, float, float], flop: float, rate: float) -> Row:
    count, seconds, waiting = made
    return Row(
        what,
        f"{count / seconds:,.1f} items/s",
        f"{count * flop / seconds / rate:.1%} of the matrix rate",
        f"{waiting:.1%} of the time waiting for pixels",
    )


def _wait(placement: Placement) -> None:
    if placement.device.type == "cuda":
        torch.cuda.synchronize()
