"""Fusion against scores worked out by hand, and against plain second implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinlens.core.errors import DataError
from twinlens.core.vectors import normalise_rows
from twinlens.retrieval import scores
from twinlens.retrieval.fusion import NOBODY, concatenate, fuse_weighted, normalise, reciprocal_rank_fusion


def order(block: np.ndarray) -> list[list[int]]:
    """Rows of all items, best first."""
    found: list[list[int]] = scores.select_best(block, block.shape[1]).tolist()
    return found


def test_reciprocal_ranks_of_two_lists_worked_by_hand() -> None:
    fused = reciprocal_rank_fusion([np.array([[4, 2, 9]]), np.array([[2, 7, 4]])], 10, constant=60)
    assert fused.shape == (1, 10)
    assert fused.dtype == np.float32
    # 4: 1/61 + 1/63, 2: 1/62 + 1/61, 9: 1/63, 7: 1/62
    assert order(fused)[0][:4] == [2, 4, 7, 9]
    assert fused[0, [2, 4, 7, 9]] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63])
    assert fused[0, [0, 1, 3, 5, 6, 8]].tolist() == [0.0] * 6


def test_equal_sums_are_ordered_by_row_whichever_list_comes_first() -> None:
    first, second = np.array([[8, 3]]), np.array([[3, 8]])
    for lists in ([first, second], [second, first]):
        fused = reciprocal_rank_fusion(lists, 9, constant=60)
        assert fused[0, 3] == fused[0, 8]
        assert order(fused)[0][:2] == [3, 8]


def test_a_larger_constant_prefers_agreement_to_one_first_place() -> None:
    lists = [np.array([[1, 5, 2]]), np.array([[6, 7, 2]])]
    assert order(reciprocal_rank_fusion(lists, 8, constant=60))[0][0] == 2
    assert order(reciprocal_rank_fusion(lists, 8, constant=0))[0][0] == 1


def test_what_fills_up_a_short_list_is_no_item_and_moves_no_score() -> None:
    short, whole = np.array([[3, 1, NOBODY, NOBODY]]), np.array([[3, 1]])
    other = np.array([[4, 3, 0]])
    assert np.array_equal(
        reciprocal_rank_fusion([short, other], 5, constant=60), reciprocal_rank_fusion([whole, other], 5, constant=60)
    )


def test_an_empty_list_changes_nothing() -> None:
    empty, one = np.zeros((1, 0), dtype=np.int64), np.array([[2, 1]])
    alone = reciprocal_rank_fusion([one], 3, constant=60)
    assert np.array_equal(reciprocal_rank_fusion([one, empty], 3, constant=60), alone)
    assert order(alone)[0] == [2, 1, 0]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_many_queries_at_once_are_each_as_if_alone_and_as_a_plain_sum(seed: int, lists: int, queries: int) -> None:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(lists):
        depth = int(generator.integers(1, 7))
        rows = np.stack([generator.permutation(9)[:depth] for _ in range(queries)])
        for own in rows:  # some lists end early
            own[generator.integers(1, depth + 1) :] = NOBODY
        rows[generator.random(rows.shape) < 0.1] = NOBODY
        made.append(rows)
    fused = reciprocal_rank_fusion(made, 9, constant=60)
    for query in range(queries):
        total = [0.0] * 9
        for rows in made:
            for rank, row in enumerate(rows[query].tolist(), start=1):
                if row != NOBODY:
                    total[row] += 1.0 / (60 + rank)
        assert fused[query] == pytest.approx(total)
        assert order(fused)[query] == sorted(range(9), key=lambda row: (-np.float32(total[row]), row))
        alone = reciprocal_rank_fusion([rows[query : query + 1] for rows in made], 9, constant=60)
        assert np.array_equal(fused[query], alone[0])


# -------------------------------------------------------------------- by score


def test_a_weighted_sum_of_scores_worked_by_hand() -> None:
    image = np.array([[0.9, 0.5, 0.1, 0.1]], dtype=np.float32)
    words = np.array([[0.0, 12.0, 0.0, 3.0]], dtype=np.float32)
    fused = fuse_weighted(image, words, 0.75)
    assert fused[0] == pytest.approx([0.75, 0.375 + 0.25, 0.0, 0.25 * 3 / 12], abs=1e-6)
    assert order(fused)[0] == [0, 1, 3, 2]


def test_scores_that_are_all_the_same_give_nothing_unless_their_bounds_are_known() -> None:
    same = np.full((1, 3), 2.0, dtype=np.float32)
    assert normalise(same).tolist() == [[0.0] * 3]
    assert normalise(same, (0.0, 2.0)).tolist() == [[1.0] * 3]
    assert normalise(same, (0.0, 8.0)).tolist() == [[0.25] * 3]
    assert normalise(same, (2.0, 2.0)).tolist() == [[0.0] * 3]


def test_a_known_floor_is_the_zero_of_its_list() -> None:
    words = np.array([[12.0, 3.0]], dtype=np.float32)
    assert normalise(words)[0] == pytest.approx([1.0, 0.0])
    assert normalise(words, (0.0, 12.0))[0] == pytest.approx([1.0, 0.25])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0, 1))
def test_a_part_of_the_pool_with_the_pools_bounds_is_fused_as_the_whole_pool_is(
    seed: int, size: int, weight: float
) -> None:
    generator = np.random.default_rng(seed)
    image = generator.random((1, 9)).astype(np.float32)
    words = np.where(generator.random((1, 9)) < 0.5, generator.random((1, 9)) * 9, 0.0).astype(np.float32)
    if seed % 5 == 0:
        words[:] = 0.0  # no word is shared
    part = generator.permutation(9)[:size]
    bounds = tuple((float(block.min()), float(block.max())) for block in (image, words))
    whole = fuse_weighted(image, words, weight)
    assert np.array_equal(fuse_weighted(image[:, part], words[:, part], weight, (bounds[0], bounds[1])), whole[:, part])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_weighted_sum_is_what_a_plain_loop_makes(seed: int, weight: float) -> None:
    generator = np.random.default_rng(seed)
    blocks = [(generator.integers(0, 4, (3, 6)) * generator.random()).astype(np.float32) for _ in range(2)]
    fused = fuse_weighted(blocks[0], blocks[1], weight)
    for query in range(3):
        wanted = [0.0] * 6
        for block, share in zip(blocks, (weight, 1 - weight), strict=True):
            own = block[query].tolist()
            for item, score in enumerate(own):
                wanted[item] += share * (score - min(own)) / (max(own) - min(own)) if max(own) > min(own) else 0.0
        assert fused[query] == pytest.approx(wanted, abs=1e-5)


# ------------------------------------------------------------------ joined vectors


def test_joined_vectors_multiply_to_the_weighted_sum_of_similarities() -> None:
    generator = np.random.default_rng(0)
    image, text = (normalise_rows(generator.standard_normal((5, dim)).astype(np.float32)) for dim in (3, 4))
    both = np.asarray(concatenate(image, text, 0.8))
    assert both @ both.T == pytest.approx(0.8 * image @ image.T + 0.2 * text @ text.T, abs=1e-5)


@pytest.mark.parametrize(("long_image", "long_text"), [(10.0, 1.0), (1.0, 10.0), (0.1, 10.0)])
def test_the_longer_of_two_joined_vectors_does_not_drown_the_other(long_image: float, long_text: float) -> None:
    generator = np.random.default_rng(0)
    image, text = (normalise_rows(generator.standard_normal((5, dim)).astype(np.float32)) for dim in (3, 4))
    wanted = concatenate(image, text, 0.5)
    found = concatenate(image * np.float32(long_image), text * np.float32(long_text), 0.5)
    assert found == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(DataError, match="1 of 5 vectors are useless, the first is zero: row 2"):
        concatenate(image * (np.arange(5) != 2)[:, None].astype(np.float32), text, 0.5)


def test_a_side_with_many_dimensions_weighs_no_more_than_one_with_a_single_one() -> None:
    wide = np.random.default_rng(1).standard_normal((2, 6))
    wide = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    both = concatenate(wide, np.array([[1.0], [-1.0]], np.float32), 0.5)
    assert both[0] @ both[1] == pytest.approx((wide[0] @ wide[1] - 1) / 2, abs=1e-6)
