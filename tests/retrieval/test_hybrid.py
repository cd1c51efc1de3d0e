"""Fusion against lists worked by hand, and the choice of a weight that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from twinlens.retrieval import hybrid, scores
from twinlens.retrieval.base import Dense
from twinlens.retrieval.fusion import fuse_weighted, normalise

IMAGE = np.array([[0.9, 0.1, 0.5, 0.4]], np.float32)  # order 0, 2, 3, 1
WORDS = np.array([[0.0, 8.0, 2.0, 0.0]], np.float32)  # order 1, 2; 0 and 3 share no word


@dataclass
class Fixed:
    """Scores as they are."""

    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def block(self, start: int, stop: int) -> np.ndarray:
        return self.scores[start:stop]


def test_reciprocal_ranks_by_hand() -> None:
    fused = hybrid.fuse_by_rank(hybrid.Side(IMAGE), hybrid.Side(WORDS), 60, depth=9)
    # item 0: first by pixels, not in the list of words; 1: last and first; 2: second twice; 3: third
    assert fused[0].tolist() == pytest.approx([1 / 61, 1 / 64 + 1 / 61, 1 / 62 + 1 / 62, 1 / 63])


def test_only_the_first_of_each_list_take_part() -> None:
    fused = hybrid.fuse_by_rank(hybrid.Side(IMAGE), hybrid.Side(WORDS), 60, depth=1)
    assert fused[0].tolist() == pytest.approx([1 / 61, 1 / 61, 0, 0])


def test_ranks_are_fused_as_a_plain_loop_fuses_them() -> None:
    rng = np.random.default_rng(3)
    image, words = rng.random((2, 20, 300)).astype(np.float32)
    words[words < 0.6] = 0  # without a word of the query
    image[:, ::7] = image[:, :1]  # equal scores are ordered by row
    fused = hybrid.fuse_by_rank(hybrid.Side(image), hybrid.Side(words), 60, depth=50)
    for query in range(20):
        total = [0.0] * 300
        for block in (image, words):
            order = sorted(range(300), key=lambda row: (-block[query, row], row))[:50]
            for rank, row in enumerate(order, start=1):
                total[row] += 1 / (60 + rank) if block is image or block[query, row] > 0 else 0.0
        assert fused[query] == pytest.approx(total)


def test_an_item_that_shares_no_word_is_in_no_list_of_words_however_short_that_is() -> None:
    words = np.zeros((1, 4), np.float32)
    fused = hybrid.fuse_by_rank(hybrid.Side(IMAGE), hybrid.Side(words), 60, depth=9)
    assert fused[0].tolist() == pytest.approx([1 / 61, 1 / 64, 1 / 62, 1 / 63])


def test_the_weighted_sum_by_hand() -> None:
    fused = fuse_weighted(IMAGE, WORDS, 0.25)
    assert fused[0].tolist() == pytest.approx([0.25, 0.75, 0.25 * 0.5 + 0.75 * 0.25, 0.25 * 0.375])


def test_at_either_end_of_the_weight_the_order_is_that_of_one_side() -> None:
    assert np.argsort(-fuse_weighted(IMAGE, WORDS, 1.0)[0]).tolist() == [0, 2, 3, 1]
    assert np.argsort(-fuse_weighted(IMAGE, WORDS, 0.0)[0])[:2].tolist() == [1, 2]


def test_scores_that_say_nothing_become_zero() -> None:
    assert normalise(np.full((1, 3), 7, np.float32)).tolist() == [[0, 0, 0]]
    assert fuse_weighted(IMAGE, np.zeros((1, 4), np.float32), 0.5)[0].argmax() == 0


def test_scale_and_offset_of_either_side_do_not_matter_to_the_weighted_sum() -> None:
    moved = fuse_weighted(3 * IMAGE - 7, 0.01 * WORDS, 0.4)
    np.testing.assert_allclose(moved, fuse_weighted(IMAGE, WORDS, 0.4), atol=1e-6)


def noisy(own_rows: np.ndarray, items: int, signal: float, seed: int) -> Fixed:
    scores = np.random.default_rng(seed).random((len(own_rows), items)).astype(np.float32)
    scores[np.arange(len(own_rows)), own_rows] += np.float32(signal)
    return Fixed(scores)


def test_the_side_that_tells_nothing_gets_no_weight_and_equal_ones_share_it() -> None:
    own = np.random.default_rng(0).integers(0, 50, 400)
    useless, good, other = noisy(own, 50, 0, 1), noisy(own, 50, 0.5, 2), noisy(own, 50, 0.5, 3)
    assert hybrid.choose_weight(good, useless, own, 0.5) > 0.9
    assert hybrid.choose_weight(useless, good, own, 0.5) < 0.1
    assert 0.35 <= hybrid.choose_weight(good, other, own, 0.5) <= 0.65


def test_the_chosen_weight_is_the_best_of_the_grid_by_reciprocal_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid, "BLOCK_BYTES", 4 * 20 * 7)  # seven queries at once
    own = np.random.default_rng(0).integers(0, 20, 60)
    image, words = noisy(own, 20, 0.2, 1), noisy(own, 20, 0.3, 2)

    def reciprocal(weight: float) -> float:
        fused = fuse_weighted(image.scores, words.scores, weight)
        orders = [sorted(range(20), key=row.__getitem__, reverse=True) for row in fused.tolist()]  # stable
        ranks = [1 + order.index(wanted) for order, wanted in zip(orders, own, strict=True)]
        return float(np.mean(1 / np.array(ranks)))

    best = max(hybrid.WEIGHTS, key=lambda weight: reciprocal(float(weight)))
    assert reciprocal(hybrid.choose_weight(image, words, own, 0.5)) == pytest.approx(reciprocal(float(best)))


@pytest.mark.parametrize("default", [0.0, 0.3, 1.0])
def test_among_equally_good_weights_the_default_is_taken(default: float) -> None:
    own = np.arange(5)
    perfect = Fixed(np.eye(5, dtype=np.float32))
    assert hybrid.choose_weight(perfect, perfect, own, default) == pytest.approx(default)


def test_cosines_are_those_of_the_vectors() -> None:
    rng = np.random.default_rng(0)
    queries, items = (rng.standard_normal((n, 8)).astype(np.float32) for n in (6, 4))
    scores = Dense(queries, items)
    assert len(scores) == 6
    np.testing.assert_allclose(scores.block(2, 5), queries[2:5] @ items.T, rtol=1e-5)


def test_a_side_of_several_hybrids_is_scored_ordered_and_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @dataclass
    class Counting(Fixed):
        name: str = ""

        def block(self, start: int, stop: int) -> np.ndarray:
            asked.append(self.name)
            return super().block(start, stop)

    image, some, other = Counting(IMAGE, "image"), Counting(WORDS, "some"), Counting(2 * WORDS, "other")
    by_rank = partial(hybrid.fuse_by_rank, constant=60, depth=3)
    by_weight = partial(hybrid.fuse_by_weight, image_weight=0.25)
    fused = [hybrid.Hybrid(image, words, fuse) for words in (some, other) for fuse in (by_rank, by_weight)]
    alone = [one.block(0, 1) for one in fused]
    asked.clear()
    made: list[str] = []

    def count(name: str, function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def counting(*given: Any) -> np.ndarray:
            made.append(name)
            return function(*given)

        return counting

    monkeypatch.setattr(scores, "select_best", count("ordered", scores.select_best))
    monkeypatch.setattr(hybrid, "normalise", count("normalised", normalise))
    scored = hybrid.ScoredBlock(0, 1)
    assert all(np.array_equal(scored.ask(one), block) for one, block in zip(fused, alone, strict=True))
    assert np.array_equal(scored.ask(some), WORDS)
    assert sorted(asked) == ["image", "other", "some"]
    assert sorted(made) == ["normalised"] * 3 + ["ordered"] * 3


def test_scores_that_are_made_elsewhere_are_taken_in_place_of_a_scorers_own() -> None:
    image, words = Fixed(IMAGE), Fixed(WORDS)
    moved = hybrid.Hybrid(image, words, partial(hybrid.fuse_by_weight, image_weight=1.0))
    scored = hybrid.ScoredBlock(0, 1, {id(image): Fixed(-IMAGE)})
    assert np.argsort(-scored.ask(moved)[0]).tolist() == [1, 3, 2, 0]
