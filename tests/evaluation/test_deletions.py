"""Deletions: by hand on a few pictures, and the same as to delete each picture and measure anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests import experiments
from tests.experiments import Rows, judge, rank
from tests.ranked import ABOUT, listed
from twinlens.core.errors import DataError
from twinlens.evaluation.deletions import Deletions
from twinlens.evaluation.measures import MEASURES, Judged, measure_all
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Groups


def delete_one_by_one(task: Task, rows: Rows, ks: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of each query as it is, and (queries, units, measures) without each unit, and the query's own unit.

    NaN stands where the unit is the query's own, or leaves it nothing to find.
    """
    deletions = judge(task, rows, max(ks))
    units, gains = deletions.units, task.qrels.gains(0, rows)

    def measure(own: np.ndarray, relevant: np.ndarray) -> list[float]:
        ideal = np.zeros((1, max(*ks, len(relevant))))
        ideal[0, : len(relevant)] = -np.sort(-relevant)
        return [float(v[0]) for v in measure_all(Judged(own[None], np.array([len(relevant)]), ideal), ks).values()]

    now: list[list[float]] = []
    without: list[list[list[float]]] = []
    for query, own in enumerate(rows):
        right = task.qrels.relevant_rows(query)
        worth = task.qrels.gains(query, right[None])[0]
        now.append(measure(gains[query], worth))
        without.append([])
        for unit in range(units.count):
            left = worth[units.of_items[right] != unit]
            gone = unit == units.of_queries[query] or not len(left)
            kept = gains[query][units.of_items[own] != unit]
            without[-1].append([np.nan] * len(now[-1]) if gone else measure(kept, left))
    return np.array(now), np.array(without), units.of_queries


def spread(deletions: Deletions, ks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same of what the vectorised way found, where every block is told unit by unit."""
    values = deletions.measure(ks)
    found = np.repeat(values.now[:, None], deletions.units.count, axis=1)
    for pair, (query, block) in enumerate(zip(deletions.blocks.query, deletions.blocks.block, strict=True)):
        found[query, deletions.blocks.of_units == block] = values.block[pair]
    found[deletions.query, deletions.unit] = values.single
    found[np.arange(len(found)), deletions.units.of_queries] = np.nan
    return values.now, found


def draw_object_sets(rng: np.random.Generator) -> tuple[Task, Rows]:
    sets = rng.integers(0, 8, 30)
    sets = sets[np.bincount(sets)[sets] >= 2]
    seen = rng.standard_normal((len(sets), 4))
    return experiments.object_sets(sets), rank(seen, seen, 17, np.arange(len(sets)))


def draw_captions(rng: np.random.Generator) -> tuple[Task, Rows]:
    seen = rng.standard_normal((20, 4))
    said = np.repeat(seen, 3, axis=0) + 0.8 * rng.standard_normal((60, 4))
    return experiments.caption_to_image(20, 3), rank(said, seen, 20)


def draw_pictures_that_find_captions(rng: np.random.Generator) -> tuple[Task, Rows]:
    seen = rng.standard_normal((20, 4))
    said = np.repeat(seen, 3, axis=0) + 0.8 * rng.standard_normal((60, 4))
    return experiments.image_to_caption(20, 3), rank(seen, said, 13)


def draw_graded(rng: np.random.Generator) -> tuple[Task, Rows]:
    """Queries of a picture and words, which do not find that picture; what is right for them is worth more or less."""
    names = [f"p{n:02d}" for n in range(24)]
    shown = rng.integers(0, 24, 30)
    gains = {
        f"q{query:02d}": {
            names[item]: float(rng.choice([0.25, 1, 1, 2])) for item in rng.permutation(24)[:6] if item != shown[query]
        }
        for query in range(30)
    }
    task = listed(
        "composed",
        TaskMetadata("Composed", "it2i", 4),
        gains,
        names,
        query_images=[names[n] for n in shown],
        exclude=shown,
    )
    return task, np.stack([[item for item in rng.permutation(24) if item != own][:14] for own in shown])


def draw_captions_that_others_have(rng: np.random.Generator) -> tuple[Task, Rows]:
    """Captions as items of which those of one picture may be right for different queries: no blocks to be had."""
    task = experiments.image_to_caption(20, 3)
    groups = Groups(np.arange(20) % 7, rng.integers(0, 7, 60))
    task = Task(
        "some", task.about, task.query_ids, task.query_images, task.item_ids, groups, item_images=task.item_images
    )
    return task, np.stack([rng.permutation(60)[:20] for _ in range(20)])


DRAWS = [
    draw_object_sets,
    draw_captions,
    draw_pictures_that_find_captions,
    draw_graded,
    draw_captions_that_others_have,
]


@pytest.mark.parametrize("draw", DRAWS)
def test_every_measure_is_what_it_is_on_the_pool_without_the_picture(
    draw: Callable[[np.random.Generator], tuple[Task, Rows]],
) -> None:
    ks = (1, 3, 5)
    for seed in range(3):
        task, rows = draw(np.random.default_rng(seed))
        now, without, own = delete_one_by_one(task, rows, ks)
        ours, found = spread(judge(task, rows, 5), ks)
        np.testing.assert_allclose(ours, now, atol=1e-12)
        np.testing.assert_allclose(found, without, atol=1e-12)
        assert ours.shape[1] == 3 * len(MEASURES)
        assert np.isnan(found[np.arange(len(own)), own]).all()


def test_four_pictures_by_hand() -> None:
    """a, b, c share a set, d has one with nobody, so that it is only in the way: a finds d, b, c, in this order."""
    names = ["a", "b", "c", "d"]
    qrels = Groups(np.array([0]), np.array([0, 0, 0, 1]), np.array([0]))
    task = Task("object_sets", ABOUT["object_sets"], ["a"], ["a"], names, qrels, np.array([0]), ["set", "other"])
    rows = np.array([[3, 1, 2]])
    deletions = judge(task, rows, 2)
    now, found = spread(deletions, [2])
    mrr, hit, recall, precision = (list(MEASURES).index(name) for name in ("mrr", "hit", "recall", "precision"))
    assert now[0, [mrr, hit, recall, precision]].tolist() == [1 / 2, 1, 1 / 2, 1 / 2]
    without_b, without_c, without_d = found[0, 1:]
    assert without_b[[mrr, hit, recall, precision]].tolist() == [1 / 2, 1, 1, 1 / 2]  # d, c; of one right item
    assert without_c[[mrr, hit, recall, precision]].tolist() == [1 / 2, 1, 1, 1 / 2]  # d, b
    assert without_d[[mrr, hit, recall, precision]].tolist() == [1, 1, 1, 1]  # b, c
    assert np.isnan(found[0, 0]).all()
    assert not deletions.lost.any()


def test_a_query_whose_only_right_picture_is_deleted_is_no_query_any_more() -> None:
    task = experiments.object_sets(np.array([0, 0, 1, 1]))
    deletions = judge(task, np.array([[1, 2, 3], [2, 0, 3], [3, 0, 1], [0, 1, 2]]), 1)
    _, found = spread(deletions, [1])
    lost = np.isnan(found).all(axis=2)
    assert lost.tolist() == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2


def test_the_captions_of_a_picture_go_together() -> None:
    """A picture's list is b#0, b#1, b#2, then its own: without b its own captions lead."""
    task = experiments.image_to_caption(3, 3)
    rows = np.array([[3, 4, 5, 0, 1, 2, 6, 7, 8], [3, 4, 5, 0, 1, 2, 6, 7, 8], [6, 7, 8, 0, 1, 2, 3, 4, 5]])
    deletions = judge(task, rows, 3)
    now, found = spread(deletions, [3])
    mrr = list(MEASURES).index("mrr")
    assert now[:, mrr].tolist() == [0, 1, 1]
    assert found[0, 1, mrr] == 1
    assert found[0, 2, mrr] == 0


def test_graded_gains_leave_the_ideal_list_with_their_picture() -> None:
    """The query has items worth 2 and 1 and finds the second: without the first it is all that can be found."""
    task = listed(
        "composed", TaskMetadata("Composed", "it2i", 4), {"q": {"a": 2, "b": 1}}, ["a", "b", "c"], query_images=["x"]
    )
    deletions = judge(task, np.array([[2, 1, 0]]), 2)
    now, found = spread(deletions, [2])
    ndcg, discount = list(MEASURES).index("ndcg"), 1 / np.log2(3)
    assert now[0, ndcg] == pytest.approx(discount / (2 + discount))
    assert found[0, 0, ndcg] == pytest.approx(discount)
    assert found[0, 1, ndcg] == pytest.approx(2 * discount / 2)  # the third moves up
    assert found[0, 2, ndcg] == pytest.approx((1 + 2 * discount) / (2 + discount))


def test_lists_that_end_at_k_are_refused_as_nothing_can_move_up() -> None:
    task = experiments.caption_to_image(12, 1)
    rows = np.tile(np.arange(5), (12, 1))
    with pytest.raises(DataError, match=r"end at rank 5; what stands at rank 5 .* needs 6: raise rank.depth"):
        judge(task, rows, 5)
    judge(task, rows, 4)
    judge(task, np.tile(np.arange(12), (12, 1)), 12)  # all there are


def test_pictures_are_numbered_over_items_and_queries() -> None:
    task = experiments.image_to_caption(3, 2)
    units = judge(task, np.tile(np.arange(6), (3, 1)), 2).units
    assert units.count == 3
    assert units.of_items.tolist() == [0, 0, 1, 1, 2, 2]
    assert units.of_queries.tolist() == [0, 1, 2]
