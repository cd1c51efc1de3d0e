"""Intervals: they hold the truth as often as they say, and say so where they cannot know."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from twinlens.evaluation.intervals import (
    Interval,
    bootstrap_means,
    bootstrap_median,
    bound_exception_share,
    compute_tail,
    encode_clusters,
    resample_clusters,
)


def clustered(rng: np.random.Generator, clusters: int, per: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits and reciprocal ranks of queries that share a picture's difficulty; the codes of the pictures."""
    codes = np.repeat(np.arange(clusters), per)
    difficulty = rng.beta(2, 1.5, clusters)[codes]
    hits = (rng.random(len(codes)) < difficulty).astype(float)
    ranks = rng.geometric(np.clip(difficulty, 0.05, 1))
    return np.stack([hits, 1.0 / ranks], axis=1), codes


@pytest.mark.slow
def test_over_1000_drawn_experiments_the_interval_holds_the_truth_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(0)
    truth = clustered(np.random.default_rng(1), 400_000, 5)[0].mean(axis=0)
    held = np.zeros(2)
    naive = 0
    for experiment in range(1000):
        values, codes = clustered(rng, 120, 5)
        found = bootstrap_means(values, codes, resamples=1000, seed=experiment)
        held += [f.low <= t <= f.high for f, t in zip(found, truth, strict=True) if f.low is not None and f.high]
        by_query = bootstrap_means(values[:, :1], np.arange(len(values)), resamples=200, seed=experiment)[0]
        assert by_query.low is not None
        assert by_query.high is not None
        naive += int(by_query.low <= truth[0] <= by_query.high)
    np.testing.assert_allclose(held / 1000, 0.95, atol=0.02)
    assert naive / 1000 < 0.90  # five captions of one picture are not five independent queries


@pytest.mark.parametrize("macro", [False, True])
def test_it_holds_the_truth_with_few_clusters_of_unequal_size_too(macro: bool) -> None:
    rng = np.random.default_rng(2)
    held = 0
    for experiment in range(1000):
        sizes = rng.integers(1, 12, 40)
        codes = np.repeat(np.arange(40), sizes)
        values = (rng.normal(0.5, 0.1, 40)[codes] + rng.normal(0, 0.2, len(codes)))[:, None]
        found = bootstrap_means(values, codes, resamples=500, seed=experiment, macro=macro)[0]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.5 <= found.high
    assert held / 1000 == pytest.approx(0.95, abs=0.02)


def test_the_median_rank_is_held_too() -> None:
    rng = np.random.default_rng(3)
    truth = np.median(rng.poisson(rng.gamma(9, 10, 1_000_000)) + 1)
    held = 0
    for experiment in range(500):
        codes = np.repeat(np.arange(150), 5)
        ranks = rng.poisson(rng.gamma(9, 10, 150)[codes]) + 1
        found = bootstrap_median(ranks, codes, resamples=500, seed=experiment)
        assert found.low is not None
        assert found.high is not None
        held += int(found.low <= truth <= found.high)
    assert held / 500 == pytest.approx(0.95, abs=0.03)


def test_the_matrix_product_is_the_plain_loop() -> None:
    rng = np.random.default_rng(4)
    values, codes = clustered(rng, 30, 3)
    ranks = rng.integers(1, 9, len(codes))
    weights = np.concatenate(list(resample_clusters(30, 200, seed=5)))
    assert (weights.sum(axis=1) == 30).all()
    means, medians = [], []
    for draw in weights:
        times = draw[codes].astype(int)
        means.append(np.repeat(values, times, axis=0).mean(axis=0))
        medians.append(np.median(np.repeat(ranks, times)))
    tail = compute_tail(30)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    found = bootstrap_means(values, codes, resamples=200, seed=5)
    assert [f.low for f in found] == pytest.approx(low.tolist())
    assert [f.high for f in found] == pytest.approx(high.tolist())
    median = bootstrap_median(ranks, codes, resamples=200, seed=5)
    assert (median.low, median.high) == tuple(np.quantile(medians, [tail, 1 - tail], method="nearest"))


def test_it_is_the_same_every_time_and_another_for_another_seed() -> None:
    values, codes = clustered(np.random.default_rng(6), 50, 2)
    once = bootstrap_means(values, codes, resamples=100, seed=0)
    assert bootstrap_means(values, codes, resamples=100, seed=0) == once
    assert bootstrap_means(values, codes, resamples=100, seed=1) != once


def test_few_clusters_reach_further_out() -> None:
    assert compute_tail(10**6) == pytest.approx(0.025, abs=1e-4)
    assert compute_tail(10) < 0.015


def test_fewer_than_six_clusters_are_not_defined_and_it_is_said_why() -> None:
    rng = np.random.default_rng(8)
    for clusters in (2, 5, 6):
        codes = np.arange(clusters)
        values = rng.random((clusters, 1))
        found = [
            *bootstrap_means(values, codes, resamples=100, seed=0),
            bootstrap_median(codes + 1, codes, resamples=100, seed=0),
        ]
        for interval in found:
            assert (interval.low is None) == (clusters < 6)
            if clusters < 6:
                assert interval.why.startswith(f"{clusters} clusters, of 6 that are needed: with 2, 3, 4, 5 clusters")
        (alike,) = bootstrap_means(np.zeros((clusters, 1)), codes, resamples=100, seed=0)
        assert alike.high == pytest.approx(1 - 0.025 ** (1 / clusters))  # exact for any number


def test_one_cluster_or_one_query_is_not_defined_rather_than_certain() -> None:
    for codes in (np.zeros(1, dtype=int), np.zeros(7, dtype=int)):
        values = np.linspace(0, 1, len(codes))[:, None]
        found = [
            *bootstrap_means(values, codes, resamples=10, seed=0),
            bootstrap_median(codes + 1, codes, resamples=10, seed=0),
        ]
        for interval in found:
            assert interval.as_json() == {"not_defined": "one cluster: how clusters differ cannot be seen"}
            assert "NaN" not in json.dumps(interval.as_json())


def test_no_hit_at_all_is_an_upper_bound_and_never_certainty() -> None:
    codes = np.arange(100)
    none, every, tenth = bootstrap_means(np.array([[0.0, 1.0, 0.1]] * 100), codes, resamples=100, seed=0)
    share = bound_exception_share(100)
    assert share == pytest.approx(0.0362, abs=1e-4)  # Clopper and Pearson: 0 of 100
    assert [none.low, none.high] == pytest.approx([0.0, share])
    assert [every.low, every.high] == pytest.approx([1 - share, 1.0])
    assert [tenth.low, tenth.high] == pytest.approx([0.1 - 0.1 * share, 0.1 + 0.9 * share])


def test_equal_ranks_are_certain_only_where_half_of_the_clusters_cannot_differ() -> None:
    assert bootstrap_median(np.full(50, 3), np.arange(50), resamples=10, seed=0) == Interval(3.0, 3.0)
    assert "3 clusters" in bootstrap_median(np.full(3, 3), np.arange(3), resamples=10, seed=0).why


def test_clusters_are_numbered_without_gaps() -> None:
    assert encode_clusters(["b", "a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.slow
def test_100_000_queries_and_1000_resamples_of_all_measures_take_seconds() -> None:
    rng = np.random.default_rng(7)
    values, ranks = rng.random((100_000, 18)), rng.geometric(0.01, 100_000)
    started = time.process_time()
    bootstrap_means(values, np.arange(100_000), resamples=1000, seed=0)
    bootstrap_median(ranks, np.arange(100_000), resamples=1000, seed=0)
    # of one core's time, so that other work on the machine hardly counts: it takes four, and loops took minutes
    assert time.process_time() - started < 30
