"""`torch.compile` on a CUDA device: what compiling an image tower costs, and from how many pictures it pays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.cuda_embedding import SMALL, build
from benchmarks.paired import Row, alternate, median
from twinlens.core.device import Placement
from twinlens.inference.loop import choose_batch_size

STEPS = 10  # batches a round


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """One row for each kind of tower, with random weights and pixels; the pictures are not used.

    Where there is no compiler, the row says so.
    """
    del prepared, index
    for name in (SMALL,) if small else ("ViT-B-16-SigLIP", "EVA02-B-16"):
        encoder: Any = build(name, placement).image
        batch = 4 if small else choose_batch_size(placement, texts=False)
        shape = (batch, 3, encoder.pixels.height, encoder.pixels.width)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=placement.device)
        visual, what = encoder.model.visual, f"{name}, {placement.name}, batch {batch}"
        eager = visual.forward
        try:
            started = time.perf_counter()
            visual.forward = torch.compile(eager, dynamic=False, backend="eager" if small else "inductor")
            with torch.inference_mode():
                encoder.encode(pixels).cpu()
            spent = time.perf_counter() - started
        except Exception as error:
            yield Row(what, "cannot be compiled here", str(error).splitlines()[0][:80], "")
            continue
        ways: dict[str, Callable[[], object]] = {
            "eager": _drive(encoder, eager, pixels),
            "compiled": _drive(encoder, visual.forward, pixels),
        }
        taken = alternate(ways, 1 if small else 3)
        rates = {way: STEPS * batch / median(taken, way) for way in ways}
        saved = 1 / rates["eager"] - 1 / rates["compiled"]
        pays = f"pays from {spent / saved:,.0f} pictures" if saved > 0 else "never pays"
        yield Row(
            what,
            f"compiled {rates['compiled']:,.0f} img/s, after {spent:.0f} s of compiling",
            f"eager {rates['eager']:,.0f} img/s",
            f"{rates['compiled'] / rates['eager']:.2f} times as fast; {pays}",
        )


def _drive(encoder: Any, forward: Any, pixels: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        encoder.model.visual.forward = forward
        with torch.inference_mode():
            for _ in range(STEPS):
                encoder.encode(pixels)

    return work
