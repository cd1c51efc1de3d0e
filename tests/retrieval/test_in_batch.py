"""Ranks within small batches, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.retrieval.in_batch import BATCH, mrr_at, rank_in_batches


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_hand(queries: np.ndarray, items: np.ndarray, size: int) -> list[int]:
    ranks = []
    for row, query in enumerate(queries):
        first = row - row % size
        batch = range(first, min(first + size, len(queries)))
        scores = {other: float(query.astype(float) @ items[other].astype(float)) for other in batch}
        order = sorted(batch, key=lambda other: (-scores[other], other))
        ranks.append(1 + order.index(row))
    return ranks


@pytest.mark.parametrize("count", [1, 6, 7, 8, 20, 21])
def test_ranks_are_those_of_a_sorted_list_of_the_batch(count: int) -> None:
    queries, items = unit(count, 4, 0), unit(count, 4, 1)
    assert rank_in_batches(queries, items, 7).tolist() == by_hand(queries, items, 7)


def test_the_last_batch_is_what_is_left() -> None:
    same = np.ones((BATCH + 3, 2), np.float32)
    assert rank_in_batches(same, same).tolist() == [*range(1, BATCH + 1), 1, 2, 3]


def test_equal_scores_are_ordered_by_row() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.float32)
    others = np.random.default_rng(1).integers(0, 2, (40, 3)).astype(np.float32)
    assert rank_in_batches(rows, others, 10).tolist() == by_hand(rows, others, 10)


def test_a_query_is_not_ranked_among_another_batch() -> None:
    queries = np.eye(4, dtype=np.float32)
    items = queries[[1, 0, 3, 2]]  # the own one second, the best one beside it
    assert rank_in_batches(queries, items, 2).tolist() == [2, 2, 2, 2]
    assert rank_in_batches(queries, queries[[2, 3, 0, 1]], 2).tolist() == [1, 2, 1, 2]  # all scores are 0


def test_a_reciprocal_rank_beyond_the_cut_is_nothing() -> None:
    assert mrr_at(np.array([1, 2, 5, 6]), 5).tolist() == [1.0, 0.5, 0.2, 0.0]
