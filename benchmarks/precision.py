"""Exact scans of an index's vectors in float16 and int8 beside float32's: `python -m benchmarks.precision`."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from twinlens.indexing.scans import Scans
from twinlens.indexing.store import RowStore, write_space
from twinlens.report.summary import format_markdown

ROWS, DIM, QUERIES = 100_000, 512, 30
PRECISIONS = ("float32", "float16", "int8")


def main() -> None:
    """Print time and bytes of one query over all rows, those of float32 as 1, in turn in one process."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spent: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        spaces = {}
        for name in PRECISIONS:
            (Path(folder) / name).mkdir()
            write_space(Path(folder) / name, "image_vector", rows, np.zeros(0, dtype=np.int64), name)
            spaces[name] = RowStore(Path(folder) / name).space("image_vector")
        scans = {name: Scans(space.rows, space.steps) for name, space in spaces.items()}
        for query in rows[:QUERIES]:
            for name, scan in scans.items():
                started = time.perf_counter()
                scan.products(query)
                spent[name].append(time.perf_counter() - started)
        middle = {name: statistics.median(seconds) for name, seconds in spent.items()}
        lines = [
            [name, f"{spaces[name].rows.nbytes / rows.nbytes:g}", f"{middle[name] / middle['float32']:.2f}"]
            for name in PRECISIONS
        ]
    print(format_markdown(["index.precision", "bytes", "time of a scan"], lines))


if __name__ == "__main__":
    main()
