"""Memory that stages take for each picture of generated tables: peaks of child processes at two sizes.

    python -m benchmarks.big_tables [FEW] [MANY]

A figure is the growth of the peak from FEW to MANY pictures, over the pictures between; so what a process takes anyway
is not in it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl


def draw_images(pictures: int) -> pl.DataFrame:
    """Table IMAGES."""
    ids = [f"picture-{number:09d}" for number in range(pictures)]
    files = [f"{one}.jpg" for one in ids]
    splits = np.where(np.arange(pictures) % 10 == 0, "test", "train")
    labels = [[f"label-{number % 80}"] for number in range(pictures)]
    return pl.DataFrame({"image_id": ids, "file": files, "split": splits, "labels": labels})


def write_tables(pictures: int, folder: Path) -> None:
    """Write the tables that the stages read."""
    images = draw_images(pictures)
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (pictures, 32), dtype=np.uint8)
    index = images.select("image_id").with_columns(
        shard=pl.int_range(pl.len(), dtype=pl.Int32) // 1000,
        row=pl.int_range(pl.len(), dtype=pl.Int32) % 1000,
        sha256=pl.Series([one.tobytes().hex() for one in raw]),
    )
    hashes = pl.DataFrame({"image_id": images["image_id"], "perceptual_hash": [one.tobytes() for one in raw]})
    captions = images.select(caption_id=pl.col("image_id") + "#0", image_id="image_id", text="file")
    for name, table in {"images": images, "index": index, "hashes": hashes, "captions": captions}.items():
        table.write_parquet(folder / f"{name}.parquet")
    ids = images.select(id="image_id", image_id="image_id")
    ids.write_parquet(folder / "vectors.parquet")


def rules(folder: Path) -> None:
    """`filter`: the annotations of an adapter, and the rules."""
    from twinlens.config.params import FilterParams
    from twinlens.datasets.annotations import Annotations, RawCaption, RawImage
    from twinlens.datasets.filter import apply_rules

    images = pl.read_parquet(folder / "images.parquet")
    captions = pl.read_parquet(folder / "captions.parquet")
    listed = [RawImage(one, file, split, tuple(labels)) for one, file, split, labels in images.iter_rows()]
    said = [RawCaption(one, text) for one, text in captions.select("image_id", "text").iter_rows()]
    del images, captions
    apply_rules(Annotations(listed, said), FilterParams(require_caption=True, require_label=True))


def group(folder: Path) -> None:
    """`group`: copies, the pool and its object sets."""
    from twinlens.datasets.pool import group_images
    from twinlens.images.duplicates import find_duplicates

    images, captions, index, hashes = (
        pl.read_parquet(folder / f"{name}.parquet") for name in ("images", "captions", "index", "hashes")
    )
    find_duplicates(images, index, hashes, 16, "leaks")
    group_images(images, captions, index, "test", 2)


def ids_of_vectors(folder: Path) -> None:
    """`rank`: the ids beside vectors, as lists."""
    found = pl.read_parquet(folder / "vectors.parquet")
    lists = found["id"].to_list(), found["image_id"].to_list()
    del found
    assert len(lists[0])


STEPS: dict[str, Callable[[Path], None]] = {"filter": rules, "group": group, "ids": ids_of_vectors}


def measure_peak(step: str, folder: Path) -> float:
    """Peak memory of a step in a process of its own, in bytes."""
    code = [sys.executable, "-m", "benchmarks.big_tables", "step", step, str(folder)]
    told = subprocess.run(code, check=True, capture_output=True, text=True, env=os.environ).stdout
    return float(told.split()[-1])


def main(few: int, many: int) -> None:
    """Print bytes a picture."""
    with tempfile.TemporaryDirectory() as name:
        for pictures in (few, many):
            (Path(name) / str(pictures)).mkdir()
            write_tables(pictures, Path(name) / str(pictures))
        for step in STEPS:
            peaks = [measure_peak(step, Path(name) / str(pictures)) for pictures in (few, many)]
            each = (peaks[1] - peaks[0]) / (many - few)
            print(
                f"{step}: {peaks[0] / 1e6:,.0f} and {peaks[1] / 1e6:,.0f} MB, {each:,.0f} bytes a picture", flush=True
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        STEPS[sys.argv[2]](Path(sys.argv[3]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
