"""A dataset's tables as the tasks are made of them, and the inputs that all tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from twinlens.core.errors import DataError
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, JOINED, OTHER_WAY, UNTRAINED, Input, build_picture_input


@dataclass(frozen=True)
class Collection:
    """Outputs of the earlier stages for a dataset."""

    groups: pl.DataFrame  # table GROUPS
    images: pl.DataFrame  # table IMAGES
    captions: pl.DataFrame  # table CAPTIONS
    generated: pl.DataFrame  # table GENERATED, of the pool; may have no rows
    generated_of_validation: pl.DataFrame  # the same of the pictures that weights are chosen on
    composed_queries: pl.DataFrame  # table COMPOSED_QUERIES; may have no rows

    @cached_property
    def pool(self) -> pl.DataFrame:
        """The pool's pictures: rows of table GROUPS."""
        return self.groups.filter("in_pool")

    @cached_property
    def pool_ids(self) -> list[str]:
        """Ids of the pool's pictures."""
        return self.pool["image_id"].to_list()

    @cached_property
    def texts(self) -> dict[str, pl.DataFrame]:
        """The pool's texts, see `build_text_inputs`."""
        return build_text_inputs(self.pool, self.captions, self.generated)

    def inputs(self) -> list[Input]:
        """Inputs shared by all tasks: the pool's pictures, and its texts.

        A trained model embeds them again as it was before; heads with directions of their own embed both sides of the
        caption tasks the other way round, too.
        """
        turned = (OTHER_WAY,) if CAPTIONS in self.texts else ()
        again = {name: (UNTRAINED, *(() if name == JOINED else turned)) for name in self.texts}
        texts = [Input(name, table, again=again[name]) for name, table in self.texts.items()]
        return [build_picture_input(IMAGES, self.pool, again=(UNTRAINED, *turned)), *texts]


def build_text_inputs(pool: pl.DataFrame, captions: pl.DataFrame, generated: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Build the text tables (`id`, `image_id`, `text`) of some pictures, in the order of the pictures.

    * `captions`: every human caption by itself;
    * `captions_joined`: all human captions of a picture, joined by blanks in file order;
    * `captions_generated`: the captioner's; left out where there is none.

    Args:
        pool: `image_id`.
        captions: table CAPTIONS.
        generated: table GENERATED.

    Raises:
        DataError: the generated captions are not those of the pictures.
    """
    if len(generated) and generated["image_id"].to_list() != pool["image_id"].to_list():
        raise DataError("the generated captions are not those of the pool: `dvc repro -f caption`")
    order = pl.DataFrame({"image_id": pool["image_id"], "position": np.arange(len(pool))})
    mine = captions.join(order, on="image_id", how="inner", maintain_order="left").sort("position", maintain_order=True)
    joined = mine.group_by("image_id", maintain_order=True).agg(pl.col("text").str.join(" "))
    found = {
        CAPTIONS: mine.select(pl.col("caption_id").alias("id"), "image_id", "text"),
        JOINED: joined.select(pl.col("image_id").alias("id"), "image_id", "text"),
        GENERATED: generated.select(pl.col("image_id").alias("id"), "image_id", "text"),
    }
    return {name: table for name, table in found.items() if len(table)}
