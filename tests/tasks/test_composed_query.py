"""Composed queries as a task: who asks, what is right and how much, and what must not be found."""

from __future__ import annotations

import numpy as np
import polars as pl

from twinlens.config.load import read_params
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection
from twinlens.tasks.composed_query import TEXTS, build
from twinlens.tasks.inputs import COMPOSED_PAIRS

IDS = ["a", "b", "c", "d"]
GROUPS = pl.DataFrame(
    {
        "image_id": [*IDS, "outside"],
        "split": ["test"] * 4 + ["train"],
        "in_pool": [True] * 4 + [False],
        "object_set": [None] * 5,
        "shard": [0] * 5,
        "row": range(5),
        "sha256": list("abcde"),
    },
    schema_overrides={"object_set": pl.String},
)
EMPTY = pl.DataFrame(schema={"image_id": pl.String, "text": pl.String})
SCHEMA = {"query_id": pl.String, "image_id": pl.String, "text": pl.String, "target_id": pl.String, "gain": pl.Float32}


def collection(*rows: tuple[str, str, str, str, float]) -> Collection:
    captions = pl.DataFrame(schema={"caption_id": pl.String, "image_id": pl.String, "text": pl.String})
    images = pl.DataFrame({"image_id": IDS, "labels": [["car"]] * 4})
    return Collection(GROUPS, images, captions, EMPTY, EMPTY, pl.DataFrame(rows, schema=SCHEMA, orient="row"))


def built(*rows: tuple[str, str, str, str, float]) -> tuple[list[Task], dict[str, pl.DataFrame]]:
    tasks, inputs = build(collection(*rows), read_params())
    return tasks, {one.name: one.rows for one in inputs}


def test_a_query_is_a_picture_with_words_and_its_own_picture_is_not_to_be_found() -> None:
    (task,), inputs = built(
        ("q1", "a", "but red", "b", 3.0),
        ("q1", "a", "but red", "d", 1.0),
        ("q2", "c", "but at night", "a", 2.0),
    )
    assert (task.query_ids, task.query_images, task.item_ids) == (["q1", "q2"], ["a", "c"], IDS)
    assert task.exclude is not None
    assert task.exclude.tolist() == [0, 2]
    every = np.tile(np.arange(4), (2, 1))
    assert task.qrels.gains(0, every).tolist() == [[0, 3, 0, 1], [2, 0, 0, 0]]
    assert task.texts == ["but red", "but at night"]
    assert inputs[TEXTS].rows() == [("q1", "a", "but red"), ("q2", "c", "but at night")]
    assert inputs[COMPOSED_PAIRS].rows() == [("q1", "a", "but red", 0, 0, "a"), ("q2", "c", "but at night", 0, 2, "c")]
    assert task.about.category == "it2i"


def test_what_is_not_in_the_pool_neither_asks_nor_is_right_and_nobody_is_right_for_itself() -> None:
    (task,), _ = built(
        ("q1", "a", "but red", "outside", 3.0),
        ("q1", "a", "but red", "b", 1.0),
        ("q2", "outside", "but red", "b", 3.0),
        ("q3", "b", "as it is", "b", 3.0),
    )
    assert task.query_ids == ["q1"]
    assert task.qrels.counts().tolist() == [1]


def test_a_dataset_without_such_queries_has_no_such_task() -> None:
    assert built() == ([], {})
