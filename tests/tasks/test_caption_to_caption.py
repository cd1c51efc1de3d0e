"""Captions that search for the other captions of their picture."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.tasks.small import CAPTION_IDS, CAPTION_IMAGES, HUMAN, built, corpus, params, vectors
from twinlens.retrieval.base import Dense
from twinlens.retrieval.block_ranking import rank_blocks
from twinlens.retrieval.registry import list_retrievers
from twinlens.tasks.caption_to_caption import choose_queries
from twinlens.tasks.inputs import CAPTIONS

MADE = vectors(CAPTION_IDS, CAPTION_IMAGES, 2)


def test_captions_of_pictures_with_several_search_for_the_others() -> None:
    task = built()[0]["caption_to_caption"]
    assert task.query_ids == ["i0#0", "i0#1", "i2#0", "i2#1", "i2#2"]  # i1 has one, i3 none
    assert task.item_ids == CAPTION_IDS
    found = [[CAPTION_IDS[row] for row in task.qrels.relevant_rows(query)] for query in range(5)]
    assert found == [["i0#1"], ["i0#0"], ["i2#1", "i2#2"], ["i2#0", "i2#2"], ["i2#0", "i2#1"]]
    assert task.query_images == ["i0", "i0", "i2", "i2", "i2"]
    assert (task.about.category, task.about.cluster_by) == ("t2t", "image_id")


def test_where_no_picture_has_several_captions_there_is_no_such_task() -> None:
    assert "caption_to_caption" not in built(captions=HUMAN[1:4])[0]
    assert "caption_to_caption" not in built(captions=HUMAN[:0])[0]


def test_a_caption_never_finds_itself_by_vectors_or_by_words() -> None:
    task = built()[0]["caption_to_caption"]
    said = ["a dog", "a dog", "a car", "two cats", "two cats on it", "no cats"]
    texts = {CAPTIONS: HUMAN.select(pl.col("caption_id").alias("id"), "image_id", pl.Series("text", said))}
    made = {one.name: one for one in list_retrievers(task, corpus({CAPTIONS: MADE}, texts=texts), params())}
    assert list(made) == ["caption", "bm25_caption"]
    for one in made.values():
        (lists,) = rank_blocks(one.make(), task, 10, "cpu", zero_is_miss=one.zero_is_miss)
        own = [CAPTION_IDS.index(name) for name in task.query_ids]
        assert not (lists.rows == np.array(own)[:, None]).any()
        assert lists.rows.shape == (5, 5)  # all other captions
    (words,) = rank_blocks(made["bm25_caption"].make(), task, 10, "cpu", zero_is_miss=True)
    assert [CAPTION_IDS[row] for row in words.rows[:2, 0]] == ["i0#1", "i0#0"]
    assert CAPTION_IDS[words.rows[2, 0]] == "i2#1"
    dense = made["caption"].make()
    assert isinstance(dense, Dense)
    assert np.array_equal(dense.queries, MADE.rows[[0, 1, 3, 4, 5]])
    assert (made["caption"].costs, made["bm25_caption"].costs) == (("embed_captions",), ("rank_bm25_caption",))


def test_in_large_pools_whole_pictures_are_drawn_by_their_ids() -> None:
    names = [f"p{number}" for number in range(40)]
    groups = np.repeat(np.arange(40), [1, *[5] * 39])
    taken = choose_queries(names, groups, 50)
    assert len(taken) == 50
    assert np.unique(groups[taken], return_counts=True)[1].tolist() == [5] * 10
    assert 0 not in groups[taken]
    fewer = groups < 39  # the last picture is gone: the draw of the others moves by it at most
    assert len(np.setdiff1d(taken, choose_queries(names[:39], groups[fewer], 50))) <= 5
    assert len(choose_queries(names, groups, 5_000)) == 195
    assert len(choose_queries(names, groups, 3)) == 5  # one picture at least


@pytest.mark.parametrize("most", [1, 7, 200])
def test_nothing_is_drawn_where_each_has_one(most: int) -> None:
    assert not len(choose_queries(["a", "b"], np.array([0, 1]), most))
