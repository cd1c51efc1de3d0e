"""Object sets: which pictures show the same kinds of objects, and who takes part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.core import stored_tables, tables
from twinlens.core.errors import DataError
from twinlens.core.stored_tables import StoredTable
from twinlens.datasets.pool import group_images, iter_groups


def make_tables(
    labels: Mapping[str, Sequence[str]],
    splits: Mapping[str, str] | None = None,
    described: Sequence[str] | None = None,
    usable: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Tables IMAGES, CAPTIONS and INDEX; all pictures are of the pool, described and usable unless said otherwise."""
    ids = list(labels)
    images = pl.DataFrame(
        {
            "image_id": ids,
            "file": [f"{i}.jpg" for i in ids],
            "split": [(splits or {}).get(i, "test") for i in ids],
            "labels": [sorted(labels[i]) for i in ids],
        },
        schema={"image_id": pl.String, "file": pl.String, "split": pl.String, "labels": pl.List(pl.String)},
    )
    texts = ids if described is None else described
    captions = pl.DataFrame(
        {
            "caption_id": [f"{i}#{n}" for n, i in enumerate(texts)],
            "image_id": list(texts),
            "text": ["a picture"] * len(texts),
        },
        schema=dict.fromkeys(("caption_id", "image_id", "text"), pl.String),
    )
    rows = ids if usable is None else list(usable)
    index = pl.DataFrame(
        {
            "image_id": rows,
            "shard": [n // 2 for n in range(len(rows))],
            "row": [n % 2 for n in range(len(rows))],
            "width": 64,
            "height": 64,
            "sha256": [f"digest of {i}" for i in rows],
        },
        schema_overrides={"image_id": pl.String, "sha256": pl.String},
    )
    return images, captions, index


def group(
    labels: Mapping[str, Sequence[str]], *, pool: str = "test", min_group_size: int = 2, **said: Any
) -> pl.DataFrame:
    """Group pictures given by their labels, as `make_tables` makes them."""
    return group_images(*make_tables(labels, **said), pool=pool, min_group_size=min_group_size)


def sets(groups: pl.DataFrame) -> dict[str, str | None]:
    return dict(groups.select("image_id", "object_set").iter_rows())


def test_pictures_of_the_same_kinds_of_objects_share_a_set_named_by_them() -> None:
    groups = group({"a": ["car", "cat"], "b": ["cat", "car"], "c": ["cat"], "d": ["cat"], "e": ["car"]})
    assert sets(groups) == {"a": "car,cat", "b": "car,cat", "c": "cat", "d": "cat", "e": None}


def test_a_set_smaller_than_the_least_size_is_none_and_one_of_that_size_counts() -> None:
    labels = {"a": ["cat"], "b": ["cat"], "c": ["cat"], "d": ["dog"], "e": ["dog"]}
    assert sets(group(labels, min_group_size=3)) == {"a": "cat", "b": "cat", "c": "cat", "d": None, "e": None}
    assert set(sets(group(labels, min_group_size=4)).values()) == {None}


def test_pictures_without_labels_share_no_set_but_stay_in_the_pool() -> None:
    groups = group({"a": [], "b": [], "c": ["cat"], "d": ["cat"]})
    assert sets(groups) == {"a": None, "b": None, "c": "cat", "d": "cat"}
    assert groups["in_pool"].all()


def test_a_picture_without_a_caption_is_in_no_set_and_does_not_count_for_one() -> None:
    labels = {"a": ["cat"], "b": ["cat"], "c": ["dog"], "d": ["dog"], "e": ["dog"]}
    groups = group(labels, described=["a", "c", "c", "d"])
    assert sets(groups) == {"a": None, "b": None, "c": "dog", "d": "dog", "e": None}
    assert groups["in_pool"].all()


def test_pictures_outside_the_pool_neither_have_a_set_nor_count_for_one() -> None:
    labels = {"a": ["cat"], "b": ["cat"], "c": ["dog"], "d": ["dog"]}
    groups = group(labels, splits={"a": "train"})
    assert sets(groups) == {"a": None, "b": None, "c": "dog", "d": "dog"}
    assert groups["in_pool"].to_list() == [False, True, True, True]


def test_the_pool_all_takes_every_split() -> None:
    groups = group({"a": ["cat"], "b": ["cat"]}, splits={"a": "train", "b": "val"}, pool="all")
    assert groups["in_pool"].all()
    assert sets(groups) == {"a": "cat", "b": "cat"}


def test_where_no_picture_of_the_pool_has_a_caption_none_needs_one() -> None:
    assert sets(group({"a": ["cat"], "b": ["cat"], "c": ["dog"]}, described=[])) == {"a": "cat", "b": "cat", "c": None}


def test_a_picture_whose_pixels_were_set_aside_is_gone_and_does_not_count() -> None:
    groups = group({"a": ["cat"], "b": ["cat"], "c": ["dog"], "d": ["dog"]}, usable=["a", "c", "d"])
    assert sets(groups) == {"a": None, "c": "dog", "d": "dog"}


def test_the_order_and_place_are_those_of_the_shards() -> None:
    groups = group({"a": ["cat"], "b": ["cat"], "c": ["cat"]}, usable=["c", "a", "b"])
    assert groups["image_id"].to_list() == ["c", "a", "b"]
    assert groups.select("shard", "row").rows() == [(0, 0), (0, 1), (1, 0)]
    assert groups["sha256"].to_list() == ["digest of c", "digest of a", "digest of b"]


@pytest.mark.parametrize("order", ["abcdefg", "abdg", "gfedcba"])
def test_tables_in_files_are_grouped_slice_by_slice_as_they_are_in_one_go(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"a": ["cat"], "b": ["dog"], "c": [], "d": ["cat"], "e": ["dog"], "f": ["cat"], "g": ["cat"]}
    given = make_tables(labels, splits={"b": "train", "e": "train"}, described=list("abdefg"), usable=list(order))
    whole = group_images(*given, pool="test", min_group_size=3, gone={"f"})
    assert whole["image_id"].to_list() == [one for one in order if one != "f"]
    assert sets(whole)["a"] == ("cat" if order.count("d") else None)
    monkeypatch.setattr(stored_tables, "ROWS", 2)
    schemas = tables.IMAGES, tables.CAPTIONS, tables.INDEX
    for number, (table, schema) in enumerate(zip(given, schemas, strict=True)):
        tables.write_table(table, tmp_path / f"{number}.parquet", schema)
    images, captions, index = (StoredTable(tmp_path / f"{n}.parquet", schema) for n, schema in enumerate(schemas))
    parts = list(iter_groups(images, captions, index, pool="test", min_group_size=3, gone={"f"}))
    assert max(map(len, parts)) == 2
    assert pl.concat(parts).equals(whole)


def test_an_empty_pool_is_an_error_that_says_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no usable picture in split 'val'; found \{'test': 2\}.* another `pool`"):
        group({"a": ["cat"], "b": ["cat"]}, pool="val")


def test_a_pool_whose_pictures_were_all_set_aside_is_an_error_too() -> None:
    with pytest.raises(DataError, match="no usable picture in split 'test'"):
        group({"a": ["cat"], "b": ["cat"]}, splits={"b": "train"}, usable=["b"])


PICTURES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.tuples(
        st.sets(st.sampled_from(["car", "cat", "tree"])),
        st.sampled_from(["train", "test"]),
        st.booleans(),  # described
        st.booleans(),  # usable
    ),
    min_size=1,
    max_size=12,
)


@given(PICTURES, st.integers(2, 4))
def test_sets_are_what_counting_by_hand_gives(
    pictures: dict[str, tuple[set[str], str, bool, bool]], least: int
) -> None:
    usable = [i for i, (_, _, _, is_usable) in pictures.items() if is_usable]
    captioned = any(split == "test" and described and ok for _, split, described, ok in pictures.values())
    searched = {
        i: ",".join(sorted(labels))
        for i, (labels, split, described, is_usable) in pictures.items()
        if labels and split == "test" and (described or not captioned) and is_usable
    }
    sizes = Counter(searched.values())
    expected = {i: searched[i] if sizes[searched.get(i, "")] >= least else None for i in usable}
    try:
        groups = group(
            {i: sorted(labels) for i, (labels, _, _, _) in pictures.items()},
            splits={i: split for i, (_, split, _, _) in pictures.items()},
            described=[i for i, (_, _, described, _) in pictures.items() if described],
            usable=usable,
            min_group_size=least,
        )
    except DataError:
        assert not any(pictures[i][1] == "test" for i in usable)
        return
    assert sets(groups) == expected
    tables.conform(groups, tables.GROUPS, "groups")
