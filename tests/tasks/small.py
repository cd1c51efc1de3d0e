"""A collection of four pictures and one outside the pool, and vectors for whatever it asks to embed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core.vectors import Vectors
from twinlens.retrieval.base import Corpus, Validation
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import Input
from twinlens.tasks.registry import build_tasks

IDS = ["i0", "i1", "i2", "i3"]
GROUPS = pl.DataFrame(
    {
        "image_id": [*IDS, "outside"],
        "split": ["test"] * 4 + ["train"],
        "in_pool": [True] * 4 + [False],
        "object_set": ["car,cat", None, "car,cat", None, "car,cat"],
        "shard": [0] * 5,
        "row": range(5),
        "sha256": [*IDS, "outside"],
    }
)
LABELS = pl.DataFrame(
    {"image_id": GROUPS["image_id"], "labels": [["car", "cat"], [], ["car", "cat"], ["cat"], ["car", "cat"]]}
)
CAPTION_IMAGES = ["i0", "i0", "i1", "i2", "i2", "i2"]  # i3 has none
CAPTION_IDS = ["i0#0", "i0#1", "i1#0", "i2#0", "i2#1", "i2#2"]
HUMAN = pl.DataFrame(
    {"caption_id": CAPTION_IDS, "image_id": CAPTION_IMAGES, "text": [f"caption {n}" for n in range(6)]}
)
MACHINE = pl.DataFrame({"image_id": IDS, "text": [f"a picture of {own}" for own in IDS]})
COMPOSED = pl.DataFrame(
    schema={"query_id": pl.String, "image_id": pl.String, "text": pl.String, "target_id": pl.String}
    | {"gain": pl.Float32}
)


def collection(**changes: pl.DataFrame) -> Collection:
    """Of four pictures, three of them with captions; `changes` are other tables."""
    tables = {
        "groups": GROUPS,
        "images": LABELS,
        "captions": HUMAN,
        "generated": MACHINE,
        "generated_of_validation": MACHINE[:0],
        "composed_queries": COMPOSED,
    }
    return Collection(**(tables | changes))


def params(**rank: Any) -> Params:
    """The parameters of the repository, with another `rank`."""
    whole = read_params()
    given = {"depth": 10, "image_weight": 0.5, "seed": 0} | rank
    return whole.model_copy(update={"rank": whole.rank.model_copy(update=given)})


def built(**changes: pl.DataFrame) -> tuple[dict[str, Task], dict[str, Input]]:
    """The tasks and inputs of a collection, by name."""
    tasks, inputs = build_tasks(collection(**changes), params())
    return {task.name: task for task in tasks}, {one.name: one for one in inputs}


def vectors(ids: list[str], image_ids: list[str], seed: int) -> Vectors:
    """Random unit vectors."""
    rows = np.random.default_rng(seed).standard_normal((len(ids), 6))
    return Vectors(ids, image_ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def corpus(
    found: Mapping[str, Vectors],
    joint: bool = True,
    texts: Mapping[str, pl.DataFrame] | None = None,
    validation: Validation | None = None,
) -> Corpus:
    """What a model made of inputs."""
    return Corpus(found, texts or {}, joint, validation)
