"""Who weights may be chosen on: the validation split, outside the pool, never a copy of what is measured."""

from __future__ import annotations

import polars as pl

from twinlens.config.params import HybridParams
from twinlens.tasks.validation import draw_validation

PARAMS = HybridParams(rrf_constant=60, rrf_depth=1000, image_weight=0.5, validation_pictures=50, seed=0)


def groups(pool: str) -> pl.DataFrame:
    splits = ["train"] * 20 + ["val"] * 40 + ["test"] * 20
    return pl.DataFrame(
        {
            "image_id": [f"p{n}" for n in range(80)],
            "split": splits,
            "in_pool": [pool in ("all", split) for split in splits],
            "sha256": [f"bytes {n}" for n in range(80)],
        }
    )


def captions(*without: str) -> pl.DataFrame:
    return pl.DataFrame({"image_id": [f"p{n}" for n in range(80) if f"p{n}" not in without]})


def test_it_is_the_validation_split_in_order() -> None:
    assert draw_validation(groups("test"), captions(), PARAMS)["image_id"].to_list() == [f"p{n}" for n in range(20, 60)]


def test_a_pool_that_holds_it_leaves_none() -> None:
    assert draw_validation(groups("all"), captions(), PARAMS).is_empty()
    assert draw_validation(groups("val"), captions(), PARAMS).is_empty()


def test_copies_of_the_pool_and_pictures_without_a_caption_are_left_out() -> None:
    table = groups("test").with_columns(
        sha256=pl.when(pl.col("image_id") == "p30").then(pl.lit("bytes 70")).otherwise("sha256")
    )
    drawn = draw_validation(table, captions("p31"), PARAMS)["image_id"].to_list()
    assert len(drawn) == 38
    assert not {"p30", "p31"} & set(drawn)


def test_so_many_are_drawn_by_seed() -> None:
    few = PARAMS.model_copy(update={"validation_pictures": 10})
    drawn = draw_validation(groups("test"), captions(), few)["image_id"].to_list()
    assert len(drawn) == 10
    assert drawn == draw_validation(groups("test"), captions(), few)["image_id"].to_list()
    other = draw_validation(groups("test"), captions(), few.model_copy(update={"seed": 1}))["image_id"].to_list()
    assert drawn != other
    assert draw_validation(groups("test"), captions(), PARAMS.model_copy(update={"validation_pictures": 0})).is_empty()
