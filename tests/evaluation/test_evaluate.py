"""From runs to numbers: on a pool made by hand, and checked with trec_eval from the files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import pytrec_eval

from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, RankParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.evaluate import compute_intervals, measure_all_runs, measure_run, tied_at
from twinlens.evaluation.pool import Pool
from twinlens.retrieval.checks import Gates
from twinlens.retrieval.dense import build
from twinlens.retrieval.rank import search, write_pool
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, JOINED

PARAMS = EvaluateParams(ks=[1, 5, 10], referee_queries=5, resamples=200, seed=0)
COUNT = 60


def vectors(ids: list[str], image_ids: list[str], seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((len(ids), 5))
    return Vectors(ids, image_ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the `rank` stage writes, for random vectors."""
    folder = tmp_path_factory.mktemp("ranked")
    images = [f"i{n:02d}" for n in range(COUNT)]
    groups = pl.DataFrame(
        {
            "image_id": images,
            "in_pool": [True] * COUNT,
            "object_set": [("cat", "cat,dog", "car")[n % 3] for n in range(COUNT)],
        }
    )
    of_captions = [i for i in images for _ in range(5)]
    sources = {
        IMAGES: vectors(images, images, 1),
        CAPTIONS: vectors([f"{i}#{n % 5}" for n, i in enumerate(of_captions)], of_captions, 2),
        JOINED: vectors(images, images, 3),
        GENERATED: vectors(images, images, 4),
    }
    for task in build(sources, groups, RankParams(depth=20, image_weight=0.5, seed=0), joint=True):
        write_pool(task, folder / task.name)
        for retriever in task.retrievers:
            search(task, retriever, 20, "cpu", folder / task.name, Gates(read_params().gates))
    (folder / "pool.json").write_text(json.dumps({"split": "test", "duplicates": 0}))
    return folder


@pytest.mark.parametrize("task", ["object_sets", "caption_to_image", "image_to_caption"])
def test_anyone_can_check_a_number_with_trec_eval_from_the_files_alone(ranked: Path, task: str) -> None:
    measured = measure_run(Pool.read(ranked / task), "image", PARAMS)
    queries = pl.read_parquet(ranked / task / "queries.parquet")
    items = pl.read_parquet(ranked / task / "items.parquet")
    run = pl.read_parquet(ranked / task / "runs/image.parquet").cast({"query_id": pl.String, "item_id": pl.String})
    relevant = queries.join(items, on="group")
    if task == "object_sets":
        relevant = relevant.filter(pl.col("query_id") != pl.col("item_id"))
    qrels: dict[str, dict[str, int]] = {}
    for query, item in relevant.select("query_id", "item_id").iter_rows():
        qrels.setdefault(query, {})[item] = 1
    lists: dict[str, dict[str, float]] = {}
    for query, item, rank in run.select("query_id", "item_id", "rank").iter_rows():
        lists.setdefault(query, {})[item] = -float(rank)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.5", "P.5", "recall.10", "success.1"})
    values = theirs.evaluate(lists)
    for ours, name in (
        ("ndcg_at_10", "ndcg_cut_10"),
        ("map_at_5", "map_cut_5"),
        ("precision_at_5", "P_5"),
        ("recall_at_10", "recall_10"),
        ("hit_at_1", "success_1"),
    ):
        assert measured.means[ours] == pytest.approx(np.mean([v[name] for v in values.values()]), abs=1e-6)


def test_per_query_values_average_to_the_means(ranked: Path) -> None:
    measured = measure_run(Pool.read(ranked / "object_sets"), "captions_joined", PARAMS)
    for name in ("mrr_at_10", "ndcg_at_5", "recall_at_1"):
        assert measured.per_query[name].mean() == pytest.approx(measured.means[name], abs=1e-6)
    assert measured.per_query["first_hit"].median() == measured.means["median_rank"]
    by_group = measured.per_query.group_by("group").agg(pl.col("hit_at_10").mean())
    assert by_group["hit_at_10"].mean() == pytest.approx(measured.means["macro_hit_at_10"], abs=1e-6)
    assert measured.compared > 0


def test_a_number_is_stored_with_its_pool_and_its_chance_level(ranked: Path) -> None:
    described = Pool.read(ranked / "caption_to_image").describe("some-data", "test", 10)
    assert described == {
        "dataset": "some-data",
        "split": "test",
        "queries": 300,
        "items": COUNT,
        "chance_hit_at_10": pytest.approx(10 / COUNT, abs=1e-6),
    }
    own_set = Pool.read(ranked / "object_sets").describe("some-data", "test", 10)
    misses = np.prod([(59 - 19 - i) / (59 - i) for i in range(10)])  # 19 others of 59 share the set
    assert own_set["chance_hit_at_10"] == pytest.approx(1 - misses, abs=1e-6)


def test_random_vectors_score_at_chance(ranked: Path) -> None:
    pool = Pool.read(ranked / "caption_to_image")
    chance = pool.describe("d", "test", 10)["chance_hit_at_10"]
    assert measure_run(pool, "image", PARAMS).means["hit_at_10"] == pytest.approx(chance, abs=0.08)


def test_the_curves_pass_through_the_measures(ranked: Path) -> None:
    measured = measure_run(Pool.read(ranked / "object_sets"), "image", PARAMS)
    assert len(measured.curves["hit"]) == 20
    assert measured.curves["hit"][9] == measured.means["hit_at_10"]
    assert measured.curves["ndcg"][4] == measured.means["ndcg_at_5"]


def test_a_tie_counts_where_it_crosses_the_cut() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1], [0.9, 0.9, 0.5, 0.1]], np.float32)
    assert tied_at(scores, 2).tolist() == [True, False]
    assert tied_at(scores, 1).tolist() == [False, True]
    assert tied_at(scores, 4).tolist() == [False, False]


def test_first_hits_of_other_queries_are_refused(ranked: Path, tmp_path: Path) -> None:
    pool = Pool.read(ranked / "object_sets")
    wrong = Pool.read(ranked / "object_sets")
    object.__setattr__(wrong, "queries", pool.queries.reverse())
    with pytest.raises(DataError, match="not the one expected"):
        measure_run(wrong, "image", PARAMS)


def test_every_mean_has_an_interval_around_it(ranked: Path) -> None:
    for task in ("object_sets", "caption_to_image"):
        measured = measure_run(Pool.read(ranked / task), "image", PARAMS)
        found = compute_intervals(measured.per_query, PARAMS, macro=task == "object_sets")
        assert found.keys() == measured.means.keys()
        for name, interval in found.items():
            assert interval.low is not None
            assert interval.high is not None
            assert interval.low <= measured.means[name] <= interval.high


def test_queries_cluster_by_the_picture_that_they_are_about(ranked: Path) -> None:
    captions = measure_run(Pool.read(ranked / "caption_to_image"), "image", PARAMS).per_query
    assert captions["cluster"].to_list() == captions["image_id"].to_list()
    assert captions["cluster"].n_unique() == COUNT
    sets = measure_run(Pool.read(ranked / "object_sets"), "image", PARAMS).per_query
    assert sets["cluster"].to_list() == sets["query_id"].to_list()


def test_random_vectors_trip_the_gate_of_chance_and_are_all_written(ranked: Path, tmp_path: Path) -> None:
    gates = Gates(read_params().gates)
    results = measure_all_runs(ranked, "d", PARAMS, gates, tmp_path)
    assert {found["gate"] for found in gates.found} == {"chance_level"}
    assert results.intervals["object_sets"]["pool"] == {
        "clustered_by": "image_id",
        "clusters": COUNT,
        "resamples": 200,
        "level": 0.95,
    }
    assert set(results.intervals["object_sets"]["image"]["hit_at_1"]) == {"low", "high"}
    pools = json.loads((tmp_path / "pools.json").read_text())
    assert pools["caption_to_image"]["retrievers"] == ["caption_generated", "image", "image_and_caption_generated"]
    strict = Gates(gates.params.model_copy(update={"chance_level": "error"}))
    with pytest.raises(DataError, match=r"hit_at_10 lies between .* a random ranking at"):
        measure_all_runs(ranked, "d", PARAMS, strict, tmp_path / "again")


def test_a_run_in_which_queries_find_themselves_is_stopped(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked, tmp_path / "ranked")
    path = tmp_path / "ranked/object_sets/runs/image.parquet"
    run = pl.read_parquet(path).cast({"query_id": pl.String, "item_id": pl.String})
    run = run.with_columns(item_id=pl.when(pl.col("rank") == 1).then("query_id").otherwise("item_id"))
    tables.write_table(run, path, tables.RUN)
    with pytest.raises(DataError, match="object_sets, image: 60 of 60 queries found themselves"):
        measure_all_runs(tmp_path / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path / "out")


def test_measures_of_the_sources_stand_beside_one_another_under_their_own_names(ranked: Path, tmp_path: Path) -> None:
    found = measure_all_runs(ranked, "d", PARAMS, Gates(read_params().gates), tmp_path).as_published
    cuts = [1, 3, 5, 10, 20]
    assert set(found["object_sets"]["image"]) == {"mrr", "ndcg", "map", "precision", "recall"}
    assert set(found["caption_to_image"]["image"]) == {"map_at_1", "map_at_5"}
    both = {f"{pool}_mrr_at_{k}" for pool in ("in_batch", "corpus") for k in cuts}
    for retriever in ("image", "caption_generated", "image_and_caption_generated"):
        assert set(found["image_to_caption"][retriever]) == {"map_at_1", "map_at_5"} | both
    ours = found["image_to_caption"]["image"]
    measured = measure_run(Pool.read(ranked / "image_to_caption"), "image", PARAMS).means
    for k in (1, 5, 10):
        assert ours[f"corpus_mrr_at_{k}"] == measured[f"mrr_at_{k}"]
    assert ours["map_at_5"] == measured["mrr_at_5"]
    ranks = tables.read_table(ranked / "image_to_caption/in_batches/image.parquet", tables.BATCH_RANKS)
    assert ranks["query_id"].to_list() == [f"i{n:02d}" for n in range(COUNT)]
    by_hand = [1 / rank if rank <= 20 else 0 for rank in ranks["rank"]]
    assert ours["in_batch_mrr_at_20"] == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_ranks_within_a_batch_are_of_the_first_caption_among_first_captions(ranked: Path) -> None:
    of = {
        name: vectors([f"{n}" for n in range(count)], [""] * count, seed).rows
        for name, count, seed in (("p", COUNT, 1), ("c", 5 * COUNT, 2))
    }
    scores = of["p"].astype(float) @ of["c"][::5].astype(float).T
    wanted = [1 + int((row > row[n]).sum()) for n, row in enumerate(scores)]
    ranks = tables.read_table(ranked / "image_to_caption/in_batches/image.parquet", tables.BATCH_RANKS)
    assert ranks["rank"].to_list() == wanted


def test_a_protocol_of_a_source_goes_beside_its_published_figures_and_nowhere_else(
    ranked: Path, tmp_path: Path
) -> None:
    shutil.copytree(ranked, tmp_path / "ranked")
    shutil.copytree(ranked / "caption_to_image", tmp_path / "ranked/caption_to_image_as_published")
    for name in ("caption_generated", "image_and_caption_generated"):
        (tmp_path / f"ranked/caption_to_image_as_published/runs/{name}.parquet").unlink()
    results = measure_all_runs(tmp_path / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path / "out")
    plain = measure_all_runs(ranked, "d", PARAMS, Gates(read_params().gates), tmp_path / "plain")
    assert results.retrieval == plain.retrieval
    assert results.intervals == plain.intervals
    assert results.as_published == plain.as_published
    assert "caption_to_image_as_published" not in json.loads((tmp_path / "out/pools.json").read_text())


def test_a_model_as_it_was_before_its_training_may_be_at_chance(ranked: Path, tmp_path: Path) -> None:
    for folder in ("caption_to_image", "image_to_caption", "object_sets"):
        shutil.copytree(ranked / folder, tmp_path / "ranked" / folder)
    shutil.copy(ranked / "pool.json", tmp_path / "ranked")
    for path in (tmp_path / "ranked").glob("*/*/*.parquet"):
        path.rename(path.with_stem(f"{path.stem}_untrained"))
    gates = Gates(read_params().gates)
    results = measure_all_runs(tmp_path / "ranked", "d", PARAMS, gates, tmp_path / "out")
    assert gates.found == []
    assert "image_untrained" in results.retrieval["caption_to_image"]
    assert "image_untrained" in results.intervals["image_to_caption"]
