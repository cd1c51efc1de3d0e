"""Category search as a task: its queries, its vectors, its numbers, on classes that are easy to tell apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.evaluate import measure_all_runs
from twinlens.retrieval import exemplar
from twinlens.retrieval.by_example import build
from twinlens.retrieval.checks import Gates
from twinlens.retrieval.rank import search, write_pool
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CLASSES, IMAGES, NEGATIVES

PARAMS = read_params().category_search
CLASS_NAMES = ["cat", "dog", "fish"]
DIM, EACH = 12, 14
LEARNED = ["rocchio", "exemplar_ridge", "exemplar_lda", "exemplar_svm"]


def made(noise: float = 0.35) -> tuple[dict[str, Vectors], pl.DataFrame, pl.DataFrame]:
    """Pictures around their class's axis, prompts near it, negatives anywhere."""
    rng = np.random.default_rng(0)
    names = [CLASS_NAMES[n % 3] for n in range(3 * EACH)]
    ids = [f"p{n:02d}" for n in range(3 * EACH)]
    axes = np.eye(DIM)[: len(CLASS_NAMES)]
    pictures = axes[[CLASS_NAMES.index(name) for name in names]] + noise * rng.standard_normal((len(ids), DIM))

    def vectors(of: list[str], rows: np.ndarray) -> Vectors:
        return Vectors(of, of, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))

    sources = {
        IMAGES: vectors(ids, pictures),
        CLASSES: vectors(CLASS_NAMES, axes + 0.2 * rng.standard_normal(axes.shape)),
        NEGATIVES: vectors([f"n{n}" for n in range(50)], rng.standard_normal((50, DIM))),
    }
    return (
        sources,
        pl.DataFrame({"image_id": ids, "sha256": ids}),
        pl.DataFrame({"image_id": ids, "labels": [[n] for n in names]}),
    )


def tasks(leave_out: tuple[str, ...] = (), **card: object) -> list[Task]:
    sources, pool, images = made()
    kept = {name: source for name, source in sources.items() if name not in leave_out}
    params = PARAMS.model_copy(update={"standard": PARAMS.standard.model_copy(update=card)})
    return build(kept, pool, images, params)


def test_a_query_is_a_class_with_exemplars_that_are_not_ranked() -> None:
    task = tasks(exemplars_per_query=2)[0]
    assert len(task.query_ids) == 3 * 5
    assert [task.group_names[code] for code in task.query_groups] == [query.split("#")[0] for query in task.query_ids]
    assert task.query_images == [query.split("#")[1] for query in task.query_ids]
    drawn = {own for query in task.query_ids for own in query.split("#")[1:]}
    assert len(drawn) == 3 * 5 * 2
    assert not drawn & set(task.item_ids)
    assert task.relevant_counts().tolist() == [EACH - 10] * 15
    assert task.about == {"classes": 3, "negatives": 50}


def test_retrievers_are_those_that_there_are_vectors_for() -> None:
    whole = ["text", "exemplar", "exemplar_and_text", *LEARNED, "exemplar_svm_and_text"]
    assert list(tasks()[0].retrievers) == whole
    assert list(tasks((CLASSES,))[0].retrievers) == ["exemplar", *LEARNED]
    assert list(tasks((NEGATIVES,))[0].retrievers) == ["text", "exemplar", "exemplar_and_text"]
    assert tasks((IMAGES,)) == []


def test_every_retriever_ranks_by_its_own_formula() -> None:
    task, (sources, _, _) = tasks()[0], made()
    row_of = {image_id: row for row, image_id in enumerate(sources[IMAGES].ids)}
    classes = [task.group_names[code] for code in task.query_groups]
    own = sources[IMAGES].rows[[row_of[query.split("#")[1]] for query in task.query_ids]].astype(np.float64)
    words = sources[CLASSES].rows[[CLASS_NAMES.index(name) for name in classes]].astype(np.float64)
    examples, apart = exemplar.Examples.of(list(own[:, None])), sources[NEGATIVES].rows.astype(np.float64)
    card = PARAMS.standard
    svm = 1 / (2 * card.svm_c)
    expected = {
        "text": words,
        "exemplar": own,
        "exemplar_and_text": exemplar.combine_unit_vectors(own, words, card.image_weight),
        "rocchio": exemplar.rocchio(examples, apart, words, *card.rocchio),
        "exemplar_ridge": exemplar.ridge(examples, apart, svm),
        "exemplar_lda": exemplar.lda_whitened(examples, apart, card.shrinkage),
        "exemplar_svm": exemplar.fit_svms(examples, apart, lambda_w=svm).weights,
        "exemplar_svm_and_text": exemplar.fit_svms(
            examples, apart, lambda_w=card.lambda_w, texts=words, lambda_q=card.lambda_q
        ).weights,
    }
    for name, wanted in expected.items():
        queries, items = task.pair(name)
        np.testing.assert_allclose(queries, exemplar.scale_to_unit(wanted), atol=1e-5, err_msg=name)
        assert items.shape == (len(task.item_ids), DIM)


def test_the_published_protocol_scales_columns_and_takes_its_negatives_from_what_it_ranks() -> None:
    task = tasks()[1]
    assert task.name == "category_search_as_published"
    assert list(task.retrievers) == ["text", "exemplar", "exemplar_svm", "exemplar_svm_and_text"]
    assert len(task.query_ids) == 3 * 11
    assert task.about == {"classes": 3, "negatives": 9}  # 1,000 wanted, 9 are ranked
    sources, _, _ = made()
    _, items = task.pair("exemplar")
    scaled = sources[IMAGES].rows / np.linalg.norm(sources[IMAGES].rows.astype(np.float64), axis=0)
    row_of = {image_id: row for row, image_id in enumerate(sources[IMAGES].ids)}
    ranked = scaled[[row_of[image_id] for image_id in task.item_ids]]
    np.testing.assert_allclose(items, ranked / np.linalg.norm(ranked, axis=1).max(), atol=1e-6)
    queries, _ = task.pair("text")
    np.testing.assert_allclose(queries[0], sources[CLASSES].rows[0], atol=1e-6)  # the text is not scaled


def test_a_dataset_without_classes_has_no_such_task() -> None:
    sources, pool, images = made()
    bare = images.with_columns(labels=pl.lit([], dtype=pl.List(pl.String)))
    assert build(sources, pool, bare, PARAMS) == []
    alike = images.with_columns(labels=pl.lit(["cat"], dtype=pl.List(pl.String)))
    assert build(sources, pool, alike, PARAMS) == []  # one class only: every ranking would be right


def test_negatives_that_are_ranked_stop_the_stage() -> None:
    sources, pool, images = made()
    leaking = [*sources[NEGATIVES].ids[:-1], tasks()[0].item_ids[0]]
    sources[NEGATIVES] = Vectors(leaking, leaking, sources[NEGATIVES].rows)
    with pytest.raises(DataError, match="1 negatives are also ranked"):
        build(sources, pool, images, PARAMS)


def test_its_numbers_stand_with_the_others_and_are_scikit_learns(tmp_path: Path) -> None:
    built, gates = tasks(queries_per_class=4), Gates(read_params().gates)
    for task in built:
        write_pool(task, tmp_path / "ranked" / task.name)
        for retriever in task.retrievers:
            search(task, retriever, 20, "cpu", tmp_path / "ranked" / task.name, gates)
    (tmp_path / "ranked/pool.json").write_text(json.dumps({"split": "test", "duplicates": 0}))
    params = EvaluateParams(ks=[1, 5], referee_queries=5, resamples=100, seed=0)
    results = measure_all_runs(tmp_path / "ranked", "some-data", params, gates, tmp_path / "values")
    assert list(results.retrieval) == ["category_search"]
    assert results.retrieval["category_search"]["pool"]["negatives"] == 50
    assert set(results.as_published["category_search"]) == {"pool", *built[1].retrievers}
    for task, found, key in (
        (built[0], results.retrieval["category_search"], "average_precision"),
        (built[1], results.as_published["category_search"], "map"),
    ):
        for retriever in task.retrievers:
            queries, items = task.pair(retriever)
            values = [
                average_precision_score(task.item_groups == group, items.astype(np.float64) @ query.astype(np.float64))
                for query, group in zip(queries, task.query_groups, strict=True)
            ]
            assert found[retriever][key] == pytest.approx(np.mean(values), abs=1e-6)
    per_query = pl.read_parquet(tmp_path / "values/category_search/exemplar_svm.parquet")
    mean = results.retrieval["category_search"]["exemplar_svm"]["average_precision"]
    assert per_query["average_precision"].mean() == pytest.approx(mean, abs=1e-6)
