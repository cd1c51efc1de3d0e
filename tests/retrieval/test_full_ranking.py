"""Average precision over the full ranking: by hand, against scikit-learn and trec_eval, and with equal scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import average_precision_score

from twinlens.core import row_sources
from twinlens.core.row_sources import FileRows
from twinlens.core.vectors import write_rows
from twinlens.evaluation.measures import Judged, map_
from twinlens.retrieval import full_ranking
from twinlens.retrieval.full_ranking import average_precision
from twinlens.tasks.qrels import Groups


def problem(items: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    queries, pool = (rng.standard_normal((n, 6)).astype(np.float32) for n in (40, items))
    groups = rng.permutation(np.arange(items) % 7)
    return queries, pool, rng.integers(0, 7, 40), groups


def test_by_hand_with_negative_scores_and_equal_ones() -> None:
    items = np.array([[-0.1], [-0.3], [-0.1], [-0.2], [-0.9]], np.float32)
    # order: rows 0, 2 (equal, the earlier first), 3, 1, 4; relevant: rows 2 and 4, at ranks 2 and 5
    value = average_precision(np.ones((1, 1), np.float32), items, Groups(np.array([1]), np.array([0, 0, 1, 0, 1])))
    assert value[0] == pytest.approx((1 / 2 + 2 / 5) / 2)


@pytest.mark.parametrize(("items", "cells", "rows"), [(8, 2**23, 2**14), (300, 1000, 70), (300, 2**23, 2**14)])
def test_is_scikit_learns_where_no_scores_are_equal(
    items: int, cells: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_ranking, "BLOCK_CELLS", cells)
    queries, pool, wanted, groups = problem(items, 1)
    values = average_precision(queries, pool, Groups(wanted, groups), rows)
    scores = queries.astype(np.float64) @ pool.T.astype(np.float64)
    for query, value in enumerate(values):
        assert value == pytest.approx(average_precision_score(groups == wanted[query], scores[query]), abs=1e-12)


def test_is_our_map_at_the_whole_pool_and_trec_evals_also_where_scores_are_equal() -> None:
    rng = np.random.default_rng(3)
    queries = rng.integers(-2, 3, (40, 2)).astype(np.float32)
    pool = rng.integers(-2, 3, (200, 2)).astype(np.float32)  # few values: many equal scores
    wanted, groups = rng.integers(0, 5, 40), np.arange(200) % 5
    values = average_precision(queries, pool, Groups(wanted, groups))
    order = np.argsort(-(queries @ pool.T), axis=1, kind="stable")
    relevance = groups[order] == wanted[:, None]
    np.testing.assert_allclose(values, map_(Judged.binary(relevance, relevance.sum(axis=1)), 200), atol=1e-12)
    qrels = {str(q): {str(i): 1 for i in np.flatnonzero(groups == wanted[q])} for q in range(40)}
    runs = {str(q): {str(i): float(-rank) for rank, i in enumerate(order[q])} for q in range(40)}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(runs)
    np.testing.assert_allclose(values, [theirs[str(q)]["map"] for q in range(40)], atol=1e-6)


def test_a_pool_read_in_blocks_has_the_bytes_of_one_in_memory_and_so_have_queries_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    queries, pool = (rng.integers(-2, 3, (n, 2)).astype(np.float32) for n in (30, 200))  # many equal scores
    qrels = Groups(rng.integers(0, 5, 30), np.arange(200) % 5, rng.integers(-1, 200, 30))
    whole = average_precision(queries, pool, qrels)
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", 64)
    write_rows(tmp_path / "pool.npy", [pool], len(pool))
    monkeypatch.setattr(full_ranking, "PAIRS", 90)
    monkeypatch.setattr(full_ranking, "CELLS", 14)
    monkeypatch.setattr(FileRows, "__array__", None)
    assert average_precision(queries, FileRows.open(tmp_path / "pool"), qrels, 31).tobytes() == whole.tobytes()


def test_moving_a_relevant_item_up_never_lowers_it_and_the_best_ranking_has_1() -> None:
    queries, pool, wanted, groups = problem(100, 5)
    before = average_precision(queries[:1], pool, Groups(wanted[:1], groups))[0]
    mine = np.flatnonzero(groups == wanted[0])
    for row in mine:
        pool[row] = 5 * queries[0] / np.linalg.norm(queries[0])
        after = average_precision(queries[:1], pool, Groups(wanted[:1], groups))[0]
        assert after >= before
        before = after
    assert before == 1
