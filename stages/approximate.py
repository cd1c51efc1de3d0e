"""Measure what approximate search misses of the exact, and what time it saves."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.scratch import write_whole_file
from twinlens.core.vectors import has_vectors, read_vectors
from twinlens.retrieval import approximate
from twinlens.tasks.inputs import CAPTIONS, IMAGES, JOINED

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write metrics/approximate.csv: recall and latency of every setting on the pool's vectors."""
    params, vectors = read_params(), paths.embedded(dataset, model)
    items = np.asarray(read_vectors(vectors, IMAGES if has_vectors(vectors, IMAGES) else JOINED).unit)
    words_search = params.models[model].shares_a_space and has_vectors(vectors, CAPTIONS)
    asked = np.asarray(read_vectors(vectors, CAPTIONS).unit) if words_search else items
    rows = pl.DataFrame(approximate.measure_settings(asked, items, params.approximate))
    with write_whole_file(paths.METRICS / "approximate.csv") as draft:
        rows.write_csv(draft)
    log.info("%s", "\n".join(f"{name}: recall {recall:.3f}, {ms:.2f} ms" for name, recall, ms, *_ in rows.iter_rows()))


if __name__ == "__main__":
    run_stage(main)
