"""Roles of pictures in category search: exemplar, item or negative.

A picture takes part if it shows exactly one kind of object, and that is its class, so that relevance
is equality of the class, as it is of a group in every task. A picture of a dog and a ball would be
right for two classes; counting it for one, or for neither, would be wrong for the other. What such
pictures are good for is to be negatives where there is no other split to draw them from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from twinlens.core.errors import DataError

log = logging.getLogger("twinlens")

ID_SEPARATOR = "#"


@dataclass(frozen=True)
class Roles:
    """Roles in category search: who searches and who can be found; no picture does both."""

    classes: list[str]  # those searched for, sorted
    query_classes: list[str]
    query_exemplars: list[list[str]]  # image_ids of each query
    item_ids: list[str]  # every other picture with one class that copies no exemplar, in the order of the pool
    item_classes: list[str]  # some of them of classes that nobody searches for


def find_classes(pool: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Find the pool's pictures that show one kind of object: `image_id`, `class`, `sha256`, in the order of the pool.

    Args:
        pool: the pool's part of table GROUPS.
        images: table IMAGES.
    """
    single = images.filter(pl.col("labels").list.len() == 1)
    return pool.select("image_id", "sha256").join(
        single.select("image_id", pl.col("labels").list.first().alias("class")),
        on="image_id",
        how="inner",
        maintain_order="left",
    )


def select_classes(classed: pl.DataFrame, exemplars: int) -> list[str]:
    """Select classes with pictures enough to search by `exemplars` of them and find one more; none if there is but one.

    With a single class every ranking is right, so there is nothing to measure.
    """
    sizes = classed.group_by("class").len().filter(pl.col("len") > exemplars)
    return sorted(sizes["class"]) if len(sizes) > 1 else []


def assign_roles(classed: pl.DataFrame, queries_per_class: int, exemplars_per_query: int, seed: int) -> Roles:
    """Draw the exemplars of every query; no picture is in two queries, and no copy of an exemplar is ranked.

    Args:
        classed: of `find_classes`.
        queries_per_class: queries of each class.
        exemplars_per_query: pictures that each of them has.
        seed: of the draw.
    """
    classes = select_classes(classed, queries_per_class * exemplars_per_query)
    rng = np.random.default_rng(seed)
    query_classes, query_exemplars = [], []
    for name in classes:
        members = classed.filter(pl.col("class") == name)["image_id"].to_list()
        drawn = rng.permutation(len(members))[: queries_per_class * exemplars_per_query]
        for own in drawn.reshape(queries_per_class, exemplars_per_query):
            query_classes.append(name)
            query_exemplars.append([members[row] for row in own])
    taken = {image_id for own in query_exemplars for image_id in own}
    copies = classed.filter(pl.col("image_id").is_in(sorted(taken)))["sha256"]
    items = classed.filter(~pl.col("sha256").is_in(copies.implode()))  # found first by whatever searches by pixels
    return Roles(classes, query_classes, query_exemplars, items["image_id"].to_list(), items["class"].to_list())


def draw_negatives(groups: pl.DataFrame, images: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """Draw pictures that category search never ranks, in the order of the shards.

    They come from the training split where it is outside the pool, else from whatever is outside the
    pool, else from the pool's pictures that have no class of their own. Copies of ranked pictures
    are left out. Labels play no part: a few negatives will show what is searched for.

    Args:
        groups: table GROUPS.
        images: table IMAGES.
        count: how many; all where there are fewer, with a warning: a second task must not cost the others, and
            the number stands beside its results.
        seed: of the draw.
    """
    ranked = find_classes(groups.filter("in_pool"), images)["image_id"]
    apart = groups.filter(~pl.col("image_id").is_in(ranked.implode()))
    copies = groups.filter(pl.col("image_id").is_in(ranked.implode()))["sha256"]
    apart = apart.filter(~pl.col("sha256").is_in(copies.implode()))
    outside = apart.filter(~pl.col("in_pool"))
    for candidates in (outside.filter(pl.col("split") == "train"), outside, apart):
        if len(candidates):
            break
    if len(candidates) < count:
        log.warning(
            "category_search.negatives: %d asked for, %d pictures found that are never ranked, so there are %d; "
            "a `pool` on the dataset's card that leaves a split outside gives more",
            count,
            len(candidates),
            len(candidates),
        )
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:count]
    return candidates[np.sort(chosen)]


def write_class_prompts(classes: Sequence[str], prompt: str) -> pl.DataFrame:
    """Write one prompt per class: `id`, `image_id` (the class: there is no picture), `text`; underscores to blanks."""
    texts = [prompt.replace("{label}", name.replace("_", " ")) for name in classes]
    return pl.DataFrame(
        {"id": list(classes), "image_id": list(classes), "text": texts},
        schema={"id": pl.String, "image_id": pl.String, "text": pl.String},
    )


def check_apart(negatives: Sequence[str], roles: Roles) -> None:
    """Refuse negatives that are ranked or that search, and exemplars that are ranked.

    Raises:
        DataError: names the first.
    """
    exemplars = {image_id for own in roles.query_exemplars for image_id in own}
    items, apart = set(roles.item_ids), set(negatives)
    for what, found in (
        ("exemplars are also ranked", exemplars & items),
        ("negatives are also ranked", items & apart),
        ("negatives are also exemplars", exemplars & apart),
    ):
        if found:
            raise DataError(f"category search: {len(found)} {what}, the first is '{min(found)}': `dvc repro -f embed`")
