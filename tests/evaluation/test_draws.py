"""What a retriever that draws at random is worth: the mean over its draws, and an interval that allows for the draw."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.ranked import grouped, write_pool
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams
from twinlens.evaluation.draws import combine_intervals, read_draws
from twinlens.evaluation.evaluate import measure_all_runs, measure_run
from twinlens.evaluation.intervals import Interval
from twinlens.evaluation.pool import DIGITS, Pool
from twinlens.report.exports import export
from twinlens.retrieval.base import Dense, Retriever
from twinlens.retrieval.rank import search

PARAMS = EvaluateParams(ks=[1, 5], referee_queries=3, resamples=200, seed=0)
IDS = [f"p{n:02d}" for n in range(40)]
SETS = {name: f"set {n % 5}" for n, name in enumerate(IDS)}
TASK = grouped("object_sets", SETS, SETS, themselves=True)


def scorer(seed: int) -> Dense:
    rows = np.random.default_rng(seed).standard_normal((len(IDS), 4)).astype(np.float32)
    return Dense(rows, rows)


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """A run of three draws, and the same retriever's first draw alone."""
    folder = write_pool(tmp_path / "ranked")
    TASK.write(folder / TASK.name)
    gates = Gates(read_params().gates)
    several = Retriever("random", partial(scorer, 0), (), (), draws=(partial(scorer, 1), partial(scorer, 2)))
    for one in (several, replace(several, name="first", draws=())):
        search(TASK, one, 20, "cpu", folder / TASK.name, gates)
    return folder


def test_every_draw_is_a_run_and_the_first_stands_where_runs_stand(ranked: Path) -> None:
    pool = Pool.read(ranked / TASK.name)
    assert pool.retrievers == ["first", "random"]
    draws = read_draws(pool, "random")
    assert [draw.folder.relative_to(pool.folder).as_posix() for draw in draws] == [".", "draws/1", "draws/2"]
    assert read_draws(pool, "first") == [pool]
    lists = [pl.read_parquet(draw.folder / "runs/random.parquet")["item_id"].to_list() for draw in draws]
    assert lists[0] == pl.read_parquet(pool.folder / "runs/first.parquet")["item_id"].to_list()
    assert lists[0] != lists[1] != lists[2]
    assert [found.name for found in Pool.read_all(ranked)] == [TASK.name]  # draws are no tasks


def test_values_are_means_over_draws_and_intervals_are_wider_by_the_draw(ranked: Path, tmp_path: Path) -> None:
    results = measure_all_runs(ranked, "d", PARAMS, Gates(read_params().gates), tmp_path / "out")
    draws = read_draws(Pool.read(ranked / TASK.name), "random")
    alone = [measure_run(draw, "random", PARAMS) for draw in draws]
    found = results.retrieval[TASK.name]["random"]
    for name in ("hit_at_1", "ndcg_at_5", "median_rank", "macro_ndcg_at_5"):
        assert found[name] == pytest.approx(np.mean([one.means[name] for one in alone]), abs=10**-DIGITS)
    table = pl.read_parquet(tmp_path / "out" / TASK.name / "random.parquet")
    assert table["ndcg_at_5"].mean() == pytest.approx(found["ndcg_at_5"], abs=1e-6)
    assert table["query_id"].to_list() == IDS
    mine = [row for row in results.curves if (row["retriever"], row["measure"]) == ("random", "ndcg")]
    curve = {row["k"]: row["value"] for row in mine}
    assert curve[5] == pytest.approx(found["ndcg_at_5"], abs=1e-5)
    interval = results.intervals[TASK.name]["random"]["ndcg_at_5"]
    assert interval["low"] < found["ndcg_at_5"] < interval["high"]
    assert results.retrieval[TASK.name]["first"]["ndcg_at_5"] == alone[0].means["ndcg_at_5"]
    published = results.as_published[TASK.name]["random"]
    assert published == pytest.approx({n: np.mean([one.as_published[n] for one in alone]) for n in published}, abs=1e-6)


def test_an_interval_of_draws_has_their_spread_in_it() -> None:
    same = Interval(0.4, 0.6)
    assert combine_intervals([same], [0.5]) == same
    assert combine_intervals([same, same, same], [0.5, 0.5, 0.5]) == same  # whatever is drawn
    means = [0.4, 0.5, 0.6]
    found = combine_intervals([Interval(mean - 0.1, mean + 0.1) for mean in means], means)
    half = np.sqrt(0.1**2 + stats.t.ppf(0.975, 2) ** 2 * 0.01 / 3)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    high = combine_intervals([Interval(0.9, 1.0), Interval(0.8, 1.0)], [0.98, 0.9])
    assert high.high == 1.0  # of a measure that cannot be more
    rank = combine_intervals([Interval(1, 1), Interval(1, 3)], [1.0, 2.0], (1.0, float("inf")))
    assert rank.low == 1.0  # nothing stands above the first place
    assert rank.high is not None and rank.high > 2.0
    assert combine_intervals([same, Interval(None, None, "one cluster")], [0.5, 0.5]).why == "one cluster"


def test_an_interval_of_draws_covers_the_mean_over_draws() -> None:
    """Pictures and draws both drawn anew; the value of a picture depends on both."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        pictures = rng.normal(0.5, 0.1, 100)
        values = pictures + rng.normal(0, 0.1, (5, 100)) + rng.normal(0, 0.02, (5, 1))  # a draw moves all of them too
        errors = values.std(axis=1, ddof=1) / 10
        means = values.mean(axis=1).tolist()
        bounds = [Interval(m - 1.984 * e, m + 1.984 * e) for m, e in zip(means, errors, strict=True)]
        found = combine_intervals(bounds, means)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.5 <= found.high
    assert 0.94 <= inside / 400 <= 1.0


def test_trec_files_have_a_run_a_draw(ranked: Path, tmp_path: Path) -> None:
    results = measure_all_runs(ranked, "d", PARAMS, Gates(read_params().gates), tmp_path / "out")
    files = export(ranked, results.retrieval, "m", 0.0, tmp_path / "exported")
    runs = {path.name for path in files if path.suffix == ".run"}
    names = ["first", "random", "random.draw-2", "random.draw-3"]
    assert runs == {f"{TASK.name}.{name}.run" for name in names}


def test_a_run_that_tells_nothing_of_draws_has_one(ranked: Path) -> None:
    path = ranked / TASK.name / "runs/first.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in told.items() if name != "draws"}))
    pool = Pool.read(ranked / TASK.name)
    assert read_draws(pool, "first") == [pool]
