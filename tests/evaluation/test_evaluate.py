"""From runs to numbers: on a pool made by hand, and checked with trec_eval from the files alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytrec_eval

from tests.ranked import grouped, listed, write_pool, write_run
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.evaluate import compute_intervals, measure_all_runs, measure_run, tied_at
from twinlens.evaluation.measures import MEASURES, chance_hit_at
from twinlens.evaluation.pool import Pool
from twinlens.retrieval.base import Corpus, Dense, Retriever, Scorer
from twinlens.retrieval.dense import retrievers
from twinlens.retrieval.rank import restate_as_published, search
from twinlens.tasks import captions as of_texts
from twinlens.tasks import object_sets
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, JOINED
from twinlens.tasks.qrels import Pairs

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
            "split": ["test"] * COUNT,
            "in_pool": [True] * COUNT,
            "object_set": [("cat", "cat,dog", "car")[n % 3] for n in range(COUNT)],
            "shard": [0] * COUNT,
            "row": range(COUNT),
            "sha256": images,
        }
    )
    of_captions = [i for i in images for _ in range(5)]
    captions = [f"{i}#{n % 5}" for n, i in enumerate(of_captions)]
    sources = {
        IMAGES: vectors(images, images, 1),
        CAPTIONS: vectors(captions, of_captions, 2),
        JOINED: vectors(images, images, 3),
        GENERATED: vectors(images, images, 4),
    }
    table = pl.DataFrame({"caption_id": captions, "image_id": of_captions, "text": captions})
    none = pl.DataFrame(schema={"image_id": pl.String, "text": pl.String})
    collection = Collection(groups, pl.DataFrame(), table, none, none, pl.DataFrame())
    corpus, params = Corpus(sources, {}, joint=True), read_params()
    for task in (task for build in (object_sets.build, of_texts.build) for task in build(collection, params)[0]):
        task.write(folder / task.name)
        for retriever in retrievers(task, corpus, params):
            search(task, retriever, 20, "cpu", folder / task.name, Gates(params.gates))
    return write_pool(folder)


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


def test_first_hits_and_runs_of_other_queries_are_refused(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked / "object_sets", tmp_path / "object_sets")
    path = tmp_path / "object_sets/first_hits/image.parquet"
    hits = tables.read_table(path, tables.FIRST_HITS)
    tables.write_table(hits.reverse(), path, tables.FIRST_HITS)
    with pytest.raises(DataError, match="is not about the queries of its task"):
        measure_run(Pool.read(tmp_path / "object_sets"), "image", PARAMS)
    queries = tables.read_table(tmp_path / "object_sets/queries.parquet", tables.QUERIES)
    tables.write_table(queries.reverse(), tmp_path / "object_sets/queries.parquet", tables.QUERIES)
    with pytest.raises(DataError, match="not the one expected"):
        measure_run(Pool.read(tmp_path / "object_sets"), "image", PARAMS)


def test_a_run_without_what_is_told_of_it_is_refused(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked, tmp_path / "ranked")
    (tmp_path / "ranked/object_sets/runs/image.json").unlink()
    with pytest.raises(DataError, match=r"image\.json is not here, which says what the run means: `dvc repro -f rank`"):
        measure_all_runs(tmp_path / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path / "out")


def test_a_folder_without_what_is_told_of_the_task_is_refused(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked / "object_sets", tmp_path / "object_sets")
    (tmp_path / "object_sets/task.json").unlink()
    with pytest.raises(DataError, match=r"task\.json is not here: `dvc repro` makes it"):
        Pool.read(tmp_path / "object_sets")


def test_every_mean_has_intervals_around_it_of_both_questions(ranked: Path) -> None:
    for name in ("object_sets", "caption_to_image", "image_to_caption"):
        pool = Pool.read(ranked / name)
        measured = measure_run(pool, "image", PARAMS)
        found = compute_intervals(measured.per_query, measured.lists, pool.task, PARAMS)
        assert found.keys() == measured.means.keys()
        for key, intervals in found.items():
            assert (intervals.other_pool is None) == (key == "median_rank")
            if key.startswith("macro_"):  # over the three sets of this pool
                assert intervals.main.why.startswith("3 clusters, of 6 that are needed")
                continue
            for interval in (intervals.main, intervals.fixed_pool):
                assert interval.low is not None
                assert interval.high is not None
                assert interval.low <= measured.means[key] <= interval.high
        other, fixed = found["ndcg_at_10"].main, found["ndcg_at_10"].fixed_pool
        assert other != fixed


def test_intervals_of_lists_as_deep_as_the_last_cut_are_told_as_far_as_they_are_known(ranked: Path) -> None:
    pool = Pool.read(ranked / "object_sets")
    measured = measure_run(pool, "image", PARAMS.model_copy(update={"ks": [1, 5, 20]}))
    params = PARAMS.model_copy(update={"ks": [1, 5, 20]})
    found = compute_intervals(measured.per_query, measured.lists, pool.task, params)
    for key in ("hit_at_20", "macro_hit_at_20"):
        assert "needs 21: raise rank.depth" in found[key].main.why
        assert found[key].fixed_pool.low is not None
    assert found["hit_at_5"].main.low is not None


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
        "pictures": COUNT,
        "resamples": 200,
        "level": 0.95,
    }
    kept = results.intervals["object_sets"]["image"]
    assert set(kept["hit_at_1"]) == {"low", "high", "fixed_pool"}
    assert set(kept["hit_at_1"]["fixed_pool"]) == {"low", "high"}
    assert kept["median_rank"].keys() == {"low", "high", "pool"}
    pools = json.loads((tmp_path / "pools.json").read_text())
    assert pools["caption_to_image"]["retrievers"] == ["caption_generated", "image", "image_and_caption_generated"]
    strict = Gates(gates.params.model_copy(update={"chance_level": "error"}))
    with pytest.raises(DataError, match=r"object_sets, .*: hit_at_5 lies between .* a random ranking at"):
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
        name: np.asarray(vectors([f"{n}" for n in range(count)], [""] * count, seed).rows)
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
    copy = tmp_path / "ranked/caption_to_image_as_published"
    shutil.copytree(ranked / "caption_to_image", copy)
    again = restate_as_published(Task.read(ranked / "caption_to_image"))
    assert again.name == copy.name
    again.write(copy)
    for name in ("caption_generated", "image_and_caption_generated"):
        (copy / f"runs/{name}.parquet").unlink()
    shutil.copy(ranked / "caption_to_image/runs/caption_generated.parquet", copy / "runs/image.parquet")
    results = measure_all_runs(tmp_path / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path / "out")
    plain = measure_all_runs(ranked, "d", PARAMS, Gates(read_params().gates), tmp_path / "plain")
    for name in ("retrieval", "intervals", "curves", "costs"):
        assert getattr(results, name) == getattr(plain, name)
    theirs = plain.as_published["caption_to_image"]
    changed = theirs | {"image": theirs["caption_generated"]}
    assert theirs["image"] != theirs["caption_generated"]
    assert results.as_published == plain.as_published | {"caption_to_image": changed}
    assert "caption_to_image_as_published" not in json.loads((tmp_path / "out/pools.json").read_text())
    assert not (tmp_path / "out/caption_to_image_as_published").exists()


def test_a_model_as_it_was_before_its_training_may_be_at_chance(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked, tmp_path / "ranked")
    for path in (tmp_path / "ranked").glob("*/runs/*.json"):
        told = json.loads(path.read_text())
        assert told["before_training"] is False
        path.write_text(json.dumps(told | {"before_training": True}))
    gates = Gates(read_params().gates)
    results = measure_all_runs(tmp_path / "ranked", "d", PARAMS, gates, tmp_path / "out")
    assert gates.found == []
    assert "image" in results.retrieval["caption_to_image"]
    assert "image" in results.intervals["image_to_caption"]


def test_what_a_retriever_chose_stands_beside_its_measures_and_its_costs_are_kept(tmp_path: Path) -> None:
    task = grouped("caption_to_image", {"q": "a"}, {"a": "a", "b": "b"}, images=["a"])
    lists = np.array([[0, 1]]), np.array([[0.9, 0.1]], np.float32)
    told: dict[str, Any] = {"chosen": {"image_weight": 0.3}, "costs": ("embed_images", "rank_bm25_captions")}
    write_run(tmp_path / "ranked/caption_to_image", task, *lists, "hybrid", **told)
    params = PARAMS.model_copy(update={"ks": [1]})
    results = measure_all_runs(
        write_pool(tmp_path / "ranked"), "d", params, Gates(read_params().gates), tmp_path / "out"
    )
    assert results.retrieval["caption_to_image"]["hybrid"]["image_weight"] == 0.3
    assert "image_weight" not in results.intervals["caption_to_image"]["hybrid"]
    assert results.costs == {("caption_to_image", "hybrid"): ["embed_images", "rank_bm25_captions"]}


def test_an_item_that_only_fills_up_a_list_is_not_found(tmp_path: Path) -> None:
    task = grouped("caption_to_image", {"q": "b"}, {"a": "a", "b": "b"}, images=["b"])
    lists = np.array([[0, 1]]), np.array([[0.9, 0.0]], np.float32)
    params = PARAMS.model_copy(update={"ks": [2]})
    for zero_is_miss, hit in ((True, 0.0), (False, 1.0)):
        pool = write_run(tmp_path / f"{zero_is_miss}/t", task, *lists, "bm25", zero_is_miss=zero_is_miss)
        assert measure_run(pool, "bm25", params).means["hit_at_2"] == hit


@dataclass
class ByBlocks:
    """The same scores as of vectors, as a scorer that has none gives them."""

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self.rows[start:stop] @ self.rows.T)


# ------------------------------------------------------------- judgements that are listed


ITEMS = [f"item {n}" for n in range(30)]


def graded(name: str = "composed", place: int = 9, **about: Any) -> Task:
    """A task of pairs with gains from 0.25 to 4, of which a query has between one and twelve."""
    rng = np.random.default_rng(7)
    gains = {
        f"q{n:02d}": {ITEMS[row]: float(rng.choice([0.25, 1, 2, 4])) for row in rng.permutation(30)[: 1 + n % 12]}
        for n in range(40)
    }
    texts, shown = [f"change {n}" for n in range(40)], [ITEMS[n % 30] for n in range(40)]
    told = TaskMetadata("A picture, changed by a text", "it2i", place, **about)
    return listed(name, told, gains, ITEMS, query_images=shown, texts=texts)


def random_run(folder: Path, task: Task, retriever: str = "image") -> Pool:
    rng = np.random.default_rng(8)
    rows = np.array([rng.permutation(30)[:20] for _ in task.query_ids])
    return write_run(folder / task.name, task, rows, np.tile(np.linspace(1, 0, 20), (len(rows), 1)), retriever)


def test_gains_count_in_ndcg_and_any_gain_is_relevant_to_the_other_measures(tmp_path: Path) -> None:
    pool = random_run(tmp_path, graded())
    measured = measure_run(pool, "image", PARAMS.model_copy(update={"referee_queries": 40}))
    assert measured.compared == 40 * len(MEASURES) * 3
    table = tables.read_table(pool.folder / "qrels.parquet", tables.QRELS)
    qrels: dict[str, dict[str, int]] = {}
    for query, item, gain in table.iter_rows():
        qrels.setdefault(query, {})[item] = int(4 * gain)  # trec_eval takes whole gains; their scale does not matter
    run = pl.read_parquet(pool.folder / "runs/image.parquet").cast({"query_id": pl.String, "item_id": pl.String})
    lists: dict[str, dict[str, float]] = {}
    for query, item, rank in run.select("query_id", "item_id", "rank").iter_rows():
        lists.setdefault(query, {})[item] = -float(rank)
    asked = {"ndcg_cut.1,5,10", "map_cut.5,10", "P.5", "recall.10", "success.1,5"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(lists)
    for name, ours in {
        "ndcg_cut_1": "ndcg_at_1",
        "ndcg_cut_5": "ndcg_at_5",
        "ndcg_cut_10": "ndcg_at_10",
        "map_cut_5": "map_at_5",
        "map_cut_10": "map_at_10",
        "P_5": "precision_at_5",
        "recall_10": "recall_at_10",
        "success_1": "hit_at_1",
        "success_5": "hit_at_5",
    }.items():
        wanted = [theirs[query][name] for query in pool.task.query_ids]
        np.testing.assert_allclose(measured.per_query[ours], wanted, atol=1e-6, err_msg=ours)
    ones = {query: dict.fromkeys(own, 1) for query, own in qrels.items()}
    flat = pytrec_eval.RelevanceEvaluator(ones, {"ndcg_cut.10"}).evaluate(lists)
    assert np.mean([own["ndcg_cut_10"] for own in flat.values()]) != pytest.approx(measured.means["ndcg_at_10"])


def test_pools_whose_pairs_or_gains_differ_are_told_apart(tmp_path: Path) -> None:
    pool = random_run(tmp_path / "one", graded())
    same = random_run(tmp_path / "same", graded())
    assert pool.identity() == same.identity()
    qrels = graded().qrels
    assert isinstance(qrels, Pairs)
    weights = qrels.weights.copy()
    weights[0] += 1
    other = random_run(tmp_path / "other", replace(graded(), qrels=replace(qrels, weights=weights)))
    assert other.identity()["queries_digest"] == pool.identity()["queries_digest"]
    assert other.identity()["qrels_digest"] != pool.identity()["qrels_digest"]


def test_tasks_are_told_in_the_order_of_their_place_whatever_they_are_called(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked, tmp_path / "ranked")
    random_run(tmp_path / "ranked", graded("z_first", -1))
    random_run(tmp_path / "ranked", graded("b_second", 0))
    random_run(tmp_path / "ranked", graded("a_last", 9))
    order = ["z_first", "b_second", "object_sets", "caption_to_image", "image_to_caption", "a_last"]
    results = measure_all_runs(tmp_path / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path / "out")
    assert list(results.retrieval) == list(results.intervals) == order
    assert list(json.loads((tmp_path / "out/pools.json").read_text())) == order
    assert list(dict.fromkeys(row["task"] for row in results.curves)) == order
    assert list(dict.fromkeys(task for task, _ in results.costs)) == order


def test_an_item_that_a_query_must_not_find_is_reported_by_the_gate(tmp_path: Path) -> None:
    task = graded()
    exclude = np.full(40, -1)
    rows = np.array([np.roll(np.arange(30), -n)[:20] for n in range(40)])
    exclude[:3] = rows[:3, [0, 5, 19]].diagonal()  # is found by three queries
    exclude[3] = rows[0, 0]  # and not by the fourth, whose list begins further on
    assert exclude[3] not in rows[3]
    qrels = task.qrels
    kept = [(q, i, g) for q, i, g in qrels.pairs(0, 40).iter_rows() if exclude[q] != i]
    gains: dict[str, dict[str, float]] = {query: {ITEMS[29]: 1.0} for query in task.query_ids}
    for query, item, gain in kept:
        gains[task.query_ids[query]][ITEMS[item]] = gain
    task = listed("composed", task.about, gains, ITEMS, query_images=task.query_images, exclude=exclude)
    scores = np.tile(np.linspace(1, 0, 20), (40, 1))
    write_run(write_pool(tmp_path / "ranked") / "composed", task, rows, scores)
    gates = Gates(read_params().gates.model_copy(update={"own_pool": "warn"}))
    measure_all_runs(tmp_path / "ranked", "d", PARAMS, gates, tmp_path / "out")
    (found,) = (found["trouble"] for found in gates.found if found["gate"] == "own_pool")
    assert found.startswith("composed, image: 3 of 40 queries found themselves")


def test_where_that_gate_warns_the_other_queries_are_measured_all_the_same(tmp_path: Path) -> None:
    """Every query finds itself first: by the judgements of groups it is not right, to us and to the referee."""
    sets = {f"p{n:02d}": f"g{n // 4}" for n in range(40)}
    task = grouped("object_sets", sets, sets, themselves=True)
    rng = np.random.default_rng(0)
    rows = np.array([[n, *(other for other in rng.permutation(40) if other != n)][:20] for n in range(40)])
    write_run(write_pool(tmp_path / "ranked") / task.name, task, rows, np.tile(np.linspace(1, 0, 20), (40, 1)))
    gates = Gates(read_params().gates.model_copy(update={"own_pool": "warn"}))
    params = PARAMS.model_copy(update={"referee_queries": 40})
    results = measure_all_runs(tmp_path / "ranked", "d", params, gates, tmp_path / "out")
    assert results.retrieval[task.name]["image"]["hit_at_1"] == 0.0
    assert results.compared == 40 * len(MEASURES) * len(PARAMS.ks)
    found = [found["trouble"] for found in gates.found if found["gate"] == "own_pool"]
    assert len(found) == 1
    assert found[0].startswith("object_sets, image: 40 of 40 queries found themselves in the pool")
    with pytest.raises(DataError, match="40 of 40 queries found themselves"):
        measure_all_runs(tmp_path / "ranked", "d", params, Gates(read_params().gates), tmp_path / "again")


def test_where_only_some_queries_must_not_find_an_item_the_lists_end_before_it(tmp_path: Path) -> None:
    """A pool no larger than the lists are deep, of which half of the queries' own pictures are a part."""
    names = [f"p{n}" for n in range(8)]
    gains = {f"q{n}": {names[(n + 1) % 8]: 1.0, names[(n + 2) % 8]: 2.0} for n in range(8)}
    exclude = np.array([n if n % 2 else -1 for n in range(8)])
    about = TaskMetadata("A picture, changed by a text", "it2i", 9)
    task = listed("composed", about, gains, names, query_images=names, exclude=exclude)
    rows = np.asarray(vectors(names, names, 0).rows)
    gates, params = Gates(read_params().gates), PARAMS.model_copy(update={"ks": [1, 5]})
    scorers: dict[str, Scorer] = {"image": Dense(rows, rows), "words": ByBlocks(rows)}
    for name in scorers:
        task.write(tmp_path / "composed")
        retriever = Retriever(name, partial(scorers.__getitem__, name), (IMAGES,), ())
        search(task, retriever, 20, "cpu", tmp_path / "composed", gates)
        pool = Pool.read(tmp_path / "composed")
        measured = measure_run(pool, name, params)
        assert measured.own_found is None
        assert measured.per_query["first_hit"].to_numpy().max() <= 8
        assert [len(pool.retrievers), measured.curves["hit"][-1]] == [1 + (name == "words"), 1.0]
    one_fewer, whole = (chance_hit_at(items, np.array([2]), 5) for items in (7, 8))
    assert pool.chance(5) == pytest.approx((one_fewer + whole) / 2)
