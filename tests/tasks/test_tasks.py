"""The tasks: who searches what, with which retrievers, and that no query sees itself."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from twinlens.config.params import RankParams
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.retrieval.dense import build, draw_one_caption_each
from twinlens.retrieval.fusion import concatenate
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, JOINED, OTHER_WAY, UNTRAINED, text_sources

PARAMS = RankParams(depth=10, image_weight=0.5, seed=0)
IDS = ["i0", "i1", "i2", "i3"]
GROUPS = pl.DataFrame(
    {
        "image_id": [*IDS, "outside"],
        "split": ["test"] * 4 + ["train"],
        "in_pool": [True] * 4 + [False],
        "object_set": ["car,cat", None, "car,cat", None, "car,cat"],
        "shard": [0] * 5,
        "row": range(5),
        "sha256": [""] * 5,
    }
)
CAPTION_IMAGES = ["i0", "i0", "i1", "i2", "i2", "i2"]  # i3 has none


def vectors(ids: list[str], image_ids: list[str], seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((len(ids), 6))
    return Vectors(ids, image_ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def sources(*names: str) -> dict[str, Vectors]:
    described = ["i0", "i1", "i2"]
    made = {
        IMAGES: vectors(IDS, IDS, 1),
        CAPTIONS: vectors([f"c{n}" for n in range(6)], CAPTION_IMAGES, 2),
        JOINED: vectors(described, described, 3),
        GENERATED: vectors(IDS, IDS, 4),
    }
    return {name: made[name] for name in names}


ALL = sources(IMAGES, CAPTIONS, JOINED, GENERATED)


def test_a_joint_model_is_asked_in_every_way() -> None:
    tasks = {task.name: list(task.retrievers) for task in build(ALL, GROUPS, PARAMS, joint=True)}
    assert tasks == {
        "object_sets": [
            "image",
            "captions_joined",
            "caption_random",
            "caption_generated",
            "image_and_caption_generated",
            "image_and_captions_joined",
        ],
        "caption_to_image": ["image", "caption_generated", "image_and_caption_generated"],
        "image_to_caption": ["image", "caption_generated", "image_and_caption_generated"],
    }


CAPTION_IDS = [f"c{n}" for n in range(6)]
BEFORE = {
    IMAGES + UNTRAINED: vectors(IDS, IDS, 11),
    CAPTIONS + UNTRAINED: vectors(CAPTION_IDS, CAPTION_IMAGES, 12),
}
OTHER = {
    IMAGES + OTHER_WAY: vectors(IDS, IDS, 21),
    CAPTIONS + OTHER_WAY: vectors(CAPTION_IDS, CAPTION_IMAGES, 22),
    GENERATED + OTHER_WAY: vectors(IDS, IDS, 24),
}


def by_name(sources: dict[str, Vectors], joint: bool = True) -> dict[str, Task]:
    return {task.name: task for task in build(sources, GROUPS, PARAMS, joint)}


def test_a_trained_model_searches_as_it_was_before_too_both_ways_and_by_pixels_alone() -> None:
    tasks = by_name(ALL | BEFORE)
    assert "image_untrained" not in tasks["object_sets"].retrievers
    captions, pictures = tasks["caption_to_image"].pair("image_untrained")
    np.testing.assert_array_equal(captions, BEFORE[CAPTIONS + UNTRAINED].rows)
    np.testing.assert_array_equal(pictures, BEFORE[IMAGES + UNTRAINED].rows)
    pictures, captions = tasks["image_to_caption"].pair("image_untrained")
    np.testing.assert_array_equal(pictures, BEFORE[IMAGES + UNTRAINED].rows[:3])
    np.testing.assert_array_equal(captions, BEFORE[CAPTIONS + UNTRAINED].rows)
    np.testing.assert_array_equal(tasks["caption_to_image"].pair("image")[1], ALL[IMAGES].rows)


def test_heads_of_a_direction_of_their_own_search_that_direction_alone() -> None:
    tasks = by_name(ALL | OTHER)
    there, back = tasks["caption_to_image"], tasks["image_to_caption"]
    np.testing.assert_array_equal(there.pair("image")[0], ALL[CAPTIONS].rows)
    np.testing.assert_array_equal(there.pair("image")[1], ALL[IMAGES].rows)
    np.testing.assert_array_equal(back.pair("image")[0], OTHER[IMAGES + OTHER_WAY].rows[:3])
    np.testing.assert_array_equal(back.pair("image")[1], OTHER[CAPTIONS + OTHER_WAY].rows)
    np.testing.assert_array_equal(back.pair("caption_generated")[0], OTHER[GENERATED + OTHER_WAY].rows[:3])
    np.testing.assert_array_equal(back.pair("caption_generated")[1], OTHER[CAPTIONS + OTHER_WAY].rows)
    np.testing.assert_array_equal(tasks["object_sets"].pair("image")[0], ALL[IMAGES].rows[[0, 2]])


def of_lengths(source: Vectors, seed: int) -> Vectors:
    lengths = np.random.default_rng(seed).uniform(0.1, 9, len(source.ids)).astype(np.float32)
    return Vectors(source.ids, source.image_ids, source.rows, lengths)


def whole(source: Vectors) -> np.ndarray:
    assert source.lengths is not None
    return source.rows.astype(np.float64) * source.lengths[:, None]


@pytest.mark.parametrize("each", [False, True])
def test_heads_trained_by_distances_are_ranked_by_them_in_tasks_of_their_own(each: bool) -> None:
    there = {name: of_lengths(ALL[name], seed) for seed, name in enumerate((IMAGES, CAPTIONS))}
    back = {name: of_lengths(source, seed + 5) for seed, (name, source) in enumerate(OTHER.items())}
    before = {name: of_lengths(source, seed + 9) for seed, (name, source) in enumerate(BEFORE.items())}
    tasks = by_name(ALL | there | before | (back if each else {}))
    for name, sources, other in (("caption_to_image", there, ""), ("image_to_caption", back if each else there, "")):
        way = OTHER_WAY if each and name == "image_to_caption" else other
        task, by_distance = tasks[name], tasks[f"{name}_as_published"]
        assert list(by_distance.retrievers) == ["image", "image_untrained"]
        assert by_distance.partners is None  # ranks within batches are by cosine
        assert (by_distance.query_ids, by_distance.item_ids) == (task.query_ids, task.item_ids)
        assert by_distance.query_groups.tolist() == task.query_groups.tolist()
        pictures, captions = whole(sources[IMAGES + way]), whole(sources[CAPTIONS + way])
        untrained = whole(before[IMAGES + UNTRAINED]), whole(before[CAPTIONS + UNTRAINED])
        for retriever, (of_pictures, of_captions) in {
            "image_untrained": untrained,
            "image": (pictures, captions),
        }.items():
            ends = (of_captions, of_pictures) if name == "caption_to_image" else (of_pictures[:3], of_captions)
            apart = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=2)
            queries, items = by_distance.pair(retriever)
            assert (queries @ items.T).argsort(axis=1)[:, ::-1].tolist() == apart.argsort(axis=1).tolist()
        cosines = np.matmul(*(side if i == 0 else side.T for i, side in enumerate(task.pair("image"))))
        assert cosines.argsort(axis=1)[:, ::-1].tolist() != apart.argsort(axis=1).tolist()


def test_unit_vectors_are_ranked_by_cosine_alone_and_pictures_are_paired_with_their_first_caption() -> None:
    tasks = by_name(ALL)
    assert list(tasks) == ["object_sets", "caption_to_image", "image_to_caption"]
    partners = tasks["image_to_caption"].partners
    assert partners is not None
    assert partners.tolist() == [0, 2, 3]
    assert tasks["caption_to_image"].partners is None


def test_separate_towers_never_compare_pixels_with_words() -> None:
    tasks = {task.name: list(task.retrievers) for task in build(ALL, GROUPS, PARAMS, joint=False)}
    assert tasks["caption_to_image"] == tasks["image_to_caption"] == ["caption_generated"]
    assert "image_and_captions_joined" in tasks["object_sets"]


def test_an_image_tower_alone_and_a_text_tower_alone() -> None:
    pixels = build(sources(IMAGES), GROUPS, PARAMS, joint=False)
    assert [(task.name, list(task.retrievers)) for task in pixels] == [("object_sets", ["image"])]
    words = build(sources(CAPTIONS, JOINED), GROUPS, PARAMS, joint=False)
    assert [(task.name, list(task.retrievers)) for task in words] == [
        ("object_sets", ["captions_joined", "caption_random"])
    ]


def test_object_sets_are_searched_by_those_who_share_one_and_never_find_themselves() -> None:
    task = build(ALL, GROUPS, PARAMS, joint=True)[0]
    assert task.query_ids == task.item_ids == ["i0", "i2"]
    assert task.own_rows is not None
    assert task.own_rows.tolist() == [0, 1]
    assert task.relevant_counts().tolist() == [1, 1]


def test_captions_find_their_picture_and_pictures_their_captions() -> None:
    _, there, back = build(ALL, GROUPS, PARAMS, joint=True)
    assert [there.group_names[g] for g in there.query_groups] == CAPTION_IMAGES
    assert there.item_ids == IDS  # i3 has no caption but can be found
    assert there.relevant_counts().tolist() == [1] * 6
    assert back.query_ids == ["i0", "i1", "i2"]  # i3 has nothing to find
    assert back.relevant_counts().tolist() == [2, 1, 3]
    captions, pictures = there.pair("image")
    np.testing.assert_array_equal(captions, ALL[CAPTIONS].rows)
    np.testing.assert_array_equal(pictures, ALL[IMAGES].rows)
    of_pictures, of_captions = back.pair("image")
    np.testing.assert_array_equal(of_pictures, ALL[IMAGES].rows[:3])
    np.testing.assert_array_equal(of_captions, captions)


def test_a_picture_that_searches_by_words_uses_its_generated_caption_and_never_its_own_human_ones() -> None:
    _, there, back = build(ALL, GROUPS, PARAMS, joint=True)
    np.testing.assert_array_equal(there.pair("caption_generated")[1], ALL[GENERATED].rows)
    np.testing.assert_array_equal(back.pair("caption_generated")[0], ALL[GENERATED].rows[:3])


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
def test_pixels_and_words_together_score_the_weighted_sum_of_both(weight: float) -> None:
    task = build(ALL, GROUPS, PARAMS.model_copy(update={"image_weight": weight}), joint=True)[0]
    rows, _ = task.pair("image_and_caption_generated")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    image, words = ALL[IMAGES].rows[[0, 2]], ALL[GENERATED].rows[[0, 2]]
    expected = weight * image[0] @ image[1] + (1 - weight) * words[0] @ words[1]
    assert rows[0] @ rows[1] == pytest.approx(expected, abs=1e-6)


def test_a_side_with_many_dimensions_weighs_no_more_than_one_with_a_single_one() -> None:
    wide, narrow = ALL[IMAGES].rows[:2], np.array([[1.0], [-1.0]], np.float32)
    both = concatenate(wide, narrow, 0.5)
    assert both[0] @ both[1] == pytest.approx((wide[0] @ wide[1] - 1) / 2, abs=1e-6)


def test_one_caption_is_drawn_by_seed_and_evenly() -> None:
    images = [f"p{n}" for n in range(3000) for _ in range(5)]
    wanted = [f"p{n}" for n in range(3000)]
    drawn = draw_one_caption_each(images, wanted, seed=1)
    assert (drawn == draw_one_caption_each(images, wanted, seed=1)).all()
    assert not (drawn == draw_one_caption_each(images, wanted, seed=2)).all()
    assert (drawn // 5 == np.arange(3000)).all()
    counts = np.bincount(drawn % 5)
    assert counts.min() > 500
    some = draw_one_caption_each(images, wanted[::7], seed=1)
    np.testing.assert_array_equal(some, drawn[::7])  # whoever else is wanted


def test_vectors_of_other_pictures_are_refused() -> None:
    strange = vectors(["i0", "i1", "i3", "i2"], IDS, 1)
    with pytest.raises(DataError, match="images: the vectors' ids are not the pool's pictures"):
        build(ALL | {IMAGES: strange}, GROUPS, PARAMS, joint=True)


def test_texts_stand_in_the_order_of_the_pool_and_of_the_file() -> None:
    captions = pl.DataFrame(
        {
            "caption_id": ["b#0", "a#0", "b#1", "x#0"],
            "image_id": ["b", "a", "b", "x"],
            "text": ["first of b", "of a", "second of b", "of another"],
        }
    )
    pool = pl.DataFrame({"image_id": ["a", "b"]})
    generated = pl.DataFrame({"image_id": ["a", "b"], "text": ["made for a", "made for b"]})
    texts = text_sources(pool, captions, generated)
    assert texts[CAPTIONS]["id"].to_list() == ["a#0", "b#0", "b#1"]
    assert texts[JOINED]["text"].to_list() == ["of a", "first of b second of b"]
    assert texts[GENERATED]["text"].to_list() == ["made for a", "made for b"]
    assert GENERATED not in text_sources(pool, captions, generated[:0])
    with pytest.raises(DataError, match="not those of the pool"):
        text_sources(pool, captions, generated[:1])
