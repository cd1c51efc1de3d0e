"""The measures: by hand, by trec_eval, by torchmetrics, and by what must hold of any measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from twinlens.core.errors import DataError
from twinlens.evaluation.measures import (
    MEASURES,
    chance_hit_at,
    hit_at,
    macro_mean,
    map_at,
    measure_all,
    median_rank,
    mrr_at,
    ndcg_at,
    precision_at,
    recall_at,
)

# One query: relevant at ranks 2 and 4 of five; the pool holds three relevant items.
LIST = np.array([[False, True, False, True, False]])
R = np.array([3])


def test_by_hand_with_one_relevant_item_never_retrieved() -> None:
    assert hit_at(LIST, R, 1) == 0
    assert hit_at(LIST, R, 2) == 1
    assert recall_at(LIST, R, 5) == pytest.approx(2 / 3)
    assert precision_at(LIST, R, 5) == pytest.approx(2 / 5)
    assert mrr_at(LIST, R, 5) == 1 / 2
    assert mrr_at(LIST, R, 1) == 0
    assert map_at(LIST, R, 5) == pytest.approx((1 / 2 + 2 / 4) / 3)
    dcg = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at(LIST, R, 5) == pytest.approx(dcg / ideal)


def test_with_more_relevant_items_than_ranks_the_ideal_list_is_full() -> None:
    perfect, plenty = np.ones((1, 3), dtype=bool), np.array([7])
    assert ndcg_at(perfect, plenty, 3) == pytest.approx(1)
    assert recall_at(perfect, plenty, 3) == pytest.approx(3 / 7)
    assert map_at(perfect, plenty, 3) == pytest.approx(3 / 7)  # trec_eval divides by R, not by min(R, k)


def test_with_five_captions_hit_at_1_and_recall_at_1_differ_fivefold() -> None:
    found, five = np.array([[True, False]]), np.array([5])
    assert hit_at(found, five, 1) == 1
    assert recall_at(found, five, 1) == pytest.approx(0.2)


def test_a_pool_smaller_than_k_counts_the_missing_ranks_as_misses() -> None:
    two_items, one = np.array([[False, True]]), np.array([1])
    assert precision_at(two_items, one, 10) == pytest.approx(1 / 10)
    assert recall_at(two_items, one, 10) == 1
    assert ndcg_at(two_items, one, 10) == pytest.approx(1 / math.log2(3))


def test_a_query_without_a_relevant_item_is_an_error_and_named() -> None:
    with pytest.raises(DataError, match="1 queries have no relevant item in the pool, the first at row 1"):
        measure_all(np.zeros((2, 3), dtype=bool), np.array([1, 0]), [1])


def test_macro_mean_counts_groups_and_not_queries() -> None:
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), np.array([4, 4, 4, 9])
    assert values.mean() == 0.75
    assert macro_mean(values, groups) == 0.5


def test_median_rank_of_an_even_number_of_queries_lies_between_two() -> None:
    assert median_rank(np.array([1, 3, 6, 90])) == 4.5


def random_rankings(queries: int, items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many negatives and relevance, never without a relevant item."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.linspace(-1, 1, items), (queries, 1)), axis=1)
    relevant = rng.random((queries, items)) < rng.choice([0.02, 0.1, 0.5], size=(queries, 1))
    relevant[np.arange(queries), rng.integers(0, items, queries)] = True
    return scores, relevant


def test_agrees_with_trec_eval_on_ten_thousand_rankings_to_the_ninth_digit() -> None:
    scores, relevant = random_rankings(10_000, 30, seed=0)
    order = np.argsort(-scores, axis=1)
    ours = measure_all(np.take_along_axis(relevant, order, 1), relevant.sum(axis=1), [1, 5, 10])
    names = [f"d{i:02d}" for i in range(scores.shape[1])]
    qrels = {str(q): {names[i]: 1 for i in np.flatnonzero(row)} for q, row in enumerate(relevant)}
    run = {str(q): dict(zip(names, row.tolist(), strict=True)) for q, row in enumerate(scores)}
    wanted = {"ndcg_cut.1,5,10", "map_cut.1,5,10", "P.1,5,10", "recall.1,5,10", "success.1,5,10", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    trec = {"ndcg": "ndcg_cut", "map": "map_cut", "precision": "P", "recall": "recall", "hit": "success"}
    for query in range(len(scores)):
        for k in (1, 5, 10):
            for name, other in trec.items():
                assert abs(ours[f"{name}_at_{k}"][query] - theirs[str(query)][f"{other}_{k}"]) < 1e-9
            first = 1 / theirs[str(query)]["recip_rank"]  # trec_eval's is not cut
            cut = 1 / first if round(first) <= k else 0.0
            assert abs(ours[f"mrr_at_{k}"][query] - cut) < 1e-9


@given(seed=st.integers(0, 2**32), k=st.integers(1, 12))
def test_the_order_of_the_pool_changes_nothing(seed: int, k: int) -> None:
    scores, relevant = random_rankings(20, 10, seed % 1000)
    shuffled = np.random.default_rng(seed).permutation(scores.shape[1])
    before = measured(scores, relevant, k)
    after = measured(scores[:, shuffled], relevant[:, shuffled], k)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


@given(seed=st.integers(0, 2**32), k=st.integers(1, 12))
def test_raising_a_relevant_item_never_lowers_a_measure(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    _, relevant = random_rankings(1, 10, seed % 1000)
    lower = int(rng.choice(np.flatnonzero(relevant[0])))
    if lower == 0:
        return
    raised = relevant.copy()
    raised[0, [lower - 1, lower]] = raised[0, [lower, lower - 1]]
    counts = relevant.sum(axis=1)
    for measure in MEASURES.values():
        assert measure(raised, counts, k)[0] >= measure(relevant, counts, k)[0] - 1e-12


@given(seed=st.integers(0, 2**32), k=st.integers(1, 12))
def test_every_measure_lies_between_0_and_1(seed: int, k: int) -> None:
    scores, relevant = random_rankings(20, 10, seed % 1000)
    for value in measured(scores, relevant, k).values():
        assert ((value >= 0) & (value <= 1 + 1e-12)).all()


def test_a_random_ranker_sits_at_the_closed_form_chance_level() -> None:
    rng, pool, k = np.random.default_rng(0), 40, 10
    counts = np.repeat([1, 3, 8], 20_000)
    relevance = np.argsort(rng.random((len(counts), pool)), axis=1) < counts[:, None]
    expected = chance_hit_at(pool, counts, k)
    assert expected == pytest.approx(np.mean([1 - math.comb(pool - r, k) / math.comb(pool, k) for r in (1, 3, 8)]))
    assert hit_at(relevance, counts, k).mean() == pytest.approx(expected, abs=0.006)


def test_chance_is_certain_when_the_cut_reaches_the_whole_pool() -> None:
    assert chance_hit_at(5, np.array([1, 2]), 10) == 1


def measured(scores: np.ndarray, relevant: np.ndarray, k: int) -> dict[str, np.ndarray]:
    order = np.argsort(-scores, axis=1, kind="stable")
    return measure_all(np.take_along_axis(relevant, order, 1), relevant.sum(axis=1), [k])
