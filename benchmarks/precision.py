"""Exact scans of an index's vectors in float16 and int8 beside float32's: `python -m benchmarks.precision`."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.paired import alternate, ratio, unit_vectors
from twinlens.indexing.scans import Scans
from twinlens.indexing.store import RowStore, write_space
from twinlens.report.summary import format_markdown

ROWS, DIM, ROUNDS = 100_000, 512, 20
PRECISIONS = ("float32", "float16", "int8")


def main() -> None:
    """Print bytes and time of one query over all rows, those of float32 as 1."""
    rows, query = unit_vectors(ROWS, DIM), unit_vectors(1, DIM, seed=1)[0]
    with tempfile.TemporaryDirectory() as folder:
        stores = {name: Path(folder) / name for name in PRECISIONS}
        for name, store in stores.items():
            store.mkdir()
            write_space(store, "image_vector", rows, np.zeros(0, dtype=np.int64), name)
        spaces = {name: RowStore(store).space("image_vector") for name, store in stores.items()}
        scans = {name: Scans(space.rows, space.steps) for name, space in spaces.items()}
        taken = alternate({name: partial(scan.products, query) for name, scan in scans.items()}, ROUNDS)
        lines = [
            [name, f"{space.rows.nbytes / rows.nbytes:g}", f"{ratio(taken, name, 'float32'):.2f}"]
            for name, space in spaces.items()
        ]
    print(format_markdown(["index.precision", "bytes", "time of a scan"], lines))


if __name__ == "__main__":
    main()
