"""The measures: by hand, by trec_eval, by torchmetrics, and by what must hold of any measure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.workspace import ROOT
from twinlens.core.errors import DataError
from twinlens.evaluation import measures
from twinlens.evaluation.measures import (
    MAIN,
    MEASURES,
    Judged,
    Torchmetrics,
    chance_hit_at,
    hit,
    macro_mean,
    map_,
    measure,
    measure_all,
    median_rank,
    mrr,
    ndcg,
    parsed,
    precision,
    rbp,
    recall,
)

# One query: relevant at ranks 2 and 4 of five; the pool holds three relevant items.
LIST = Judged.binary(np.array([[False, True, False, True, False]]), np.array([3]))


def test_by_hand_with_one_relevant_item_never_retrieved() -> None:
    assert hit(LIST, 1) == 0
    assert hit(LIST, 2) == 1
    assert recall(LIST, 5) == pytest.approx(2 / 3)
    assert precision(LIST, 5) == pytest.approx(2 / 5)
    assert mrr(LIST, 5) == 1 / 2
    assert mrr(LIST, 1) == 0
    assert map_(LIST, 5) == pytest.approx((1 / 2 + 2 / 4) / 3)
    dcg = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(LIST, 5) == pytest.approx(dcg / ideal)


def test_a_reader_who_goes_on_by_four_in_five_finds_what_rank_biased_precision_says() -> None:
    judged = Judged.binary(np.array([[True, False, True, False]]), np.array([5]))
    assert rbp(judged, 4)[0] == pytest.approx(0.2 * (1 + 0.8**2))
    assert rbp(judged, 2)[0] == pytest.approx(0.2)
    assert rbp(Judged.binary(np.ones((1, 60), dtype=bool), np.array([60])), 60)[0] == pytest.approx(1 - 0.8**60)


def test_with_more_relevant_items_than_ranks_the_ideal_list_is_full() -> None:
    plenty = Judged.binary(np.ones((1, 3), dtype=bool), np.array([7]))
    assert ndcg(plenty, 3) == pytest.approx(1)
    assert recall(plenty, 3) == pytest.approx(3 / 7)
    assert map_(plenty, 3) == pytest.approx(3 / 7)  # trec_eval divides by R, not by min(R, k)


def test_with_five_captions_hit_at_1_and_recall_at_1_differ_fivefold() -> None:
    five = Judged.binary(np.array([[True, False]]), np.array([5]))
    assert hit(five, 1) == 1
    assert recall(five, 1) == pytest.approx(0.2)


def test_a_pool_smaller_than_k_counts_the_missing_ranks_as_misses() -> None:
    two_items = Judged.binary(np.array([[False, True]]), np.array([1]))
    assert precision(two_items, 10) == pytest.approx(1 / 10)
    assert recall(two_items, 10) == 1
    assert ndcg(two_items, 10) == pytest.approx(1 / math.log2(3))


def test_a_query_without_a_relevant_item_is_an_error_and_named() -> None:
    with pytest.raises(DataError, match="1 queries have no relevant item in the pool, the first at row 1"):
        measure_all(Judged.binary(np.zeros((2, 3), dtype=bool), np.array([1, 0])), [1])


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
    ours = measure_all(Judged.binary(np.take_along_axis(relevant, order, 1), relevant.sum(axis=1)), [1, 5, 10])
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
    for each in MEASURES.values():
        before, after = (each(Judged.binary(order, counts), k)[0] for order in (relevant, raised))
        assert after >= before - 1e-12


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
    assert hit(Judged.binary(relevance, counts), k).mean() == pytest.approx(expected, abs=0.006)


def test_chance_is_certain_when_the_cut_reaches_the_whole_pool() -> None:
    assert chance_hit_at(5, np.array([1, 2]), 10) == 1


def measured(scores: np.ndarray, relevant: np.ndarray, k: int) -> dict[str, np.ndarray]:
    order = np.argsort(-scores, axis=1, kind="stable")
    return measure_all(Judged.binary(np.take_along_axis(relevant, order, 1), relevant.sum(axis=1)), [k])


# ----------------------------------------------------------- graded judgements


def test_ndcg_by_hand_with_gains() -> None:
    # Ranked: 1, 0, 3; the pool also holds a 2 that was not retrieved.
    judged = Judged(np.array([[1, 0, 3]], np.float32), np.array([3]), np.array([[3.0, 2, 1]]))
    assert ndcg(judged, 1)[0] == 1 / 3
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(judged, 3)[0] == pytest.approx((1 + 3 / 2) / best, abs=1e-15)
    assert ndcg(judged, 10)[0] == pytest.approx((1 + 3 / 2) / best, abs=1e-15)  # three ranks of ten


def test_with_more_relevant_items_than_ranks_the_ideal_list_holds_the_largest_gains() -> None:
    judged = Judged(np.array([[2, 2]], np.float32), np.array([5]), np.array([[3.0, 2]]))
    assert ndcg(judged, 2)[0] == pytest.approx((2 + 2 / math.log2(3)) / (3 + 2 / math.log2(3)), abs=1e-15)
    assert ndcg(judged, 1)[0] == pytest.approx(2 / 3, abs=1e-15)


def test_only_graded_measures_ask_how_large_a_gain_is() -> None:
    gains, counts, ideal = graded(np.random.default_rng(5), queries=200, pool=30, depth=20)
    with_gains = measure_all(Judged(gains, counts, ideal), [1, 5, 50])
    without = measure_all(Judged.binary(gains > 0, counts), [1, 5, 50])
    asks = {key for key in without if not np.array_equal(with_gains[key], without[key])}
    assert asks == {each.at(k) for each in MEASURES.values() for k in (1, 5, 50) if each.graded}


def test_gains_of_one_are_binary_judgements() -> None:
    gains, counts, ideal = graded(np.random.default_rng(6), queries=200, pool=30, depth=20)
    ones = Judged((gains > 0).astype(np.float32), counts, (ideal > 0).astype(np.float64))
    for k in (1, 5, 50):
        np.testing.assert_allclose(ndcg(ones, k), ndcg(Judged.binary(gains > 0, counts), k), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("pool", "depth"), [(60, 60), (60, 25), (7, 7), (3, 3)])
def test_graded_lists_agree_with_trec_eval_to_the_twelfth_digit(pool: int, depth: int) -> None:
    rng, cuts = np.random.default_rng(pool + depth), (1, 3, 5, 10, 25)
    wanted = rng.integers(0, 4, (1_000, pool)) * (rng.random((1_000, pool)) < rng.choice([0.1, 0.5, 1.0], (1_000, 1)))
    wanted[np.arange(1_000), rng.integers(0, pool, 1_000)] = rng.integers(1, 4, 1_000)
    gains, ideal = wanted[:, :depth].astype(np.float32), -np.sort(-wanted.astype(np.float64), axis=1)
    counts = (wanted > 0).sum(axis=1)
    assert (counts > 10).any() == (pool > 10)
    ours = measure_all(Judged(gains, counts, ideal[:, : max(cuts)]), cuts)
    names = [f"d{i:02d}" for i in range(pool)]
    qrels = {str(q): dict(zip(names, row, strict=True)) for q, row in enumerate(wanted.tolist())}
    run = {str(q): {name: float(-rank) for rank, name in enumerate(names[:depth])} for q in range(len(wanted))}
    trec = {"ndcg": "ndcg_cut", "map": "map_cut", "precision": "P", "recall": "recall", "hit": "success"}
    listed = ",".join(map(str, cuts))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {f"{name}.{listed}" for name in trec.values()}).evaluate(run)
    for name, other in trec.items():
        for k in cuts:
            values = [theirs[str(q)][f"{other}_{k}"] for q in range(len(wanted))]
            np.testing.assert_allclose(ours[f"{name}_at_{k}"], values, rtol=0, atol=1e-12, err_msg=f"{name} at {k}")


def test_an_ideal_list_that_ends_before_the_cut_is_refused_where_more_is_relevant() -> None:
    gains, ideal = np.array([[1, 0, 3], [1, 0, 0]], np.float32), np.array([[3.0, 1], [3, 2]])
    with pytest.raises(DataError, match=r"nDCG at 3 needs the 3 largest gains of a query, and 1 queries .* at row 1"):
        ndcg(Judged(gains, np.array([2, 3]), ideal), 3)
    assert len(ndcg(Judged(gains, np.array([2, 2]), ideal), 3)) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"counts": np.array([1])}, "gains of 2, counts of 1, ideal of 2"),
        ({"gains": np.array([[1, -1], [0, 0]], np.float32)}, "least of the gains is -1"),
        ({"ideal": np.array([[1.0], [math.nan]])}, "least of the ideal is nan"),
        ({"ideal": np.array([[1.0], [0.0]])}, "1 queries with relevant items have an ideal list without a gain"),
    ],
)
def test_judgements_that_cannot_be_are_refused(changed: dict[str, np.ndarray], said: str) -> None:
    good: dict[str, Any] = {"gains": np.ones((2, 2), np.float32), "counts": np.array([2, 2]), "ideal": np.ones((2, 2))}
    Judged(**good)
    with pytest.raises(DataError, match=said):
        Judged(**(good | changed))


def graded(rng: np.random.Generator, queries: int, pool: int, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gains from 0 to 3 of ranked items, R, and the ideal lists; some relevant items are not retrieved."""
    wanted = rng.integers(0, 4, (queries, pool))
    wanted[:, 0] = np.maximum(wanted[:, 0], 1)
    ranked = rng.permuted(wanted, axis=1)[:, :depth].astype(np.float32)
    return ranked, (wanted > 0).sum(axis=1), -np.sort(-wanted.astype(np.float64), axis=1)


# -------------------------------------------------------------- registration


def described(judged: Judged, k: int) -> np.ndarray:
    """Nothing of k."""
    return np.zeros(len(judged.counts)) * k


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"referee": None}, "measure 'x' has no second opinion: give `referee`"),
        ({"of": lambda judged, k: np.zeros(1)}, "measure 'x' has no description: begin its docstring"),
        ({"name": "hit"}, "two measures are called 'hit'"),
        ({"name": "hit_at_1"}, "no measure can be called 'hit_at_1'"),
        ({"name": "not a name"}, "no measure can be called 'not a name'"),
    ],
)
def test_a_measure_that_could_not_be_told_or_checked_is_refused(changed: dict[str, Any], said: str) -> None:
    before = dict(MEASURES)
    asked: dict[str, Any] = {"name": "x", "of": described, "referee": Torchmetrics("retrieval_recall")}
    asked |= changed
    with pytest.raises(DataError, match=said):
        measure(asked["name"], title="x", referee=asked["referee"])(asked["of"])
    assert before == MEASURES


def test_keys_are_read_back() -> None:
    assert parsed(hit.at(10)) == (hit, 10)
    assert [parsed(key) for key in ("macro_hit_at_10", "hit", "hit_at_", "hit_at_x", "median_rank")] == [None] * 5


def test_metrics_are_written_in_the_order_of_definition() -> None:
    assert list(measure_all(LIST, [1, 5]))[:4] == ["mrr_at_1", "mrr_at_5", "ndcg_at_1", "ndcg_at_5"]
    assert list(measure_all(LIST, [2], ["recall", "hit"])) == ["recall_at_2", "hit_at_2"]


def test_the_main_measure_is_shown_and_drawn_and_has_a_mean_over_groups() -> None:
    assert MAIN.headline
    assert MAIN.drawn
    assert MAIN.macro


def test_plots_hold_no_list_of_measures() -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["evaluate"]["plots"]
    asked = {Path(name).stem: about for plot in plots for name, about in plot.items()}
    assert asked["quality_cost"]["y"] == MAIN.name
    template = (ROOT / ".dvc/plots/at_k.json").read_text(encoding="utf-8")
    assert not [name for name in MEASURES if f'"{name}"' in template]


def test_a_list_with_more_relevant_items_than_its_pool_is_refused_in_words() -> None:
    """As where a query that finds itself is right for itself, and was not counted: no traceback of the referee."""
    relevance = np.array([[True, False], [True, True]])
    with pytest.raises(DataError, match="1 lists hold more relevant items than their pool, the first at row 1"):
        Judged.binary(relevance, np.array([1, 1]))


def test_the_measure_of_the_recipe_in_contributing_is_one_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MEASURES", dict(MEASURES))
    recipe = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    exec(recipe, dict(vars(measures)))
    made = measures.MEASURES["f1"]
    assert "f1" not in MEASURES
    assert callable(made.referee)
    judged = Judged.binary(np.array([[True, False, True], [False, False, False]]), np.array([4, 1]))
    for k in (1, 2, 3, 10):
        assert made(judged, k).tolist() == pytest.approx([made.referee(judged.query(row), k) for row in (0, 1)])
    assert made(judged, 3).tolist() == pytest.approx([4 / 7, 0.0])
