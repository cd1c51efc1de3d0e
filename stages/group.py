"""Decide which pictures are in the pool and what counts as the same thing."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens import grouping, paths, tables
from twinlens.config.load import read_params
from twinlens.costs import Cost
from twinlens.datacard import describe_dataset, write_card
from twinlens.duplicates import find_duplicates

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
    groups = grouping.group_images(images, captions, left, card.pool, params.group.min_group_size)
    tables.write_table(groups, paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    tables.write_table(copies.table, paths.grouped(dataset) / "duplicates.parquet", tables.DUPLICATES)
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
