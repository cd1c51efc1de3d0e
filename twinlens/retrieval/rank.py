"""Ranking: checks the vectors, runs every retriever of a task, and writes what is needed to measure it."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float32, Int, Int64

from twinlens.config.gates import Gates
from twinlens.config.params import RankParams
from twinlens.core import tables
from twinlens.core.probes import Probe
from twinlens.core.progress import Progress
from twinlens.core.vectors import Vectors
from twinlens.retrieval import scores
from twinlens.retrieval.base import Dense, Reranker, Retriever, Scorer
from twinlens.retrieval.checks import Ties, check_probe, detect_not_finite, detect_not_unit, detect_repeated
from twinlens.retrieval.exact import Neighbours, find_nearest
from twinlens.retrieval.full_ranking import average_precision
from twinlens.retrieval.hybrid import split_into_blocks
from twinlens.retrieval.in_batch import rank_in_batches
from twinlens.retrieval.runs import DRAWS, RunWriter
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import VALIDATION_CAPTIONS, VALIDATION_IMAGES
from twinlens.tasks.qrels import Qrels

MOST_THREADS = 16  # each has a block of scores, and arrays of its size, in memory

T = TypeVar("T")
R = TypeVar("R")


def check_vectors(gates: Gates, sources: Mapping[str, Vectors], folder: Path) -> None:
    """Hold all vectors against what vectors must be, and against their probes.

    Raises:
        DataError: a gate that is an error found trouble.
    """
    for name, source in sources.items():
        gates.check("finite", detect_not_finite(source.rows, source.ids, name))
        gates.check("unit_length", detect_not_unit(source.rows, source.ids, name))
        probe = Probe.read(folder / f"{name}.probe.npz")
        gates.check(
            "repeated_vectors", detect_repeated(source.rows, probe.contents, name, gates.params.max_repeated_share)
        )
        check_probe(gates, name, probe, sources)


def list_unmeasured(tasks: Iterable[Task], left_out: Mapping[str, str]) -> Iterator[str]:
    """List, in words, what is not measured since inputs have no vectors.

    Args:
        tasks: all of them.
        left_out: by input, why it has none.
    """
    for name, why in left_out.items():
        if name in (VALIDATION_IMAGES, VALIDATION_CAPTIONS):
            yield f"weights of hybrids are not chosen on validation pictures: {why}"
            continue
        needed = [
            task.name
            for task in tasks
            if name in (task.about.query_text, task.about.query_picture, task.about.item_text, task.about.item_picture)
        ]
        where = f" in {', '.join(needed)}" if needed else ""
        yield f"retrievers by vectors that need {name}{where} are not measured: {why}"


def restate_as_published(task: Task) -> Task:
    """Restate the task in the protocol of its source, whose numbers stand beside the published ones only."""
    about = replace(task.about, published_of=task.name)
    return replace(task, name=task.name + tables.AS_PUBLISHED, about=about, partners=None)


def search(task: Task, retriever: Retriever, depth: int, device: str, folder: Path, gates: Gates) -> None:
    """Write the run of one retriever, what it means, and every query's first hit, also without distractors.

    Further draws of a retriever that draws at random are written in the same way to folders of their own.
    """
    for n, make in enumerate(retriever.draws, start=1):
        draw = folder / DRAWS / str(n)
        task.write(draw)
        search(task, replace(retriever, make=make, draws=()), depth, device, draw, gates)
    made, name = retriever.make(), retriever.name
    first_hits, equal = [], Ties()
    with (
        RunWriter(folder / "runs" / f"{name}.parquet", task.query_ids, task.item_ids) as run,
        Progress(f"rank {task.name} by {name}", total=len(made), unit="query") as bar,
    ):
        for found in rank_blocks(made, task, depth, device, zero_is_miss=retriever.zero_is_miss):
            run.add(found.first_query, found.rows, found.scores)
            equal.add(found.scores, found.rows, made.items if isinstance(made, Dense) else None)
            assert found.first_hit is not None  # judgements were given
            first_hits.append(found.first_hit)
            bar.add(len(found.rows))
    if retriever.untrained_of is None:  # random weights may well put everything in one place
        gates.check("tied_scores", equal.trouble(f"{task.name}, {name}", gates.params.max_tied_share))
    rank = among = np.concatenate(first_hits)
    judged = task.qrels.judged()
    if not judged.all():
        again = rank_blocks(made, task, depth, device, zero_is_miss=retriever.zero_is_miss, rows=np.flatnonzero(judged))
        among = np.concatenate([found.first_hit for found in again if found.first_hit is not None])
    _write(task, name, retriever.told(made), rank, among, folder)
    if task.partners is not None and isinstance(made, Dense):
        ranks = rank_in_batches(made.queries, made.items[task.partners])
        in_batches = pl.DataFrame({"query_id": task.query_ids, "rank": ranks})
        tables.write_table(in_batches, folder / tables.IN_BATCHES / f"{name}.parquet", tables.BATCH_RANKS)
    if task.about.full_ranking:
        assert isinstance(made, Dense)  # only vectors search there
        values = average_precision(made.queries, made.items, task.qrels)
        precisions = pl.DataFrame({"query_id": task.query_ids, "value": values})
        tables.write_table(precisions, folder / tables.FULL_RANKING / f"{name}.parquet", tables.AVERAGE_PRECISION)


def rerank(task: Task, retriever: Retriever, reranker: Reranker, params: RankParams, device: str, folder: Path) -> None:
    """Write the run of a reranker: the best items of a retriever in the order of their new scores, then the others.

    The others keep their order, and have scores that fall below. Where the first relevant item is beyond the run, it
    stays where the retriever had it, as nothing below `params.rerank_depth` moves.
    """
    made, name = retriever.make(), f"{retriever.name}_{reranker.name}"
    judged, best = task.qrels.judged(), min(params.rerank_depth, params.depth)

    def first_hits(rows: Int[np.ndarray, " chosen"] | None, run: RunWriter | None) -> Int[np.ndarray, " queries"]:
        qrels = task.qrels if rows is None else task.qrels.among(rows)
        zero_is_miss = retriever.zero_is_miss
        lists = rank_blocks(made, task, params.depth, device, zero_is_miss=zero_is_miss, rows=rows)
        return np.concatenate([_reranked(found, reranker, best, qrels, rows, run) for found in lists])

    with RunWriter(folder / "runs" / f"{name}.parquet", task.query_ids, task.item_ids) as run:
        rank = first_hits(None, run)
    among = rank if judged.all() else first_hits(np.flatnonzero(judged), None)
    told = retriever.told(made) | {
        "inputs": list(dict.fromkeys([*retriever.inputs, *reranker.inputs])),
        "costs": list(dict.fromkeys([*retriever.costs, *reranker.costs])),
        "draws": 1,  # of those of the retriever, the first is reranked
        "chosen": {"reranked": best},
        "zero_is_miss": False,
    }
    _write(task, name, told, rank, among, folder)


def _reranked(
    found: Neighbours,
    reranker: Reranker,
    best: int,
    qrels: Qrels,
    rows: Int[np.ndarray, " chosen"] | None,
    run: RunWriter | None,
) -> Int[np.ndarray, " queries"]:
    """The ranks of first hits of a block of queries; its lists go into `run`, where there is one."""
    head = found.rows[:, :best]
    new = reranker.scores(found.first_query, head if rows is None else rows[head], found.scores[:, :best])
    order = np.argsort(-new, axis=1, kind="stable")  # equal scores stay in the order of the retriever
    lists = np.hstack([np.take_along_axis(head, order, axis=1), found.rows[:, best:]])
    if run is not None:
        run.add(found.first_query, lists, _falling(np.take_along_axis(new, order, axis=1), lists.shape[1]))
    inside = qrels.gains(found.first_query, lists) > 0
    assert found.first_hit is not None  # judgements were given
    return np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, found.first_hit)


def _falling(head: np.ndarray, depth: int) -> np.ndarray:
    """Scores of a whole list: those of its head, then ever smaller ones for what was not scored anew."""
    below = head.min(axis=1, keepdims=True) - np.arange(1, depth - head.shape[1] + 1, dtype=np.float32)
    return np.hstack([head, below]).astype(np.float32)


def _write(
    task: Task, name: str, told: Mapping[str, object], rank: np.ndarray, among: np.ndarray, folder: Path
) -> None:
    hits = pl.DataFrame({"query_id": task.query_ids, "rank": rank, "rank_among_judged": among})
    tables.write_table(hits, folder / "first_hits" / f"{name}.parquet", tables.FIRST_HITS)
    (folder / "runs" / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def rank_blocks(
    made: Scorer,
    task: Task,
    depth: int,
    device: str,
    *,
    zero_is_miss: bool = False,
    rows: Int[np.ndarray, " chosen"] | None = None,
) -> Iterator[Neighbours]:
    """Rank the best items of every query of a task, a block of queries at a time.

    Args:
        made: what the retriever makes: vectors, or scores.
        task: who searches what.
        depth: items wanted.
        device: where products of vectors are made.
        zero_is_miss: whether an item with score 0 was not found.
        rows: the items to rank; all if absent. Rows of what is found are then places in `rows`.
    """
    qrels = task.qrels if rows is None else task.qrels.among(rows)
    exclude = task.exclude if rows is None or task.exclude is None else _places(task.exclude, rows, len(task.item_ids))
    count = len(task.item_ids) if rows is None else len(rows)
    left_out = np.zeros(len(made), dtype=np.int64) if exclude is None else (exclude >= 0).astype(np.int64)
    depth = min(depth, max(1, count - int(left_out.max(initial=0))))  # as long for all, and nothing left out in any
    if isinstance(made, Dense):
        items = made.items if rows is None else made.items[rows]
        yield from find_nearest(made.queries, items, depth, own_rows=exclude, qrels=qrels, device=device)
        return

    def rank(bounds: tuple[int, int]) -> Neighbours:
        start, stop = bounds
        block = made.block(start, stop) if rows is None else made.block(start, stop)[:, rows]
        if exclude is not None:
            mine = np.flatnonzero(exclude[start:stop] >= 0)
            block[mine, exclude[start:stop][mine]] = -np.inf
        best = scores.select_best(block, depth)
        found = np.take_along_axis(block, best, axis=1)
        first, score = _find_first_hits(block, start, best, found, qrels)
        if zero_is_miss:  # not found is as good as last
            first = np.where((score <= 0) & (first > 0), count - left_out[start:stop], first)
        return Neighbours(start, best, found, first)

    yield from map_in_order(rank, split_into_blocks(made, len(task.item_ids)))


def _find_first_hits(
    block: scores.Block, start: int, rows: Int[np.ndarray, "queries k"], found: scores.Block, qrels: Qrels
) -> tuple[Int64[np.ndarray, " queries"], Float32[np.ndarray, " queries"]]:
    """Find the rank and the score of each query's first relevant item: in its list, else in the whole pool."""
    inside = qrels.gains(start, rows) > 0
    place = inside.argmax(axis=1)
    first, score = place + 1, np.take_along_axis(found, place[:, None], axis=1)[:, 0]
    missed = np.flatnonzero(~inside.any(axis=1))
    first[missed], score[missed] = scores.rank_best(block[missed], *qrels.list_relevant(start + missed))
    return first, score


def map_in_order(work: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
    """Iterate over what threads make of the parts, in their order, a few parts ahead of the caller.

    numpy and scipy leave the interpreter's lock where they work on whole blocks.
    """
    threads = min(
        MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="rank") as pool:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _places(
    exclude: Int[np.ndarray, " queries"], rows: Int[np.ndarray, " chosen"], items: int
) -> Int[np.ndarray, " queries"]:
    place = np.full(items, -1)
    place[rows] = np.arange(len(rows))
    return np.where(exclude >= 0, place[exclude], -1)
