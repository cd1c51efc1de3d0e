"""Search the pool with every retriever that the vectors allow; write the runs."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens import category_search, paths, tables
from twinlens.costs import Cost
from twinlens.errors import DataError
from twinlens.gates import Gates
from twinlens.params import read_params
from twinlens.placement import place
from twinlens.scratch import publishing
from twinlens.searching import check_vectors, read_vectors, search, write_pool
from twinlens.sources import ALL
from twinlens.tasks import build

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write, for each task, its queries and items and a run per retriever."""
    params = read_params()
    placement, gates = place(params.compute.device), Gates(params.gates)
    cost, searched = Cost(placement.device.type), 0
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    vectors = paths.embedded(dataset, model)
    sources = {name: read_vectors(vectors, name) for name in ALL if (vectors / f"{name}.npy").exists()}
    check_vectors(gates, sources, vectors)
    tasks = build(sources, groups, params.rank, params.models[model].shares_a_space)
    tasks += category_search.build(sources, groups.filter("in_pool"), images, params.category_search)
    if not tasks:
        raise DataError(
            f"there is nothing to search in {dataset} with {model}: no two pictures of the pool share their labels, "
            "and captions (where there are any) search only by a joint model or a captioner"
        )
    with publishing(paths.ranked(dataset, model)) as draft:
        for task in tasks:
            write_pool(task, draft / task.name)
            for retriever in task.retrievers:
                search(task, retriever, params.rank.depth, str(placement.device), draft / task.name, gates)
                searched += len(task.query_ids)
        pictures = groups.filter("in_pool")["sha256"]
        pool = {"split": params.datasets[dataset].pool, "duplicates": len(pictures) - pictures.n_unique()}
        (draft / "pool.json").write_text(json.dumps(pool) + "\n")
        gates.write(draft / "gates.json")
    cost.write(paths.cost("rank", dataset, model), items=searched)


if __name__ == "__main__":
    run_stage(main)
