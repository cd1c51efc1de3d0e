"""Search the pool with every retriever that the vectors allow; write the runs and what they mean."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack

from stages.runner import run_stage
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.core.device import choose_device
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch, write_whole
from twinlens.engines import open_engine
from twinlens.retrieval.base import Reranker, Retriever
from twinlens.retrieval.corpus import Opened, open_corpus
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
from twinlens.retrieval.spread import RankWorker, SpreadLists, make_key
from twinlens.retrieval.unmeasured import explain_unmeasured
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import IMAGES, read_left_out

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write, for each task, its queries and items and a run per retriever."""
    params = read_params()
    placement, gates = choose_device(params.compute.device), Gates(params.gates)
    cost, device = Cost(placement.device.type), str(placement.device)
    embedded = paths.embedded(dataset, model)
    opened = open_corpus(params, dataset, model, cost)
    gates.add(embedded / "gates.json")
    check_vectors(gates, opened.vectors, embedded)
    for missing in list_unmeasured(opened.tasks, read_left_out(embedded)):  # no gate: what somebody chose not to embed
        log.warning("WARNING: %s", missing)
        gates.found.append({"gate": "not_measured", "trouble": missing})
    searches, reranks, unmeasured = list_searches(opened, params, model)
    if not searches:
        raise DataError(f"there is nothing to search in {dataset} with {model}. {'. '.join(unmeasured)}")
    with ExitStack() as stack, write_whole(paths.ranked(dataset, model)) as draft:
        lists = spread_lists(params, dataset, model, searches, stack)
        for task, together in searches:
            if not (draft / task.name).exists():
                task.write(draft / task.name)
            search_together(task, together, params.rank.depth, device, draft / task.name, gates, lists)
        for task, first, again in reranks:
            rerank(task, first, again, params.rank, device, draft / task.name)
        write_unmeasured(unmeasured, draft)
        pool = opened.inputs[IMAGES].rows
        about = {"split": params.datasets[dataset].pool, "duplicates": len(pool) - pool["sha256"].n_unique()}
        (draft / "pool.json").write_text(json.dumps(about) + "\n")
        gates.write(draft / "gates.json")
    searched = sum(len(task.query_ids) * len(together) for task, together in searches)
    cost.write(paths.cost("rank", dataset, model), items=searched + sum(len(task.query_ids) for task, _, _ in reranks))


def list_searches(
    opened: Opened, params: Params, model: str
) -> tuple[list[tuple[Task, list[Retriever]]], list[tuple[Task, Retriever, Reranker]], list[str]]:
    """List what is searched by which retrievers together, whose best are ranked anew, and why a task is left out."""
    searches: list[tuple[Task, list[Retriever]]] = []
    reranks: list[tuple[Task, Retriever, Reranker]] = []
    unmeasured: list[str] = []
    for task in opened.tasks:
        retrievers = {(one.name, one.published): one for one in list_retrievers(task, opened.corpus, params)}
        if (why := explain_unmeasured(task, opened.corpus, model, retrievers.values())) is not None:
            log.warning("%s", why)
            unmeasured.append(why)
        for together in group_retrievers(retrievers.values()):
            searches.append((restate_as_published(task) if together[0].published else task, together))
        for again in list_rerankers(task, opened.corpus, params):
            if (first := retrievers.get((again.retriever, False))) is not None:
                reranks.append((task, first, again))
    return searches, reranks, unmeasured


def spread_lists(
    params: Params, dataset: str, model: str, searches: list[tuple[Task, list[Retriever]]], stack: ExitStack
) -> SpreadLists | None:
    """Have the lists made by the workers of an engine; None where this process makes them."""
    if params.compute.engine == "local":
        return None
    engine = stack.enter_context(open_engine(params.compute))
    worker = RankWorker.of(params, dataset, model, engine.placement.device.type)
    lists = SpreadLists(worker, stack.enter_context(Scratch("rank", make_key(worker), params.compute.parts)))
    lists.make(searches, engine)
    return lists


if __name__ == "__main__":
    run_stage(main)
