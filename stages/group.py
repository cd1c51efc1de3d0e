"""Decide which pictures are in the pool and what counts as the same thing."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import write_whole
from twinlens.core.stored_tables import StoredTable
from twinlens.datasets import pool
from twinlens.datasets.statistics import describe_dataset, write_card
from twinlens.images.duplicates import find_duplicates

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write every usable picture's split, object set and place in the shards; the copies found; the dataset's card."""
    cost, params = Cost(), read_params()
    card, filtered, resized = params.datasets[dataset], paths.filtered(dataset), paths.resized(dataset)
    images, captions = (
        StoredTable(filtered / f"{name}.parquet", schema)
        for name, schema in (("images", tables.IMAGES), ("captions", tables.CAPTIONS))
    )
    index, hashes, notes = (
        StoredTable(resized / f"{name}.parquet", schema)
        for name, schema in (("index", tables.INDEX), ("hashes", tables.HASHES), ("notes", tables.NOTES))
    )
    copies = find_duplicates(images, index, hashes, params.group.near_duplicate_bits, params.group.drop_duplicates)
    with write_whole(paths.grouped(dataset)) as draft:
        with tables.TableWriter(draft / "images.parquet", tables.GROUPS) as table:
            group = params.group.min_group_size, copies.dropped
            for part in pool.iter_groups(images, captions, index, card.pool, *group):
                table.add(part)
        tables.write_table(copies.table, draft / "duplicates.parquet", tables.DUPLICATES)
    groups = StoredTable(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    counts = json.loads((filtered / "counts.json").read_text())
    described = describe_dataset(dataset, card, counts, images, captions, notes, groups, copies)
    write_card(described, paths.dataset_card(dataset))
    log.info(
        "%s: %s pictures in the pool, in %s object sets",
        dataset,
        f"{described['pictures']['in_pool']:,}",
        f"{described['object_sets']:,}",
    )
    if len(copies.table):
        log.info("%s: copies of pictures: %s", dataset, ", ".join(f"{n} {kind}" for kind, n in copies.counts().items()))
    cost.write(paths.cost("group", dataset), items=len(groups))


if __name__ == "__main__":
    run_stage(main)
