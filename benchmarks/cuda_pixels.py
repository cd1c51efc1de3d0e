"""Pixels and weights on a GPU machine: decoding by threads, `resize` on all cores, pixels of the device, loading."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import open_clip
import polars as pl
import torch
from safetensors.torch import save_file

from benchmarks.paired import Row
from twinlens.config.models import OpenClipTower
from twinlens.config.params import ResizeParams
from twinlens.core.cores import count_cores
from twinlens.core.device import Placement
from twinlens.core.shards import iter_pixels
from twinlens.images.resize import resize_pictures
from twinlens.images.transforms import PixelSpec, batch_pixels, map_ahead, use_one_core
from twinlens.inference.device_pixels import DevicePixels
from twinlens.models import encoders

SPEC = PixelSpec(224, 224, "shortest", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
BATCH = 64
K = 10


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """Each line as soon as it is measured.

    Args:
        placement: a device.
        prepared: folder of shards, as the `resize` stage leaves them.
        index: its table INDEX.
        small: few pictures and small models, to try the script where there is no GPU.
    """
    some = index.head(16 if small else 4096)
    jpegs = [jpeg for _, jpeg in iter_pixels(prepared, some)]
    yield from decoding(jpegs, (1, 2) if small else (1, 4, 16), small)
    yield from resizing(jpegs[: 8 if small else 500], small)
    if placement.device.type == "cuda":
        yield from device_pixels(jpegs, placement)
    yield loading("ViT-B-32" if small else "ViT-L-14", placement)


def decoding(jpegs: list[bytes], threads: tuple[int, ...], small: bool) -> Iterator[Row]:
    """Pictures a second of `map_ahead` over `batch_pixels`, against one thread and against processes of the machine."""
    tasks = [jpegs[at : at + BATCH] for at in range(0, len(jpegs), BATCH)]
    rates: dict[int, float] = {}
    for count in threads:
        mine = tasks[: max(count, 4 * count if small else len(tasks) // (4 if count == 1 else 1))]
        started = time.perf_counter()
        done = sum(len(made) for made in map_ahead(lambda task: batch_pixels(task, SPEC), mine, count))
        rates[count] = done / (time.perf_counter() - started)
        share = rates[count] / (min(count, count_cores()) * rates[threads[0]])
        yield Row(
            f"decode and fit 384 px to 224, {count} threads",
            f"{rates[count]:,.0f} img/s",
            f"{rates[threads[0]]:,.0f} img/s of one",
            f"{share:.0%} of threads x one",
            "at least 80%",
        )
    most = max(threads)
    bare = _rate_of_processes(jpegs[: BATCH if small else 512], most)
    yield Row(
        f"the same, {most} processes that share nothing: what the cores give together",
        f"{bare:,.0f} img/s",
        f"{rates[most]:,.0f} img/s of {most} threads",
        f"{rates[most] / bare:.0%} of it by threads",
    )


def _rate_of_processes(jpegs: list[bytes], count: int) -> float:
    """Pictures a second of processes that each decode all pictures: what cores share (two are one unit) shows."""
    _Forked.jpegs = jpegs  # which forks see, and need not be sent
    with get_context("fork").Pool(count, use_one_core) as pool:
        pool.map(_decode_some, [2] * count, chunksize=1)  # they are there
        started = time.perf_counter()
        done = sum(pool.map(_decode_some, [len(jpegs)] * count, chunksize=1))
        return done / (time.perf_counter() - started)


class _Forked:
    jpegs: list[bytes]


def _decode_some(count: int) -> int:
    jpegs = _Forked.jpegs[:count]
    return sum(len(batch_pixels(jpegs[at : at + BATCH], SPEC)) for at in range(0, len(jpegs), BATCH))


def resizing(jpegs: list[bytes], small: bool) -> Iterator[Row]:
    """The loop of `resize`, hashes and shards included, on all cores against one."""
    params = ResizeParams(
        shortest_side_px=224, min_side_px=16, max_megapixels=100, jpeg_quality=95, images_per_shard=500
    )

    def run(count: int, threads: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            pictures = ((f"{n}", f"{n}.jpg", raw) for n, raw in enumerate(islice(cycle(jpegs), count)))
            started = time.perf_counter()
            resize_pictures(pictures, count, params, Path(folder), threads)
            return count / (time.perf_counter() - started)

    cores = max(2, count_cores()) if small else count_cores()
    one, every = run(16 if small else 500, 1), run(32 if small else 2_000 + 250 * cores, cores)
    yield Row(
        f"`resize` of 384 px to 224, {cores} cores",
        f"{every:,.0f} img/s",
        f"{one:,.0f} img/s of one",
        f"{every / one / cores:.0%} of cores x one",
        "at least 80%",
    )


def device_pixels(jpegs: list[bytes], placement: Placement) -> Iterator[Row]:
    """The device's pixels: their rate, and how far they and the vectors of a ViT-B-32 are from the CPU's."""
    pixels = DevicePixels(SPEC, placement)
    batches = [jpegs[at : at + 256] for at in range(0, len(jpegs), 256)]
    pixels(batches[0])  # the first call makes the decoder
    torch.cuda.synchronize()
    started = time.perf_counter()
    made = [pixels(batch) for batch in batches]
    torch.cuda.synchronize()
    rate = len(jpegs) / (time.perf_counter() - started)
    refused = f", {pixels.refused} by the CPU" if pixels.refused else ""
    yield Row("pixels on the device, 384 px to 224", f"{rate:,.0f} img/s{refused}", "", "")
    card = OpenClipTower(open_clip="ViT-B-32")
    encoder = encoders.load(card, Path("none"), placement, random_weights=True).image
    assert encoder is not None
    by_cpu = list(map_ahead(lambda batch: batch_pixels(batch, SPEC), batches, count_cores()))
    found = compare_pixels(by_cpu, made, encoder.encode)
    yield Row(
        "the same against the CPU's pixels, ViT-B-32",
        f"{found.mean_apart:.2f} grey levels apart ({found.most_apart} at most)",
        f"1 - cosine {found.mean_turned:.1e} ({found.most_turned:.1e} at most)",
        f"{found.changed_top:.1%} of top {K} changed",
    )


@dataclass(frozen=True)
class PixelComparison:
    """How far two ways to the same pictures are apart, in pixels, in vectors, and in what is found."""

    mean_apart: float  # grey levels, over all samples
    most_apart: int
    mean_turned: float  # 1 - cosine of a picture's two vectors
    most_turned: float
    changed_top: float  # share of pictures whose nearest ten of the others are another set


def compare_pixels(
    ours: list[torch.Tensor], theirs: list[torch.Tensor], encode: Callable[[torch.Tensor], torch.Tensor]
) -> PixelComparison:
    """Compare batches of the same pictures, made in two ways.

    Args:
        ours: uint8 pixels, images x 3 x height x width each.
        theirs: the same pictures by the other way.
        encode: a model's raw vectors of a batch. One with random weights tells pictures apart less well than a trained
            one, so that more of its top ten change.
    """
    apart, most = 0.0, 0
    vectors: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    with torch.inference_mode():
        for one, other in zip(ours, theirs, strict=True):
            gap = (one.to(other.device).int() - other.int()).abs()
            apart, most = apart + float(gap.double().mean()) * len(one), max(most, int(gap.max()))
            for kept, batch in zip(vectors, (one, other), strict=True):
                kept.append(encode(batch).float().cpu())
    one, other = (torch.nn.functional.normalize(torch.cat(kept).double(), dim=1) for kept in vectors)
    turned = (1 - (one * other).sum(dim=1)).clamp(min=0)
    return PixelComparison(
        apart / len(one), most, float(turned.mean()), float(turned.max()), _share_of_changed_top(one, other)
    )


def _share_of_changed_top(one: torch.Tensor, other: torch.Tensor) -> float:
    """The share of pictures whose `K` nearest others are another set by the other vectors."""
    tops = []
    for rows in (one, other):
        scores = rows @ rows.T
        scores.fill_diagonal_(-2.0)
        tops.append(scores.topk(min(K, len(rows) - 1), dim=1).indices.sort(dim=1).values)
    return float((tops[0] != tops[1]).any(dim=1).double().mean())


def loading(name: str, placement: Placement) -> Row:
    """Seconds from a file on disk to a model on the device, against open_clip's own way, which draws weights first."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        with torch.device(placement.device):
            model = open_clip.create_model(name, pretrained_text=False, device=placement.device)
        save_file({key: value.cpu().contiguous() for key, value in model.state_dict().items()}, file)
        del model
        card = OpenClipTower(open_clip=name, checkpoint=str(file))
        encoders.load(card, file, placement)  # both have imported what they need, and the file is in memory
        own = _seconds(lambda: encoders.load(card, file, placement))
        plain = _seconds(lambda: _load_plainly(name, file, placement))
    return Row(f"load {name}", f"{own:.2f} s", f"{plain:.2f} s of `create_model`", f"{plain / own:.1f} times as fast")


def _load_plainly(name: str, file: Path, placement: Placement) -> Any:
    model = open_clip.create_model(name, pretrained=str(file), pretrained_text=False)
    return model.eval().to(placement.device, placement.dtype)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
