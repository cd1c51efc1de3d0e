"""The pool and its object sets: every usable picture's set of objects, and whether it is in the pool."""

from __future__ import annotations

import polars as pl

from twinlens.core.errors import DataError


def group_images(
    images: pl.DataFrame, captions: pl.DataFrame, index: pl.DataFrame, pool: str, min_group_size: int
) -> pl.DataFrame:
    """Join labels with the pictures that survived resizing and group the pool by object set.

    An object set is the set of kinds of objects in a picture, written as sorted names joined by
    commas. Pictures of the pool without a label, or without a caption where others have one, or whose
    set is shared by fewer than `min_group_size` such pictures, have none: they are neither query nor
    item of the object-set task, whichever model is measured, but stay in the other tasks.

    Args:
        images: `image_id`, `split`, `labels` (table IMAGES).
        captions: `image_id` (table CAPTIONS).
        index: `image_id`, `shard`, `row`, ... of the pixels (table INDEX); decides the order.
        pool: the split whose pictures are queries and items, or `all`.
        min_group_size: see above.

    Raises:
        DataError: the pool is empty.
    """
    groups = (
        index.join(images, on="image_id", how="inner", maintain_order="left")
        .with_columns(in_pool=pl.lit(True) if pool == "all" else pl.col("split") == pool)
        .with_columns(object_set=pl.col("labels").list.join(","))
    )
    if not groups["in_pool"].any():
        splits = dict(groups["split"].value_counts().iter_rows())
        raise DataError(f"no usable picture in split '{pool}'; found {splits}. Choose another `pool` on the card")
    with_caption = captions["image_id"].unique()
    captioned = groups.filter("in_pool")["image_id"].is_in(with_caption.implode()).any()
    described = pl.col("image_id").is_in(with_caption.implode()) if captioned else pl.lit(True)
    groups = groups.with_columns(searched=pl.col("in_pool") & (pl.col("object_set") != "") & described)
    size = pl.len().over("object_set", "searched")
    kept = pl.col("searched") & (size >= min_group_size)
    return groups.with_columns(object_set=pl.when(kept).then("object_set").otherwise(None)).select(
        "image_id", "split", "in_pool", "object_set", "shard", "row", "sha256"
    )
