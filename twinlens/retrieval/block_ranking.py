"""Ranked lists of every query of a task by what a retriever makes, a block of queries at a time.

Retrievers that share what they score by (words, and words with pixels) are ranked side by side, so that a block of
scores is computed, normalised and ordered once for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from twinlens.core.ahead import map_in_order
from twinlens.core.resources import ensure_memory, measure_free_memory
from twinlens.core.row_sources import choose_rows
from twinlens.retrieval.base import Dense, Divisible, Scorer
from twinlens.retrieval.exact import Neighbours, OnDevice, find_nearest
from twinlens.retrieval.hybrid import BLOCK_BYTES, ScoredBlock, choose_block_size, list_sides, split_into_blocks
from twinlens.retrieval.score_blocks import Request, rank_in_blocks
from twinlens.retrieval.wanted import Wanted
from twinlens.tasks.base import Task

QUERIES_PER_SPAN = 4096  # that a worker ranks at once
MOST_THREADS = 16  # each has blocks of scores, and arrays of their size, in memory
COPIES = 24  # of a block of scores: four sides of hybrids, each with what is made of it
MOST_ITEMS = BLOCK_BYTES // 4  # of more, a block of scores would be of one query; they are read in blocks
WIDE_BYTES = 2**30  # of the vectors of hybrids in float64; more are read in blocks

Span = tuple[int, int]  # of queries: the first, and the one after the last
Ranks = Int[np.ndarray, " queries"]  # of first hits; 0: none


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
    lists = Wanted.of(task, depth, len(made), rows)
    if isinstance(made, Dense):
        items = made.items if rows is None else choose_rows(made.items, rows)
        own = None if lists.exclude is None else lists.exclude[start:stop]
        queries, qrels = made.queries[start:stop], lists.qrels.between(start, stop)
        for found in find_nearest(queries, items, lists.depth, own_rows=own, qrels=qrels, device=device):
            yield replace(found, first_query=found.first_query + start)
        return

    def rank(bounds: tuple[int, int]) -> Neighbours:
        return lists.rank(made.block(*bounds), bounds[0], zero_is_miss)

    if reads_in_blocks([made], len(task.item_ids), device):
        request = Request(made, zero_is_miss, lists)
        for (found,) in rank_in_blocks([request], len(task.item_ids), (start, stop), device, choose_threads()):
            yield found
        return
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
    whole = Wanted.of(task, depth, len(made[0]), None)
    few = None if rows is None else Wanted.of(task, depth, len(made[0]), rows)
    start, stop = span or (0, len(made[0]))
    if reads_in_blocks(made, len(task.item_ids), device):
        requests = [Request(one, zero, whole) for one, zero in zip(made, zero_is_miss, strict=True)]
        if few is not None:
            requests += [Request(one.scorer, one.zero_is_miss, few, lists=False) for one in requests]
        for lists in rank_in_blocks(requests, len(task.item_ids), (start, stop), device, choose_threads()):
            ranks = lists if few is None else lists[len(made) :]
            yield [(one, among.first_hit) for one, among in zip(lists, ranks, strict=False)]
        return
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

    yield from map_in_order(rank, _list_blocks(made[0], task, start, stop), threads)


def rank_among_judged(made: Scorer, task: Task, depth: int, device: str, span: Span | None = None) -> Ranks:
    """Rank each query's first relevant item among the items that are relevant to some query; see `rank_blocks`."""
    again = rank_blocks(made, task, depth, device, rows=np.flatnonzero(task.qrels.judged()), span=span)
    return np.concatenate([found.first_hit for found in again if found.first_hit is not None])


def reads_in_blocks(made: Iterable[Scorer], items: int, device: str) -> bool:
    """Whether the pool is read a block of items at a time: it is large, or memory has no room for scores with all.

    Never that of a scorer whose scores depend on the other items.

    Args:
        made: scorers.
        items: of the pool.
        device: where products of vectors are made.
    """
    sides = list_sides(made)
    if not all(isinstance(side, Divisible) for side in sides):
        return False
    wide = 0 if OnDevice.pays(device) else _count_wide_bytes(sides)
    return (
        items > MOST_ITEMS or wide > WIDE_BYTES or measure_free_memory() < wide + COPIES * max(BLOCK_BYTES, 4 * items)
    )


def _count_wide_bytes(sides: Iterable[Scorer]) -> int:
    return sum(8 * side.items.shape[0] * side.items.shape[1] for side in sides if isinstance(side, Dense))


def choose_threads(made: Iterable[Scorer] = (), items: int = 0, on_device: bool = False) -> int:
    """Choose how many threads score blocks of queries: one a core, while memory has room for the scores of each.

    A block is at least one query with all items that are looked at together: 96 bytes an item and thread, and the
    vectors of hybrids in float64 once.

    Args:
        made: scorers of all items; empty: they are read in blocks.
        items: of the pool, likewise.
        on_device: whether a device holds the vectors.

    Raises:
        ResourceError: there is no room for one thread.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = COPIES * max(BLOCK_BYTES, 4 * items)
    held = 0 if on_device else _count_wide_bytes(list_sides(made))
    ensure_memory(
        held + each,
        f"the scores of {items:,} items at once," if items else "blocks of scores",
        "Take a machine with more memory, or a smaller pool (`keep:` on the dataset's card); of token vectors, as only "
        "the best of a whole pool have scores without error",
    )
    return max(1, min(MOST_THREADS, cores, (measure_free_memory() - held) // each))
