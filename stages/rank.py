"""Search the pool with every retriever that the vectors allow; write the runs."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens import category_search, paths, tables, word_search
from twinlens.config.load import read_params
from twinlens.costs import Cost
from twinlens.errors import DataError
from twinlens.gates import Gates
from twinlens.placement import place
from twinlens.scratch import publishing
from twinlens.searching import check_vectors, read_vectors, search, write_pool
from twinlens.sources import ALL, text_sources
from twinlens.tasks import build

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write, for each task, its queries and items and a run per retriever."""
    params = read_params()
    placement, gates = place(params.compute.device), Gates(params.gates)
    cost, searched = Cost(placement.device.type), 0
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    captioned = paths.captioned(dataset, params.captioner)
    generated, of_validation = (
        tables.read_table(captioned / f"{name}.parquet", tables.GENERATED) for name in ("captions", "validation")
    )
    vectors, pool = paths.embedded(dataset, model), groups.filter("in_pool")
    sources = {name: read_vectors(vectors, name) for name in ALL if (vectors / f"{name}.npy").exists()}
    check_vectors(gates, sources, vectors)
    tasks = build(sources, groups, params.rank, params.models[model].shares_a_space)
    validation = word_search.validation_of(params, sources, captions, of_validation, pool)
    texts = text_sources(pool, captions, generated)
    tasks = word_search.extend(tasks, texts, pool["image_id"].to_list(), validation, params.hybrid, cost)
    tasks += category_search.build(sources, pool, images, params.category_search)
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
        about = {"split": params.datasets[dataset].pool, "duplicates": len(pool) - pool["sha256"].n_unique()}
        (draft / "pool.json").write_text(json.dumps(about) + "\n")
        gates.write(draft / "gates.json")
    cost.write(paths.cost("rank", dataset, model), items=searched)


if __name__ == "__main__":
    run_stage(main)
