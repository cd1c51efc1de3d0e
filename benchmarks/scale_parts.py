"""`resize` by the workers of a Ray cluster against this process, and how fast a driver joins: beside `scale_costs`.

python -m benchmarks.scale_parts                                # 1,500 drawn pictures, three rounds; minutes
python -m benchmarks.scale_parts --photos FOLDER --rounds 5
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path

import polars as pl

from benchmarks.paired import Row, alternate, median, ratio
from benchmarks.pictures import jpegs
from twinlens.config.datasets import FolderCard
from twinlens.config.params import ComputeParams, ResizeParams
from twinlens.core import tables
from twinlens.core.costs import MB, peak_host_bytes
from twinlens.core.scratch import Scratch
from twinlens.datasets import make_adapter
from twinlens.datasets.resizing import ResizeJob, join_shards
from twinlens.engines import LocalEngine, open_engine
from twinlens.images.resize import name_outcomes

CORES = 2
LIMITS = ResizeParams(shortest_side_px=384, min_side_px=16, max_megapixels=100, jpeg_quality=95, images_per_shard=100)
LOCAL = ComputeParams(device="cpu", decode_threads=CORES, image_batch=None, text_batch=None)


def compare(photos: Path | None, pictures: int, rounds: int) -> Row:
    """Resize by both engines in turn, each time anew."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_engine(LOCAL.model_copy(update={"engine": "ray", "decode_threads": 1}), device="cpu") as cluster,
    ):
        job, runs = _list_pictures(Path(folder), jpegs(photos, pictures)), count()
        written: dict[str, dict[str, bytes]] = {}

        def work(name: str) -> None:
            out = Path(folder) / f"{name}-{next(runs)}"
            with Scratch("resize", out.name) as scratch:
                job.write(scratch, cluster if name == "ray" else LocalEngine(LOCAL, device="cpu"), out)
            written[name] = {path.name: path.read_bytes() for path in out.iterdir()}

        os.environ["TWINLENS_SCRATCH"] = str(Path(folder) / "scratch")
        taken = alternate({name: lambda name=name: work(name) for name in ("local", "ray")}, rounds)  # type: ignore[misc]
        workers = cluster.workers
    same = "the same bytes" if written["local"] == written["ray"] else "OTHER BYTES"
    shares = [a / b for a, b in zip(taken["local"], taken["ray"], strict=True)]
    return Row(
        f"resize {pictures} pictures by {workers} Ray workers of one core (load {os.getloadavg()[0]:.0f})",
        f"{pictures / median(taken, 'ray'):,.0f} img/s, {same}",
        f"this process, {CORES} threads: {pictures / median(taken, 'local'):,.0f} img/s",
        f"{ratio(taken, 'local', 'ray'):.3f} of it ({min(shares):.2f} to {max(shares):.2f})",
        "at least 0.85",
    )


def _list_pictures(folder: Path, files: list[bytes]) -> ResizeJob:
    names = [f"{n:06d}.jpg" for n in range(len(files))]
    (folder / "photos").mkdir()
    for name, raw in zip(names, files, strict=True):
        (folder / "photos" / name).write_bytes(raw)
    card = FolderCard.model_validate({"adapter": "folder", "images": str(folder / "photos")})
    make_adapter(card).download(folder / "raw")
    listed = pl.DataFrame({"image_id": names, "file": names}).with_columns(
        split=pl.lit("test"), labels=pl.lit([], pl.List(pl.String))
    )
    tables.write_table(listed, folder / "images.parquet", tables.IMAGES)
    return ResizeJob(card, folder / "raw", folder / "images.parquet", LIMITS)


def join(pictures: int, per_shard: int = 1000) -> Row:
    """Join the tables of shards whose pictures are all set aside but the first: what the driver does of `resize`."""
    held: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TWINLENS_SCRATCH"] = str(Path(folder) / "scratch")
        for number in (pictures // 10, pictures):
            with Scratch("join", str(number)) as scratch:
                for shard in range(number // per_shard):
                    scratch.put(name_outcomes(shard), partial(_write_outcomes, _draw_outcomes(shard, per_shard)))
                    scratch.put(f"shard-{shard:05d}.parquet", _write_nothing)
                began = time.perf_counter()
                join_shards(scratch, number // per_shard, number, Path(folder) / f"out-{number}")
                seconds = time.perf_counter() - began
            held.append(peak_host_bytes() / MB)
    return Row(
        f"join {pictures:,} pictures in shards of {per_shard:,}",
        f"{pictures / seconds:,.0f} pictures/s",
        f"peak memory {held[0]:,.0f} MB at {pictures // 10:,}, {held[1]:,.0f} MB at {pictures:,}",
        f"{held[1] / held[0]:.2f} times",
        "flat",
    )


def _draw_outcomes(shard: int, pictures: int) -> pl.DataFrame:
    ids = [f"picture-{shard * pictures + n:012d}" for n in range(pictures)]
    return pl.DataFrame(
        {
            "image_id": ids,
            "shard": [shard] * pictures,
            "row": range(pictures),
            "width": [512] * pictures,
            "height": [384] * pictures,
            "sha256": [f"{hash(one) % 2**64:064x}" for one in ids],
            "perceptual_hash": [(hash(one) % 2**64).to_bytes(32, "big") for one in ids],
            "notes": [[]] * pictures,
        },
        schema_overrides={"notes": pl.List(pl.String)},
    )


def _write_outcomes(made: pl.DataFrame, path: Path) -> None:
    tables.write_table(made, path, tables.OUTCOMES)


def _write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def main() -> None:
    """Print both as lines of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--joined", type=int, default=1_000_000)
    given = parser.parse_args()
    for row in (join(given.joined), compare(given.photos, given.pictures, given.rounds)):
        print(f"| {row.what} | {row.figure} | {row.against} | {row.ratio} | {row.wanted} |")


if __name__ == "__main__":
    main()
