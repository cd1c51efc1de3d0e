"""Exact neighbours against a plain float64 ranking, in awkward ground: ties, duplicates, tiny pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.scores import bound_float32_error
from twinlens.tasks.qrels import Groups


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count: int, dim: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def plain(
    queries: np.ndarray, items: np.ndarray, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The definition: float64 products rounded to float32, stable order, best first."""
    scores = (queries.astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)
    if own is not None:
        scores[np.arange(len(queries)), own] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def found(queries: np.ndarray, items: np.ndarray, k: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(find_nearest(queries, items, k, **options))  # type: ignore[arg-type]
    return np.concatenate([b.rows for b in blocks]), np.concatenate([b.scores for b in blocks])


@pytest.mark.parametrize(("items", "k"), [(3, 10), (40, 5), (1000, 10), (5000, 50)])
def test_equals_the_plain_ranking(items: int, k: int) -> None:
    queries, pool = vectors(70, 24, 1), vectors(items, 24, 2)
    rows, scores = found(queries, pool, k, block_bytes=4 * items * 16)
    expected_rows, expected_scores = plain(queries, pool, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_equal_scores_stand_in_the_order_of_the_pool() -> None:
    pool = np.repeat(vectors(40, 16, 3), 50, axis=0)  # every vector fifty times: ties across every cut
    queries = vectors(30, 16, 4)
    rows, scores = found(queries, pool, 7)
    expected_rows, expected_scores = plain(queries, pool, 7)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_collapsed_model_ranks_the_pool_in_its_own_order() -> None:
    same = np.tile(vectors(1, 8, 0), (300, 1))
    rows, _ = found(same[:3], same, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_the_query_itself_is_left_out_by_row_and_its_duplicate_is_not() -> None:
    pool = vectors(500, 16, 5)
    pool[7] = pool[3]
    rows, scores = found(pool, pool, 4, own_rows=np.arange(500))
    assert not (rows == np.arange(500)[:, None]).any()
    assert rows[3, 0] == 7
    assert rows[7, 0] == 3
    assert scores[3, 0] == pytest.approx(1)


def test_queries_without_an_item_of_their_own_leave_nothing_out() -> None:
    pool = vectors(50, 16, 6)
    rows, _ = found(pool[:2], pool, 50, own_rows=np.array([-1, 1]))
    assert sorted(rows[0]) == list(range(50))


def test_a_pool_of_the_query_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="leaves nothing to rank"):
        list(find_nearest(vectors(1, 4, 0), vectors(1, 4, 0), 5, own_rows=np.array([0])))


def test_negative_scores_are_ranked_like_any_other() -> None:
    query, pool = np.array([[1.0, 0.0]], np.float32), unit(np.array([[-1.0, 0.1], [-1.0, 2.0], [-1.0, 0.0]]))
    rows, scores = found(query, pool, 3)
    assert rows.tolist() == [[1, 0, 2]]
    assert (scores < 0).all()


@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_first_hit_is_ranked_over_the_whole_pool(k: int) -> None:
    pool, groups = vectors(400, 8, 7), np.random.default_rng(8).integers(0, 60, 400)
    blocks = find_nearest(
        pool, pool, k, own_rows=np.arange(400), qrels=Groups(groups, groups, np.arange(400)), block_bytes=90_000
    )
    ranks = np.concatenate([block.first_hit for block in blocks])  # type: ignore[arg-type]
    order, _ = plain(pool, pool, 399, np.arange(400))
    relevant = groups[order] == groups[:, None]
    expected = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, 0)
    np.testing.assert_array_equal(ranks, expected)


def test_a_query_whose_group_has_no_other_item_has_no_first_hit() -> None:
    pool = vectors(5, 4, 9)
    groups = np.array([0, 1, 1, 1, 1])
    block = next(find_nearest(pool, pool, 2, own_rows=np.arange(5), qrels=Groups(groups, groups, np.arange(5))))
    assert block.first_hit is not None
    assert block.first_hit[0] == 0


@settings(max_examples=60, deadline=None)
@given(items=st.integers(2, 600), k=st.integers(1, 40), levels=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_equals_the_plain_ranking_whatever_ties_there_are(items: int, k: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # coordinates from very few values: many exactly equal scores, and many that differ by a rounding
    pool, queries = (unit(rng.integers(1, levels + 2, (n, 3)).astype(np.float64)) for n in (items, 5))
    rows, scores = found(queries, pool, k)
    expected_rows, expected_scores = plain(queries, pool, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_the_tolerance_covers_the_float32_error_of_the_product() -> None:
    queries, pool = vectors(200, 768, 10), vectors(3000, 768, 11)
    error = np.abs((queries @ pool.T).astype(np.float64) - queries.astype(np.float64) @ pool.astype(np.float64).T)
    assert error.max() < bound_float32_error(768) / 4


def test_a_first_hit_past_the_end_is_ranked_by_row_where_its_score_ties_with_others() -> None:
    rows = np.ones((5, 4), dtype=np.float32) / 2
    (block,) = find_nearest(rows[:1], rows, 2, qrels=Groups(np.array([1]), np.array([0, 0, 0, 0, 1])))
    assert block.first_hit is not None
    assert block.first_hit.tolist() == [5]  # no item scores higher, but four stand before it in the pool
