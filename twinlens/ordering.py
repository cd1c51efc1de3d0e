"""The one order of items by score: best first, equal scores by item row; on whole blocks of scores.

`neighbours` keeps the same order for inner products without making the block whole.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

LOWEST = np.iinfo(np.int64).min
ROWS = 2**32  # items that a key can tell apart


def keys(scores: Float32[np.ndarray, "queries items"]) -> Int64[np.ndarray, "queries items"]:
    """One integer a score: larger is better, no two of a query are equal, so that any sort gives the one order."""
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 turns -0 into 0
    rising = bits ^ ((bits >> 31) & np.int32(2**31 - 1))  # as integers, negative floats fall: turn them round
    return rising.astype(np.int64) * ROWS + np.arange(scores.shape[1] - 1, -1, -1)


def best(of_items: Int64[np.ndarray, "queries items"], k: int) -> Int[np.ndarray, "queries k"]:
    """Rows of the `k` items with the largest keys, best first."""
    count = of_items.shape[1]
    chosen = np.argpartition(of_items, count - k, axis=1)[:, count - k :] if k < count else None
    found = of_items if chosen is None else np.take_along_axis(of_items, chosen, axis=1)
    order = np.argsort(found, axis=1)[:, ::-1]
    return order if chosen is None else np.take_along_axis(chosen, order, axis=1)


def first_hits(
    of_items: Int64[np.ndarray, "queries items"], relevant: Bool[np.ndarray, "queries items"]
) -> Int64[np.ndarray, " queries"]:
    """The rank of the best relevant item, from 1; 0 where none is relevant."""
    wanted = np.where(relevant, of_items, LOWEST).max(axis=1)
    return np.where(relevant.any(axis=1), 1 + np.count_nonzero(of_items > wanted[:, None], axis=1), 0)
