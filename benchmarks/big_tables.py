"""Memory that stages take for each picture of generated tables, and their seconds of a processor, at two sizes.

    python -m benchmarks.big_tables [FEW] [MANY]

A figure is the growth of the peak from FEW to MANY pictures, over the pictures between; so what a process takes anyway
is not in it. Each step runs in a process of its own, and does what the stage's script does with its tables.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from twinlens.core import tables


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
    numbers = dict.fromkeys(("width", "height"), pl.lit(64, dtype=pl.Int32))
    index = images.select("image_id").with_columns(
        shard=pl.int_range(pl.len(), dtype=pl.Int32) // 1000,
        row=pl.int_range(pl.len(), dtype=pl.Int32) % 1000,
        **numbers,
        sha256=pl.Series([one.tobytes().hex() for one in raw]),
    )
    hashes = pl.DataFrame({"image_id": images["image_id"], "perceptual_hash": [one.tobytes() for one in raw]})
    captions = images.select(caption_id=pl.col("image_id") + "#0", image_id="image_id", text="file")
    for name, table, schema in (
        ("images", images, tables.IMAGES),
        ("index", index, tables.INDEX),
        ("hashes", hashes, tables.HASHES),
        ("captions", captions, tables.CAPTIONS),
    ):
        tables.write_table(table, folder / f"{name}.parquet", schema)
    rows = images.select("image_id", image=pl.lit(b""), label=pl.col("labels").list.first())
    rows = rows.with_columns(text=pl.format("a photo of {} and a dog", "image_id"))
    rows.write_parquet(folder / "rows.parquet", row_group_size=10_000)
    ids = images.select(id="image_id", image_id="image_id")
    ids.write_parquet(folder / "vectors.parquet")


def rules(folder: Path) -> None:
    """`filter`: annotations of a Parquet file, the rules, the tables and the gates."""
    from twinlens.config.columns import ParquetColumns
    from twinlens.config.params import FilterParams
    from twinlens.core.stored_tables import StoredTable
    from twinlens.datasets import checks
    from twinlens.datasets.filter import apply_rules
    from twinlens.datasets.readers.parquet import read_annotations

    columns = ParquetColumns(image="image", id="image_id", caption="text", label="label")
    found = read_annotations({"test": [("rows.parquet", folder / "rows.parquet")]}, columns, None)
    with tempfile.TemporaryDirectory() as name:
        apply_rules(found, FilterParams(require_caption=True, require_label=True)).write(Path(name))
        images = StoredTable(Path(name) / "images.parquet", tables.IMAGES)
        captions = StoredTable(Path(name) / "captions.parquet", tables.CAPTIONS)
        checks.detect_misplaced_captions(images, captions)
        checks.detect_label_spellings(images)
        checks.detect_generic_text(captions)


def group(folder: Path) -> None:
    """`group`: copies, the pool, its object sets and the dataset's statistics."""
    from twinlens.core.stored_tables import StoredTable
    from twinlens.datasets.pool import iter_groups
    from twinlens.images.duplicates import find_duplicates

    images, captions, index, hashes = (
        StoredTable(folder / f"{name}.parquet", schema)
        for name, schema in (
            ("images", tables.IMAGES),
            ("captions", tables.CAPTIONS),
            ("index", tables.INDEX),
            ("hashes", tables.HASHES),
        )
    )
    copies = find_duplicates(images, index, hashes, 16, "leaks")
    with tempfile.TemporaryDirectory() as name, tables.TableWriter(Path(name) / "groups.parquet", tables.GROUPS) as out:
        for part in iter_groups(images, captions, index, "test", 2, copies.dropped):
            out.add(part)


def ids_of_vectors(folder: Path) -> None:
    """`rank`: the ids beside vectors, as lists."""
    found = pl.read_parquet(folder / "vectors.parquet")
    lists = found["id"].to_list(), found["image_id"].to_list()
    del found
    assert len(lists[0])


STEPS: dict[str, Callable[[Path], None]] = {"filter": rules, "group": group, "ids": ids_of_vectors}


def read_peak() -> int:
    """Peak memory of this process in bytes; `ru_maxrss` would be that of who started it, where that is more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def measure(step: str, folder: Path) -> tuple[float, float]:
    """Peak memory of a step in a process of its own, in bytes, and its seconds of a processor."""
    code = [sys.executable, "-m", "benchmarks.big_tables", "step", step, str(folder)]
    told = subprocess.run(code, check=True, capture_output=True, text=True, env=os.environ).stdout
    peak, seconds = map(float, told.split()[-2:])
    return peak, seconds


def main(few: int, many: int) -> None:
    """Print bytes a picture."""
    with tempfile.TemporaryDirectory() as name:
        for pictures in (few, many):
            (Path(name) / str(pictures)).mkdir()
            write_tables(pictures, Path(name) / str(pictures))
        for step in STEPS:
            found = [measure(step, Path(name) / str(pictures)) for pictures in (few, many)]
            each = (found[1][0] - found[0][0]) / (many - few)
            told = "; ".join(f"{peak / 1e6:,.0f} MB, {seconds:.1f} s" for peak, seconds in found)
            print(f"{step}: {told}: {each:,.0f} bytes a picture", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        STEPS[sys.argv[2]](Path(sys.argv[3]))
        print(read_peak(), time.process_time())
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
