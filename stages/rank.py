"""Search the pool with every retriever that the vectors allow; write the runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import polars as pl

from stages.runner import run_stage
from twinlens import paths, tables
from twinlens.costs import Cost
from twinlens.errors import DataError
from twinlens.gates import Gates, Ties, check_probe, not_finite, not_unit, repeated
from twinlens.neighbours import nearest
from twinlens.params import read_params
from twinlens.placement import place
from twinlens.probes import Probe
from twinlens.progress import Progress
from twinlens.runs import RunWriter
from twinlens.scratch import publishing
from twinlens.sources import IMAGES, TEXTS
from twinlens.tasks import Task, Vectors, build

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write, for each task, its queries and items and a run per retriever."""
    params = read_params()
    placement, gates = place(params.compute.device), Gates(params.gates)
    cost, searched = Cost(placement.device.type), 0
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    sources = {
        name: read_vectors(paths.embedded(dataset, model), name)
        for name in (IMAGES, *TEXTS)
        if (paths.embedded(dataset, model) / f"{name}.npy").exists()
    }
    check_vectors(gates, sources, paths.embedded(dataset, model))
    tasks = build(sources, groups, params.rank, joint=params.models[model].joint is not None)
    with publishing(paths.ranked(dataset, model)) as draft:
        for task in tasks:
            folder = draft / task.name
            write_pool(task, folder)
            for retriever in task.retrievers:
                search(task, retriever, params.rank.depth, str(placement.device), folder, gates)
                searched += len(task.query_ids)
        pictures = groups.filter("in_pool")["sha256"]
        pool = {"split": params.datasets[dataset].pool, "duplicates": len(pictures) - pictures.n_unique()}
        (draft / "pool.json").write_text(json.dumps(pool) + "\n")
        gates.write(draft / "gates.json")
    cost.write(paths.cost("rank", dataset, model), items=searched)


def read_vectors(folder: Path, name: str) -> Vectors:
    """The vectors of one source, mapped rather than read."""
    ids = tables.read_table(folder / f"{name}.parquet", tables.VECTORS)
    rows = np.load(folder / f"{name}.npy", mmap_mode="r")
    if len(rows) != len(ids):
        raise DataError(f"{name}: {len(rows)} vectors for {len(ids)} ids: `dvc repro -f embed`")
    return Vectors(ids["id"].to_list(), ids["image_id"].to_list(), rows)


def check_vectors(gates: Gates, sources: dict[str, Vectors], folder: Path) -> None:
    """Hold every source against what vectors must be, and against its probes."""
    for name, source in sources.items():
        gates.check("finite", not_finite(source.rows, source.ids, name))
        gates.check("unit_length", not_unit(source.rows, source.ids, name))
        probe = Probe.read(folder / f"{name}.probe.npz")
        gates.check("repeated_vectors", repeated(source.rows, probe.contents, name, gates.params.max_repeated_share))
        check_probe(gates, name, probe, sources)


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


def search(task: Task, retriever: str, depth: int, device: str, folder: Path, gates: Gates) -> None:
    """Write the run of one retriever and the rank of every query's first hit."""
    queries, items = task.retrievers[retriever]()
    first_hits, equal = [], Ties()
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
            equal.add(found.scores, found.rows, items)
            assert found.first_hit is not None  # groups were given
            first_hits.append(found.first_hit)
            bar.add(len(found.rows))
    gates.check("tied_scores", equal.trouble(f"{task.name}, {retriever}", gates.params.max_tied_share))
    ranks = {"query_id": task.query_ids, "rank": np.concatenate(first_hits)}
    tables.write_table(pl.DataFrame(ranks), folder / "first_hits" / f"{retriever}.parquet", tables.FIRST_HITS)


if __name__ == "__main__":
    run_stage(main)
