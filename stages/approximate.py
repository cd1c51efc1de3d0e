"""Measure what approximate search misses of the exact, and what time it saves."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.scratch import write_whole_file
from twinlens.core.vectors import bring_to_unit
from twinlens.retrieval import approximate
from twinlens.tasks.inputs import CAPTIONS, IMAGES, JOINED

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write metrics/approximate.csv: recall and latency of every setting on the pool's vectors."""
    params, vectors = read_params(), paths.embedded(dataset, model)
    files = {name: vectors / f"{name}.npy" for name in (IMAGES, JOINED, CAPTIONS)}
    items = bring_to_unit(np.load(files[IMAGES] if files[IMAGES].exists() else files[JOINED], allow_pickle=False))
    words_search = params.models[model].shares_a_space and files[CAPTIONS].exists()
    asked = bring_to_unit(np.load(files[CAPTIONS], mmap_mode="r", allow_pickle=False)) if words_search else items
    rows = pl.DataFrame(approximate.measure_settings(asked, items, params.approximate))
    with write_whole_file(paths.METRICS / "approximate.csv") as draft:
        rows.write_csv(draft)
    log.info("%s", "\n".join(f"{name}: recall {recall:.3f}, {ms:.2f} ms" for name, recall, ms, *_ in rows.iter_rows()))


if __name__ == "__main__":
    run_stage(main)
