"""Bring every picture to one size and format, and set aside what cannot be read."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.core.scratch import Scratch, write_whole
from twinlens.datasets.resizing import ResizeJob
from twinlens.engines import open_engine

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write shards of JPEGs, their index and perceptual hashes, and notes on pictures mended or set aside."""
    cost, params = Cost(), read_params()
    listed = paths.filtered(dataset) / "images.parquet"
    job = ResizeJob(params.datasets[dataset], paths.raw(dataset), listed, params.resize)
    with (
        Scratch("resize", job.key(), params.compute.parts) as scratch,
        open_engine(params.compute, device="cpu") as engine,
    ):
        with write_whole(paths.resized(dataset)) as draft:
            resized = job.write(scratch, engine, draft)
        cost.machine = engine.machine
        scratch.clear()
    for note, n in resized.notes.most_common(10):
        log.info("  %d x %s", n, note)
    log.info("%s: %s pictures ready, %s set aside", dataset, f"{resized.usable:,}", f"{resized.aside:,}")
    cost.write(paths.cost("resize", dataset), items=resized.usable + resized.aside, seconds=resized.seconds)


if __name__ == "__main__":
    run_stage(main)
