"""Search by words as retrievers: who gets which, that no caption finds itself, and how weights are chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, HybridParams, Params, RankParams
from twinlens.core import tables
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.evaluate import measure_run
from twinlens.evaluation.pool import Pool
from twinlens.report.exports import lower_ties, write_trec_run
from twinlens.retrieval.bm25 import Bm25
from twinlens.retrieval.checks import Gates
from twinlens.retrieval.dense import build
from twinlens.retrieval.lexical import Validation, extend, read_validation
from twinlens.retrieval.rank import search, write_pool
from twinlens.retrieval.runs import read_run
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, VALIDATION_CAPTIONS, VALIDATION_IMAGES, text_sources

RANK = RankParams(depth=10, image_weight=0.5, seed=0)
HYBRID = HybridParams(rrf_constant=60, rrf_depth=1000, image_weight=0.7, validation_pictures=9, seed=0)
EVALUATE = EvaluateParams(ks=[1, 3], referee_queries=4, resamples=100, seed=0)
IDS = ["i0", "i1", "i2", "i3"]
GROUPS = pl.DataFrame({"image_id": IDS, "in_pool": [True] * 4, "object_set": ["a", "a", "b", "b"]})
HUMAN = pl.DataFrame(
    {
        "caption_id": ["i0#0", "i0#1", "i1#0", "i1#1", "i2#0", "i2#1", "i3#0"],
        "image_id": ["i0", "i0", "i1", "i1", "i2", "i2", "i3"],
        "text": [
            "a red bus",
            "one red bus on the street",
            "two dogs",
            "dogs on a beach",
            "zebra",  # nothing else says so: without itself it finds nothing
            "a beach with sand",
            "the moon",
        ],
    }
)
MACHINE = pl.DataFrame({"image_id": IDS, "text": ["a bus", "a dog on a beach", "sand", "the moon"]})
TEXTS = text_sources(GROUPS, HUMAN, MACHINE)


def vectors(ids: list[str], image_ids: list[str], seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((len(ids), 6))
    return Vectors(ids, image_ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


SOURCES = {
    IMAGES: vectors(IDS, IDS, 1),
    CAPTIONS: vectors(TEXTS[CAPTIONS]["id"].to_list(), TEXTS[CAPTIONS]["image_id"].to_list(), 2),
    "captions_joined": vectors(IDS, IDS, 3),
    GENERATED: vectors(IDS, IDS, 4),
}


def tasks(
    *names: str, joint: bool = True, texts: dict[str, pl.DataFrame] = TEXTS, validation: Validation | None = None
) -> dict[str, Task]:
    built = build({name: SOURCES[name] for name in names}, GROUPS, RANK, joint)
    return {task.name: task for task in extend(built, texts, IDS, validation, HYBRID, Cost())}


def searched(task: Task, retriever: str, folder: Path, depth: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """The run of a retriever as rows and scores."""
    write_pool(task, folder / task.name)
    search(task, retriever, depth, "cpu", folder / task.name, Gates(read_params().gates))
    path = folder / task.name / "runs" / f"{retriever}.parquet"
    (block,) = read_run(path, task.query_ids, task.item_ids)
    return block[1], block[2]


def test_a_joint_model_gets_words_and_hybrids() -> None:
    found = tasks(IMAGES, CAPTIONS, "captions_joined", GENERATED)
    added = [name for name in found["caption_to_image"].retrievers if name not in found["image_to_caption"].retrievers]
    assert added == [
        "bm25_captions",
        "hybrid_captions_rrf",
        "hybrid_captions_weighted",
        "bm25_generated",
        "hybrid_generated_rrf",
        "hybrid_generated_weighted",
    ]
    assert {"bm25_captions", "bm25_generated"} <= set(found["object_sets"].retrievers)


@pytest.mark.parametrize("names", [(IMAGES,), (CAPTIONS, "captions_joined")])
def test_words_need_no_model_that_reads_them(names: tuple[str, ...]) -> None:
    found = tasks(*names, joint=False)
    assert list(found)[:2] == ["object_sets", "caption_to_image"]
    assert list(found["caption_to_image"].retrievers) == ["bm25_captions", "bm25_generated"]
    assert found["caption_to_image"].relevant_counts().tolist() == [1] * 7


def test_without_captions_or_a_captioner_there_is_nothing_to_add() -> None:
    assert list(tasks(IMAGES, joint=False, texts={})) == ["object_sets"]
    human = tasks(IMAGES, CAPTIONS, "captions_joined", texts=text_sources(GROUPS, HUMAN, MACHINE[:0]))
    assert not [name for name in human["caption_to_image"].retrievers if "generated" in name]


def test_other_captions_are_not_searched_where_no_picture_has_any() -> None:
    one_each = HUMAN.unique("image_id", maintain_order=True)
    found = tasks(IMAGES, joint=False, texts=text_sources(GROUPS, one_each, MACHINE))
    assert list(found["caption_to_image"].retrievers) == ["bm25_generated"]


def test_a_caption_finds_its_picture_by_the_others_and_never_by_itself(tmp_path: Path) -> None:
    task = tasks(IMAGES, joint=False)["caption_to_image"]
    rows, scores = searched(task, "bm25_captions", tmp_path)
    assert task.query_ids == HUMAN["caption_id"].to_list()
    assert [IDS[row] for row in rows[:4, 0]] == ["i0", "i0", "i1", "i1"]
    index = Bm25.of([tokenize(text) for text in TEXTS["captions_joined"]["text"]])
    itself = index.scores(index.queries([tokenize(text) for text in HUMAN["text"]]))
    own = scores[np.arange(7), [row.tolist().index(g) for row, g in zip(rows, task.query_groups, strict=True)]]
    assert (own < itself[np.arange(7), task.query_groups]).all()
    assert scores[4].tolist() == [0, 0, 0, 0]  # "zebra" is in its own caption alone
    assert rows[4].tolist() == [0, 1, 2, 3]


def test_what_shares_no_word_only_fills_the_list_and_is_no_hit(tmp_path: Path) -> None:
    task = tasks(IMAGES, joint=False)["caption_to_image"]
    rows, _ = searched(task, "bm25_captions", tmp_path)
    assert 2 in rows[4, :3]  # its picture stands there, but by no merit
    pool = Pool.read(tmp_path / task.name)
    measured = measure_run(pool, "bm25_captions", EVALUATE)
    assert measured.per_query["hit_at_3"].to_list()[4] == 0
    assert measured.per_query["first_hit"].to_list()[4] == len(IDS)  # as good as last
    lines = write_trec_run(pool, "bm25_captions", "t", tmp_path / "a.run").read_text().splitlines()
    assert not [line for line in lines if line.startswith("i2#0 ")]
    assert [line for line in lines if line.startswith("i0#0 ")]
    best = [float(line.split()[4]) for line in lines if line.startswith("i0#1 ")]
    assert len(set(best)) == len(best)


def test_large_scores_are_told_apart_in_trec_files() -> None:
    falling = lower_ties(np.full((1, 4), 21.3, np.float32))
    assert (np.diff(falling) < 0).all()


def test_generated_captions_are_searched_by_words(tmp_path: Path) -> None:
    rows, scores = searched(tasks(IMAGES, joint=False)["caption_to_image"], "bm25_generated", tmp_path)
    assert [IDS[row] for row in rows[[0, 2, 6], 0]] == ["i0", "i1", "i3"]
    assert scores[0, 0] > 0


def test_in_object_sets_a_picture_does_not_find_itself(tmp_path: Path) -> None:
    rows, scores = searched(tasks(IMAGES, joint=False)["object_sets"], "bm25_captions", tmp_path)
    assert rows.shape == (4, 3)
    assert not (rows == np.arange(4)[:, None]).any()
    assert np.isfinite(scores).all()
    assert rows[0, 0] in (1, 2)  # shares "a" and "on"


def test_blocks_of_queries_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (IMAGES, CAPTIONS, "captions_joined", GENERATED)
    for retriever in ("bm25_captions", "hybrid_captions_rrf", "hybrid_generated_weighted"):
        whole = searched(tasks(*names)["caption_to_image"], retriever, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr("twinlens.retrieval.hybrid.BLOCK_BYTES", 4 * 4 * 2)  # two queries
            task = tasks(*names)["caption_to_image"]
            folder = tmp_path / "blocks" / task.name
            write_pool(task, folder)
            search(task, retriever, 10, "cpu", folder, Gates(read_params().gates))
        parts = list(read_run(folder / "runs" / f"{retriever}.parquet", task.query_ids, task.item_ids))
        np.testing.assert_array_equal(whole[0], np.concatenate([rows for _, rows, _ in parts]))
        hits = [
            pl.read_parquet(tmp_path / way / task.name / "first_hits" / f"{retriever}.parquet")
            for way in ("whole", "blocks")
        ]
        assert hits[0].equals(hits[1])


def test_first_hits_and_those_among_judged_items_count_from_the_whole_order(tmp_path: Path) -> None:
    few = text_sources(GROUPS, HUMAN.filter(pl.col("image_id").is_in(["i0", "i1"])), MACHINE)
    task = tasks(IMAGES, joint=False, texts=few)["caption_to_image"]
    rows, _ = searched(task, "bm25_generated", tmp_path, depth=2)
    ranks = tables.read_table(tmp_path / task.name / "first_hits/bm25_generated.parquet", tables.FIRST_HITS)
    for found, group, rank, among in zip(
        rows, task.query_groups, ranks["rank"], ranks["rank_among_judged"], strict=True
    ):
        if group in found:
            assert rank == found.tolist().index(group) + 1
        assert among <= rank
        assert among <= 2  # i2 and i3 are distractors


# ------------------------------------------------------------------ weights


def validation() -> Validation:
    """Pictures whose words tell everything and whose pixels tell nothing."""
    ids = [f"v{n}" for n in range(6)]
    captions = pl.DataFrame(
        {
            "caption_id": [f"{i}#{n}" for i in ids for n in range(2)],
            "image_id": [i for i in ids for _ in range(2)],
            "text": [f"thing{i}" for i in ids for _ in range(2)],
        }
    )
    texts = text_sources(pl.DataFrame({"image_id": ids}), captions, MACHINE[:0])
    pair = vectors([*ids, *ids], [*ids, *ids], 7).rows, vectors(ids, ids, 8).rows
    return Validation(pair, texts, ids)


def test_the_weight_is_chosen_on_validation_and_told_with_the_results(tmp_path: Path) -> None:
    task = tasks(IMAGES, CAPTIONS, "captions_joined", validation=validation())["caption_to_image"]
    searched(task, "hybrid_captions_weighted", tmp_path)
    chosen = Pool.read(tmp_path / task.name).chosen("hybrid_captions_weighted")
    assert chosen["validation_queries"] == 12
    assert chosen["image_weight"] < 0.7  # words alone are always right there
    searched(task, "hybrid_generated_weighted", tmp_path)  # no generated captions of the validation pictures
    fixed = json.loads((tmp_path / task.name / tables.CHOSEN / "hybrid_generated_weighted.json").read_text())
    assert fixed == {"image_weight": 0.7, "validation_queries": 0}


def test_a_weight_that_is_not_chosen_is_the_parameter(tmp_path: Path) -> None:
    task = tasks(IMAGES, CAPTIONS, "captions_joined")["caption_to_image"]
    searched(task, "hybrid_captions_weighted", tmp_path)
    pool = Pool.read(tmp_path / task.name)
    assert pool.chosen("hybrid_captions_weighted") == {"image_weight": 0.7, "validation_queries": 0}
    assert pool.chosen("hybrid_captions_rrf") == {}


def given(**changes: object) -> Params:
    params = read_params()
    card = params.dataset_card.model_copy(update=changes)
    return params.model_copy(update={"datasets": {**params.datasets, params.dataset: card}})


def embedded(ids: list[str]) -> dict[str, Vectors]:
    captions = HUMAN.filter(pl.col("image_id").is_in(ids))
    return {
        VALIDATION_IMAGES: vectors(ids, ids, 1),
        VALIDATION_CAPTIONS: vectors(captions["caption_id"].to_list(), captions["image_id"].to_list(), 2),
    }


def test_validation_is_what_was_embedded_and_captioned() -> None:
    found = read_validation(given(), embedded(["i0", "i1"]), HUMAN, MACHINE[:2], pl.DataFrame({"image_id": ["i3"]}))
    assert found is not None
    assert found.image_ids == ["i0", "i1"]
    assert found.texts[CAPTIONS]["id"].to_list() == ["i0#0", "i0#1", "i1#0", "i1#1"]
    assert found.texts[GENERATED]["text"].to_list() == ["a bus", "a dog on a beach"]
    assert read_validation(given(), {}, HUMAN, MACHINE[:0], GROUPS) is None


def test_nothing_is_chosen_where_the_licence_forbids_it(caplog: pytest.LogCaptureFixture) -> None:
    pool = pl.DataFrame({"image_id": ["i3"]})
    assert read_validation(given(selection="never"), embedded(["i0"]), HUMAN, MACHINE[:1], pool) is None
    assert "selection: never" in caplog.text
    assert "hybrid.image_weight is used" in caplog.text


def test_pictures_of_the_pool_are_refused_as_validation() -> None:
    pool = pl.DataFrame({"image_id": ["i1"]})
    with pytest.raises(DataError, match=r"1 pictures .* are in the pool, the first is 'i1'"):
        read_validation(given(), embedded(["i0", "i1"]), HUMAN, MACHINE[:2], pool)


def test_captions_that_are_not_those_embedded_are_refused() -> None:
    sources = embedded(["i0"])
    sources[VALIDATION_CAPTIONS] = vectors(["x"], ["i0"], 1)
    with pytest.raises(DataError, match="not those that were embedded"):
        read_validation(given(), sources, HUMAN, MACHINE[:1], pl.DataFrame({"image_id": ["i3"]}))
