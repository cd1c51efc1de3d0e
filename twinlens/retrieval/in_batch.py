"""In-batch ranking of source 001: every query among the items of its own batch, not among the pool's."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from twinlens.core.row_sources import Rows

BATCH = 64
CUTS = (1, 3, 5, 10, 20)


def rank_in_batches(
    queries: Rows,
    items: Rows,
    size: int = BATCH,
) -> Int[np.ndarray, " queries"]:
    """Compute the rank of each query's own item, the one in its row, among the items of its batch.

    Batches are `size` consecutive rows, the last one what is left, as `evaluate.py` of the source reads
    them. Equal scores are ordered by row.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        scores = queries[rows].astype(np.float64) @ items[rows].astype(np.float64).T
        own = np.diagonal(scores)[:, None]
        earlier = np.tril(np.ones_like(scores, dtype=bool), -1)
        ranks[rows] = 1 + (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return ranks


def mrr_at(ranks: Int[np.ndarray, " queries"], k: int) -> Float64[np.ndarray, " queries"]:
    """Compute 1 / rank, or 0 beyond `k`."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)
