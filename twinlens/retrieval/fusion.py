"""Joining what is known of an item: vectors of pixels and words into one, or several ranked lists into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from twinlens.retrieval.scores import in_order

NOBODY = -1  # the row that fills up lists that are shorter than others

Lists = Int[np.ndarray, "queries depth"]


def concatenate(
    image: Float32[np.ndarray, "rows image_dim"], text: Float32[np.ndarray, "rows text_dim"], image_weight: float
) -> Float32[np.ndarray, "rows both"]:
    """Join two unit vectors a row into one unit vector.

    Scaling by the square roots of the weights makes the inner product of two such rows
    `image_weight * image similarity + (1 - image_weight) * text similarity`. Joining vectors that
    are not of unit length lets the longer modality drown the other.
    """
    return np.hstack([np.float32(image_weight**0.5) * image, np.float32((1.0 - image_weight) ** 0.5) * text])


def reciprocal_rank_fusion(
    lists: Sequence[Lists], k: float
) -> tuple[Int[np.ndarray, "queries all"], Float32[np.ndarray, "queries all"]]:
    """Fuse ranked lists by rank alone: an item's score is the sum of `1 / (k + rank)` over the lists that hold it.

    Args:
        lists: item rows of every query, best first, each list (queries, its own depth); an item stands
            in a list at most once, and -1 fills up a list that ends early.
        k: what is added to every rank (60 in Cormack, Clarke & Buettcher, SIGIR 2009); larger values let agreement
            count for more than a first place.

    Returns:
        Item rows, best first and equal scores by row, and their scores rounded to float32. Columns are the
        depths added up; where a query has fewer items, rows are -1 and scores 0.
    """
    return _fuse([(rows, np.broadcast_to(1.0 / (k + 1.0 + np.arange(rows.shape[1])), rows.shape)) for rows in lists])


def weighted_scores(
    lists: Sequence[tuple[Lists, Float[np.ndarray, "queries depth"]]],
    weights: Sequence[float],
    floors: Sequence[float | None] | None = None,
) -> tuple[Int[np.ndarray, "queries all"], Float32[np.ndarray, "queries all"]]:
    """Fuse ranked lists by score: the weighted sum of each list's scores, min-max normalised by query.

    The best item of a list has 1, its last 0 (or what lies at the list's floor), and an item that a list does not
    hold has 0 there as well. A list whose scores are all the same does not say which is best, and gives 0, as
    `hybrid.normalised` does for the runs; above a known floor all its items have 1.

    Args:
        lists: item rows and their scores, see `reciprocal_rank_fusion`.
        weights: one a list.
        floors: the lowest score that an item can have which a list does not hold, one a list; None: its last
            one's. BM25 gives 0 to whatever shares no word with the query.

    Returns:
        As `reciprocal_rank_fusion`.
    """
    return _fuse(
        [
            (rows, weight * _min_max(np.asarray(scores, dtype=np.float64), rows != NOBODY, floor))
            for (rows, scores), weight, floor in zip(lists, weights, floors or [None] * len(lists), strict=True)
        ]
    )


def _min_max(
    scores: Float64[np.ndarray, "queries depth"], held: np.ndarray, floor: float | None
) -> Float64[np.ndarray, "queries depth"]:
    lowest = np.inf if floor is None else floor
    low = np.where(held, scores, np.inf).min(axis=1, keepdims=True, initial=lowest)
    high = np.where(held, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(held & (high > low), (scores - np.where(held, low, scores)) / spread, 0.0)


def _fuse(
    lists: Sequence[tuple[Lists, Float64[np.ndarray, "queries depth"]]],
) -> tuple[Int[np.ndarray, "queries all"], Float32[np.ndarray, "queries all"]]:
    """Add up what the lists give to each item, and order the items."""
    rows, gains = np.hstack([rows for rows, _ in lists]), np.hstack([gains for _, gains in lists])
    by_row = np.argsort(rows, axis=1, kind="stable")
    rows, gains = np.take_along_axis(rows, by_row, 1), np.take_along_axis(gains, by_row, 1)
    total = gains.copy()
    for step in range(1, min(len(lists), rows.shape[1])):  # an item stands side by side, at most once a list
        total[:, :-step] += np.where(rows[:, step:] == rows[:, :-step], gains[:, step:], 0.0)
    real = rows != NOBODY
    real[:, 1:] &= rows[:, 1:] != rows[:, :-1]  # the first of an item holds its sum
    rows, scores = np.where(real, rows, np.iinfo(rows.dtype).max), np.where(real, total, -np.inf).astype(np.float32)
    rows, scores = in_order(rows, scores)
    return np.where(np.isfinite(scores), rows, NOBODY), np.where(np.isfinite(scores), scores, np.float32(0.0))
