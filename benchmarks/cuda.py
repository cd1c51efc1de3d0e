"""A CUDA device at work: each part of the pipeline beside its bare loop, told as it is measured.

The parts are the modules `benchmarks.cuda_<part>`, each with a function `measure`. One that fails or takes too long is
a row that says so; the others are measured all the same.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.paired import Row, wait_for_device
from benchmarks.pictures import jpegs, multiply, shards
from twinlens.core.device import Placement, choose_device

PARTS = ("embedding", "ranking", "texts", "captions", "training", "pixels", "compile")  # the most important first
SECONDS = 80  # for one part, at the most
SHORTEST_SIDE_PX = 384


def run(photos: Path | None, device: str, count: int, small: bool = False, parts: tuple[str, ...] = ()) -> list[Row]:
    """All parts with random weights; `small` uses tiny models, to try the script where there is no device."""
    rows = []
    for row in measure(photos, choose_device(device), count, small, parts or PARTS):
        print(f"{row.what} | {row.figure} | {row.against} | {row.ratio} | {row.wanted}", flush=True)
        rows.append(row)
    return rows


def measure(
    photos: Path | None, placement: Placement, count: int, small: bool, parts: tuple[str, ...]
) -> Iterator[Row]:
    """Iterate over the rows of the parts, each as soon as it is known."""
    rate = measure_matrix_rate(placement, 1024 if small else 8192)
    yield Row(f"matrix product, {placement.name}", f"{rate / 1e12:,.1f} TFLOP/s", "", "")
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "resized"
        pictures = multiply(jpegs(photos, 24 if small else 100), 24 if small else count)
        started, cores = time.perf_counter(), len(os.sched_getaffinity(0))
        index = shards(pictures, prepared, shortest_side_px=SHORTEST_SIDE_PX, threads=cores)
        seconds = time.perf_counter() - started
        yield Row(
            f"resize of {len(index):,} photos of 640 x 480 on {cores} cores",
            f"{len(index) / seconds:,.0f} img/s",
            "",
            "",
        )
        del pictures
        for part in parts:
            started = time.perf_counter()
            try:
                with _at_most(SECONDS):
                    yield from importlib.import_module(f"benchmarks.cuda_{part}").measure(
                        placement, prepared, index, small
                    )
            except Exception as error:
                told = (str(error).splitlines() or [""])[0][:300]
                yield Row(part, f"failed: {type(error).__name__}: {told}", "", "")
            gc.collect()
            if placement.device.type == "cuda":
                torch.cuda.empty_cache()
            yield Row(f"{part}, the whole part", f"{time.perf_counter() - started:.0f} s", "", "")


def measure_matrix_rate(placement: Placement, size: int = 8192, repeats: int = 10) -> float:
    """Floating-point operations a second of a large matrix product on random numbers."""
    left, right = (torch.randn(size, size, device=placement.device, dtype=placement.dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    wait_for_device()
    started = time.perf_counter()
    for _ in range(repeats):
        left @ right
    wait_for_device()
    return 2 * size**3 * repeats / (time.perf_counter() - started)


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
