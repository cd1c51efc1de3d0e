"""Score definition and tie-breaking order, the same wherever is searched.

The score of a pair of vectors is its inner product in float64, rounded to float32; items are ordered
by score, best first, and equal scores by item row. `order_by_score` orders candidates; `make_sort_keys`,
`select_best` and `find_first_hits` work on whole blocks of scores, of words and of hybrids for instance.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

Block = Float32[np.ndarray, "queries items"]  # scores of some queries with all items

LOWEST = np.iinfo(np.int64).min
ROWS = 2**32  # items that a key can tell apart


def bound_float32_error(dim: int) -> float:
    """Bound the error of a float32 inner product of unit vectors: four deviations of `dim` roundings."""
    return 4.0 * float(np.finfo(np.float32).eps) * float(np.sqrt(dim))


def compute_exact_scores(
    queries: Float[np.ndarray, "queries dim"],
    items: Float[np.ndarray, "items dim"],
    rows: Int[np.ndarray, "queries k"],
) -> Float32[np.ndarray, "queries k"]:
    """Compute inner products of each query with its `rows`, in float64, rounded to float32."""
    scores = np.empty(rows.shape, dtype=np.float32)
    step = max(1, 2**16 // (rows.shape[1] * items.shape[1]))  # half a MB of float64 stays in the cache
    for start in range(0, len(rows), step):
        near = items[rows[start : start + step]].astype(np.float64)  # (queries, k, dim)
        block = queries[start : start + step].astype(np.float64)
        scores[start : start + step] = np.matmul(near, block[:, :, None])[:, :, 0]
    return scores


def order_by_score(
    rows: Int[np.ndarray, "queries n"], scores: Float32[np.ndarray, "queries n"]
) -> tuple[Int[np.ndarray, "queries n"], Float32[np.ndarray, "queries n"]]:
    """Order by score, best first; equal scores by item row."""
    by_row = np.argsort(rows, axis=1)
    rows, scores = np.take_along_axis(rows, by_row, 1), np.take_along_axis(scores, by_row, 1)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(rows, by_score, 1), np.take_along_axis(scores, by_score, 1)


def make_sort_keys(scores: Float32[np.ndarray, "queries items"]) -> Int64[np.ndarray, "queries items"]:
    """Compute one integer per score: larger is better, no two of a query are equal, so any sort gives the one order."""
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 turns -0 into 0
    rising = bits ^ ((bits >> 31) & np.int32(2**31 - 1))  # as integers, negative floats fall: turn them round
    return rising.astype(np.int64) * ROWS + np.arange(scores.shape[1] - 1, -1, -1)


def select_best(of_items: Int64[np.ndarray, "queries items"], k: int) -> Int[np.ndarray, "queries k"]:
    """Select the rows of the `k` items with the largest keys, best first."""
    count = of_items.shape[1]
    chosen = np.argpartition(of_items, count - k, axis=1)[:, count - k :] if k < count else None
    found = of_items if chosen is None else np.take_along_axis(of_items, chosen, axis=1)
    order = np.argsort(found, axis=1)[:, ::-1]
    return order if chosen is None else np.take_along_axis(chosen, order, axis=1)


def find_first_hits(
    of_items: Int64[np.ndarray, "queries items"], relevant: Bool[np.ndarray, "queries items"]
) -> Int64[np.ndarray, " queries"]:
    """Find the rank of the best relevant item, from 1; 0 where none is relevant."""
    wanted = np.where(relevant, of_items, LOWEST).max(axis=1)
    return np.where(relevant.any(axis=1), 1 + np.count_nonzero(of_items > wanted[:, None], axis=1), 0)
