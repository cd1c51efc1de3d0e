"""The measures as source 000 computed them: by hand, and by torchmetrics fed as it fed it, but with ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_normalized_dcg

from twinlens.published import object_set_measures


def test_by_hand() -> None:
    found = object_set_measures(np.array([[False, True, False, True, False, False, False, False, False, False]]))
    assert found["mrr"] == 0.5
    assert found["recall"] == 1  # any hit at all
    assert found["precision"] == pytest.approx(0.2)
    assert found["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)  # over the two that were found
    best = 1 + 1 / math.log2(3)
    assert found["ndcg"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)


def test_a_list_without_a_hit_scores_zero_everywhere() -> None:
    assert {float(v[0]) for v in object_set_measures(np.zeros((1, 10), dtype=bool)).values()} == {0.0}


def test_only_the_first_ten_count() -> None:
    late = np.zeros((1, 50), dtype=bool)
    late[0, 10] = True
    assert object_set_measures(late)["recall"] == 0


def test_agrees_with_torchmetrics_on_the_ten_retrieved() -> None:
    lists = np.random.default_rng(0).random((500, 10)) < 0.3
    ours = object_set_measures(lists)
    ranks = torch.arange(10, 0, -1, dtype=torch.float64)
    for row, target in enumerate(torch.from_numpy(lists)):
        if target.any():
            assert ours["ndcg"][row] == pytest.approx(float(retrieval_normalized_dcg(ranks, target)), abs=1e-6)
            assert ours["map"][row] == pytest.approx(float(retrieval_average_precision(ranks, target)), abs=1e-6)
