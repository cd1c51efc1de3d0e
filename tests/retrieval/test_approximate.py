"""Approximate against exact search: recalls that are known, and settings that must differ."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.config.params import ApproximateParams, IndexSetting
from twinlens.retrieval import approximate


def params(**settings: dict[str, object]) -> ApproximateParams:
    return ApproximateParams.model_validate({"k": 10, "queries": 20, "settings": settings})


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


SETTINGS: dict[str, dict[str, object]] = {
    "all": {"index": "ivf_flat", "partitions": 8, "nprobes": 8},
    "few": {"index": "ivf_flat", "partitions": 8, "nprobes": 1},
    "pq": {"index": "ivf_pq", "partitions": 1, "nprobes": 1},
    "pq_refined": {"index": "ivf_pq", "partitions": 1, "nprobes": 1, "refine": 10},
    "graph": {"index": "ivf_hnsw_sq", "partitions": 1, "nprobes": 1, "ef": 100},
    "sq": {"index": "ivf_sq", "partitions": 1, "nprobes": 1},
    "rq": {"index": "ivf_rq", "partitions": 1, "nprobes": 1},
    "rq_refined": {"index": "ivf_rq", "partitions": 1, "nprobes": 1, "refine": 10},
}


def test_exact_search_misses_nothing_and_each_setting_what_it_must() -> None:
    rows = approximate.measure_settings(unit(50, 32, 1), unit(600, 32, 0), params(**SETTINGS))
    recall = {row["setting"]: row["recall"] for row in rows}
    assert list(recall) == ["exact, numpy", "exact, LanceDB", *SETTINGS]
    assert recall["exact, numpy"] == recall["exact, LanceDB"] == recall["all"] == 1
    assert recall["few"] < 0.9  # one partition of eight, of random vectors
    assert recall["pq"] < recall["pq_refined"]
    assert recall["rq"] < recall["rq_refined"]
    assert recall["rq_refined"] > 0.95
    assert min(recall["graph"], recall["sq"]) > 0.8
    for row in rows:
        assert tuple(row) == approximate.COLUMNS
        assert row["ms_per_query"] > 0
        assert (row["index_mb"] > 0) == (not row["setting"].startswith("exact"))


def test_equal_scores_count_alike() -> None:
    items = np.repeat(unit(30, 8, 0), 20, axis=0)  # every item twenty times: any ten of them are right
    rows = approximate.measure_settings(
        unit(10, 8, 1), items, params(all={"index": "ivf_flat", "partitions": 2, "nprobes": 2})
    )
    assert [row["recall"] for row in rows] == [1, 1, 1]


def test_a_pool_too_small_for_an_index_is_searched_exactly_only() -> None:
    rows = approximate.measure_settings(unit(3, 8, 1), unit(7, 8, 0), params(**SETTINGS))
    assert [(row["setting"], row["recall"]) for row in rows] == [("exact, numpy", 1), ("exact, LanceDB", 1)]


def test_settings_of_one_index_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = approximate._config

    def noted(setting: IndexSetting) -> object:
        made.append(setting.index)
        return original(setting)

    monkeypatch.setattr(approximate, "_config", noted)
    approximate.measure_settings(unit(5, 16, 1), unit(300, 16, 0), params(**{k: SETTINGS[k] for k in ("all", "few")}))
    assert made == ["ivf_flat"]


def test_bits_are_left_out_where_the_dimensions_are_no_multiple_of_8() -> None:
    rows = approximate.measure_settings(
        unit(3, 20, 1), unit(300, 20, 0), params(rq=SETTINGS["rq"], all=SETTINGS["all"])
    )
    assert [row["setting"] for row in rows] == ["exact, numpy", "exact, LanceDB", "all"]
