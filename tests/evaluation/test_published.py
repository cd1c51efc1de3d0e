"""The measures as the sources computed them: by hand, and by torchmetrics fed as source 000 fed it, but with ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_normalized_dcg

from twinlens.evaluation.measures import Judged
from twinlens.evaluation.published import measure_in_batch, measure_labels, measure_object_sets


def judged(relevance: np.ndarray) -> Judged:
    return Judged.binary(relevance, relevance.sum(axis=1))


def test_by_hand() -> None:
    found = measure_object_sets(
        judged(np.array([[False, True, False, True, False, False, False, False, False, False]]))
    )
    assert found["mrr"] == 0.5
    assert found["recall"] == 1  # any hit at all
    assert found["precision"] == pytest.approx(0.2)
    assert found["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)  # over the two that were found
    best = 1 + 1 / math.log2(3)
    assert found["ndcg"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)


def test_a_list_without_a_hit_scores_zero_everywhere() -> None:
    assert {float(v[0]) for v in measure_object_sets(judged(np.zeros((1, 10), dtype=bool))).values()} == {0.0}


def test_only_the_first_ten_count() -> None:
    late = np.zeros((1, 50), dtype=bool)
    late[0, 10] = True
    assert measure_object_sets(judged(late))["recall"] == 0


def test_agrees_with_torchmetrics_on_the_ten_retrieved() -> None:
    lists = np.random.default_rng(0).random((500, 10)) < 0.3
    ours = measure_object_sets(judged(lists))
    ranks = torch.arange(10, 0, -1, dtype=torch.float64)
    for row, target in enumerate(torch.from_numpy(lists)):
        if target.any():
            assert ours["ndcg"][row] == pytest.approx(float(retrieval_normalized_dcg(ranks, target)), abs=1e-6)
            assert ours["map"][row] == pytest.approx(float(retrieval_average_precision(ranks, target)), abs=1e-6)


def ranked(*first_hits: int | None, depth: int = 30) -> Judged:
    """Lists whose first relevant item has these ranks, and every second one after it is relevant too."""
    relevance = np.zeros((len(first_hits), depth), dtype=bool)
    for row, rank in enumerate(first_hits):
        if rank is not None:
            relevance[row, rank - 1 :: 2] = True
    return judged(relevance)


def test_map_of_source_002_is_the_reciprocal_rank_of_the_first_right_label() -> None:
    found = measure_labels(ranked(1, 2, 5, 6, None))
    assert {name: values.tolist() for name, values in found.items()} == {
        "map_at_1": [1, 0, 0, 0, 0],
        "map_at_5": [1, 1 / 2, 1 / 5, 0, 0],
    }


def test_reciprocal_ranks_of_source_001_are_within_the_batch_and_over_the_pool() -> None:
    found = measure_in_batch(np.array([1, 2, 4, 21]), ranked(2, 1, 20, None))
    assert list(found) == [f"{pool}_mrr_at_{k}" for pool in ("in_batch", "corpus") for k in (1, 3, 5, 10, 20)]
    assert found["in_batch_mrr_at_1"].tolist() == [1, 0, 0, 0]
    assert found["in_batch_mrr_at_3"].tolist() == [1, 1 / 2, 0, 0]
    assert found["in_batch_mrr_at_20"].tolist() == [1, 1 / 2, 1 / 4, 0]
    assert found["corpus_mrr_at_1"].tolist() == [0, 1, 0, 0]
    assert found["corpus_mrr_at_20"].tolist() == [1 / 2, 1, 1 / 20, 0]


def test_a_run_that_is_not_deep_enough_for_a_cut_has_no_figure_there() -> None:
    found = measure_in_batch(np.array([1]), ranked(1, depth=10))
    assert "corpus_mrr_at_10" in found
    assert "corpus_mrr_at_20" not in found
    assert "in_batch_mrr_at_20" in found
