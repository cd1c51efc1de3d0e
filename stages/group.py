"""Decide which pictures are in the pool and what counts as the same thing."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import write_whole
from twinlens.datasets import pool
from twinlens.datasets.statistics import describe_dataset, write_card
from twinlens.images.duplicates import find_duplicates

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write every usable picture's split, object set and place in the shards; the copies found; the dataset's card."""
    cost, params = Cost(), read_params()
    card, filtered, resized = params.datasets[dataset], paths.filtered(dataset), paths.resized(dataset)
    images = tables.read_table(filtered / "images.parquet", tables.IMAGES)
    captions = tables.read_table(filtered / "captions.parquet", tables.CAPTIONS)
    index = tables.read_table(resized / "index.parquet", tables.INDEX)
    hashes = tables.read_table(resized / "hashes.parquet", tables.HASHES)
    copies = find_duplicates(images, index, hashes, params.group.near_duplicate_bits, params.group.drop_duplicates)
    left = index.filter(~index["image_id"].is_in(list(copies.dropped)))
    groups = pool.group_images(images, captions, left, card.pool, params.group.min_group_size)
    with write_whole(paths.grouped(dataset)) as draft:
        tables.write_table(groups, draft / "images.parquet", tables.GROUPS)
        tables.write_table(copies.table, draft / "duplicates.parquet", tables.DUPLICATES)
    notes = tables.read_table(resized / "notes.parquet", tables.NOTES)
    counts = json.loads((filtered / "counts.json").read_text())
    described = describe_dataset(dataset, card, counts, images, captions, notes, groups, copies)
    write_card(described, paths.dataset_card(dataset))
    grouped = groups["object_set"].drop_nulls()
    log.info(
        "%s: %s pictures in the pool, %s of them in %s object sets",
        dataset,
        f"{groups['in_pool'].sum():,}",
        f"{len(grouped):,}",
        f"{grouped.n_unique():,}",
    )
    if len(copies.table):
        log.info("%s: copies of pictures: %s", dataset, ", ".join(f"{n} {kind}" for kind, n in copies.counts().items()))
    cost.write(paths.cost("group", dataset), items=len(groups))


if __name__ == "__main__":
    run_stage(main)
