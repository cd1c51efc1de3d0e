"""The drawn scenes: the same on every machine, as many as asked for, and described truly."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from twinlens.config.datasets import ScenesCard
from twinlens.config.params import FilterParams
from twinlens.datasets import make_adapter
from twinlens.datasets.adapters import scenes
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.adapters.drawing import BACKGROUNDS, COLOURS, OBJECTS, DrawnObject, draw_scene
from twinlens.datasets.adapters.scenes import EDIT, Scene, Scenes, sample_scene, write_captions
from twinlens.datasets.annotations import Annotations
from twinlens.datasets.filter import apply_rules

SIDE_PX = 48


def card(**changes: Any) -> ScenesCard:
    values = {"adapter": "scenes", "seed": 3, "train": 30, "val": 8, "test": 12, "side_px": SIDE_PX}
    return ScenesCard.model_validate(values | changes)


def drawn(folder: Path, **changes: Any) -> dict[str, bytes]:
    """All files of a drawn dataset."""
    Scenes(card(**changes)).download(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "raw"
    Scenes(card()).download(folder)
    return folder


@pytest.fixture(scope="module")
def listed(raw: Path) -> Annotations:
    return Scenes(card()).annotations(raw)


def many_scenes() -> list[tuple[Scene, list[str]]]:
    """Scenes with their captions, more than a test would draw."""
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        found.append((scene, write_captions(scene, rng)))
    return found


SCENES = many_scenes()


# ---------------------------------------------------------------- the dataset


def test_a_card_of_scenes_is_given_this_adapter() -> None:
    assert isinstance(make_adapter(card()), Scenes)


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    assert drawn(tmp_path / "one") == drawn(tmp_path / "two")


def test_another_seed_draws_other_pictures_with_other_captions(tmp_path: Path) -> None:
    made = []
    for seed in (3, 4):
        made.append(drawn(tmp_path / str(seed), seed=seed))
    assert made[0].keys() == made[1].keys()
    tables = [pq.read_table(tmp_path / str(seed) / "drawn-000.parquet") for seed in (3, 4)]
    same = [a == b for a, b in zip(*(table["jpeg"].to_pylist() for table in tables), strict=True)]
    assert not any(same)
    assert tables[0]["captions"] != tables[1]["captions"]


def test_a_picture_depends_on_its_seed_split_and_number_alone(raw: Path, tmp_path: Path) -> None:
    drawn(tmp_path / "more", train=35, val=1)
    rows = {row["image_id"]: row for row in pq.read_table(raw / "drawn-000.parquet").to_pylist()}
    more = {row["image_id"]: row for row in pq.read_table(tmp_path / "more" / "drawn-000.parquet").to_pylist()}
    shared = rows.keys() & more.keys()
    assert len(shared) == 30 + 1 + 12
    assert all(rows[image_id] == more[image_id] for image_id in shared)


def test_no_two_pictures_are_equal(raw: Path) -> None:
    jpegs = pq.read_table(raw / "drawn-000.parquet")["jpeg"].to_pylist()
    assert len(set(jpegs)) == len(jpegs) == 50


def test_the_first_pictures_are_described_as_ever(listed: Annotations) -> None:
    # Another description here is other data on every machine: all numbers made with it change too.
    first: dict[str, list[str]] = {f"{split}-00000": [] for split in ("train", "val", "test")}
    for caption in listed.captions:
        if caption.image_id in first:
            first[caption.image_id].append(caption.text)
    assert first == {
        "train-00000": [
            "a red bicycle on a meadow",
            "a green meadow with a bicycle",
            "there is a red bicycle",
            "a picture of a bicycle",
            "a red bicycle on a meadow",
        ],
        "val-00000": [
            "a purple bus at night",
            "a dark night with a bus",
            "there is a purple bus",
            "a picture of a bus at night",
            "a purple bus at night",
        ],
        "test-00000": [
            "a blue flower on a meadow",
            "a green meadow with a flower",
            "there is a blue flower",
            "a picture of a flower on a meadow",
            "a blue flower on a meadow",
        ],
    }


def test_splits_are_as_large_as_asked_for(listed: Annotations) -> None:
    splits = [image.split for image in listed.images]
    assert splits == ["train"] * 30 + ["val"] * 8 + ["test"] * 12


def test_the_number_of_pictures_is_reported_and_noted(tmp_path: Path) -> None:
    assert Scenes(card()).download(tmp_path / "raw") == 50
    assert json.loads((tmp_path / "raw" / "manifest.json").read_text()) == {"drawn": 50, "seed": 3, "side_px": SIDE_PX}


def test_every_picture_has_five_captions_in_its_order(listed: Annotations) -> None:
    ids = [image.image_id for image in listed.images]
    assert [caption.image_id for caption in listed.captions] == [i for i in ids for _ in range(5)]


def test_the_filter_drops_nothing(listed: Annotations) -> None:
    kept = apply_rules(listed, FilterParams(require_caption=True, require_label=True))
    assert kept.dropped.is_empty()
    assert kept.counts == {"images": {"found": 50, "kept": 50}, "captions": {"found": 250, "kept": 250}}


def test_labels_are_of_the_twelve_categories_without_repeats_and_sorted(listed: Annotations) -> None:
    assert len(OBJECTS) == 12
    for image in listed.images:
        assert list(image.labels) == sorted(set(image.labels))
        assert 1 <= len(image.labels) <= 3
        assert set(image.labels) <= set(OBJECTS)


def test_every_label_of_a_picture_stands_in_its_full_caption(listed: Annotations) -> None:
    full = {caption.image_id: caption.text for caption in reversed(listed.captions)}  # the first of each
    for image in listed.images:
        assert [name for name in OBJECTS if re.search(rf"\b{name}\b", full[image.image_id])] == list(image.labels)


def test_pictures_decode_to_squares_of_the_side_asked_for(raw: Path, listed: Annotations) -> None:
    files = [image.file for image in listed.images]
    pictures = list(Scenes(card()).read_pictures(raw, files))
    assert len(pictures) == 50
    for picture in pictures:
        assert isinstance(picture, bytes)
        assert simplejpeg.decode_jpeg(picture).shape == (SIDE_PX, SIDE_PX, 3)


def test_pictures_over_several_shards_are_read_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "PER_SHARD", 20)
    made = Scenes(card())
    made.download(tmp_path / "raw")
    assert len(list((tmp_path / "raw").glob("drawn-*.parquet"))) == 3
    held = {
        row["file"]: row["jpeg"]
        for path in (tmp_path / "raw").glob("drawn-*.parquet")
        for row in pq.read_table(path, columns=["file", "jpeg"]).to_pylist()
    }
    in_order = [image.file for image in made.annotations(tmp_path / "raw").images]
    for files in (in_order, in_order[::7], in_order[::-1], []):
        assert list(made.read_pictures(tmp_path / "raw", files)) == [held[file] for file in files]


def test_a_file_that_was_not_drawn_has_that_as_its_reason_and_the_rest_is_read(raw: Path) -> None:
    files = ["nobody.jpg", "train-00000.jpg", "test-99999.jpg", "test-00001.jpg"]
    first, second, third, fourth = Scenes(card()).read_pictures(raw, files)
    assert first == third == MISSING
    assert isinstance(second, bytes)
    assert isinstance(fourth, bytes)


# ---------------------------------------------------------------- what is said of a scene


def test_an_article_fits_the_word_after_it() -> None:
    for _, captions in SCENES:
        for caption in captions:
            assert not re.search(r"\ba (?=[aeiou])", caption), caption
            assert not re.search(r"\ban (?![aeiou])", caption), caption


def test_every_object_in_a_caption_has_an_article() -> None:
    names = "|".join(OBJECTS)
    words = "|".join([*COLOURS, "large", "small"])
    for _, captions in SCENES:
        for caption in captions:
            assert len(re.findall(rf"\b({names})\b", caption)) == len(
                re.findall(rf"\ban? (?:(?:{words}) )*({names})\b", caption)
            ), caption


def test_lists_have_commas_and_one_and_before_the_last() -> None:
    for scene, captions in SCENES:
        for caption in (captions[0], captions[1], captions[2]):
            assert caption.count(" and ") == (1 if len(scene.things) > 1 else 0), caption
            assert caption.count(", ") == max(0, len(scene.things) - 2), caption


def test_the_full_caption_gives_every_object_with_its_colour_and_the_place() -> None:
    for scene, captions in SCENES:
        for thing in scene.things:
            assert re.search(rf"\ban? {thing.colour} {thing.category}\b", captions[0]), captions[0]
        assert captions[0].endswith(scenes.PLACES[scene.background][0])


def test_left_of_is_said_of_what_stands_to_the_left() -> None:
    said = 0
    for scene, captions in SCENES:
        if match := re.fullmatch(r"an? (\w+) to the left of an? (\w+)", captions[3]):
            middle = {thing.category: thing.left + thing.side / 2 for thing in scene.things}
            assert middle[match[1]] < middle[match[2]], captions[3]
            said += 1
    assert said > 100


def test_no_caption_names_an_object_that_is_not_there() -> None:
    for scene, captions in SCENES:
        there = {thing.category for thing in scene.things}
        for caption in captions:
            named = {name for name in OBJECTS if re.search(rf"\b{name}\b", caption)}
            assert named
            assert named <= there


def test_every_category_colour_background_and_count_occurs() -> None:
    things = [thing for scene, _ in SCENES for thing in scene.things]
    assert {thing.category for thing in things} == set(OBJECTS)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {scene.background for scene, _ in SCENES} == set(BACKGROUNDS) == set(scenes.PLACES)
    assert {len(scene.things) for scene, _ in SCENES} == {1, 2, 3}


def test_objects_of_a_scene_are_of_different_kinds_lie_inside_and_do_not_overlap() -> None:
    for scene, _ in SCENES:
        assert len({thing.category for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            assert min(thing.left, thing.top) >= 0
            assert max(thing.left, thing.top) + thing.side <= 1
        for a in scene.things:
            for b in scene.things:
                apart = a.left + a.side <= b.left or b.left + b.side <= a.left
                assert a is b or apart or a.top + a.side <= b.top or b.top + b.side <= a.top


@pytest.mark.parametrize("category", OBJECTS)
def test_every_category_can_be_seen_in_its_colour(category: str) -> None:
    thing = DrawnObject(category, "red", large=True, left=0.1, top=0.1, side=0.8)
    pictures = [
        np.asarray(draw_scene("snow", things, 64, np.random.default_rng(0))).astype(int) for things in ([], [thing])
    ]
    assert pictures[1].shape == (64, 64, 3)
    changed = np.abs(pictures[1] - pictures[0]).max(axis=2) > 40
    assert changed.mean() > 0.05
    outside = np.ones((64, 64), dtype=bool)
    outside[5:60, 5:60] = False
    assert not changed[outside].any()  # it stays in its square
    red, green, blue = np.moveaxis(pictures[1], 2, 0)
    assert ((red > 150) & (green < 100) & (blue < 100)).sum() > 40


def test_what_stands_behind_the_ground_is_seen_but_for_its_lowest_part() -> None:
    whole = DrawnObject("bus", "red", large=True, left=0.1, top=0.1, side=0.8)
    behind = replace(whole, covered=0.25)
    drawn = [
        np.asarray(draw_scene("meadow", [thing], 100, np.random.default_rng(0))).astype(int)
        for thing in (whole, behind)
    ]
    differ = np.abs(drawn[0] - drawn[1]).max(axis=2) > 20
    assert differ[72:90].any()
    assert not differ[:69].any()  # its square ends at 90, and a quarter of 80 is covered
    assert (np.ptp(drawn[1][71:89, 11:89].reshape(-1, 3), axis=0) == 0).all()  # the ground, and nothing else


def test_a_quarter_of_the_things_stand_behind_the_ground() -> None:
    things = [thing for scene, _ in SCENES for thing in scene.things]
    hidden = [thing.covered for thing in things if thing.covered]
    assert 0.2 < len(hidden) / len(things) < 0.3
    assert scenes.COVERED[0] <= min(hidden) < max(hidden) <= scenes.COVERED[1]


# ------------------------------------------------------------ edits


def test_an_edit_is_its_original_but_for_what_the_words_say(tmp_path: Path) -> None:
    adapter = Scenes(card(edits=12, side_px=96))
    adapter.download(tmp_path)
    for i in range(12):
        before, _, _ = adapter._scene("test", i)
        after, text, _ = adapter._scene(EDIT, i)
        told = re.fullmatch(r"the same scene, but (?:the (?P<thing>\w[\w ]*) is (?P<colour>\w+)|(?P<place>.+))", text)
        assert told is not None
        changed = [(b, a) for b, a in zip(before.things, after.things, strict=True) if b != a]
        if told["thing"]:
            ((old, new),) = changed
            assert (old.category, new.colour) == (told["thing"], told["colour"])
            assert replace(old, colour=new.colour) == new
            assert before.background == after.background
        else:
            assert not changed
            assert scenes.PLACES[after.background][0] == told["place"]
            assert before.background != after.background


def test_pictures_of_edits_join_the_test_split_and_move_no_other_picture(tmp_path: Path) -> None:
    plain, edited = tmp_path / "plain", tmp_path / "edited"
    Scenes(card()).download(plain)
    Scenes(card(edits=4)).download(edited)
    before, after = (pq.read_table(folder / "drawn-000.parquet").to_pylist() for folder in (plain, edited))
    assert after[: len(before)] == before
    assert [(row["image_id"], row["split"]) for row in after[len(before) :]] == [
        (f"{EDIT}-{i:05d}", "test") for i in range(4)
    ]
    assert card(edits=4).promised_pool == 16


def test_every_picture_of_the_split_is_judged_for_an_edit_by_what_it_shows(tmp_path: Path) -> None:
    adapter = Scenes(card(test=400, edits=40, train=1, val=1))
    found: dict[str, dict[str, float]] = {}
    for row in adapter._queries():
        found.setdefault(row["query_id"], {})[row["target_id"]] = row["gain"]
    every = {f"test-{i:05d}": adapter._scene("test", i)[0] for i in range(400)}
    every |= {f"{EDIT}-{i:05d}": adapter._scene(EDIT, i)[0] for i in range(40)}
    assert len(found) == 40
    for i in range(40):
        wanted, own = every[f"{EDIT}-{i:05d}"], f"test-{i:05d}"
        gains = found[f"{own}+{EDIT}-{i:05d}"]
        assert gains[f"{EDIT}-{i:05d}"] == 3.0
        for image_id, scene in every.items():
            things = [sorted((t.category, t.colour) for t in s.things) for s in (scene, wanted)]
            right = 0.0 if things[0] != things[1] else 1.0 + (scene.background == wanted.background)
            right = 3.0 if scene == wanted else right
            assert gains.get(image_id, 0.0) == (0.0 if image_id == own else right)


def test_where_there_are_more_edits_than_pictures_some_have_several() -> None:
    queries = {row["query_id"]: row["image_id"] for row in Scenes(card(edits=14))._queries()}
    assert len(queries) == 14
    assert sorted(queries.values()) == sorted([f"test-{i:05d}" for i in range(12)] + ["test-00000", "test-00001"])


def test_the_queries_reach_the_annotations(tmp_path: Path) -> None:
    adapter = Scenes(card(edits=3))
    adapter.download(tmp_path)
    queries = adapter.annotations(tmp_path).composed_queries
    assert {query.image_id for query in queries} == {f"test-{i:05d}" for i in range(3)}
    assert adapter.annotations(tmp_path).images[-1].split == "test"
