"""The referee: it agrees where it should, and it catches a wrong value."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.core.errors import DataError
from twinlens.evaluation.measures import measure_all
from twinlens.evaluation.referee import check_sample, complete

RNG = np.random.default_rng(0)
LISTS = RNG.random((60, 20)) < 0.2
RELEVANT = LISTS.sum(axis=1) + RNG.integers(0, 4, 60) + (LISTS.sum(axis=1) == 0)
KS = [1, 5, 10]


def test_torchmetrics_agrees_with_our_values() -> None:
    values = measure_all(LISTS, RELEVANT, KS)
    assert check_sample(values, LISTS, RELEVANT, KS, queries=60, seed=0) > 60 * 5 * 3


@pytest.mark.parametrize("name", ["mrr_at_5", "ndcg_at_10", "precision_at_1", "recall_at_5", "hit_at_10", "map_at_10"])
def test_a_value_that_is_off_is_caught_and_named(name: str) -> None:
    values = measure_all(LISTS, RELEVANT, KS)
    values[name] = values[name] + 1e-4
    with pytest.raises(DataError, match=f"{name} of query"):
        check_sample(values, LISTS, RELEVANT, KS, queries=60, seed=0)


def test_the_sample_is_drawn_by_seed() -> None:
    values = measure_all(LISTS, RELEVANT, KS)
    values["hit_at_1"][:30] += 1  # wrong for half of the queries: some draws of three meet one, some do not
    caught = set()
    for seed in range(20):
        try:
            check_sample(values, LISTS, RELEVANT, KS, queries=3, seed=seed)
        except DataError:
            caught.add(seed)
    assert 0 < len(caught) < 20


def test_relevant_items_that_were_not_retrieved_stand_at_the_end() -> None:
    assert complete(np.array([True, False]), 3).tolist() == [True, False, True, True]
