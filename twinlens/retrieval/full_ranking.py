"""Average precision over the full ranking, without keeping the ranking.

A run ends at some depth; this measure asks for the rank of every relevant item in the whole pool. The order is that
of `scores`. Relevant items are scored first; then what stands above each is counted, a block of items at a time, so
that no pool has to be in memory.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Int64

from twinlens.core.row_sources import Rows
from twinlens.retrieval.base import Dense
from twinlens.retrieval.key_lists import split
from twinlens.retrieval.scores import bound_float64_error, make_sort_keys, round_sums
from twinlens.tasks.qrels import Qrels

BLOCK_CELLS = 2**20  # queries x items of one block of scores: 8 MB of float64
ITEM_ROWS = 2**14  # of a block of items
PAIRS = 2**24  # of queries and relevant items, whose ranks are looked for at once: 256 MB
CELLS = 2**22  # numbers of the pairs' vectors in float64 at once


def average_precision(
    queries: Rows, items: Rows, qrels: Qrels, item_rows: int = ITEM_ROWS
) -> Float64[np.ndarray, " queries"]:
    """Compute the mean, over a query's relevant items, of the precision at their ranks (trec_eval `map`).

    Where no scores are equal it is scikit-learn's `average_precision_score`; that one gives items of
    equal score a common rank, this one the order of the pool.

    Args:
        queries: one row a query.
        items: one row an item.
        qrels: which items are relevant; every query has one.
        item_rows: items that are in memory at once.
    """
    values, counts = np.empty(len(queries)), qrels.counts()
    for start, stop in split(counts, PAIRS):
        asked = np.asarray(queries[start:stop], dtype=np.float32)
        places, rows = qrels.list_relevant(np.arange(start, stop))
        keys = make_sort_keys(_score_pairs(asked, items, places, rows), rows)
        keys = keys[np.lexsort((-keys, places))]  # of each query, best first
        ends = np.cumsum(counts[start:stop])
        above = _count_above(asked, items, keys, ends, item_rows)
        for query, (last, count) in enumerate(zip(ends, counts[start:stop], strict=True), start):
            values[query] = (np.arange(1, count + 1) / (above[last - count : last] + 1)).mean()
    return values


def _count_above(
    queries: np.ndarray, items: Rows, keys: Int64[np.ndarray, " pairs"], ends: Int[np.ndarray, " queries"], size: int
) -> Int64[np.ndarray, " pairs"]:
    """Count the items above each of the keys, those of a query up to its end."""
    above, step = np.zeros(len(keys), dtype=np.int64), max(1, BLOCK_CELLS // min(size, len(items)))
    starts = np.concatenate([[0], ends])
    for first in range(0, len(items), size):
        part = Dense(queries, np.asarray(items[first : first + size]))
        rows = np.arange(first, first + len(part.items))
        for start in range(0, len(queries), step):
            found = make_sort_keys(part.block(start, start + step), rows)
            found.sort(axis=1)
            for query, of_items in enumerate(found, start):
                mine = slice(starts[query], starts[query + 1])
                above[mine] += len(rows) - np.searchsorted(of_items, keys[mine], "right")
    return above


def _score_pairs(
    queries: np.ndarray, items: Rows, places: Int[np.ndarray, " pairs"], rows: Int[np.ndarray, " pairs"]
) -> np.ndarray:
    """Score pairs of a query and an item; items are read in the order of their rows."""
    found, by_row = np.empty(len(rows), dtype=np.float32), np.argsort(rows, kind="stable")
    step = max(1, CELLS // queries.shape[1])
    for start in range(0, len(rows), step):
        some = by_row[start : start + step]
        near, place = np.unique(rows[some], return_inverse=True)
        there = np.asarray(items[near], dtype=np.float64)[place]
        asked = queries[places[some]].astype(np.float64)
        lengths = np.sqrt(np.einsum("pd,pd->p", there, there).max() * np.einsum("pd,pd->p", asked, asked).max())

        def vectors(
            unsure: Int[np.ndarray, " unsure"], asked: np.ndarray = asked, there: np.ndarray = there
        ) -> tuple[np.ndarray, np.ndarray]:
            return asked[unsure], there[unsure]

        error = bound_float64_error(queries.shape[1], float(lengths))
        found[some] = round_sums(np.einsum("pd,pd->p", asked, there), error, vectors)
    return found
