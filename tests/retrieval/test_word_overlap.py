"""The reranker by words of generated captions, against counting by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from twinlens.config.load import read_params
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.word_overlap import WordOverlap, rerankers
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Groups


def texts(**of: str) -> pl.DataFrame:
    return pl.DataFrame({"id": list(of), "image_id": list(of), "text": list(of.values())})


TASK = Task(
    "caption_to_image",
    TaskMetadata("a title", "t2i", 1, query_text="captions", item_picture="images"),
    ["q"],
    ["x"],
    ["x", "y", "z"],
    Groups(np.array([0]), np.array([0, 1, 2])),
)
CAPTIONS = texts(q="a red car and a dog")
GENERATED = texts(x="a red car and a dog", y="a red boat", z="")


def reranker(**given: pl.DataFrame) -> list[WordOverlap]:
    return rerankers(TASK, Corpus({}, given, joint=True), read_params())


def f1(query: frozenset[str], item: frozenset[str]) -> float:
    """Harmonic mean of the shares of the query's and of the item's words that both have."""
    both = len(query & item)
    return 2.0 * both / (len(query) + len(item)) if both else 0.0


def test_words_that_both_share_are_weighed_against_those_of_each() -> None:
    assert f1(frozenset("abcd"), frozenset("ab")) == pytest.approx(2 * 2 / 6)
    queries = [frozenset("abc"), frozenset("abcd"), frozenset()]
    items = [frozenset("abc"), frozenset("ab"), frozenset("d"), frozenset()]
    one = WordOverlap(queries, items)
    rows = np.array([[3, 1, 0, 2], [0, 1, 2, 3]])
    found = one.scores(1, rows, np.zeros(rows.shape, dtype=np.float32))
    plain = np.array([[f1(queries[1 + n], items[row]) for row in listed] for n, listed in enumerate(rows)])
    highest = np.maximum(plain.max(axis=1, keepdims=True), 1e-9)  # of the query without a word all are 0
    np.testing.assert_array_equal(found, (np.float32(0.5) * (plain.astype(np.float32) / highest.astype(np.float32))))


def test_half_is_the_runs_own_score_and_half_the_overlap_each_from_0_to_1() -> None:
    (one,) = reranker(captions=CAPTIONS, captions_generated=GENERATED)
    scores = np.array([[0.9, 0.5, 0.1]], dtype=np.float32)
    rows = np.array([[1, 0, 2]])  # found in the order y, x, z
    share = f1(one.queries[0], one.items[1])
    np.testing.assert_allclose(one.scores(0, rows, scores), [[0.5 + share / 2, 0.25 + 0.5, 0.0]], atol=1e-6)


def test_without_a_captioner_there_is_none() -> None:
    assert reranker(captions=CAPTIONS) == []
    assert reranker(captions=CAPTIONS, captions_generated=texts(x="a car")) == []  # some have none
