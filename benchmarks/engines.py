"""A Ray cluster of this machine's cores against this process: embedding, and parts that are no work at all.

python -m benchmarks.run --only engines
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from benchmarks.paired import Row, alternate, median, ratio
from benchmarks.pictures import jpegs, shards
from twinlens.config.models import OpenClipTower
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.engines import Engine, LocalEngine, Seat, open_engine
from twinlens.inference import loop
from twinlens.inference.tower import TowerJob

CORES = 2
ARCHITECTURE = "ViT-S-32"
PER_PART = 64  # rather than 256, so that a short run has several parts for each worker
LOCAL = ComputeParams(device="cpu", decode_threads=CORES, image_batch=None, text_batch=None)


@dataclass(frozen=True)
class Nothing:
    """A part that is no work."""

    name: str
    size: int = 1


class Idler:
    """A worker that does nothing."""

    def __call__(self, tasks: Iterable[Nothing], seat: Seat) -> Iterator[str]:
        """Say which part it was."""
        for task in tasks:
            yield task.name


def run(photos: Path | None, count: int, rounds: int, parts: int) -> list[Row]:
    """All of it, on one cluster, which is started once.

    Args:
        photos: a zip archive or a folder; None: drawn ones.
        count: pictures to embed.
        rounds: of embedding, of each engine in turn.
        parts: that are no work.
    """
    os.environ["OMP_NUM_THREADS"] = str(CORES)
    torch.set_num_threads(CORES)
    began = time.perf_counter()
    with open_engine(LOCAL.model_copy(update={"engine": "ray"})) as cluster:
        answered = list(cluster.map(Idler(), [Nothing("first")]))
        assert answered == ["first"]
        start = time.perf_counter() - began
        load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
        return [*embed(photos, count, rounds, cluster, start, load), *idle(parts, cluster, load)]


def embed(photos: Path | None, count: int, rounds: int, cluster: Engine, start: float, load: str) -> list[Row]:
    """Pictures by both engines, in turn; each keeps its loaded model, and no part."""
    loop.PICTURES_PER_PART = PER_PART
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        torch.manual_seed(0)  # random weights: speed does not depend on them
        save_file(open_clip.create_model(ARCHITECTURE).state_dict(), weights)
        rows = shards(jpegs(photos, count), Path(folder) / "resized", shortest_side_px=384)
        tower = OpenClipTower(open_clip=ARCHITECTURE, checkpoint=str(weights))
        local, runs = LocalEngine(LOCAL), iter(range(10_000))
        jobs = {
            name: TowerJob(tower, weights, local.placement, LOCAL, Cost(), engine)
            for name, engine in (("local", local), ("ray", cluster))
        }
        written: dict[str, bytes] = {}

        def work(name: str) -> None:
            out = Path(folder) / f"{name}-{next(runs)}"
            out.mkdir()
            os.environ["TWINLENS_SCRATCH"] = str(out)
            jobs[name].pictures("images", Path(folder) / "resized", rows, out)
            written[name] = (out / "images.npy").read_bytes()

        ways: dict[str, Callable[[], object]] = {name: partial(work, name) for name in jobs}
        taken = alternate(ways, rounds)
        processor = alternate(ways, rounds, read_processor_s)
    same = "the same bytes" if written["local"] == written["ray"] else "OTHER BYTES"
    share = ratio(taken, "local", "ray")
    shares = [a / b for a, b in zip(taken["local"], taken["ray"], strict=True)]
    return [
        Row(
            f"embed {len(rows)} pictures, {ARCHITECTURE}, by {cluster.workers} Ray workers of one core ({load})",
            f"{len(rows) / median(taken, 'ray'):,.1f} img/s, {same}; the start took {start:.1f} s",
            f"this process, {CORES} threads: {len(rows) / median(taken, 'local'):,.1f} img/s",
            f"{share:.3f} of it ({min(shares):.2f} to {max(shares):.2f})",
            "at least 0.85",
        ),
        Row(
            "the same by seconds of a processor, Ray's own processes among them",
            f"{median(processor, 'ray'):.1f} s",
            f"{median(processor, 'local'):.1f} s",
            f"{ratio(processor, 'local', 'ray'):.3f} of its pace",
            "at least 0.85",
        ),
    ]


def idle(parts: int, cluster: Engine, load: str) -> list[Row]:
    """Parts that are no work, and what the driver holds meanwhile."""
    held: list[int] = []
    began, used = time.perf_counter(), read_processor_s()
    tasks = (Nothing(str(number)) for number in range(parts))
    for number, _ in enumerate(cluster.map(Idler(), tasks), start=1):
        if number in (parts // 10, parts):
            held.append(_read_resident_mb())
    seconds, used = time.perf_counter() - began, read_processor_s() - used
    return [
        Row(
            f"{parts:,} parts of no work by {cluster.workers} Ray workers ({load})",
            f"{seconds:.0f} s",
            f"{1e6 * seconds / parts:,.0f} µs a part, {1e6 * used / parts:,.0f} of a processor",
            "",
            "100,000 within 120 s",
        ),
        Row(
            f"memory of the driver after {parts // 10:,} and {parts:,} parts",
            f"{held[-1]:,} MB",
            f"{held[0]:,} MB",
            f"{held[-1] - held[0]:+,} MB",
            "flat",
        ),
    ]


def read_processor_s() -> float:
    """Seconds of a processor that this process and all below it have used: Ray's own processes and the workers."""
    mine, ticks, above = os.getpid(), os.sysconf("SC_CLK_TCK"), dict[int, int]()
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            above[int(stat.parent.name)] = int(fields[1])
            used[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / ticks

    def is_mine(process: int) -> bool:
        while process not in (mine, 0, 1):
            process = above.get(process, 0)
        return process == mine

    return sum(seconds for process, seconds in used.items() if is_mine(process))


def _read_resident_mb() -> int:
    found: Any = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) // 1024
