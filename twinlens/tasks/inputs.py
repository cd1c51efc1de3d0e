"""What the pool's pictures are fed as: pixels, and three kinds of text; what category search and validation add."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twinlens.core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

IMAGES, CAPTIONS, JOINED, GENERATED = "images", "captions", "captions_joined", "captions_generated"
TEXTS = (CAPTIONS, JOINED, GENERATED)
CLASSES, NEGATIVES = "classes", "negatives"  # prompts of the classes; pictures that are never ranked
UNTRAINED = "_untrained"  # ends the name of a source embedded by a trained model as it was before
OTHER_WAY = "_image_to_caption"  # and by the heads of that direction, where each has its own
VALIDATION_IMAGES, VALIDATION_CAPTIONS = "validation_images", "validation_captions"  # to choose weights on

ALL = (
    *(IMAGES, *TEXTS, CLASSES, NEGATIVES, VALIDATION_IMAGES, VALIDATION_CAPTIONS),
    *(f"{name}{UNTRAINED}" for name in (IMAGES, CAPTIONS)),
    *(f"{name}{OTHER_WAY}" for name in (IMAGES, CAPTIONS, GENERATED)),
)


def text_sources(pool: pl.DataFrame, captions: pl.DataFrame, generated: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The texts of the pool as tables of `id`, `image_id` and `text`, in the order of the pool.

    * `captions`: every human caption by itself;
    * `captions_joined`: all human captions of a picture, joined by blanks in file order;
    * `captions_generated`: the captioner's; left out where there is none.

    Args:
        pool: `image_id`.
        captions: table CAPTIONS.
        generated: table GENERATED.

    Raises:
        DataError: the generated captions are not those of the pool.
    """
    import polars as pl  # here, because a search wants nothing but the names above

    if len(generated) and generated["image_id"].to_list() != pool["image_id"].to_list():
        raise DataError("the generated captions are not those of the pool: `dvc repro -f caption`")
    order = pl.DataFrame({"image_id": pool["image_id"], "position": np.arange(len(pool))})
    mine = captions.join(order, on="image_id", how="inner", maintain_order="left").sort("position", maintain_order=True)
    joined = mine.group_by("image_id", maintain_order=True).agg(pl.col("text").str.join(" "))
    sources = {
        CAPTIONS: mine.select(pl.col("caption_id").alias("id"), "image_id", "text"),
        JOINED: joined.select(pl.col("image_id").alias("id"), "image_id", "text"),
        GENERATED: generated.select(pl.col("image_id").alias("id"), "image_id", "text"),
    }
    return {name: table for name, table in sources.items() if len(table)}
