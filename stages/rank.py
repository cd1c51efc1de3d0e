"""Search the pool with every retriever that the vectors allow; write the runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import polars as pl

from stages.runner import run_stage
from twinlens import category_search, paths, tables
from twinlens.costs import Cost
from twinlens.full_ranking import average_precision
from twinlens.neighbours import nearest
from twinlens.params import read_params
from twinlens.placement import place
from twinlens.progress import Progress
from twinlens.runs import RunWriter
from twinlens.scratch import publishing
from twinlens.sources import CLASSES, IMAGES, NEGATIVES, TEXTS
from twinlens.tasks import Task, Vectors, build, check_unit_rows

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write, for each task, its queries and items and a run per retriever."""
    params = read_params()
    placement = place(params.compute.device)
    cost, searched = Cost(placement.device.type), 0
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    sources = {
        name: read_vectors(paths.embedded(dataset, model), name)
        for name in (IMAGES, *TEXTS, CLASSES, NEGATIVES)
        if (paths.embedded(dataset, model) / f"{name}.npy").exists()
    }
    tasks = build(sources, groups, params.rank, joint=params.models[model].joint is not None)
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    tasks += category_search.build(sources, groups.filter("in_pool"), images, params.category_search)
    with publishing(paths.ranked(dataset, model)) as draft:
        for task in tasks:
            folder = draft / task.name
            write_pool(task, folder)
            for retriever in task.retrievers:
                search(task, retriever, params.rank.depth, str(placement.device), folder)
                searched += len(task.query_ids)
        split = {"split": params.datasets[dataset].pool}
        (draft / "pool.json").write_text(json.dumps(split) + "\n")
    cost.write(paths.cost("rank", dataset, model), items=searched)


def read_vectors(folder: Path, name: str) -> Vectors:
    """The vectors of one source, mapped rather than read, and checked."""
    ids = tables.read_table(folder / f"{name}.parquet", tables.VECTORS)
    rows = np.load(folder / f"{name}.npy", mmap_mode="r")
    check_unit_rows(rows, ids["id"].to_list(), name)
    return Vectors(ids["id"].to_list(), ids["image_id"].to_list(), rows)


def write_pool(task: Task, folder: Path) -> None:
    """Who searches what: enough, with a run, to compute any measure."""
    names = np.array(task.group_names, dtype=object)
    queries = {
        "query_id": task.query_ids,
        "image_id": task.query_images,
        "group": names[task.query_groups].tolist(),
        "relevant": task.relevant_counts(),
    }
    items = {"item_id": task.item_ids, "group": names[task.item_groups].tolist()}
    tables.write_table(pl.DataFrame(queries), folder / "queries.parquet", tables.QUERIES)
    tables.write_table(pl.DataFrame(items), folder / "items.parquet", tables.ITEMS)
    if task.about:
        (folder / "about.json").write_text(json.dumps(task.about) + "\n")


def search(task: Task, retriever: str, depth: int, device: str, folder: Path) -> None:
    """Write the run of one retriever and the rank of every query's first hit."""
    queries, items = task.retrievers[retriever]()
    first_hits = []
    with (
        RunWriter(folder / "runs" / f"{retriever}.parquet", task.query_ids, task.item_ids) as run,
        Progress(f"rank {task.name} by {retriever}", total=len(queries), unit="query") as bar,
    ):
        for found in nearest(
            queries,
            items,
            depth,
            own_rows=task.own_rows,
            query_groups=task.query_groups,
            item_groups=task.item_groups,
            device=device,
        ):
            run.add(found.first_query, found.rows, found.scores)
            assert found.first_hit is not None  # groups were given
            first_hits.append(found.first_hit)
            bar.add(len(found.rows))
    ranks = {"query_id": task.query_ids, "rank": np.concatenate(first_hits)}
    tables.write_table(pl.DataFrame(ranks), folder / "first_hits" / f"{retriever}.parquet", tables.FIRST_HITS)
    if task.full_ranking:
        values = average_precision(queries, items, task.query_groups, task.item_groups)
        precisions = pl.DataFrame({"query_id": task.query_ids, "value": values})
        path = folder / "average_precision" / f"{retriever}.parquet"
        tables.write_table(precisions, path, tables.AVERAGE_PRECISION)


if __name__ == "__main__":
    run_stage(main)
