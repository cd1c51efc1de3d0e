"""Search the pool with every retriever that the vectors allow; write the runs and what they mean."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.core.device import choose_device
from twinlens.core.errors import DataError
from twinlens.core.scratch import write_whole
from twinlens.core.token_matrices import read_token_matrices
from twinlens.core.vectors import read_vectors
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.cross_encoder import find_shards
from twinlens.retrieval.lexical import read_validation
from twinlens.retrieval.rank import (
    check_vectors,
    group_retrievers,
    list_unmeasured,
    rerank,
    restate_as_published,
    search_together,
)
from twinlens.retrieval.registry import list_rerankers, list_retrievers
from twinlens.retrieval.runs import write_unmeasured
from twinlens.retrieval.unmeasured import explain_unmeasured
from twinlens.tasks.base import read_tasks
from twinlens.tasks.inputs import IMAGES, OTHER_WAY, UNTRAINED, check_ids, read_inputs, read_left_out

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write, for each task, its queries and items and a run per retriever."""
    params = read_params()
    placement, gates = choose_device(params.compute.device), Gates(params.gates)
    cost, searched, device = Cost(placement.device.type), 0, str(placement.device)
    unmeasured: list[str] = []
    folder, embedded = paths.tasks(dataset, params.captioner), paths.embedded(dataset, model)
    inputs, tasks = read_inputs(folder / "inputs"), read_tasks(folder)
    names = [name + way for way in ("", UNTRAINED, OTHER_WAY) for name in inputs]
    vectors = {name: read_vectors(embedded, name) for name in names if (embedded / f"{name}.npy").exists()}
    for name, found in vectors.items():
        check_ids(inputs, name, found.ids)
    gates.add(embedded / "gates.json")
    check_vectors(gates, vectors, embedded)
    for missing in list_unmeasured(tasks, read_left_out(embedded)):  # no gate: what somebody chose not to embed
        log.warning("WARNING: %s", missing)
        gates.found.append({"gate": "not_measured", "trouble": missing})
    pool = inputs[IMAGES].rows
    validation = read_validation(params, vectors, inputs, pool["image_id"].to_list())
    texts = {name: one.rows for name, one in inputs.items() if "text" in one.reads}
    card = params.models[model]
    shards = find_shards(card, dataset)
    tokens = read_token_matrices(embedded, vectors)
    corpus = Corpus(vectors, texts, card.shares_a_space, validation, shards, pool, cost, tokens)
    with write_whole(paths.ranked(dataset, model)) as draft:
        for task in tasks:
            retrievers = {(one.name, one.published): one for one in list_retrievers(task, corpus, params)}
            if (why := explain_unmeasured(task, corpus, model, retrievers.values())) is not None:
                log.warning("%s", why)
                unmeasured.append(why)
            for together in group_retrievers(retrievers.values()):
                mine = restate_as_published(task) if together[0].published else task
                if not (draft / mine.name).exists():
                    mine.write(draft / mine.name)
                search_together(mine, together, params.rank.depth, device, draft / mine.name, gates)
                searched += len(task.query_ids) * len(together)
            for again in list_rerankers(task, corpus, params):
                if (first := retrievers.get((again.retriever, False))) is not None:
                    rerank(task, first, again, params.rank, device, draft / task.name)
                    searched += len(task.query_ids)
        if not searched:
            raise DataError(f"there is nothing to search in {dataset} with {model}. {'. '.join(unmeasured)}")
        write_unmeasured(unmeasured, draft)
        about = {"split": params.datasets[dataset].pool, "duplicates": len(pool) - pool["sha256"].n_unique()}
        (draft / "pool.json").write_text(json.dumps(about) + "\n")
        gates.write(draft / "gates.json")
    cost.write(paths.cost("rank", dataset, model), items=searched)


if __name__ == "__main__":
    run_stage(main)
