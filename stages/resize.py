"""Bring every picture to one size and format, and set aside what cannot be read."""

from __future__ import annotations

import logging
from collections import Counter

from stages.runner import run_stage
from twinlens import datasets
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import write_whole
from twinlens.images.resize import resize_pictures

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write shards of JPEGs, their index and perceptual hashes, and notes on pictures mended or set aside."""
    cost, params = Cost(), read_params()
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    files = images["file"].to_list()
    card = params.datasets[dataset]
    limits = params.resize.at_most(card.shortest_side_px)
    raw = datasets.make_adapter(card).read_pictures(paths.raw(dataset), files)
    pictures = zip(images["image_id"].to_list(), files, raw, strict=True)
    with write_whole(paths.resized(dataset)) as draft:
        resized = resize_pictures(pictures, len(files), limits, draft, params.compute.decode_threads)
        tables.write_table(resized.index, draft / "index.parquet", tables.INDEX)
        tables.write_table(resized.hashes, draft / "hashes.parquet", tables.HASHES)
        tables.write_table(resized.notes, draft / "notes.parquet", tables.NOTES)
    aside = resized.notes.filter(~resized.notes["kept"])
    for note, n in Counter(resized.notes["note"]).most_common(10):
        log.info("  %d x %s", n, note)
    log.info("%s: %s pictures ready, %s set aside", dataset, f"{len(resized.index):,}", f"{len(aside):,}")
    cost.write(paths.cost("resize", dataset), items=len(files))


if __name__ == "__main__":
    run_stage(main)
