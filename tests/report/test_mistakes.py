"""Where errors come from, on a pool of eight pictures worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stages.report import find_parts
from tests.ranked import grouped, listed, write_run
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, ReportParams
from twinlens.evaluation.evaluate import measure_run
from twinlens.evaluation.pool import Pool
from twinlens.report import galleries, mistakes
from twinlens.report.galleries import Album
from twinlens.report.mistakes import Copies
from twinlens.retrieval.runs import RunWriter
from twinlens.tasks.base import TaskMetadata
from twinlens.tasks.inputs import GENERATED, IMAGES, JOINED

PICTURES = ["a", "a-copy", "a-near", "b", "c", "d", "distractor/x", "distractor/y"]
LABELS = [["cat"], ["cat"], ["cat"], ["cat", "dog"], ["dog"], ["cat"], [], []]
TEXTS = {"a": "a cat", "b": "a cat and a dog", "c": "a photo", "d": "a photo", "a-copy": "one", "a-near": "two"}
MACHINE = dict(zip(PICTURES, ["m0", "same", "m2", "same", "m4", "m5", "m6", "m7"], strict=True))
COPIES = [("a-copy", "a", "exact", 0), ("a-near", "a-copy", "near", 4), ("distractor/y", "distractor/x", "near", 3)]
QUIET = pl.DataFrame({"tied": [False] * 6})


def copies(rows: list[tuple[str, str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["image_id", "other_id", "kind", "bits"], orient="row")


def pool(
    folder: Path, found: dict[str, list[str]], retriever: str = "image", inputs: tuple[str, ...] = (IMAGES,)
) -> Pool:
    """Captions that search for pictures; `found`: the first items of each, by the picture that it is about."""
    queries = {f"{name}#0": name for name in found}
    task = grouped("caption_to_image", queries, {name: name for name in PICTURES}, images=list(found))
    rows = [[PICTURES.index(name) for name in names] for names in found.values()]
    scores = np.tile(np.array([0.9, 0.5], np.float32), (len(rows), 1))
    return write_run(folder, task, np.array(rows), scores, retriever, inputs=inputs)


@pytest.fixture
def album() -> Album:
    images = pl.DataFrame({"image_id": PICTURES, "labels": LABELS}, schema_overrides={"labels": pl.List(pl.String)})
    rows = [{"caption_id": f"{name}#0", "image_id": name, "text": text} for name, text in TEXTS.items()]
    return Album.of(
        images, pl.DataFrame(rows), pl.DataFrame({"image_id": list(MACHINE), "text": list(MACHINE.values())})
    )


FOUND = {
    "a": ["a-copy", "a"],  # an exact copy
    "a-copy": ["a-near", "a-copy"],  # a near one
    "b": ["d", "b"],  # shares the cat
    "c": ["distractor/x", "c"],  # a distractor, asked for by a caption that d has too
    "d": ["d", "a"],  # right
    "a-near": ["distractor/y", "b"],  # a distractor, itself a copy, but of nothing right
}


def test_wrong_first_items_are_sorted_by_what_they_are(tmp_path: Path, album: Album) -> None:
    parts = {name: "distractors (imagenet)" if "/" in name else "queries (flickr30k)" for name in PICTURES}
    made = pool(tmp_path / "caption_to_image", FOUND)
    found = mistakes.count_mistakes(made, "image", QUIET, album, Copies.of(copies(COPIES)), parts)
    assert (found.queries, found.wrong) == (6, 5)
    assert found.causes == {
        mistakes.SAME_SETS: 2,  # the copies
        mistakes.SHARED_SETS: 1,
        mistakes.DISTRACTOR: 2,
        mistakes.name_part_cause("distractors (imagenet)"): 2,
        mistakes.name_part_cause("queries (flickr30k)"): 3,
        mistakes.EXACT_COPY: 1,
        mistakes.NEAR_COPY: 1,
        mistakes.GENERIC: 1,
    }
    assert mistakes.list_causes([found], parts)[2:6] == [
        mistakes.DISTRACTOR,
        "comes from the part distractors (imagenet)",
        "comes from the part queries (flickr30k)",
        mistakes.EXACT_COPY,
    ]


def test_a_dataset_without_copies_or_parts_has_no_such_lines(tmp_path: Path, album: Album) -> None:
    made = pool(tmp_path / "caption_to_image", FOUND)
    found = mistakes.count_mistakes(made, "image", QUIET, album, Copies.of(copies([])), {})
    assert not {mistakes.EXACT_COPY, mistakes.NEAR_COPY} & set(found.causes)
    assert not [cause for cause in found.causes if "part" in cause]


@pytest.mark.parametrize("scale", [1.0, 50.0, 0.01])
def test_ties_and_close_scores_are_counted_whatever_the_scale(tmp_path: Path, album: Album, scale: float) -> None:
    """Cosines, BM25, sums of reciprocal ranks: what is close is so among the scores of its own list."""
    made = pool(tmp_path / "caption_to_image", FOUND)
    with RunWriter(tmp_path / "caption_to_image/runs/image.parquet", [f"{q}#0" for q in FOUND], PICTURES) as run:
        rows = [[PICTURES.index(name) for name in names] for names in FOUND.values()]
        third = [next(n for n in range(len(PICTURES)) if n not in row) for row in rows]
        scores = np.array([0.9, 0.895, 0.4], np.float32) * scale
        run.add(0, np.column_stack([rows, third]), np.tile(scores, (6, 1)))
    tied = pl.DataFrame({"tied": [True, False, False, True, True, False]})
    found = mistakes.count_mistakes(made, "image", tied, album, Copies(), {})
    assert found.causes[mistakes.CLOSE] == 4  # that of a-near does not have its own picture second
    assert found.causes[mistakes.TIED] == 2  # the third tie is of a query that is right


def test_generated_captions_of_several_pictures_count_where_they_are_searched_by(tmp_path: Path, album: Album) -> None:
    # what a run is fed says so, whatever it is called
    for retriever, inputs, times in (
        ("caption_generated", (GENERATED,), 1),
        ("of_both", (IMAGES, GENERATED), 1),
        ("captions_joined", (JOINED,), 0),
    ):
        made = pool(tmp_path / retriever / "caption_to_image", FOUND, retriever, inputs)
        found = mistakes.count_mistakes(made, retriever, QUIET, album, Copies(), {})
        assert found.causes.get(mistakes.GENERIC_GENERATED, 0) == times


def test_an_item_that_is_wrongly_first_for_many_is_a_hub(tmp_path: Path, album: Album) -> None:
    everyone = {name: ["distractor/x", name] for name in TEXTS}
    found = mistakes.count_mistakes(pool(tmp_path / "t", everyone), "image", QUIET, album, Copies(), {})
    assert found.causes[mistakes.HUBS] == 6
    four = {name: ["distractor/x" if row < 4 else name, "b"] for row, name in enumerate(TEXTS)} | {"b": ["c", "b"]}
    found = mistakes.count_mistakes(pool(tmp_path / "u", four), "image", QUIET, album, Copies(), {})
    assert mistakes.HUBS not in found.causes


def listed_pool(folder: Path) -> Pool:
    """Queries of a picture and a text, whose right pictures are listed; their first items as in FOUND."""
    right = {"a": {"b": 2.0, "a-copy": 0.5}, "b": {"a": 1.0}, "c": {"d": 3.0}}
    gains = {f"q-{name}": of for name, of in right.items()}
    about = TaskMetadata("With a text", "it2i", 9, query_text="asked", query_picture=IMAGES, item_picture=IMAGES)
    texts = ["with a dog", "without the dog", "brighter"]
    task = listed("with_a_text", about, gains, PICTURES, query_images=list(right), texts=texts)
    found = {"a": ["a-copy", "b"], "b": ["a-near", "a"], "c": ["distractor/x", "d"]}
    rows = np.array([[PICTURES.index(name) for name in names] for names in found.values()])
    return write_run(folder, task, rows, np.tile(np.array([0.9, 0.895], np.float32), (3, 1)))


def test_wrong_first_items_are_those_that_no_pair_lists(tmp_path: Path, album: Album) -> None:
    made = listed_pool(tmp_path / "with_a_text")
    untied = pl.DataFrame({"tied": [False] * 3})
    found = mistakes.count_mistakes(made, "image", untied, album, Copies.of(copies(COPIES)), {})
    assert (found.queries, found.wrong) == (3, 2)  # the gain of a-copy is small, but it is not wrong
    assert found.causes == {
        mistakes.SHARED_SETS: 1,  # b asks, which shows a cat and a dog, and finds a cat
        mistakes.DISTRACTOR: 2,  # a-near is of no query either
        mistakes.NEAR_COPY: 1,  # of a, which is right
    }


def test_a_gallery_of_listed_pairs_shows_the_texts_that_ask_and_which_items_are_right(
    tmp_path: Path, album: Album
) -> None:
    made = listed_pool(tmp_path / "with_a_text")
    values = measure_run(made, "image", EvaluateParams(ks=[1, 2], referee_queries=3, resamples=100, seed=0)).per_query
    shown = galleries.make_gallery(
        made, "image", values, album, "ndcg_at_2", ReportParams(queries=3, found=2, thumbnail_px=32)
    )
    assert shown.task == "with_a_text"
    by_query = {example.query_id: example for example in shown.examples["best"]}
    first = by_query["q-a"]
    assert (first.text, first.picture.image_id, first.relevant, first.first_hit) == ("with a dog", "a", 2, 1)
    assert [(item.picture.image_id, item.hit) for item in first.found] == [("a-copy", True), ("b", True)]
    assert [item.hit for item in by_query["q-c"].found] == [False, True]
    best = 2.0 + 0.5 / np.log2(3)  # the larger gain first
    assert first.value == pytest.approx((0.5 + 2.0 / np.log2(3)) / best)
    assert shown.examples["worst"][0].query_id in {"q-b", "q-c"}


def test_copies_of_one_picture_are_copies_of_each_other() -> None:
    found = Copies.of(copies(COPIES))
    assert found.near["a"] == found.near["a-near"] != found.near["distractor/x"]
    assert found.exact["a"] == found.exact["a-copy"]
    assert "a-near" not in found.exact


def test_the_part_of_a_composed_dataset_is_the_first_folder_of_the_file() -> None:
    cards = read_params().datasets
    images = pl.DataFrame({"image_id": ["1", "distractor/2"], "file": ["queries/test/1.jpg", "distractors/2.jpg"]})
    assert find_parts(cards["vehicles"], images) == {
        "1": "queries (flickr30k)",
        "distractor/2": "distractors (imagenet)",
    }
    assert find_parts(cards["scenes"], images) == {}
