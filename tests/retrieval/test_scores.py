"""The one order of scores, against a plain sort in awkward ground: ties, negative scores, both zeros, infinity."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from twinlens.retrieval.scores import add_products, make_sort_keys, rank_best, read_sort_keys, round_sums, select_best

AWKWARD = np.array(
    [
        [0.0, -0.0, 0.5, -0.5, 0.5, -np.inf, 0.0, 3e38],
        [-1.0, -2.0, -1.0, -3e-38, -1.0, -2.0, -2.0, -np.inf],
        [1.0] * 8,
    ],
    dtype=np.float32,
)


def drawn() -> np.ndarray:
    return np.random.default_rng(0).integers(-5, 6, (40, 60)).astype(np.float32) / 4


def in_order(scores: np.ndarray) -> list[int]:
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))


@pytest.mark.parametrize("scores", [AWKWARD, drawn()])
def test_best_first_and_equal_scores_by_row(scores: np.ndarray) -> None:
    for k in (1, 3, scores.shape[1]):
        assert select_best(scores, k).tolist() == [in_order(row)[:k] for row in scores]


def test_many_equal_scores_at_the_cut_do_not_change_the_order() -> None:
    scores = np.zeros((50, 400), dtype=np.float32)
    scores[:, ::97] = np.random.default_rng(0).integers(-2, 3, scores[:, ::97].shape)
    scores[7], scores[9] = 1.0, np.arange(400)
    for k in (1, 4, 20):
        assert select_best(scores, k).tolist() == [in_order(row)[:k] for row in scores]


@pytest.mark.parametrize("many", [1, 10**6])  # by a cut, and by keys of all scores
def test_either_way_to_select_gives_the_one_order(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinlens.retrieval.scores.MANY", many)
    for scores in (AWKWARD, drawn()):
        before = scores.copy()
        for k in (1, 5, scores.shape[1] - 1, scores.shape[1], scores.shape[1] + 3):
            assert select_best(scores, k).tolist() == [in_order(row)[:k] for row in scores]
        np.testing.assert_array_equal(scores, before)


def test_the_first_hit_is_the_best_ranked_of_the_relevant() -> None:
    scores, rng = drawn(), np.random.default_rng(1)
    relevant = rng.random(scores.shape) < 0.05
    found, best = rank_best(scores, *np.nonzero(relevant))
    for row, wanted, rank, score in zip(scores, relevant, found, best, strict=True):
        places = [place for place, item in enumerate(in_order(row), 1) if wanted[item]]
        assert rank == min(places, default=0)
        assert score == row[wanted].max(initial=-np.inf)
    assert (found == 0).any()


def test_keys_tell_their_rows_and_scores() -> None:
    rows = np.arange(AWKWARD.shape[1])
    found_rows, found_scores = read_sort_keys(make_sort_keys(AWKWARD, rows[None]))
    np.testing.assert_array_equal(found_rows, np.broadcast_to(rows, AWKWARD.shape))
    np.testing.assert_array_equal(found_scores, AWKWARD)


@pytest.mark.parametrize("dim", [1, 8, 300])
def test_products_are_added_without_error(dim: int) -> None:
    rng = np.random.default_rng(dim)
    left, right = (rng.standard_normal((40, dim)).astype(np.float32) for _ in range(2))
    left[:20, dim // 2 :] = -left[:20, : dim - dim // 2]  # sums that nearly vanish
    right[:20, dim // 2 :] = right[:20, : dim - dim // 2]
    exact = [
        sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(*pair, strict=True))
        for pair in zip(left, right, strict=True)
    ]
    expected = np.array([float(one) for one in exact]).astype(np.float32)
    np.testing.assert_array_equal(add_products(left, right), expected)
    rough = (left.astype(np.float64) * right).sum(axis=1) + (rng.random(40) - 0.5) * 1e-12
    asked: list[int] = []

    def vectors(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(some.tolist())
        return left[some], right[some]

    np.testing.assert_array_equal(round_sums(rough, 1e-12, vectors), expected)
    assert len(asked) < 40  # most are sure
