"""Composed queries: a picture, and words that say what is to be different (composed image retrieval, as in CIRR)."""

from __future__ import annotations

import numpy as np
import polars as pl

from twinlens.config.params import Params
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import COMPOSED_PAIRS, IMAGES, PICTURE, UNTRAINED, Input
from twinlens.tasks.qrels import Pairs

NAME, TEXTS = "composed_query", "composed_texts"


def build(collection: Collection, params: Params) -> tuple[list[Task], list[Input]]:
    """Build the task, where the dataset has such queries about the pool's pictures; a query never finds its own."""
    row_of = {image_id: row for row, image_id in enumerate(collection.pool_ids)}
    known = list(row_of)
    pairs = collection.composed_queries.filter(
        pl.col("image_id").is_in(known) & pl.col("target_id").is_in(known) & (pl.col("image_id") != pl.col("target_id"))
    )
    if pairs.is_empty():
        return [], []
    queries = pairs.unique("query_id", keep="first", maintain_order=True)
    query_ids, query_images = queries["query_id"].to_list(), queries["image_id"].to_list()
    task = Task(
        NAME,
        TaskMetadata(
            title="Composed query: the picture that is like another, but for what the words say",
            category="it2i",
            place=5,
            query_text=TEXTS,
            query_picture=IMAGES,
            item_picture=IMAGES,
        ),
        query_ids,
        query_images,
        collection.pool_ids,
        Pairs.of(
            pairs.select("query_id", pl.col("target_id").alias("item_id"), "gain"), query_ids, collection.pool_ids
        ),
        exclude=np.array([row_of[image_id] for image_id in query_images]),
        texts=queries["text"].to_list(),
    )
    texts = queries.select(pl.col("query_id").alias("id"), "image_id", "text")
    # in the order of the pictures, so that each shard is read once; for models that read both together
    both = collection.pool.select("image_id", *PICTURE).join(
        texts, on="image_id", how="inner", maintain_order="left_right"
    )
    pairs_read = Input(COMPOSED_PAIRS, both.select("id", "image_id", "text", *PICTURE), shared=True)
    return [task], [*collection.inputs(), Input(TEXTS, texts, shared=True, again=(UNTRAINED,)), pairs_read]
