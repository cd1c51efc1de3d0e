"""Fusion against lists worked out by hand, and against a plain second implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.retrieval import hybrid
from twinlens.retrieval.fusion import NOBODY, concatenate, reciprocal_rank_fusion, weighted_scores


def test_reciprocal_ranks_of_two_lists_worked_by_hand() -> None:
    rows, scores = reciprocal_rank_fusion([np.array([[4, 2, 9]]), np.array([[2, 7, 4]])], k=60)
    # 4: 1/61 + 1/63, 2: 1/62 + 1/61, 9: 1/63, 7: 1/62
    assert rows.tolist() == [[2, 4, 7, 9, NOBODY, NOBODY]]
    assert scores[0, :4] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63])
    assert scores[0, 4:].tolist() == [0.0, 0.0]


def test_equal_sums_are_ordered_by_row_whichever_list_comes_first() -> None:
    first, second = np.array([[8, 3]]), np.array([[3, 8]])
    for lists in ([first, second], [second, first]):
        assert reciprocal_rank_fusion(lists, k=60)[0].tolist() == [[3, 8, NOBODY, NOBODY]]


def test_a_larger_constant_prefers_agreement_to_one_first_place() -> None:
    lists = [np.array([[1, 5, 2]]), np.array([[6, 7, 2]])]
    assert reciprocal_rank_fusion(lists, k=60)[0][0, 0] == 2
    assert reciprocal_rank_fusion(lists, k=0)[0][0, 0] == 1


def test_weighted_scores_worked_by_hand() -> None:
    vectors = np.array([[4, 2, 9]]), np.array([[0.9, 0.5, 0.1]], dtype=np.float32)
    bm25 = np.array([[2, 7]]), np.array([[12.0, 3.0]], dtype=np.float32)
    rows, scores = weighted_scores([vectors, bm25], [0.75, 0.25])
    # 4: .75 * 1, 2: .75 * .5 + .25 * 1, 9: 0, 7: 0
    assert rows.tolist() == [[4, 2, 7, 9, NOBODY]]
    assert scores[0] == pytest.approx([0.75, 0.625, 0.0, 0.0, 0.0], abs=1e-6)


def test_a_list_of_equal_scores_gives_nothing_unless_its_floor_is_known() -> None:
    one = np.array([[5, NOBODY]]), np.array([[2.0, 0.0]])
    other = np.array([[6, 5]]), np.array([[1.0, 0.0]])
    rows, scores = weighted_scores([one, other], [0.5, 0.5])
    assert rows[0, :2].tolist() == [6, 5]
    assert scores[0, :2].tolist() == [0.5, 0.0]
    rows, scores = weighted_scores([one, other], [0.6, 0.4], [0.0, None])
    assert rows[0, :2].tolist() == [5, 6]
    assert scores[0, :2] == pytest.approx([0.6, 0.4])


def test_a_known_floor_is_the_zero_of_its_list() -> None:
    vectors = np.array([[4, 2]]), np.array([[0.9, 0.1]])
    bm25 = np.array([[2, 7]]), np.array([[12.0, 3.0]])
    rows, scores = weighted_scores([vectors, bm25], [0.5, 0.5], [None, 0.0])
    assert rows[0].tolist() == [2, 4, 7, NOBODY]  # 2: .5, 4: .5, 7: .5 * 3 / 12
    assert scores[0] == pytest.approx([0.5, 0.5, 0.125, 0.0])


def test_full_lists_of_scores_are_fused_as_the_runs_are() -> None:
    generator = np.random.default_rng(0)
    image = generator.random((4, 9)).astype(np.float32)
    bm25 = np.where(generator.random((4, 9)) < 0.5, generator.random((4, 9)) * 9, 0.0).astype(np.float32)
    bm25[1], bm25[2, 3:] = 0.0, 0.0
    wanted = hybrid.fuse_weighted(image, bm25, 0.7)
    for query in range(4):
        rows = np.argsort(-image[query])[None]
        held = np.flatnonzero(bm25[query])[None]
        lists = [(rows, image[query][rows]), (held, bm25[query][held])]
        found, scores = weighted_scores(lists, [0.7, 0.3], [None, 0.0])
        real = found[0] != NOBODY
        assert scores[0][real] == pytest.approx(wanted[query][found[0][real]], abs=1e-6)
        assert sorted(found[0][real].tolist()) == list(range(9))


def test_what_fills_up_a_short_list_is_no_item_and_moves_no_score() -> None:
    short = np.array([[3, 6, NOBODY]]), np.array([[7.0, 1.0, 1e9]])
    rows, scores = weighted_scores([short, (np.array([[3, 4]]), np.array([[2.0, 1.0]]))], [1.0, 1.0])
    assert rows.tolist() == [[3, 4, 6, NOBODY, NOBODY]]
    assert scores[0].tolist() == [2.0, 0.0, 0.0, 0.0, 0.0]


def test_an_empty_list_changes_nothing() -> None:
    empty = np.zeros((1, 0), dtype=np.int64)
    assert reciprocal_rank_fusion([np.array([[2, 1]]), empty], k=60)[0].tolist() == [[2, 1]]
    rows, _ = weighted_scores([(np.array([[2, 1]]), np.array([[2.0, 1.0]])), (empty, np.zeros((1, 0)))], [0.5, 0.5])
    assert rows.tolist() == [[2, 1]]


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_many_queries_at_once_are_each_as_if_alone_and_as_a_plain_sum(seed: int, lists: int, queries: int) -> None:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(lists):
        depth = int(generator.integers(1, 7))
        rows = np.stack([generator.permutation(9)[:depth] for _ in range(queries)])
        rows[generator.random(rows.shape) < 0.2] = NOBODY
        made.append(rows)
    fused, scores = reciprocal_rank_fusion(made, k=60)
    for query in range(queries):
        total: dict[int, float] = {}
        for rows in made:
            for rank, row in enumerate(rows[query].tolist(), start=1):
                if row != NOBODY:
                    total[row] = total.get(row, 0.0) + 1.0 / (60 + rank)
        wanted = sorted(total, key=lambda row: (-np.float32(total[row]), row))
        assert fused[query][fused[query] != NOBODY].tolist() == wanted
        assert scores[query, : len(wanted)] == pytest.approx([total[row] for row in wanted])


def test_joined_vectors_multiply_to_the_weighted_sum_of_similarities() -> None:
    generator = np.random.default_rng(0)
    image, text = (generator.standard_normal((5, dim)).astype(np.float32) for dim in (3, 4))
    both = concatenate(image, text, 0.8)
    assert both @ both.T == pytest.approx(0.8 * image @ image.T + 0.2 * text @ text.T, abs=1e-5)
