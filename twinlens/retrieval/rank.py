"""Searching: the vectors checked, every retriever of a task run, and what is needed to measure it written down."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.core import tables
from twinlens.core.probes import Probe
from twinlens.core.progress import Progress
from twinlens.core.vectors import Pair, Vectors
from twinlens.retrieval import scores as scoring
from twinlens.retrieval.checks import Gates, Ties, check_probe, not_finite, not_unit, repeated
from twinlens.retrieval.exact import Neighbours, nearest
from twinlens.retrieval.full_ranking import average_precision
from twinlens.retrieval.hybrid import Hybrid, block_starts
from twinlens.retrieval.in_batch import ranks_in_batches
from twinlens.retrieval.runs import RunWriter
from twinlens.tasks.base import Scorer, Task, judged_items


def check_vectors(gates: Gates, sources: Mapping[str, Vectors], folder: Path) -> None:
    """Hold every source against what vectors must be, and against its probes.

    Raises:
        DataError: a gate that is an error found trouble.
    """
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
    if task.about:
        (folder / "about.json").write_text(json.dumps(task.about) + "\n")


def search(task: Task, retriever: str, depth: int, device: str, folder: Path, gates: Gates) -> None:
    """Write the run of one retriever, and the rank of every query's first hit, also without distractors."""
    made = task.retrievers[retriever]()
    items, total = (made[1], len(made[0])) if isinstance(made, tuple) else (None, len(made))
    first_hits, equal = [], Ties()
    with (
        RunWriter(folder / "runs" / f"{retriever}.parquet", task.query_ids, task.item_ids) as run,
        Progress(f"rank {task.name} by {retriever}", total=total, unit="query") as bar,
    ):
        for found in ranked(made, task, retriever, depth, device):
            run.add(found.first_query, found.rows, found.scores)
            equal.add(found.scores, found.rows, items)
            assert found.first_hit is not None  # groups were given
            first_hits.append(found.first_hit)
            bar.add(len(found.rows))
    gates.check("tied_scores", equal.trouble(f"{task.name}, {retriever}", gates.params.max_tied_share))
    rank = among = np.concatenate(first_hits)
    judged = judged_items(task.query_groups, task.item_groups)
    if not judged.all():
        assert task.own_rows is None  # where queries are items, every item is a query
        again = ranked(made, task, retriever, depth, device, np.flatnonzero(judged))
        among = np.concatenate([found.first_hit for found in again if found.first_hit is not None])
    hits = pl.DataFrame({"query_id": task.query_ids, "rank": rank, "rank_among_judged": among})
    tables.write_table(hits, folder / "first_hits" / f"{retriever}.parquet", tables.FIRST_HITS)
    if task.partners is not None and isinstance(made, tuple):
        ranks = ranks_in_batches(made[0], made[1][task.partners])
        in_batches = pl.DataFrame({"query_id": task.query_ids, "rank": ranks})
        tables.write_table(in_batches, folder / tables.IN_BATCHES / f"{retriever}.parquet", tables.BATCH_RANKS)
    if isinstance(made, Hybrid) and made.chosen:
        path = folder / tables.CHOSEN / f"{retriever}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made.chosen) + "\n")
    if task.full_ranking:
        assert isinstance(made, tuple)  # only vectors search there
        values = average_precision(*made, task.query_groups, task.item_groups)
        precisions = pl.DataFrame({"query_id": task.query_ids, "value": values})
        tables.write_table(precisions, folder / tables.FULL_RANKING / f"{retriever}.parquet", tables.AVERAGE_PRECISION)


def ranked(
    made: Pair | Scorer,
    task: Task,
    retriever: str,
    depth: int,
    device: str,
    rows: Int[np.ndarray, " chosen"] | None = None,
) -> Iterator[Neighbours]:
    """The best items of every query of a task, a block of queries at a time.

    Args:
        made: what the retriever makes: vectors, or scores.
        task: who searches what.
        retriever: its name, which says whether an item with score 0 was not found.
        depth: items wanted.
        device: where products of vectors are made.
        rows: the items to rank; all if absent.
    """
    groups = task.item_groups if rows is None else task.item_groups[rows]
    if isinstance(made, tuple):
        queries, items = made
        yield from nearest(
            queries,
            items if rows is None else items[rows],
            depth,
            own_rows=task.own_rows,
            query_groups=task.query_groups,
            item_groups=groups,
            device=device,
        )
        return
    left_out = 0 if task.own_rows is None else 1
    by_words = retriever.startswith(tables.BM25)
    for start, stop in block_starts(made, len(task.item_ids)):
        scores = made.block(start, stop) if rows is None else made.block(start, stop)[:, rows]
        relevant = groups == task.query_groups[start:stop, None]
        if task.own_rows is not None:
            own = np.arange(stop - start), task.own_rows[start:stop]
            scores[own], relevant[own] = -np.inf, False
        keys = scoring.keys(scores)
        first = scoring.first_hits(keys, relevant)
        if by_words:  # not found is as good as last
            missed = np.where(relevant, scores, -np.inf).max(axis=1) <= 0
            first[missed & relevant.any(axis=1)] = len(groups) - left_out
        best = scoring.best(keys, min(depth, len(groups) - left_out))
        yield Neighbours(start, best, np.take_along_axis(scores, best, axis=1), first)
