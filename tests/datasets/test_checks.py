"""Faults planted in annotations, each caught by its gate; and clean data, drawn and real, that passes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twinlens.datasets.adapters.scenes import sample_scene, write_captions
from twinlens.datasets.checks import (
    detect_generic_text,
    detect_label_spellings,
    detect_misplaced_captions,
    find_named_labels,
)

Tables = tuple[pl.DataFrame, pl.DataFrame]
KINDS = ["dog", "cat", "traffic light", "bus", "pony", "sheep", "tree", "house", "boat", "car", "kite", "sandwich"]


def tables(labels: list[list[str]], texts: list[list[str]]) -> Tables:
    ids = [f"p{n:04d}" for n in range(len(labels))]
    images = pl.DataFrame({"image_id": ids, "labels": labels}, schema_overrides={"labels": pl.List(pl.String)})
    rows = [(own, text) for own, several in zip(ids, texts, strict=True) for text in several]
    return images, pl.DataFrame(rows, schema={"image_id": pl.String, "text": pl.String}, orient="row")


def drawn(pictures: int) -> Tables:
    """Labels and captions of drawn scenes, in the order of the dataset."""
    labels, texts = [], []
    for n in range(pictures):
        rng = np.random.default_rng([7, n])
        scene = sample_scene(rng)
        labels.append(sorted({thing.category for thing in scene.things}))
        texts.append(write_captions(scene, rng))
    return tables(labels, texts)


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> Tables:
    """The captions and categories of 600 photos of COCO."""
    with zipfile.ZipFile(shared_data / "coco/annotations_trainval2017.zip") as archive:
        names = {name.rpartition("/")[2]: name for name in archive.namelist()}
        boxes, captions = (
            json.loads(archive.read(names[f"{kind}_val2017.json"])) for kind in ("instances", "captions")
        )
    category = {one["id"]: one["name"] for one in boxes["categories"]}
    shown: dict[int, set[str]] = {one["id"]: set() for one in boxes["images"]}
    for one in boxes["annotations"]:
        shown[one["image_id"]].add(category[one["category_id"]])
    images = pl.DataFrame(
        {"image_id": [str(own) for own in shown], "labels": [sorted(labels) for labels in shown.values()]},
        schema_overrides={"labels": pl.List(pl.String)},
    )
    said = [(str(one["image_id"]), one["caption"]) for one in captions["annotations"]]
    return images, pl.DataFrame(said, schema={"image_id": pl.String, "text": pl.String}, orient="row")


def under_the_next(given: Tables, beginning_at: float = 0.0, until: float = 1.0) -> Tables:
    """Captions under the id of the next picture, in a part of the dataset."""
    images, captions = given
    ids = images["image_id"].to_list()
    part = ids[int(beginning_at * len(ids)) : int(until * len(ids))]
    following = dict(zip(ids, ids, strict=True)) | dict(zip(part, part[1:] + part[:1], strict=True))
    return images, captions.with_columns(image_id=pl.Series([following[own] for own in captions["image_id"]]))


def check_all_of_it(given: Tables) -> None:
    """Nothing is said of clean data; of captions under the next picture it is, in the whole, at the end, in most."""
    assert detect_misplaced_captions(*given) is None
    everywhere = detect_misplaced_captions(*under_the_next(given))
    assert everywhere is not None
    assert everywhere.startswith("captions name the labels of their own pictures no more often than those of others")
    for part in ((0.7, 1.0), (0.3, 1.0), (0.4, 0.7)):
        found = detect_misplaced_captions(*under_the_next(given, *part))
        assert found is not None, part
        assert "captions do not name the labels of their pictures in" in found


def test_captions_under_the_next_picture_are_caught_in_drawn_scenes() -> None:
    check_all_of_it(drawn(600))


def test_captions_under_the_next_picture_are_caught_in_real_photos(photos: Tables) -> None:
    check_all_of_it(photos)
    assert detect_label_spellings(photos[0]) is None
    assert detect_generic_text(photos[1]) is None


def test_captions_of_one_split_under_those_of_another_are_caught(photos: Tables) -> None:
    images, captions = photos
    rows = np.random.default_rng(0).permutation(len(images))
    val, test = rows[:120], rows[120:240]
    split, under = np.full(len(images), "train"), np.arange(len(images))
    split[val], split[test], under[val], under[test] = "val", "test", test, val
    divided = images.with_columns(split=pl.Series(split))
    assert detect_misplaced_captions(divided, captions) is None
    ids = images["image_id"].to_list()
    other = dict(zip(ids, (ids[row] for row in under), strict=True))
    found = detect_misplaced_captions(divided, captions.with_columns(image_id=pl.col("image_id").replace_strict(other)))
    assert found is not None
    assert " in the split val and the split test: " in found or " in the split test and the split val: " in found


def test_a_second_column_of_captions_that_slipped_is_caught(photos: Tables) -> None:
    for images, captions in (photos, drawn(600)):
        texts = captions.group_by("image_id", maintain_order=True).agg("text")["text"].to_list()
        slipped = [[own[0], after[1], *own[2:]] for own, after in zip(texts, texts[2:] + texts[:2], strict=True)]
        owners = captions["image_id"].unique(maintain_order=True)
        rows = [(own, text) for own, several in zip(owners, slipped, strict=True) for text in several]
        found = detect_misplaced_captions(images, pl.DataFrame(rows, schema=captions.schema, orient="row"))
        assert found is not None
        assert " in captions no. 2 of each picture: " in found


def test_the_message_says_where_and_how_much() -> None:
    found = detect_misplaced_captions(*under_the_next(drawn(600), 0.7))
    assert found is not None
    assert " in 3 of 10 parts of the dataset, from p0420 to p0599: " in found
    assert "% are elsewhere: do these captions stand under the right pictures?" in found


def random_tables(rng: np.random.Generator, pictures: int, naming: float, wrong: float = 0.0) -> Tables:
    """Pictures of two or so kinds; a caption names each with the chance `naming`, and another with `wrong`."""
    labels = [sorted(rng.choice(KINDS, rng.integers(1, 4), replace=False)) for _ in range(pictures)]
    texts = [
        [" and ".join(["something", *(kind for kind in own if rng.random() < naming), *_others(rng, wrong)])]
        for own in labels
    ]
    return tables(labels, texts)


def _others(rng: np.random.Generator, wrong: float) -> list[str]:
    return [str(rng.choice(KINDS))] if rng.random() < wrong else []


@pytest.mark.parametrize(("naming", "wrong"), [(0.02, 0.0), (0.1, 0.05), (0.3, 0.3), (0.8, 0.6)])
def test_clean_data_raises_no_alarm_however_few_labels_its_captions_name(naming: float, wrong: float) -> None:
    rng = np.random.default_rng(int(100 * naming))
    assert [detect_misplaced_captions(*random_tables(rng, 400, naming, wrong)) for _ in range(15)] == [None] * 15


def test_parts_that_name_fewer_labels_than_others_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    talkative, silent = random_tables(rng, 300, 0.9), random_tables(rng, 300, 0.3, 0.1)
    labels = [*talkative[0]["labels"].to_list(), *silent[0]["labels"].to_list()]
    texts = [[text] for text in [*talkative[1]["text"], *silent[1]["text"]]]
    assert detect_misplaced_captions(*tables(labels, texts)) is None


def test_without_labels_or_with_labels_that_say_nothing_there_is_nothing_to_say() -> None:
    images, captions = under_the_next(drawn(300))
    nothing = images.with_columns(labels=pl.Series([[]] * len(images), dtype=pl.List(pl.String)))
    assert find_named_labels(nothing, captions) is None
    assert detect_misplaced_captions(nothing, captions) is None
    numbers = [[str(n % 3)] for n in range(300)]  # of classes, which captions also count with
    assert find_named_labels(*tables(numbers, [["2 dogs and 1 cat"]] * 300)) is None
    fruit = [["orange"] if n % 30 == 0 else ["pear"] for n in range(300)]  # a colour in captions
    assert find_named_labels(*tables(fruit, [["an orange car"]] * 300)) is None
    assert find_named_labels(images[:40], captions) is None  # too few


def test_a_label_is_named_by_its_words_side_by_side_in_the_singular_or_plural() -> None:
    said = {
        "dog": "Two DOGS.",
        "traffic light": "many traffic lights at night",
        "bus": "three buses",
        "pony": "ponies",
        "sheep": "a sheep",
        "sandwich": "two sandwiches!",
        "cat": "a cat's house",
        "tree": "a street",  # no word of its own
        "kite": "a traffic jam, and a light",
    }
    images, captions = tables([[label] for label in said] * 10, [[text] for text in said.values()] * 10)
    found = find_named_labels(images, captions)
    assert found is not None
    named = {int(own[1:]) % len(said) for own in found.image_ids}
    assert [label for n, label in enumerate(said) if n in named] == list(said)[:7]
    assert found.right.tolist() == [1] * 70


def test_labels_that_differ_in_case_blanks_or_hyphens_are_named() -> None:
    labels = [["Car"], ["car "], ["car", "tree"], ["traffic light", "tree"], ["traffic_light"], ["Traffic-Light"]]
    found = detect_label_spellings(tables(labels, [[]] * 6)[0])
    assert found is not None
    assert "'Car' (1 pictures) and 'car' (1 pictures) and 'car ' (1 pictures)" in found
    assert "'Traffic-Light' (1 pictures) and 'traffic light' (1 pictures) and 'traffic_light' (1 pictures)" in found
    assert "tree" not in found
    assert detect_label_spellings(drawn(50)[0]) is None
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert detect_label_spellings(tables([[composed], [decomposed]], [[], []])[0]) is not None


def test_one_text_under_two_fifths_of_the_captions_is_named_with_its_share() -> None:
    _, captions = drawn(100)
    assert detect_generic_text(captions) is None
    assert detect_generic_text(captions[:0]) is None
    rng = np.random.default_rng(0)
    replaced = rng.random(len(captions)) < 0.4
    texts = np.where(replaced, rng.choice(["A photo.", "a photo", "a  PHOTO"], len(captions)), captions["text"])
    found = detect_generic_text(captions.with_columns(text=pl.Series(texts)))
    assert found is not None
    assert f"{100 * replaced.mean():.0f} % of all 500 captions" in found
    assert "photo" in found.lower()
    templates = np.where(replaced, rng.choice(["a photo of", "image", "a picture"], len(captions)), captions["text"])
    several = detect_generic_text(captions.with_columns(text=pl.Series(templates)))
    assert several is not None
    assert f"{100 * replaced.mean():.0f} %: such a text" in several
    few = captions[:15].with_columns(text=pl.lit("the same"))
    assert detect_generic_text(few) is None  # fifteen captions may well be alike


def test_names_of_files_in_place_of_captions_are_named_and_descriptions_in_names_are_not() -> None:
    images, captions = drawn(100)
    images = images.with_columns(file="photos/IMG_" + pl.col("image_id") + ".JPG")
    assert detect_generic_text(captions, images) is None
    named = captions.with_columns(text="img " + pl.col("image_id"))
    found = detect_generic_text(named, images)
    assert found is not None
    assert "100 % of all 500 captions are names of files, such as 'img p0000' of photos/IMG_p0000.JPG" in found
    words = pl.Series([f"{kind} in the rain" for kind in KINDS] * 9)[:100]
    described = images.with_columns(file=words.str.replace_all(" ", "_") + ".jpg")
    assert detect_generic_text(pl.DataFrame({"image_id": images["image_id"], "text": words}), described) is None
