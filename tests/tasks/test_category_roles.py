"""Who searches, who is found, and whom the negatives are."""

from __future__ import annotations

import polars as pl
import pytest

from twinlens.core.errors import DataError
from twinlens.tasks.category_roles import (
    Roles,
    assign_roles,
    check_apart,
    draw_negatives,
    find_classes,
    select_classes,
    write_class_prompts,
)

COUNT = 60


def tables(pool: str = "test") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables GROUPS and IMAGES: half the pictures in each split; labels dog, cat, both, or nothing, in turn."""
    ids = [f"{'train' if n % 2 else 'test'}-{n:02d}" for n in range(COUNT)]
    images = pl.DataFrame(
        {
            "image_id": ids,
            "split": [i.split("-")[0] for i in ids],
            "labels": [(["dog"], ["cat"], ["cat", "dog"], [], ["fire_truck"])[n // 2 % 5] for n in range(COUNT)],
        }
    )
    groups = images.select(
        "image_id",
        "split",
        in_pool=pl.lit(True) if pool == "all" else pl.col("split") == pool,
        sha256=pl.col("image_id"),
    )
    return groups, images


def test_a_picture_takes_part_if_it_shows_one_kind_of_object() -> None:
    groups, images = tables()
    classed = find_classes(groups.filter("in_pool"), images)
    assert classed.columns == ["image_id", "sha256", "class"]
    assert set(classed["class"]) == {"dog", "cat", "fire_truck"}
    labels = dict(images.select("image_id", "labels").iter_rows())
    assert all(labels[image_id] == [name] for image_id, name in classed.select("image_id", "class").iter_rows())
    assert classed["image_id"].to_list() == sorted(classed["image_id"])  # the pool's order


def test_every_picture_is_an_exemplar_of_one_query_or_an_item() -> None:
    groups, images = tables()
    classed = find_classes(groups.filter("in_pool"), images)
    roles = assign_roles(classed, queries_per_class=2, exemplars_per_query=2, seed=3)
    drawn = [image_id for own in roles.query_exemplars for image_id in own]
    assert len(drawn) == len(set(drawn)) == 3 * 2 * 2
    assert sorted([*drawn, *roles.item_ids]) == classed["image_id"].to_list()
    class_of = dict(classed.select("image_id", "class").iter_rows())
    for name, own in zip(roles.query_classes, roles.query_exemplars, strict=True):
        assert {class_of[image_id] for image_id in own} == {name}
    assert roles == assign_roles(classed, 2, 2, seed=3)
    assert roles != assign_roles(classed, 2, 2, seed=4)


def with_classes(classes: str) -> pl.DataFrame:
    ids = [f"p{n}" for n in range(len(classes))]
    return pl.DataFrame({"image_id": ids, "class": list(classes), "sha256": ids})


def test_a_copy_of_an_exemplar_is_not_ranked() -> None:
    classed = with_classes("xxxxyyyy")
    drawn = {row for own in assign_roles(classed, 1, 1, seed=0).query_exemplars for row in own}
    copy = next(row for row in classed["image_id"] if row not in drawn)
    of = min(drawn)
    again = assign_roles(classed.with_columns(sha256=pl.col("sha256").replace(copy, of)), 1, 1, seed=0)
    assert copy not in again.item_ids
    assert len(again.item_ids) == len(classed) - len(drawn) - 1


def test_a_class_too_small_to_be_searched_for_can_still_be_found_wrongly() -> None:
    classed = with_classes("xxxyyyz")
    roles = assign_roles(classed, queries_per_class=2, exemplars_per_query=1, seed=0)
    assert roles.classes == ["x", "y"]
    assert sorted(roles.item_classes) == ["x", "y", "z"]


def test_one_class_alone_is_not_searched_for() -> None:
    classed = with_classes("xxxy")
    assert select_classes(classed, 2) == []
    assert assign_roles(classed, 2, 1, seed=0).query_classes == []


def test_negatives_come_from_the_training_split_and_repeat_by_seed() -> None:
    groups, images = tables()
    drawn = draw_negatives(groups, images, 10, seed=1)
    assert set(drawn["split"]) == {"train"}
    assert drawn["image_id"].to_list() == sorted(drawn["image_id"])  # in the order of the shards
    assert drawn.equals(draw_negatives(groups, images, 10, seed=1))
    assert not drawn.equals(draw_negatives(groups, images, 10, seed=2))
    assert set(images.join(drawn, on="image_id", how="semi")["labels"].list.len()) > {1}  # labels play no part


def test_without_another_split_negatives_are_pictures_that_are_not_ranked() -> None:
    groups, images = tables(pool="all")
    ranked = set(find_classes(groups, images)["image_id"])
    drawn = draw_negatives(groups, images, 24, seed=1)
    assert len(drawn) == 24
    assert not ranked & set(drawn["image_id"])


def test_a_copy_of_a_ranked_picture_is_no_negative() -> None:
    groups, images = tables()
    first = find_classes(groups.filter("in_pool"), images)["image_id"][0]
    copied = groups.with_columns(
        sha256=pl.when(pl.col("image_id") == "train-01").then(pl.lit(first)).otherwise("sha256")
    )
    assert "train-01" in draw_negatives(groups, images, 30, seed=0)["image_id"]
    assert "train-01" not in draw_negatives(copied, images, 29, seed=0)["image_id"]


def test_where_there_are_fewer_negatives_than_asked_for_all_are_taken_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    groups, images = tables()
    with caplog.at_level("WARNING", "twinlens"):
        assert len(draw_negatives(groups, images, 31, seed=0)) == 30
    assert "category_search.negatives: 31 asked for, 30 pictures found" in caplog.text
    assert len(draw_negatives(groups, images, 0, seed=0)) == 0


def test_an_overlap_is_refused_by_name() -> None:
    roles = Roles(["x"], ["x"], [["a"]], ["b", "c"], ["x", "x"])
    check_apart(["d"], roles)
    with pytest.raises(DataError, match="1 negatives are also ranked, the first is 'b'"):
        check_apart(["b", "d"], roles)
    with pytest.raises(DataError, match="1 negatives are also exemplars, the first is 'a'"):
        check_apart(["a"], roles)
    with pytest.raises(DataError, match="1 exemplars are also ranked, the first is 'b'"):
        check_apart([], Roles(["x"], ["x"], [["b"]], ["b", "c"], ["x", "x"]))


def test_a_prompt_names_its_class_in_words() -> None:
    assert write_class_prompts(["fire_truck"], "A picture of a {label}")["text"].to_list() == [
        "A picture of a fire truck"
    ]
    assert write_class_prompts([], "a {label}").columns == ["id", "image_id", "text"]
