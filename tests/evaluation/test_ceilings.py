"""The best possible value of a measure: against all orders of a small pool, and where it is not known."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.ranked import grouped, listed, write_run
from twinlens.evaluation.ceilings import compute_ceiling, describe_ceiling, gather_item_texts, gather_queries
from twinlens.evaluation.measures import Judged, headline, measure_all
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.inputs import CAPTIONS, IMAGES, Input

KS = [1, 2, 3]
NAMES = [measure.name for measure in headline()]


def best_of_all_orders(task: Task, asked: list[str], depth: int = 3) -> dict[str, float]:
    """The largest sum over the queries of each question of any one list, by looking at all of them."""
    counts, ideal, items = task.qrels.counts(), task.qrels.ideal(depth), len(task.item_ids)
    total: dict[str, float] = {}
    for question in set(asked):
        rows = [row for row, own in enumerate(asked) if own == question]
        best: dict[str, float] = {}
        for order in permutations(range(items), depth):
            gains = np.concatenate([task.qrels.gains(row, np.array([order])) for row in rows])
            judged = Judged(gains, counts[rows], None if ideal is None else ideal[rows])
            for name, values in measure_all(judged, KS, NAMES).items():
                best[name] = max(best.get(name, 0.0), float(values.sum()))
        total = {name: total.get(name, 0.0) + value for name, value in best.items()}
    return {name: value / len(asked) for name, value in total.items()}


def captions_of(pictures: str) -> Task:
    """Queries that each describe the picture of their letter, in a pool of six."""
    queries = {f"q{n}": letter for n, letter in enumerate(pictures)}
    return grouped("caption_to_image", queries, {letter: letter for letter in "abcdef"}, images=list(pictures))


def test_queries_of_one_text_share_a_list_and_the_commonest_item_comes_first() -> None:
    task = captions_of("aabcdeff")
    asked = ["x", "x", "x", "x", "x", "y", "y", "z"]  # a a b c d, e f, f
    found = compute_ceiling(task, asked, None, KS)
    assert found["hit_at_1"] == pytest.approx((2 + 1 + 1) / 8)
    assert found["hit_at_2"] == pytest.approx((3 + 2 + 1) / 8)
    assert found["mrr_at_3"] == pytest.approx((2 * 1 + 1 / 2 + 1 / 3 + 1 + 1 / 2 + 1) / 8)
    assert found == pytest.approx(best_of_all_orders(task, asked))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_of_all_orders_for_every_measure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    task = captions_of("".join(rng.choice(list("abcdef"), 9)))
    asked = rng.choice(["x", "y", "z"], 9).tolist()
    assert compute_ceiling(task, asked, None, KS) == pytest.approx(best_of_all_orders(task, asked))


def test_queries_that_want_the_same_have_the_ideal_list_however_graded() -> None:
    about = TaskMetadata("Asked with a text", "it2i", 7)
    gains = {"q0": {"a": 2.0, "b": 1.0}, "q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 1.0}}
    task = listed("some", about, gains, list("abcde"))
    asked = ["x", "x", "y"]
    found = compute_ceiling(task, asked, None, KS)
    assert found["ndcg_at_3"] == 1.0
    assert found["precision_at_3"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert found == pytest.approx(best_of_all_orders(task, asked))


def test_graded_queries_of_one_text_with_one_item_each_share_a_list() -> None:
    about = TaskMetadata("Asked with a text", "it2i", 7)
    task = listed("some", about, {"q0": {"a": 3.0}, "q1": {"b": 2.0}, "q2": {"b": 1.0}}, list("abcd"))
    found = compute_ceiling(task, ["x"] * 3, None, KS)
    assert found["hit_at_1"] == pytest.approx(2 / 3)
    assert found == pytest.approx(best_of_all_orders(task, ["x"] * 3))


def test_where_several_items_are_right_for_some_and_others_for_others_nothing_is_claimed() -> None:
    about = TaskMetadata("Asked with a text", "it2i", 7)
    task = listed("some", about, {"q0": {"a": 1.0, "b": 1.0}, "q1": {"b": 1.0, "c": 1.0}}, list("abcd"))
    assert compute_ceiling(task, ["x", "x"], None, KS) == {}
    assert compute_ceiling(task, ["x", "y"], None, KS)["hit_at_1"] == 1.0


def test_a_query_that_is_a_picture_is_left_out_of_what_it_may_find() -> None:
    sets = dict.fromkeys("ab", "one") | dict.fromkeys("cdef", "two")
    task = grouped("object_sets", sets, sets, themselves=True)
    found = compute_ceiling(task, None, None, KS)
    assert found["recall_at_1"] == pytest.approx((2 * 1 + 4 / 3) / 6)
    assert found["precision_at_3"] == pytest.approx((2 * 1 / 3 + 4 * 1) / 6)
    assert found["hit_at_1"] == 1.0


def test_items_of_equal_text_stand_in_the_order_of_the_pool() -> None:
    items = {"a#0": "a", "a#1": "a", "b#0": "b", "c#0": "c", "c#1": "c"}
    texts = ["a dog", "a cat", "a dog", "a dog", "a dog"]  # b's only caption is the second "a dog", c's the third
    task = grouped("image_to_caption", dict(zip("abc", "abc", strict=True)), items)
    found = compute_ceiling(task, None, texts, KS)
    hits, ranks = {1: 1 / 3, 2: 2 / 3, 3: 1.0}, {1: 1 / 3, 2: 1 / 2, 3: 11 / 18}
    known = {f"hit_at_{k}": value for k, value in hits.items()} | {f"mrr_at_{k}": value for k, value in ranks.items()}
    assert found == pytest.approx(known)
    assert set(compute_ceiling(task, None, ["a", "b", "c", "d", "e"], KS)) > set(found)  # all differ: every measure
    assert compute_ceiling(task, ["x", "x", "y"], texts, KS) == {}


def test_what_is_asked_is_the_text_and_the_pictures_that_are_shown(tmp_path: Path) -> None:
    task = captions_of("aab")
    texts = Input(CAPTIONS, pl.DataFrame({"id": ["q1", "q0", "q2"], "text": ["dog", "dog", "cat"]}))
    there = Task(
        task.name,
        TaskMetadata("Caption to image", "t2i", 1, query_text=CAPTIONS, item_picture=IMAGES),
        *(task.query_ids, task.query_images, task.item_ids, task.qrels),
        group_names=task.group_names,
    )
    assert gather_queries(there, {CAPTIONS: texts}) == ["dog", "dog", "cat"]
    assert gather_queries(there, {}) is None
    assert gather_item_texts(there, {CAPTIONS: texts}) is None
    about = TaskMetadata("Composed", "it2i", 4, query_text="composed", query_picture=IMAGES)
    right = {n: {"d": 1.0} for n in "123"}
    composed = listed("c", about, right, list("abcd"), query_images=list("aab"), texts=["x"] * 3)
    assert gather_queries(composed, {}) == [("x", "a"), ("x", "a"), ("x", "b")]
    rows, scores = np.array([[0, 1, 2]] * 3), np.array([[0.3, 0.2, 0.1]] * 3)
    pool = write_run(tmp_path / "caption_to_image", there, rows, scores)
    found = describe_ceiling(pool, {CAPTIONS: texts}, KS)
    assert (found["distinct_queries"], found["ceiling"]["hit_at_1"]) == (2, 1.0)
    assert "distinct_items" not in found
