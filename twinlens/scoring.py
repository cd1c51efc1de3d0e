"""What a score is, and the order of equal ones: the same wherever vectors are searched.

The score of a pair is its inner product in float64, rounded to float32; items are ordered by score,
best first, and equal scores by item row.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int


def float32_error(dim: int) -> float:
    """A bound on the error of a float32 inner product of unit vectors: four deviations of `dim` roundings."""
    return 4.0 * float(np.finfo(np.float32).eps) * float(np.sqrt(dim))


def exact_scores(
    queries: Float[np.ndarray, "queries dim"],
    items: Float[np.ndarray, "items dim"],
    rows: Int[np.ndarray, "queries k"],
) -> Float32[np.ndarray, "queries k"]:
    """Inner products of each query with its `rows`, in float64, rounded to float32."""
    scores = np.empty(rows.shape, dtype=np.float32)
    step = max(1, 2**16 // (rows.shape[1] * items.shape[1]))  # half a MB of float64 stays in the cache
    for start in range(0, len(rows), step):
        near = items[rows[start : start + step]].astype(np.float64)  # (queries, k, dim)
        block = queries[start : start + step].astype(np.float64)
        scores[start : start + step] = np.matmul(near, block[:, :, None])[:, :, 0]
    return scores


def in_order(
    rows: Int[np.ndarray, "queries n"], scores: Float32[np.ndarray, "queries n"]
) -> tuple[Int[np.ndarray, "queries n"], Float32[np.ndarray, "queries n"]]:
    """Best score first; equal scores by item row."""
    by_row = np.argsort(rows, axis=1)
    rows, scores = np.take_along_axis(rows, by_row, 1), np.take_along_axis(scores, by_row, 1)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(rows, by_score, 1), np.take_along_axis(scores, by_score, 1)
