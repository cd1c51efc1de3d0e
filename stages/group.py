"""Decide which pictures are in the pool and what counts as the same thing."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens import grouping, paths, tables
from twinlens.costs import Cost
from twinlens.params import read_params

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write every usable picture's split, object set and place in the shards."""
    cost, params = Cost(), read_params()
    groups = grouping.group_images(
        tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES),
        tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS),
        tables.read_table(paths.resized(dataset) / "index.parquet", tables.INDEX),
        pool=params.datasets[dataset].pool,
        min_group_size=params.group.min_group_size,
    )
    tables.write_table(groups, paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    grouped = groups["object_set"].drop_nulls()
    log.info(
        "%s: %s pictures in the pool, %s of them in %s object sets",
        dataset,
        f"{groups['in_pool'].sum():,}",
        f"{len(grouped):,}",
        f"{grouped.n_unique():,}",
    )
    cost.write(paths.cost("group", dataset), items=len(groups))


if __name__ == "__main__":
    run_stage(main)
