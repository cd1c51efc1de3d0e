"""The one order of scores, against a plain sort in awkward ground: ties, negative scores, both zeros, infinity."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.retrieval.scores import find_first_hits, make_sort_keys, select_best

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
    found = make_sort_keys(scores)
    for k in (1, 3, scores.shape[1]):
        assert select_best(found, k).tolist() == [in_order(row)[:k] for row in scores]


def test_the_first_hit_is_the_best_ranked_of_the_relevant() -> None:
    scores, rng = drawn(), np.random.default_rng(1)
    relevant = rng.random(scores.shape) < 0.05
    found = find_first_hits(make_sort_keys(scores), relevant)
    for row, wanted, rank in zip(scores, relevant, found, strict=True):
        places = [place for place, item in enumerate(in_order(row), 1) if wanted[item]]
        assert rank == min(places, default=0)
    assert (found == 0).any()
