"""Ranked lists of every query of a task by what a retriever makes, a block of queries at a time.

Retrievers that share what they score by (words, and words with pixels) are ranked side by side, so that a block of
scores is computed, normalised and ordered once for all of them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int, Int64

from twinlens.core.resources import ensure_memory, measure_free_memory
from twinlens.core.row_sources import choose_rows
from twinlens.retrieval import scores
from twinlens.retrieval.base import Dense, Scorer
from twinlens.retrieval.exact import Neighbours, OnDevice, find_nearest
from twinlens.retrieval.hybrid import BLOCK_BYTES, Hybrid, ScoredBlock, choose_block_size, split_into_blocks
from twinlens.tasks.base import Task
from twinlens.tasks.qrels import Qrels

QUERIES_PER_SPAN = 4096  # that a worker ranks at once
MOST_THREADS = 16  # each has blocks of scores, and arrays of their size, in memory
COPIES = 24  # of a block of scores: four sides of hybrids, each with what is made of it

Span = tuple[int, int]  # of queries: the first, and the one after the last
Ranks = Int[np.ndarray, " queries"]  # of first hits; 0: none

T = TypeVar("T")
R = TypeVar("R")


def rank_blocks(
    made: Scorer,
    task: Task,
    depth: int,
    device: str,
    *,
    zero_is_miss: bool = False,
    rows: Int[np.ndarray, " chosen"] | None = None,
    span: Span | None = None,
) -> Iterator[Neighbours]:
    """Rank the best items of every query of a task, a block of queries at a time.

    Args:
        made: what the retriever makes: vectors, or scores.
        task: who searches what.
        depth: items wanted.
        device: where products of vectors are made.
        zero_is_miss: whether an item with score 0 was not found.
        rows: the items to rank; all if absent. Rows of what is found are then places in `rows`.
        span: the queries to rank, from the first to before the last; all if absent. It begins and ends where blocks do
            (`choose_span`).
    """
    start, stop = span or (0, len(made))
    lists = _Lists.of(task, depth, len(made), rows)
    if isinstance(made, Dense):
        items = made.items if rows is None else choose_rows(made.items, rows)
        own = None if lists.exclude is None else lists.exclude[start:stop]
        queries, qrels = made.queries[start:stop], lists.qrels.between(start, stop)
        for found in find_nearest(queries, items, lists.depth, own_rows=own, qrels=qrels, device=device):
            yield replace(found, first_query=found.first_query + start)
        return

    def rank(bounds: tuple[int, int]) -> Neighbours:
        return lists.rank(made.block(*bounds), bounds[0], zero_is_miss)

    threads = choose_threads([made], len(task.item_ids))
    yield from map_in_order(rank, _list_blocks(made, task, start, stop), threads)


def _list_blocks(made: Scorer, task: Task, start: int, stop: int) -> Iterator[tuple[int, int]]:
    return (one for one in split_into_blocks(made, len(task.item_ids)) if start <= one[0] < stop)


def choose_span(items: int) -> int:
    """Choose how many queries make a span: whole blocks, as the last digit of a sum may depend on what is beside it."""
    step = choose_block_size(items)
    return step * max(1, QUERIES_PER_SPAN // step)


def rank_together(
    made: Sequence[Scorer],
    zero_is_miss: Sequence[bool],
    task: Task,
    depth: int,
    device: str,
    span: Span | None = None,
) -> Iterator[list[tuple[Neighbours, Ranks | None]]]:
    """Rank by several scorers of the same queries, a block at a time; what they share is computed once.

    Args:
        made: what retrievers of one group make; vectors that search by themselves come alone.
        zero_is_miss: of each, see `rank_blocks`.
        task: who searches what.
        depth: items wanted.
        device: where products of vectors are made.
        span: the queries to rank; see `rank_blocks`.

    Yields:
        By scorer the best items, and the ranks of first hits among the items that are relevant to some query; None
        where that takes a search of its own (`rank_among_judged`).
    """
    judged = task.qrels.judged()
    rows = None if judged.all() else np.flatnonzero(judged)
    if isinstance(made[0], Dense):  # which needs no blocks of scores
        (dense,) = made
        for found in rank_blocks(dense, task, depth, device, span=span):
            yield [(found, found.first_hit if rows is None else None)]
        return
    whole = _Lists.of(task, depth, len(made[0]), None)
    few = None if rows is None else _Lists.of(task, depth, len(made[0]), rows)
    sides = list_sides(made)
    threads = choose_threads(made, len(task.item_ids), OnDevice.pays(device))
    instead: dict[int, Scorer] = {
        id(side): OnDevice.of(side.queries, side.items, device)
        for side in sides
        if isinstance(side, Dense) and OnDevice.pays(device)
    }
    for side in sides:
        instead.get(id(side), side).block(0, 0)  # makes what is kept for all blocks, which each thread would make else

    def rank(bounds: tuple[int, int]) -> list[tuple[Neighbours, Ranks | None]]:
        scored = ScoredBlock(*bounds, instead)
        found: list[tuple[Neighbours, Ranks | None]] = []
        for one, zero in zip(made, zero_is_miss, strict=True):
            block = scored.ask(one)
            best = whole.rank(block, bounds[0], zero)
            among = best.first_hit if few is None else few.rank(block, bounds[0], zero).first_hit
            found.append((best, among))
        return found

    start, stop = span or (0, len(made[0]))
    yield from map_in_order(rank, _list_blocks(made[0], task, start, stop), threads)


def list_sides(made: Iterable[Scorer]) -> list[Scorer]:
    """List the scorers that are no hybrids, and the sides of those that are, each once."""
    leaves = [side for one in made for side in ((one.image, one.words) if isinstance(one, Hybrid) else (one,))]
    return list({id(side): side for side in leaves}.values())


def rank_among_judged(made: Scorer, task: Task, depth: int, device: str, span: Span | None = None) -> Ranks:
    """Rank each query's first relevant item among the items that are relevant to some query; see `rank_blocks`."""
    again = rank_blocks(made, task, depth, device, rows=np.flatnonzero(task.qrels.judged()), span=span)
    return np.concatenate([found.first_hit for found in again if found.first_hit is not None])


@dataclass(frozen=True)
class _Lists:
    """What lists of a task are made of: the items to rank, who is left out of whose, and what is right."""

    qrels: Qrels
    exclude: Int[np.ndarray, " queries"] | None
    rows: Int[np.ndarray, " chosen"] | None
    count: int  # of the items
    left_out: Int[np.ndarray, " queries"]
    depth: int

    @classmethod
    def of(cls, task: Task, depth: int, queries: int, rows: Int[np.ndarray, " chosen"] | None) -> _Lists:
        """The lists of all items, or of some; `rows` and `depth` are those of `rank_blocks`."""
        items = len(task.item_ids)
        qrels = task.qrels if rows is None else task.qrels.among(rows)
        exclude = task.exclude if rows is None or task.exclude is None else _places(task.exclude, rows, items)
        count = items if rows is None else len(rows)
        left_out = np.zeros(queries, dtype=np.int64) if exclude is None else (exclude >= 0).astype(np.int64)
        depth = min(depth, max(1, count - int(left_out.max(initial=0))))  # as long for all, nothing left out in any
        return cls(qrels, exclude, rows, count, left_out, depth)

    def rank(self, block: scores.Block, start: int, zero_is_miss: bool) -> Neighbours:
        """Rank by the scores of a block of queries with all items of the task, which are not written to."""
        if self.rows is not None:
            block = block[:, self.rows]
        stop = start + len(block)
        if self.exclude is not None:
            block = block.copy() if self.rows is None else block
            mine = np.flatnonzero(self.exclude[start:stop] >= 0)
            block[mine, self.exclude[start:stop][mine]] = -np.inf
        best = scores.select_best(block, self.depth)
        found = np.take_along_axis(block, best, axis=1)
        first, score = _find_first_hits(block, start, best, found, self.qrels)
        if zero_is_miss:  # not found is as good as last
            first = np.where((score <= 0) & (first > 0), self.count - self.left_out[start:stop], first)
        return Neighbours(start, best, found, first)


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


def choose_threads(made: Iterable[Scorer], items: int, on_device: bool = False) -> int:
    """Choose how many threads score blocks of queries: one a core, while memory has room for the scores of each.

    A block is at least one query with all items, so that memory grows with the pool: 96 bytes an item and thread, and
    the vectors of hybrids in float64 once. Vectors alone are searched without such blocks, in memory that no pool
    fills.

    Args:
        made: scorers.
        items: of the pool.
        on_device: whether a device holds the vectors.

    Raises:
        ResourceError: there is no room for one thread.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = COPIES * max(BLOCK_BYTES, 4 * items)
    wide = sum(8 * side.items.shape[0] * side.items.shape[1] for side in list_sides(made) if isinstance(side, Dense))
    held = 0 if on_device else wide
    ensure_memory(
        held + each,
        f"the scores of {items:,} items by words, or by words and pixels together,",
        "Take a machine with more memory, or a smaller pool (`keep:` on the dataset's card)",
    )
    return max(1, min(MOST_THREADS, cores, (measure_free_memory() - held) // each))


def map_in_order(work: Callable[[T], R], parts: Iterable[T], threads: int) -> Iterator[R]:
    """Iterate over what threads make of the parts, in their order, a few parts ahead of the caller.

    numpy and scipy leave the interpreter's lock where they work on whole blocks.
    """
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
