"""Search by words as retrievers: who gets which, that no caption finds itself, and how weights are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from tests.tasks.small import COMPOSED, params, vectors
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, HybridParams, Params
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.evaluate import measure_run
from twinlens.evaluation.pool import Pool
from twinlens.report.exports import lower_ties, write_trec_run
from twinlens.retrieval.base import Corpus, Dense, Retriever, Validation
from twinlens.retrieval.bm25 import Bm25
from twinlens.retrieval.lexical import read_validation
from twinlens.retrieval.rank import group_retrievers, search, search_together
from twinlens.retrieval.registry import list_retrievers
from twinlens.retrieval.runs import read_run
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection, build_text_inputs
from twinlens.tasks.inputs import (
    CAPTIONS,
    GENERATED,
    IMAGES,
    VALIDATION_CAPTIONS,
    VALIDATION_GENERATED,
    VALIDATION_IMAGES,
    Input,
)
from twinlens.tasks.qrels import Groups
from twinlens.tasks.registry import build_tasks

HYBRID = HybridParams(rrf_constant=60, rrf_depth=1000, image_weight=0.7, validation_pictures=9, seed=0)
EVALUATE = EvaluateParams(ks=[1, 3], referee_queries=4, resamples=100, seed=0)
IDS = ["i0", "i1", "i2", "i3"]
GROUPS = pl.DataFrame(
    {
        "image_id": IDS,
        "split": ["test"] * 4,
        "in_pool": [True] * 4,
        "object_set": ["a", "a", "b", "b"],
        "shard": [0] * 4,
        "row": range(4),
        "sha256": IDS,
    }
)
LABELS = pl.DataFrame({"image_id": IDS, "labels": [["a", "c"], ["a", "c"], ["b", "c"], ["b", "c"]]})
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
TEXTS = build_text_inputs(GROUPS, HUMAN, MACHINE)


SOURCES = {
    IMAGES: vectors(IDS, IDS, 1),
    CAPTIONS: vectors(TEXTS[CAPTIONS]["id"].to_list(), TEXTS[CAPTIONS]["image_id"].to_list(), 2),
    "captions_joined": vectors(IDS, IDS, 3),
    GENERATED: vectors(IDS, IDS, 4),
}


def given_by(human: pl.DataFrame = HUMAN, machine: pl.DataFrame = MACHINE) -> dict[str, Task]:
    """The tasks of human and generated captions."""
    made, _ = build_tasks(Collection(GROUPS, LABELS, human, machine, machine[:0], COMPOSED), PARAMS)
    return {task.name: task for task in made}


PARAMS = params().model_copy(update={"hybrid": HYBRID})
TASKS = given_by()


def found(
    task: Task,
    *names: str,
    joint: bool = True,
    texts: Mapping[str, pl.DataFrame] = TEXTS,
    validation: Validation | None = None,
) -> dict[str, Retriever]:
    """The retrievers of a task by name, with the vectors of some inputs."""
    corpus = Corpus({name: SOURCES[name] for name in names}, texts, joint, validation)
    return {one.name: one for one in list_retrievers(task, corpus, PARAMS)}


EVERY = (IMAGES, CAPTIONS, "captions_joined", GENERATED)
THERE = TASKS["caption_to_image"]


def searched(task: Task, retriever: Retriever, folder: Path, depth: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """The run of a retriever as rows and scores."""
    task.write(folder / task.name)
    search(task, retriever, depth, "cpu", folder / task.name, Gates(read_params().gates))
    path = folder / task.name / "runs" / f"{retriever.name}.parquet"
    blocks = list(read_run(path, task.query_ids, task.item_ids))
    return np.concatenate([rows for _, rows, _ in blocks]), np.concatenate([scores for _, _, scores in blocks])


def described(task: Task) -> list[int]:
    """The row of the picture that each caption should find."""
    return [int(task.qrels.relevant_rows(query)[0]) for query in range(len(task.query_ids))]


def test_a_joint_model_gets_words_and_hybrids() -> None:
    there, back = found(THERE, *EVERY), found(TASKS["image_to_caption"], *EVERY)
    assert [name for name in there if name not in back] == [
        "bm25_captions",
        "hybrid_captions_rrf",
        "hybrid_captions_weighted",
        "bm25_generated",
        "hybrid_generated_rrf",
        "hybrid_generated_weighted",
        "bm25_captions_and_generated",
        "hybrid_captions_and_generated_rrf",
        "hybrid_captions_and_generated_weighted",
    ]
    assert {"bm25_captions", "bm25_generated"} <= set(found(TASKS["object_sets"], *EVERY))


def test_only_words_alone_tell_what_they_did_not_find() -> None:
    for task in TASKS.values():
        for name, one in found(task, *EVERY).items():
            assert one.zero_is_miss == name.startswith("bm25_")


def test_words_and_hybrids_say_what_they_read_and_what_that_costs() -> None:
    there = found(THERE, *EVERY)
    for kind, inputs, made in (
        ("captions", (CAPTIONS,), ()),
        ("generated", (GENERATED,), ("caption_caption",)),
        ("captions_and_generated", (CAPTIONS, GENERATED), ("caption_caption",)),
    ):
        costs = (*made, f"rank_bm25_{kind}")
        assert (there[f"bm25_{kind}"].inputs, there[f"bm25_{kind}"].costs) == (inputs, costs)
        for way in ("rrf", "weighted"):
            one = there[f"hybrid_{kind}_{way}"]
            assert (one.inputs, one.costs) == ((IMAGES, *inputs), ("embed_images", *costs))


@pytest.mark.parametrize("names", [(), (IMAGES,), (CAPTIONS, "captions_joined")])
def test_words_need_no_model_that_reads_them(names: tuple[str, ...]) -> None:
    tokenize = ["bm25_captions", "bm25_generated", "bm25_captions_and_generated"]
    assert list(found(THERE, *names, joint=False)) == tokenize
    assert {"bm25_captions", "bm25_generated"} <= set(found(TASKS["object_sets"], *names, joint=False))
    assert THERE.qrels.counts().tolist() == [1] * 7


def test_hybrids_need_pixels_and_words_of_one_space() -> None:
    for names, joint in (((IMAGES, CAPTIONS), False), ((IMAGES,), True), ((CAPTIONS,), True)):
        assert not [name for name in found(THERE, *names, joint=joint) if "hybrid" in name]


def test_without_captions_or_a_captioner_there_is_nothing_to_add() -> None:
    assert list(given_by(HUMAN[:0], MACHINE[:0])) == ["object_sets"]
    assert list(found(TASKS["object_sets"], IMAGES, joint=False, texts={})) == ["image"]
    human = build_text_inputs(GROUPS, HUMAN, MACHINE[:0])
    assert not [name for name in found(THERE, IMAGES, CAPTIONS, texts=human) if "generated" in name]


def test_other_captions_are_not_searched_where_no_picture_has_any() -> None:
    one_each = HUMAN.unique("image_id", maintain_order=True)
    task, texts = given_by(one_each)["caption_to_image"], build_text_inputs(GROUPS, one_each, MACHINE)
    assert list(found(task, IMAGES, joint=False, texts=texts)) == ["bm25_generated", "bm25_captions_and_generated"]


def test_a_caption_finds_its_picture_by_the_others_and_never_by_itself(tmp_path: Path) -> None:
    rows, scores = searched(THERE, found(THERE)["bm25_captions"], tmp_path)
    assert THERE.query_ids == HUMAN["caption_id"].to_list()
    assert [IDS[row] for row in rows[:4, 0]] == ["i0", "i0", "i1", "i1"]
    index = Bm25.of([tokenize(text) for text in TEXTS["captions_joined"]["text"]])
    itself = index.scores(index.queries([tokenize(text) for text in HUMAN["text"]]))
    mine = described(THERE)
    own = scores[np.arange(7), [row.tolist().index(g) for row, g in zip(rows, mine, strict=True)]]
    assert (own < itself[np.arange(7), mine]).all()
    assert scores[4].tolist() == [0, 0, 0, 0]  # "zebra" is in its own caption alone
    assert rows[4].tolist() == [0, 1, 2, 3]


def test_a_task_of_some_of_the_captions_gets_their_scores_and_one_of_some_pictures_those_of_its_items() -> None:
    rows = np.array([4, 0, 2])
    some = replace(
        THERE,
        query_ids=[THERE.query_ids[row] for row in rows],
        query_images=[THERE.query_images[row] for row in rows],
        qrels=Groups(np.array([2, 0, 1]), np.arange(4)),
    )
    whole = found(THERE, *EVERY)
    for name, one in found(some, *EVERY).items():
        np.testing.assert_array_equal(one.make().block(0, 3), whole[name].make().block(0, 7)[rows], err_msg=name)
    fewer = replace(some, item_ids=IDS[:3], qrels=Groups(np.array([2, 0, 1]), np.arange(3)))
    assert {one.make().block(0, 3).shape for one in found(fewer, *EVERY).values()} == {(3, 3)}


def test_where_all_words_are_searched_a_caption_does_not_find_its_picture_by_itself_either(tmp_path: Path) -> None:
    rows, scores = searched(THERE, found(THERE)["bm25_captions_and_generated"], tmp_path)
    assert not scores[4].any()  # "zebra" is in its own caption alone
    assert rows[6, 0] == 3  # "the moon" is what the captioner says too
    alone = build_text_inputs(GROUPS, HUMAN, MACHINE.with_columns(text=pl.lit("nothing of it")))
    rows, scores = searched(THERE, found(THERE, texts=alone)["bm25_captions_and_generated"], tmp_path)
    assert scores[6, rows[6].tolist().index(3)] == 0


def test_what_shares_no_word_only_fills_the_list_and_is_no_hit(tmp_path: Path) -> None:
    rows, _ = searched(THERE, found(THERE)["bm25_captions"], tmp_path)
    assert 2 in rows[4, :3]  # its picture stands there, but by no merit
    pool = Pool.read(tmp_path / THERE.name)
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
    rows, scores = searched(THERE, found(THERE)["bm25_generated"], tmp_path)
    assert [IDS[row] for row in rows[[0, 2, 6], 0]] == ["i0", "i1", "i3"]
    assert scores[0, 0] > 0


def test_in_object_sets_a_picture_does_not_find_itself(tmp_path: Path) -> None:
    sets = TASKS["object_sets"]
    rows, scores = searched(sets, found(sets)["bm25_captions"], tmp_path)
    assert rows.shape == (4, 3)
    assert not (rows == np.arange(4)[:, None]).any()
    assert np.isfinite(scores).all()
    assert rows[0, 0] in (1, 2)  # shares "a" and "on"


@pytest.mark.parametrize("retriever", ["bm25_captions", "hybrid_captions_rrf", "hybrid_generated_weighted"])
def test_blocks_of_queries_make_no_difference(retriever: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = searched(THERE, found(THERE, *EVERY)[retriever], tmp_path / "whole")
    monkeypatch.setattr("twinlens.retrieval.hybrid.BLOCK_BYTES", 4 * 4 * 2)  # two queries
    parts = searched(THERE, found(THERE, *EVERY)[retriever], tmp_path / "blocks")
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    hits = [
        pl.read_parquet(tmp_path / way / THERE.name / "first_hits" / f"{retriever}.parquet")
        for way in ("whole", "blocks")
    ]
    assert hits[0].equals(hits[1])


def test_hybrids_count_the_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = found(THERE, *EVERY)
    counted: list[int] = []
    whole = Bm25.of

    def counting(documents: Sequence[Sequence[str]]) -> Bm25:
        counted.append(len(documents))
        return whole(documents)

    monkeypatch.setattr(Bm25, "of", counting)
    for name in ("bm25_captions", "hybrid_captions_rrf", "hybrid_captions_weighted"):
        made[name].make()
    assert counted == [4]


def test_side_by_side_words_and_hybrids_write_the_files_that_each_writes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = HUMAN.filter(pl.col("image_id").is_in(["i0", "i1"]))  # i2 and i3 are distractors
    task, texts = given_by(few)["caption_to_image"], build_text_inputs(GROUPS, few, MACHINE)
    monkeypatch.setattr("twinlens.retrieval.hybrid.BLOCK_BYTES", 4 * 4 * 2)  # two queries
    for one in found(task, *EVERY, texts=texts).values():
        searched(task, one, tmp_path / "alone")
    asked: list[int] = []
    whole = Bm25.scores

    def counting(index: Bm25, queries: sparse.csr_array, own_rows: np.ndarray | None = None) -> np.ndarray:
        asked.extend([1] if queries.shape[0] else [])  # none are asked for to prepare
        return whole(index, queries, own_rows)

    monkeypatch.setattr(Bm25, "scores", counting)
    groups = group_retrievers(found(task, *EVERY, texts=texts).values())
    assert [len(group) for group in groups if group[0].group] == [9]
    for group in groups:
        search_together(task, group, 10, "cpu", tmp_path / "beside" / task.name, Gates(read_params().gates))
    assert len(asked) == 3 * -(-len(task.query_ids) // 2)  # once a block and a kind of words
    written = [path.relative_to(tmp_path / "beside") for path in (tmp_path / "beside").rglob("*") if path.is_file()]
    assert len(written) >= 3 * 9
    for path in written:
        assert (tmp_path / "beside" / path).read_bytes() == (tmp_path / "alone" / path).read_bytes()


def test_first_hits_and_those_among_judged_items_count_from_the_whole_order(tmp_path: Path) -> None:
    few = HUMAN.filter(pl.col("image_id").is_in(["i0", "i1"]))
    task, texts = given_by(few)["caption_to_image"], build_text_inputs(GROUPS, few, MACHINE)
    rows, _ = searched(task, found(task, IMAGES, joint=False, texts=texts)["bm25_generated"], tmp_path, depth=2)
    ranks = tables.read_table(tmp_path / task.name / "first_hits/bm25_generated.parquet", tables.FIRST_HITS)
    for own, wanted, rank, among in zip(rows, described(task), ranks["rank"], ranks["rank_among_judged"], strict=True):
        if wanted in own:
            assert rank == own.tolist().index(wanted) + 1
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
    texts = build_text_inputs(pl.DataFrame({"image_id": ids}), captions, MACHINE[:0])
    pair = vectors([*ids, *ids], [*ids, *ids], 7).rows, vectors(ids, ids, 8).rows
    return Validation(Dense(*pair), texts, ids)


def test_the_weight_is_chosen_on_validation_and_told_with_the_results(tmp_path: Path) -> None:
    made = found(THERE, IMAGES, CAPTIONS, "captions_joined", validation=validation())
    searched(THERE, made["hybrid_captions_weighted"], tmp_path)
    chosen = Pool.read(tmp_path / THERE.name).told("hybrid_captions_weighted")["chosen"]
    assert chosen["validation_queries"] == 12
    assert chosen["image_weight"] < 0.7  # words alone are always right there
    searched(THERE, made["hybrid_generated_weighted"], tmp_path)  # no generated captions of the validation pictures
    fixed = Pool.read(tmp_path / THERE.name).told("hybrid_generated_weighted")["chosen"]
    assert fixed == {"image_weight": 0.7, "validation_queries": 0}


def test_a_weight_that_is_not_chosen_is_the_parameter(tmp_path: Path) -> None:
    made = found(THERE, IMAGES, CAPTIONS, "captions_joined")
    for name in ("hybrid_captions_weighted", "hybrid_captions_rrf"):
        searched(THERE, made[name], tmp_path)
    pool = Pool.read(tmp_path / THERE.name)
    assert pool.told("hybrid_captions_weighted")["chosen"] == {"image_weight": 0.7, "validation_queries": 0}
    assert pool.told("hybrid_captions_rrf")["chosen"] == {}


def given(**changes: object) -> Params:
    params = read_params()
    card = params.dataset_card.model_copy(update=changes)
    return params.model_copy(update={"datasets": {**params.datasets, params.dataset: card}})


def embedded(ids: list[str]) -> tuple[dict[str, Vectors], dict[str, Input]]:
    """Vectors of drawn pictures and of their captions, and the inputs of these."""
    mine = pl.DataFrame({"image_id": ids})
    texts = build_text_inputs(mine, HUMAN, MACHINE.filter(pl.col("image_id").is_in(ids)))
    captions = texts[CAPTIONS]
    found = {
        VALIDATION_IMAGES: vectors(ids, ids, 1),
        VALIDATION_CAPTIONS: vectors(captions["id"].to_list(), captions["image_id"].to_list(), 2),
    }
    inputs = {VALIDATION_CAPTIONS: captions, VALIDATION_GENERATED: texts[GENERATED]}
    return found, {name: Input(name, rows) for name, rows in inputs.items()}


def test_validation_is_what_was_embedded_and_captioned() -> None:
    drawn, inputs = embedded(["i0", "i1"])
    made = read_validation(given(), drawn, inputs, ["i3"])
    assert made is not None
    assert made.image_ids == ["i0", "i1"]
    np.testing.assert_array_equal(made.pixels.queries, drawn[VALIDATION_CAPTIONS].rows)
    np.testing.assert_array_equal(made.pixels.items, drawn[VALIDATION_IMAGES].rows)
    assert made.texts[CAPTIONS]["id"].to_list() == ["i0#0", "i0#1", "i1#0", "i1#1"]
    assert made.texts[GENERATED]["text"].to_list() == ["a bus", "a dog on a beach"]
    assert read_validation(given(), {}, inputs, ["i3"]) is None
    del inputs[VALIDATION_GENERATED]
    made = read_validation(given(), drawn, inputs, ["i3"])
    assert made is not None
    assert list(made.texts) == [CAPTIONS]


def test_nothing_is_chosen_where_the_licence_forbids_it(caplog: pytest.LogCaptureFixture) -> None:
    assert read_validation(given(selection="never"), *embedded(["i0"]), ["i3"]) is None
    assert "selection: never" in caplog.text
    assert "hybrid.image_weight is used" in caplog.text


def test_pictures_of_the_pool_are_refused_as_validation() -> None:
    with pytest.raises(DataError, match=r"1 pictures .* are in the pool, the first is 'i1'"):
        read_validation(given(), *embedded(["i0", "i1"]), ["i1"])
