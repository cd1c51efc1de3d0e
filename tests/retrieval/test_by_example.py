"""Category search as a task: its queries, its vectors, its numbers, on classes that are easy to tell apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from tests.tasks.small import COMPOSED, HUMAN, MACHINE
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, Params
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.core.vectors import Vectors
from twinlens.engines import LocalEngine
from twinlens.evaluation.evaluate import measure_all_runs
from twinlens.retrieval import by_example, dense, exemplar, spread
from twinlens.retrieval.base import Corpus, Dense, Retriever
from twinlens.retrieval.by_example import retrievers
from twinlens.retrieval.fitted import FittedRows
from twinlens.retrieval.rank import search, search_together
from twinlens.retrieval.registry import list_retrievers
from twinlens.tasks import category_search
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CLASSES, IMAGES, NEGATIVES, UNTRAINED
from twinlens.tasks.qrels import Groups

WHOLE = read_params()
PARAMS = WHOLE.category_search
CLASS_NAMES = ["cat", "dog", "fish"]
DIM, EACH = 12, 14
LEARNED = ["rocchio", "exemplar_ridge", "exemplar_lda", "exemplar_svm"]


APART = [f"n{n:02d}" for n in range(50)]


def made(noise: float = 0.35) -> dict[str, Vectors]:
    """Pictures around their class's axis, prompts near it, negatives anywhere."""
    rng = np.random.default_rng(0)
    names = [CLASS_NAMES[n % 3] for n in range(3 * EACH)]
    ids = [f"p{n:02d}" for n in range(3 * EACH)]
    axes = np.eye(DIM)[: len(CLASS_NAMES)]
    pictures = axes[[CLASS_NAMES.index(name) for name in names]] + noise * rng.standard_normal((len(ids), DIM))

    def vectors(of: list[str], rows: np.ndarray) -> Vectors:
        return Vectors(of, of, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))

    return {
        IMAGES: vectors(ids, pictures),
        CLASSES: vectors(CLASS_NAMES, axes + 0.2 * rng.standard_normal(axes.shape)),
        NEGATIVES: vectors(APART, rng.standard_normal((50, DIM))),
    }


def collection() -> Collection:
    """Pictures of three classes in the pool, and others outside that show nothing of them."""
    ids = [f"p{n:02d}" for n in range(3 * EACH)]
    groups = pl.DataFrame({"image_id": [*ids, *APART]}).with_columns(
        split=pl.Series(["test"] * len(ids) + ["train"] * 50),
        in_pool=pl.Series([True] * len(ids) + [False] * 50),
        object_set=pl.lit(None, dtype=pl.String),
        shard=pl.lit(0),
        row=pl.int_range(pl.len()),
        sha256=pl.col("image_id"),
    )
    labels = [[CLASS_NAMES[n % 3]] for n in range(3 * EACH)] + [["none"]] * 50
    images = pl.DataFrame({"image_id": groups["image_id"], "labels": labels})
    return Collection(groups, images, HUMAN[:0], MACHINE[:0], MACHINE[:0], COMPOSED)


def given(**card: object) -> Params:
    changes: dict[str, object] = {"negatives": 50, "standard": PARAMS.standard.model_copy(update=card)}
    return WHOLE.model_copy(update={"category_search": PARAMS.model_copy(update=changes)})


def tasks(**card: object) -> list[Task]:
    return category_search.build(collection(), given(**card))[0]


def found(task: Task, leave_out: tuple[str, ...] = (), **card: object) -> dict[str, Retriever]:
    """The retrievers of a task by name, without the vectors of some inputs."""
    vectors = {name: source for name, source in made().items() if name not in leave_out}
    return {one.name: one for one in retrievers(task, Corpus(vectors, {}, CLASSES in vectors), given(**card))}


def pair(retriever: Retriever) -> tuple[np.ndarray, np.ndarray]:
    searching = retriever.make()
    assert isinstance(searching, Dense)
    return np.asarray(searching.queries), np.asarray(searching.items)


def classes(task: Task) -> list[str]:
    """The class of every query."""
    assert isinstance(task.qrels, Groups) and task.group_names is not None
    return [task.group_names[code] for code in task.qrels.query_groups]


def test_a_query_is_a_class_with_exemplars_that_are_not_ranked() -> None:
    task = tasks(exemplars_per_query=2)[0]
    assert len(task.query_ids) == 3 * 5
    assert classes(task) == task.texts == [query.split("#")[0] for query in task.query_ids]
    assert task.query_images == [query.split("#")[1] for query in task.query_ids]
    assert task.shown == [query.split("#")[1:] for query in task.query_ids]
    drawn = {own for query in task.query_ids for own in query.split("#")[1:]}
    assert len(drawn) == 3 * 5 * 2
    assert not drawn & set(task.item_ids)
    assert task.qrels.counts().tolist() == [EACH - 10] * 15
    assert task.about.counts == {"classes": 3, "negatives": 50}


def test_a_task_that_was_read_is_searched_as_the_one_that_was_written(tmp_path: Path) -> None:
    for task in tasks(exemplars_per_query=2):
        task.write(tmp_path / task.name)
        again = found(Task.read(tmp_path / task.name), exemplars_per_query=2)
        whole = found(task, exemplars_per_query=2)
        assert list(again) == list(whole)
        for name in ("text", "exemplar"):
            for ours, theirs in zip(pair(again[name]), pair(whole[name]), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_retrievers_are_those_that_there_are_vectors_for() -> None:
    whole = ["text", "exemplar", "exemplar_and_text", *LEARNED, "exemplar_svm_and_text"]
    task = tasks()[0]
    assert list(found(task)) == whole
    assert list(found(task, (CLASSES,))) == ["exemplar", *LEARNED]
    assert list(found(task, (NEGATIVES,))) == ["text", "exemplar", "exemplar_and_text"]
    assert found(task, (IMAGES,)) == {}
    assert found(replace(task, shown=None)) == {}
    assert dense.retrievers(task, Corpus(made(), {}, joint=True), given()) == []  # which has other ways with it
    assert {(one.inputs, one.costs) for one in found(task).values()} == {((IMAGES,), ("embed_images",))}


def test_a_class_is_searched_for_by_the_model_before_training_by_name_and_by_exemplar() -> None:
    task, sources = tasks()[0], made()
    before = {f"{name}{UNTRAINED}": source for name, source in made(noise=2.0).items() if name != NEGATIVES}
    ways = {one.name: one for one in retrievers(task, Corpus(sources | before, {}, joint=True), given())}
    assert {name: one.untrained_of for name, one in ways.items() if one.untrained_of is not None} == {
        "text_untrained": "text",
        "exemplar_untrained": "exemplar",
    }
    alone = Corpus({name: before[f"{name}{UNTRAINED}"] for name in (IMAGES, CLASSES)}, {}, joint=True)
    for one in retrievers(task, alone, given()):
        if one.name in ("text", "exemplar"):
            for ours, wanted in zip(pair(ways[f"{one.name}_untrained"]), pair(one), strict=True):
                np.testing.assert_array_equal(ours, wanted)
    published = retrievers(tasks()[1], Corpus(sources | before, {}, joint=True), given())
    assert not any(one.untrained_of for one in published)


@pytest.mark.parametrize("fed", [IMAGES, CLASSES, NEGATIVES])
def test_vectors_ten_times_too_long_search_as_unit_ones_do(fed: str) -> None:
    sources = made()
    longer = {fed: Vectors(sources[fed].ids, sources[fed].image_ids, np.asarray(sources[fed].rows) * np.float32(10))}
    for task in tasks():
        found_as, wanted_as = (
            {one.name: one for one in retrievers(task, Corpus(all_of, {}, joint=True), given())}
            for all_of in (sources | longer, sources)
        )
        for name, one in found_as.items():
            for ours, wanted in zip(pair(one), pair(wanted_as[name]), strict=True):
                np.testing.assert_allclose(ours, wanted, atol=1e-4, err_msg=f"{task.name}, {name}")


def test_every_retriever_ranks_by_its_own_formula() -> None:
    task, sources = tasks()[0], made()
    ways = found(task)
    row_of = {image_id: row for row, image_id in enumerate(sources[IMAGES].ids)}
    own = sources[IMAGES].rows[[row_of[query.split("#")[1]] for query in task.query_ids]].astype(np.float64)
    words = sources[CLASSES].rows[[CLASS_NAMES.index(name) for name in classes(task)]].astype(np.float64)
    examples, apart = exemplar.Examples.of(list(own[:, None])), np.asarray(sources[NEGATIVES].rows, dtype=np.float64)
    card = PARAMS.standard
    svm = 1 / (2 * card.svm_c)
    expected = {
        "text": words,
        "exemplar": own,
        "exemplar_and_text": exemplar.combine_unit_vectors(own, words, card.image_weight),
        "rocchio": exemplar.rocchio(examples, apart, words, *card.rocchio),
        "exemplar_ridge": exemplar.ridge(examples, apart, svm, "regularised"),
        "exemplar_lda": exemplar.lda_whitened(examples, apart, card.shrinkage),
        "exemplar_svm": exemplar.fit_svms(examples, apart, lambda_w=svm, intercept="regularised").weights,
        "exemplar_svm_and_text": exemplar.fit_svms(
            examples, apart, lambda_w=card.lambda_w, intercept="free", texts=words, lambda_q=card.lambda_q
        ).weights,
    }
    for name, wanted in expected.items():
        queries, items = pair(ways[name])
        np.testing.assert_allclose(queries, exemplar.scale_to_unit(wanted), atol=1e-5, err_msg=name)
        assert items.shape == (len(task.item_ids), DIM)


def test_the_published_protocol_scales_columns_and_takes_its_negatives_from_what_it_ranks() -> None:
    task = tasks()[1]
    assert task.name == "category_search_as_published"
    assert task.about.published_of == "category_search"
    ways = found(task)
    assert list(ways) == ["text", "exemplar", "exemplar_svm", "exemplar_svm_and_text"]
    assert len(task.query_ids) == 3 * 11
    assert task.about.counts == {"classes": 3, "negatives": 9}  # 1,000 wanted, 9 are ranked
    sources = made()
    _, items = pair(ways["exemplar"])
    pictures = np.asarray(sources[IMAGES].rows)
    scaled = pictures / np.linalg.norm(pictures.astype(np.float64), axis=0)
    row_of = {image_id: row for row, image_id in enumerate(sources[IMAGES].ids)}
    ranked = scaled[[row_of[image_id] for image_id in task.item_ids]]
    np.testing.assert_allclose(items, ranked / np.linalg.norm(ranked, axis=1).max(), atol=1e-6)
    queries, _ = pair(ways["text"])
    np.testing.assert_allclose(queries[0], sources[CLASSES].rows[0], atol=1e-6)  # the text is not scaled


def test_a_dataset_without_classes_has_no_such_task() -> None:
    whole = collection()
    for labels in ([], ["cat"]):  # one class only: every ranking would be right
        bare = whole.images.with_columns(labels=pl.lit(labels, dtype=pl.List(pl.String)))
        assert category_search.build(replace(whole, images=bare), given()) == ([], [])


def test_negatives_that_are_ranked_stop_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, ranked = collection(), tasks()[0].item_ids[0]
    leaking = whole.groups.filter(pl.col("image_id").is_in([*APART[:-1], ranked]))
    monkeypatch.setattr(category_search, "draw_negatives", lambda *_: leaking)
    with pytest.raises(DataError, match="1 negatives are also ranked"):
        category_search.build(whole, given())


def test_workers_fit_rank_and_measure_spans_to_the_bytes_of_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(by_example, "BLOCK", 4)
    monkeypatch.setattr(spread, "FITTED_SPAN", 3)  # queries that are fitted together are of two spans
    monkeypatch.setattr(by_example, "TOLERANCE", 1e-30)
    params, (task, _) = given(queries_per_class=4), tasks(queries_per_class=4)
    corpus = Corpus(made(), {}, joint=True)
    names = ("text", "exemplar_ridge", "exemplar_svm", "exemplar_svm_and_text")
    chosen = [one for one in list_retrievers(task, corpus, params) if one.name in names]
    worker = spread.RankWorker(params, "some-data", "some-model", "cpu")
    vars(worker)["_opened"] = SimpleNamespace(tasks=[task], corpus=corpus)

    def search_all(folder: Path, lists: spread.SpreadLists | None) -> tuple[dict[str, bytes], list[str]]:
        caplog.clear()
        for one in chosen:
            search_together(task, [one], params.rank.depth, "cpu", folder, Gates(read_params().gates), lists)
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*.parquet"))}
        return {name: file.read_bytes() for name, file in files.items()}, caplog.messages[:]

    whole = search_all(tmp_path / "whole", None)
    assert {f"average_precision/{name}.parquet" for name in names} <= set(whole[0])
    assert [said.split(": ")[0] for said in whole[1]] == [f"category_search, {name}" for name in names[2:]]
    assert all(f"of {len(task.query_ids)} queries did not come within" in said for said in whole[1])
    compute = WHOLE.compute.model_copy(update={"device": "cpu", "decode_threads": 1})
    with Scratch("rank", "key") as scratch:
        lists = spread.SpreadLists(worker, scratch)
        lists.make([(task, [one]) for one in chosen], LocalEngine(compute, device="cpu"))
        monkeypatch.setattr(FittedRows, "read", None)  # the driver fits nothing
        assert search_all(tmp_path / "spread", lists) == whole


def test_what_is_to_be_told_of_fits_is_counted() -> None:
    assert by_example.list_troubles(np.zeros(3, dtype=np.uint8)) == []
    late, overruled = by_example.list_troubles(np.array([0, 1, 3, 2, 2], dtype=np.uint8))
    assert late.startswith("2 of 5 queries did not come within")
    assert overruled.startswith("the text overrules the exemplars of 3 queries")


def test_its_numbers_stand_with_the_others_and_are_scikit_learns(tmp_path: Path) -> None:
    built, gates = tasks(queries_per_class=4), Gates(read_params().gates)
    for task in built:
        task.write(tmp_path / "ranked" / task.name)
        for retriever in found(task, queries_per_class=4).values():
            search(task, retriever, 20, "cpu", tmp_path / "ranked" / task.name, gates)
    (tmp_path / "ranked/pool.json").write_text(json.dumps({"split": "test", "duplicates": 0}))
    params = EvaluateParams(ks=[1, 5], referee_queries=5, resamples=100, seed=0)
    results = measure_all_runs(tmp_path / "ranked", "some-data", params, gates, tmp_path / "values")
    assert list(results.retrieval) == ["category_search"]
    assert results.retrieval["category_search"]["pool"]["negatives"] == 50
    assert set(results.as_published["category_search"]) == {"pool", *found(built[1], queries_per_class=4)}
    for task, measured, key in (
        (built[0], results.retrieval["category_search"], "average_precision"),
        (built[1], results.as_published["category_search"], "map"),
    ):
        for name, retriever in found(task, queries_per_class=4).items():
            queries, items = pair(retriever)
            values = [
                average_precision_score(right, items.astype(np.float64) @ query.astype(np.float64))
                for query, right in zip(queries, task.qrels.relevant(0, len(queries)), strict=True)
            ]
            assert measured[name][key] == pytest.approx(np.mean(values), abs=1e-6)
    per_query = pl.read_parquet(tmp_path / "values/category_search/exemplar_svm.parquet")
    mean = results.retrieval["category_search"]["exemplar_svm"]["average_precision"]
    assert per_query["average_precision"].mean() == pytest.approx(mean, abs=1e-6)
