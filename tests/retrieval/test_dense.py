"""Retrievers by vectors: which a task gets, of which vectors each is made, and that blocks give the same runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.small import CAPTION_IDS, CAPTION_IMAGES, IDS, built, corpus, params, vectors
from twinlens.core.vectors import Rows, Vectors
from twinlens.retrieval.base import Dense, Retriever
from twinlens.retrieval.block_ranking import rank_blocks
from twinlens.retrieval.dense import draw_one_caption_each, retrievers
from twinlens.retrieval.exemplar import combine_unit_vectors
from twinlens.retrieval.rank import restate_as_published
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.inputs import CAPTIONS, COMPOSED_PAIRS, GENERATED, IMAGES, JOINED, OTHER_WAY, UNTRAINED
from twinlens.tasks.qrels import Groups, Pairs

DESCRIBED = ["i0", "i1", "i2"]
TASKS, _ = built()
ALL = {
    IMAGES: vectors(IDS, IDS, 1),
    CAPTIONS: vectors(CAPTION_IDS, CAPTION_IMAGES, 2),
    JOINED: vectors(DESCRIBED, DESCRIBED, 3),
    GENERATED: vectors(IDS, IDS, 4),
}
BEFORE = {
    IMAGES + UNTRAINED: vectors(IDS, IDS, 11),
    CAPTIONS + UNTRAINED: vectors(CAPTION_IDS, CAPTION_IMAGES, 12),
    JOINED + UNTRAINED: vectors(DESCRIBED, DESCRIBED, 13),
    GENERATED + UNTRAINED: vectors(IDS, IDS, 14),
}
OTHER = {
    IMAGES + OTHER_WAY: vectors(IDS, IDS, 21),
    CAPTIONS + OTHER_WAY: vectors(CAPTION_IDS, CAPTION_IMAGES, 22),
    GENERATED + OTHER_WAY: vectors(IDS, IDS, 24),
}


def found(
    task: Task, sources: Mapping[str, Vectors] = ALL, joint: bool = True, *, as_published: bool = False, **rank: float
) -> dict[str, Retriever]:
    """The retrievers of a task by name, of our protocol or of its source's."""
    made = retrievers(task, corpus(sources, joint), params(**rank))
    return {one.name: one for one in made if one.published == as_published}


def names(sources: Mapping[str, Vectors], joint: bool) -> dict[str, list[str]]:
    return {name: list(made) for name, task in TASKS.items() if (made := found(task, sources, joint))}


def pair(retriever: Retriever) -> tuple[np.ndarray, np.ndarray]:
    made = retriever.make()
    assert isinstance(made, Dense)
    return np.asarray(made.queries), np.asarray(made.items)


def check(retriever: Retriever, queries: Rows, items: Rows) -> None:
    of_queries, of_items = pair(retriever)
    np.testing.assert_array_equal(of_queries, np.asarray(queries))
    np.testing.assert_array_equal(of_items, np.asarray(items))


# ------------------------------------------------------------- which a task gets


def test_a_joint_model_is_asked_in_every_way() -> None:
    assert names(ALL, joint=True) == {
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
        "caption_to_caption": ["caption"],
    }


def test_separate_towers_never_compare_pixels_with_words() -> None:
    made = names(ALL, joint=False)
    assert made["caption_to_image"] == made["image_to_caption"] == ["caption_generated"]
    assert "image_and_captions_joined" in made["object_sets"]


def test_an_image_tower_alone_and_a_text_tower_alone() -> None:
    assert names({IMAGES: ALL[IMAGES]}, joint=False) == {"object_sets": ["image"]}
    words = {CAPTIONS: ALL[CAPTIONS], JOINED: ALL[JOINED]}
    assert names(words, joint=False) == {
        "object_sets": ["captions_joined", "caption_random"],
        "caption_to_caption": ["caption"],
    }


def test_a_retriever_says_what_a_picture_is_fed_as_and_what_that_costs() -> None:
    told = {name: (one.inputs, one.costs) for name, one in found(TASKS["object_sets"]).items()}
    generated = ("caption_caption", "embed_captions_generated")
    assert told == {
        "image": ((IMAGES,), ("embed_images",)),
        "captions_joined": ((JOINED,), ("embed_captions_joined",)),
        "caption_random": ((CAPTIONS,), ("embed_captions",)),
        "caption_generated": ((GENERATED,), generated),
        "image_and_caption_generated": ((IMAGES, GENERATED), ("embed_images", *generated)),
        "image_and_captions_joined": ((IMAGES, JOINED), ("embed_images", "embed_captions_joined")),
    }
    for name in ("caption_to_image", "image_to_caption"):
        across = found(TASKS[name], ALL | BEFORE)
        assert {one.inputs for one in across.values()} == {(IMAGES,), (GENERATED,), (IMAGES, GENERATED)}
        before = {name: one.untrained_of for name, one in across.items() if one.untrained_of is not None}
        assert before == {"image_untrained": "image", "caption_generated_untrained": "caption_generated"}
        assert not any(one.zero_is_miss for one in across.values())


# ----------------------------------------------------------- of which vectors each is made


def test_captions_search_pictures_and_pictures_captions_by_their_own_vectors() -> None:
    there, back = found(TASKS["caption_to_image"]), found(TASKS["image_to_caption"])
    check(there["image"], ALL[CAPTIONS].rows, ALL[IMAGES].rows)
    check(back["image"], ALL[IMAGES].rows[:3], ALL[CAPTIONS].rows)


def test_a_picture_that_searches_by_words_uses_its_generated_caption_and_never_its_own_human_ones() -> None:
    check(found(TASKS["caption_to_image"])["caption_generated"], ALL[CAPTIONS].rows, ALL[GENERATED].rows)
    check(found(TASKS["image_to_caption"])["caption_generated"], ALL[GENERATED].rows[:3], ALL[CAPTIONS].rows)


def test_pictures_among_themselves_are_compared_by_the_same_rows_on_both_sides() -> None:
    made = found(TASKS["object_sets"])
    check(made["image"], ALL[IMAGES].rows[[0, 2]], ALL[IMAGES].rows[[0, 2]])
    check(made["captions_joined"], ALL[JOINED].rows[[0, 2]], ALL[JOINED].rows[[0, 2]])
    drawn = draw_one_caption_each(CAPTION_IMAGES, ["i0", "i2"], 0)
    check(made["caption_random"], ALL[CAPTIONS].rows[drawn], ALL[CAPTIONS].rows[drawn])


def test_vectors_are_found_by_id_wherever_they_stand() -> None:
    turned = {
        name: Vectors(source.ids[::-1], source.image_ids[::-1], source.rows[::-1]) for name, source in ALL.items()
    }
    for task in TASKS.values():
        for retriever in found(task).keys() - {"caption_random"}:  # whose draw is of rows
            check(found(task, turned)[retriever], *pair(found(task)[retriever]))


def test_a_trained_model_searches_as_it_was_before_too_in_every_task_and_by_one_input() -> None:
    alone = ["image", "captions_joined", "caption_random", "caption_generated"]
    among = found(TASKS["object_sets"], ALL | BEFORE)
    assert {name: one.untrained_of for name, one in among.items() if one.untrained_of is not None} == {
        f"{name}_untrained": name for name in alone
    }
    for name, fed in (("image", IMAGES), ("captions_joined", JOINED), ("caption_generated", GENERATED)):
        source = BEFORE[fed + UNTRAINED]
        rows = source.rows[[source.ids.index(own) for own in ("i0", "i2")]]
        check(among[f"{name}_untrained"], rows, rows)
        assert among[f"{name}_untrained"].costs == among[name].costs
    drawn = draw_one_caption_each(CAPTION_IMAGES, ["i0", "i2"], 0)
    check(among["caption_random_untrained"], *2 * [BEFORE[CAPTIONS + UNTRAINED].rows[drawn]])
    images, captions, generated = (BEFORE[name + UNTRAINED].rows for name in (IMAGES, CAPTIONS, GENERATED))
    there, back = (found(TASKS[name], ALL | BEFORE) for name in ("caption_to_image", "image_to_caption"))
    check(there["image_untrained"], captions, images)
    check(back["image_untrained"], images[:3], captions)
    check(there["caption_generated_untrained"], captions, generated)
    check(back["caption_generated_untrained"], generated[:3], captions)
    check(there["image"], ALL[CAPTIONS].rows, ALL[IMAGES].rows)
    assert "image_untrained" not in found(TASKS["caption_to_image"], ALL | BEFORE, joint=False)


@pytest.mark.parametrize("fed", [IMAGES, CAPTIONS, JOINED, GENERATED])
def test_vectors_ten_times_too_long_give_the_rows_that_unit_ones_give(fed: str) -> None:
    source = ALL[fed]
    longer = {fed: Vectors(source.ids, source.image_ids, np.asarray(source.rows) * np.float32(10))}
    for task in TASKS.values():
        for name, one in found(task, ALL | longer).items():
            for ours, wanted in zip(pair(one), pair(found(task)[name]), strict=True):
                np.testing.assert_allclose(ours, wanted, atol=1e-6, err_msg=f"{task.name}, {name}")


def test_heads_of_a_direction_of_their_own_search_that_direction_alone() -> None:
    there, back = (found(TASKS[name], ALL | OTHER) for name in ("caption_to_image", "image_to_caption"))
    captions = OTHER[CAPTIONS + OTHER_WAY].rows
    check(there["image"], ALL[CAPTIONS].rows, ALL[IMAGES].rows)
    check(back["image"], OTHER[IMAGES + OTHER_WAY].rows[:3], captions)
    check(back["caption_generated"], OTHER[GENERATED + OTHER_WAY].rows[:3], captions)
    check(found(TASKS["object_sets"], ALL | OTHER)["image"], *2 * [ALL[IMAGES].rows[[0, 2]]])


def of_lengths(source: Vectors, seed: int) -> Vectors:
    lengths = np.random.default_rng(seed).uniform(0.1, 9, len(source.ids)).astype(np.float32)
    return Vectors(source.ids, source.image_ids, source.rows, lengths)


def whole(source: Vectors) -> np.ndarray:
    assert source.lengths is not None
    return np.asarray(source.rows, dtype=np.float64) * source.lengths[:, None]


@pytest.mark.parametrize("each", [False, True])
def test_heads_trained_by_distances_are_ranked_by_them_in_the_protocol_of_their_source(each: bool) -> None:
    there = {name: of_lengths(ALL[name], seed) for seed, name in enumerate((IMAGES, CAPTIONS))}
    back = {name: of_lengths(source, seed + 5) for seed, (name, source) in enumerate(OTHER.items())}
    before = {name: of_lengths(source, seed + 9) for seed, (name, source) in enumerate(BEFORE.items())}
    vectors_of = ALL | there | before | (back if each else {})
    for name, turned in (("caption_to_image", False), ("image_to_caption", True)):
        task, sources, way = TASKS[name], there, ""
        if each and turned:
            sources, way = back, OTHER_WAY
        by_distance = found(task, vectors_of, as_published=True)
        assert list(by_distance) == ["image", "image_untrained"]
        assert [one.untrained_of for one in by_distance.values()] == [None, "image"]
        as_published = restate_as_published(task)
        assert as_published.name == f"{name}_as_published"
        assert as_published.about.published_of == name
        assert as_published.partners is None  # ranks within batches are by cosine
        assert (as_published.query_ids, as_published.item_ids) == (task.query_ids, task.item_ids)
        assert as_published.qrels is task.qrels
        for retriever, of_pictures, of_captions in (
            ("image_untrained", whole(before[IMAGES + UNTRAINED]), whole(before[CAPTIONS + UNTRAINED])),
            ("image", whole(sources[IMAGES + way]), whole(sources[CAPTIONS + way])),
        ):
            ends = (of_pictures[:3], of_captions) if turned else (of_captions, of_pictures)
            apart = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=2)
            queries, items = pair(by_distance[retriever])
            assert (queries @ items.T).argsort(axis=1)[:, ::-1].tolist() == apart.argsort(axis=1).tolist()
        queries, items = pair(found(task, vectors_of)["image"])
        assert (queries @ items.T).argsort(axis=1)[:, ::-1].tolist() != apart.argsort(axis=1).tolist()


def test_unit_vectors_are_ranked_by_cosine_alone() -> None:
    for task in TASKS.values():
        assert found(task, ALL | BEFORE | OTHER, as_published=True) == {}


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
def test_pixels_and_words_together_score_the_weighted_sum_of_both(weight: float) -> None:
    rows, others = pair(found(TASKS["object_sets"], image_weight=weight)["image_and_caption_generated"])
    np.testing.assert_array_equal(rows, others)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    image, words = ALL[IMAGES].rows[[0, 2]], ALL[GENERATED].rows[[0, 2]]
    expected = weight * image[0] @ image[1] + (1 - weight) * words[0] @ words[1]
    assert rows[0] @ rows[1] == pytest.approx(expected, abs=1e-6)
    for name in ("caption_to_image", "image_to_caption"):
        queries, items = pair(found(TASKS[name], image_weight=weight)["image_and_caption_generated"])
        captions, pictures = (items, queries) if name == "image_to_caption" else (queries, items)
        both = weight * np.asarray(ALL[IMAGES].rows) + (1 - weight) * np.asarray(ALL[GENERATED].rows)
        np.testing.assert_allclose(
            captions @ pictures.T, np.asarray(ALL[CAPTIONS].rows) @ both[: len(pictures)].T, atol=1e-6
        )


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


def test_the_seed_of_the_parameters_draws_the_caption() -> None:
    for seed in range(4):
        drawn = ALL[CAPTIONS].rows[draw_one_caption_each(CAPTION_IMAGES, ["i0", "i2"], seed)]
        check(found(TASKS["object_sets"], seed=seed)["caption_random"], drawn, drawn)


def test_a_caption_is_drawn_as_often_as_the_parameters_say_and_each_time_anew() -> None:
    made = found(TASKS["object_sets"], caption_draws=40)["caption_random"]
    assert len(made.draws) == 39
    assert made.told(made.make())["draws"] == 40
    every = [draw() for draw in (made.make, *made.draws)]
    assert len({np.asarray(draw.items).tobytes() for draw in every if isinstance(draw, Dense)}) > 1
    again = found(TASKS["object_sets"], caption_draws=40)["caption_random"].draws
    for one, other in zip(made.draws, again, strict=True):
        check(replace(made, make=one), *pair(replace(made, make=other)))
    assert found(TASKS["object_sets"], caption_draws=1)["caption_random"].draws == ()
    first = [row for row, image_id in enumerate(CAPTION_IMAGES) if image_id not in CAPTION_IMAGES[:row]]
    few = Vectors([CAPTION_IDS[row] for row in first], DESCRIBED, ALL[CAPTIONS].rows[first])
    assert found(TASKS["object_sets"], ALL | {CAPTIONS: few})["caption_random"].draws == ()  # nothing to draw
    assert all(
        not one.draws for task in TASKS.values() for name, one in found(task).items() if name != "caption_random"
    )


# --------------------------------------------------------- a picture and a text together


def composed() -> Task:
    """Three queries that begin with a picture and say what is to be different; the last one's is not in the pool."""
    queries, items = ["q0", "q1", "q2"], [f"p{n}" for n in range(8)]
    pairs = pl.DataFrame(
        {
            "query_id": ["q0", "q0", "q1", "q2", "q2"],
            "item_id": ["p3", "p5", "p0", "p1", "p7"],
            "gain": [1.0, 0.5, 1.0, 0.5, 2.0],
        }
    )
    about = TaskMetadata("Composed", "it2i", 5, query_text="changes", query_picture=IMAGES, item_picture=IMAGES)
    return Task(
        "composed",
        about,
        queries,
        ["p0", "p1", "elsewhere"],
        items,
        Pairs.of(pairs, queries, items),
        exclude=np.array([0, 1, -1]),
    )


def of_composed() -> dict[str, Vectors]:
    ids = ["elsewhere", *composed().item_ids]
    return {IMAGES: vectors(ids, ids, 31), "changes": vectors(["q2", "q1", "q0"], ["elsewhere", "p1", "p0"], 32)}


def test_a_picture_with_a_text_searches_by_each_alone_and_by_both() -> None:
    sources = of_composed()
    made = found(composed(), sources)
    assert list(made) == ["image", "text", "image_and_text"]
    pictures, texts = sources[IMAGES].rows[[1, 2, 0]], sources["changes"].rows[::-1]
    items = sources[IMAGES].rows[1:]
    check(made["image"], pictures, items)
    check(made["text"], texts, items)
    queries, _ = pair(made["image_and_text"])
    check(made["image_and_text"], queries, items)
    np.testing.assert_allclose(queries, combine_unit_vectors(pictures, texts, 0.5), atol=1e-6)
    half = pictures + texts
    np.testing.assert_allclose(queries, half / np.linalg.norm(half, axis=1, keepdims=True), atol=1e-6)
    assert {one.inputs for one in made.values()} == {(IMAGES,)}


def test_a_picture_and_a_text_that_were_read_together_search_by_that_vector() -> None:
    sources = of_composed()
    sources[COMPOSED_PAIRS] = vectors(["q1", "q0", "q2"], ["p1", "p0", "elsewhere"], 33)
    made = found(composed(), sources)
    assert list(made) == ["image", "text", "image_and_text", "image_with_text"]
    check(made["image_with_text"], sources[COMPOSED_PAIRS].rows[[1, 0, 2]], sources[IMAGES].rows[1:])
    assert "image_with_text" not in found(composed(), sources, joint=False)


def test_a_picture_with_a_text_needs_pixels_and_words_of_one_space() -> None:
    sources = of_composed()
    assert list(found(composed(), sources, joint=False)) == ["image"]
    assert list(found(composed(), {IMAGES: sources[IMAGES]})) == ["image"]
    assert found(composed(), {"changes": sources["changes"]}) == {}


def test_queries_that_show_several_pictures_are_not_searched_here() -> None:
    assert found(replace(composed(), shown=[["p0"], ["p1"], ["elsewhere"]]), of_composed()) == {}


@pytest.mark.parametrize("depth", [3, 50])
@pytest.mark.parametrize("retriever", ["image", "text", "image_and_text"])
def test_a_composed_query_never_finds_the_picture_that_it_begins_with(retriever: str, depth: int) -> None:
    task = composed()
    made = found(task, of_composed())[retriever].make()
    (block,) = rank_blocks(made, task, depth, "cpu")
    assert np.isfinite(block.scores).all()
    for query, rows in enumerate(block.rows.tolist()):
        assert task.query_images[query] not in [task.item_ids[row] for row in rows]
        assert len(set(rows)) == len(rows) == min(depth, 7)
    assert block.first_hit is not None
    scores = made.block(0, 3)
    for query, first in enumerate(block.first_hit.tolist()):
        others = [row for row in range(8) if row != [0, 1, -1][query]]
        order = sorted(others, key=lambda row: (-scores[query, row], row))
        assert first == 1 + min(order.index(row) for row in task.qrels.relevant_rows(query).tolist())


# ---------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class InBlocks:
    """The scores of vectors, and no more: searched a block of queries at a time."""

    dense: Dense

    def __len__(self) -> int:
        return len(self.dense)

    def block(self, start: int, stop: int) -> np.ndarray:
        return self.dense.block(start, stop)


@settings(deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 12), st.booleans(), st.booleans())
def test_a_run_by_blocks_and_one_by_vectors_are_the_same(seed: int, depth: int, listed: bool, some: bool) -> None:
    rng = np.random.default_rng(seed)
    queries, items = int(rng.integers(1, 6)), int(rng.integers(3, 10))
    query_ids, item_ids = [f"q{n}" for n in range(queries)], [f"i{n}" for n in range(items)]
    exclude = np.where(rng.random(queries) < 0.5, rng.integers(0, items, queries), -1)
    whole = Groups(rng.integers(0, 3, queries), rng.integers(0, 3, items), exclude)
    qrels = whole if not listed else Pairs.of(named(whole, query_ids, item_ids), query_ids, item_ids)
    task = Task("some", TaskMetadata("Some", "it2i", 0), query_ids, query_ids, item_ids, qrels, exclude)
    dense = Dense(*(rng.integers(-2, 3, (n, 2)).astype(np.float32) for n in (queries, items)))  # many equal scores
    rows = np.sort(rng.permutation(items)[: int(rng.integers(2, items + 1))]) if some else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinlens.retrieval.hybrid.BLOCK_BYTES", 4 * items * 2)  # two queries
        by_blocks = list(rank_blocks(InBlocks(dense), task, depth, "cpu", rows=rows))
    by_vectors = list(rank_blocks(dense, task, depth, "cpu", rows=rows))
    assert len(by_blocks) == -(-queries // 2)
    assert [block.first_query for block in by_blocks] == list(range(0, queries, 2))
    for part in ("rows", "scores"):
        ours, theirs = (np.concatenate([getattr(b, part) for b in run]) for run in (by_blocks, by_vectors))
        np.testing.assert_array_equal(ours, theirs)
    lists = np.concatenate([block.rows for block in by_blocks])
    first = np.concatenate([block.first_hit for block in by_blocks if block.first_hit is not None])
    theirs = np.concatenate([block.first_hit for block in by_vectors if block.first_hit is not None])
    inside = first <= lists.shape[1]  # beyond, equal scores may stand in either order
    np.testing.assert_array_equal(first[inside], theirs[inside])
    np.testing.assert_array_equal(first > lists.shape[1], theirs > lists.shape[1])
    places = list(range(items)) if rows is None else rows.tolist()
    scores = dense.block(0, queries)
    for query in range(queries):
        order = [row for row in places if row != exclude[query]]
        order.sort(key=lambda row: (-scores[query, row], row))
        assert [places[row] for row in lists[query]] == order[: lists.shape[1]]
        wanted = set(task.qrels.relevant_rows(query).tolist())
        assert first[query] == next((rank for rank, row in enumerate(order, 1) if row in wanted), 0)


def named(qrels: Groups, query_ids: list[str], item_ids: list[str]) -> pl.DataFrame:
    """Groups as a list of pairs."""
    pairs = [(query_ids[query], item_ids[item], gain) for query, item, gain in qrels.pairs(0, len(query_ids)).rows()]
    schema = {"query_id": pl.String, "item_id": pl.String, "gain": pl.Float32}
    return pl.DataFrame(pairs, schema=schema, orient="row")
