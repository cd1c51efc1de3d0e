"""Average precision over the full ranking, without keeping the ranking.

A run ends at some depth; this measure asks for the rank of every relevant item in the whole pool. The order is
that of `exact`: inner products in float64, rounded to float32, equal scores by item row.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int

from twinlens.core.row_sources import Rows
from twinlens.tasks.qrels import Qrels

BLOCK_CELLS = 2**23  # queries x items of one block of scores: 64 MB of float64


def average_precision(
    queries: Rows,
    items: Rows,
    qrels: Qrels,
) -> Float64[np.ndarray, " queries"]:
    """Compute the mean, over a query's relevant items, of the precision at their ranks (trec_eval `map`).

    Where no scores are equal it is scikit-learn's `average_precision_score`; that one gives items of
    equal score a common rank, this one the order of the pool.

    Args:
        queries: one row a query.
        items: one row an item.
        qrels: which items are relevant; every query has one.
    """
    wide = np.asarray(items, dtype=np.float64)
    values = np.empty(len(queries))
    step = max(1, BLOCK_CELLS // max(1, len(items)))
    for start in range(0, len(queries), step):
        scores = (np.asarray(queries[start : start + step], dtype=np.float64) @ wide.T).astype(np.float32)
        for row, of_items in enumerate(scores, start):
            ranks = _ranks(of_items, qrels.relevant_rows(row))
            values[row] = (np.arange(1, len(ranks) + 1) / ranks).mean()
    return values


def _ranks(scores: Float32[np.ndarray, " items"], relevant: Int[np.ndarray, " relevant"]) -> np.ndarray:
    """The ranks of some items, from 1, rising. `relevant` are rows, rising."""
    ascending = np.sort(scores)
    below = np.searchsorted(ascending, scores[relevant], "left")
    up_to = np.searchsorted(ascending, scores[relevant], "right")
    ranks = len(scores) - up_to + 1
    for place in np.flatnonzero(up_to - below > 1):  # equal scores: those in earlier rows come first
        row = relevant[place]
        ranks[place] += np.count_nonzero(scores[:row] == scores[row])
    return np.sort(ranks)
