"""The referee: it agrees where it should, and it catches a wrong value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twinlens.core.errors import DataError
from twinlens.evaluation.measures import MEASURES, Judged, Torchmetrics, measure_all, ndcg
from twinlens.evaluation.referee import check_sample, complete, complete_gains, get_second_opinion

RNG = np.random.default_rng(0)
LISTS = RNG.random((60, 20)) < 0.2
RELEVANT = LISTS.sum(axis=1) + RNG.integers(0, 4, 60) + (LISTS.sum(axis=1) == 0)
KS = [1, 5, 10]
JUDGED = Judged.binary(LISTS, RELEVANT)


def test_torchmetrics_agrees_with_our_values() -> None:
    values = measure_all(JUDGED, KS)
    assert check_sample(values, JUDGED, queries=60, seed=0) == 60 * len(MEASURES) * len(KS)


@pytest.mark.parametrize("name", [measure.at(k) for measure in MEASURES.values() for k in KS])
def test_a_value_that_is_off_is_caught_and_named(name: str) -> None:
    values = measure_all(JUDGED, KS)
    values[name] = values[name] + 1e-4
    with pytest.raises(DataError, match=f"{name} of query"):
        check_sample(values, JUDGED, queries=60, seed=0)


def test_the_sample_is_drawn_by_seed() -> None:
    values = measure_all(JUDGED, KS)
    values["hit_at_1"][:30] += 1  # wrong for half of the queries: some draws of three meet one, some do not
    caught = set()
    for seed in range(20):
        try:
            check_sample(values, JUDGED, queries=3, seed=seed)
        except DataError:
            caught.add(seed)
    assert 0 < len(caught) < 20


def test_relevant_items_that_were_not_retrieved_stand_at_the_end() -> None:
    assert complete(np.array([True, False]), 3).tolist() == [True, False, True, True]


GAINS = RNG.integers(1, 4, LISTS.shape) * LISTS
LEFT = (np.arange(4) < (RELEVANT - LISTS.sum(axis=1))[:, None]) * 2  # relevant items that were not retrieved
IDEAL = -np.sort(-np.concatenate([GAINS, LEFT], axis=1), axis=1)
GRADED = Judged(GAINS.astype(np.float32), RELEVANT, IDEAL[:, :10].astype(np.float64))


def test_torchmetrics_agrees_with_our_values_of_graded_lists() -> None:
    values = measure_all(GRADED, KS)
    check_sample(values, GRADED, queries=60, seed=0)
    values["ndcg_at_10"] = ndcg(JUDGED, 10)  # as if all gains were 1
    with pytest.raises(DataError, match=r"ndcg_at_10 of query .* by torchmetrics"):
        check_sample(values, GRADED, queries=60, seed=0)


def test_gains_of_items_that_were_not_retrieved_stand_at_the_end() -> None:
    assert complete_gains(np.array([1, 0, 3], np.float32), np.array([3.0, 3, 2, 1, 0])).tolist() == [1, 0, 3, 3, 2]


def test_a_metric_that_torchmetrics_lacks_is_named() -> None:
    wrong = replace(ndcg, referee=Torchmetrics("retrieval_normalised_dcg"))
    with pytest.raises(DataError, match=r"'retrieval_normalised_dcg' .*did you mean 'retrieval_normalized_dcg'"):
        get_second_opinion(wrong, JUDGED.query(0), 5)


def test_a_second_implementation_is_asked_where_one_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_loop(one: Judged, k: int) -> float:
        return float(any(gain > 0 for gain in one.gains[0, :k]))

    monkeypatch.setitem(MEASURES, "hit", replace(MEASURES["hit"], referee=by_loop))
    values = measure_all(JUDGED, KS, ["hit"])
    assert check_sample(values, JUDGED, queries=60, seed=0) == 60 * len(KS)
    values["hit_at_5"] = 1 - values["hit_at_5"]
    with pytest.raises(DataError, match=r"hit_at_5 of query .* by by_loop"):
        check_sample(values, JUDGED, queries=60, seed=0)


def test_a_value_of_no_measure_is_refused() -> None:
    with pytest.raises(DataError, match="'hut_at_5' is no measure at a cut"):
        check_sample({"hut_at_5": np.zeros(60)}, JUDGED, queries=1, seed=0)
