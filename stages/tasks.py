"""Decide who searches for what: queries, items and judgements of every task, and the inputs to embed."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import write_whole
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import write_inputs
from twinlens.tasks.registry import build_tasks

log = logging.getLogger("twinlens")


def main(dataset: str, captioner: str) -> None:
    """Write one folder for each task, and one of inputs."""
    cost, params = Cost(), read_params()
    filtered, captioned = paths.filtered(dataset), paths.captioned(dataset, captioner)
    collection = Collection(
        tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS),
        tables.read_table(filtered / "images.parquet", tables.IMAGES),
        tables.read_table(filtered / "captions.parquet", tables.CAPTIONS),
        tables.read_table(captioned / "captions.parquet", tables.GENERATED),
        tables.read_table(captioned / "validation.parquet", tables.GENERATED),
        tables.read_table(filtered / "composed_queries.parquet", tables.COMPOSED_QUERIES),
    )
    made, inputs = build_tasks(collection, params)
    with write_whole(paths.tasks(dataset, captioner)) as draft:
        write_inputs(inputs, draft / "inputs")
        for task in made:
            task.write(draft / task.name)
    for task in made:
        log.info("%s: %s queries, %s items", task.name, f"{len(task.query_ids):,}", f"{len(task.item_ids):,}")
    cost.write(paths.cost("tasks", dataset, captioner), items=sum(len(task.query_ids) for task in made))


if __name__ == "__main__":
    run_stage(main)
