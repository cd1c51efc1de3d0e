"""Slices: cut by objects and by length; a swap is marked where both of its sides are shown, and never by noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation import drawn
from tests.experiments import Rows, alone, caption_to_image, experiment, rank
from twinlens.evaluation.compare import estimate_difference
from twinlens.evaluation.slices import (
    CATEGORY,
    LENGTH,
    Contrast,
    Side,
    Slice,
    bound_contrasts,
    compare_slices,
    cut_slices,
)
from twinlens.tasks.base import Task
from twinlens.tasks.qrels import Groups

TASK, IMAGE, MEASURE = "caption_to_image", "image", "ndcg_at_10"


def sides(task: Task, runs: list[Rows]) -> tuple[Side, Side]:
    made = alone(*(experiment(name, task, {IMAGE: rows}) for name, rows in zip("ab", runs, strict=True)))
    return Side(made[0], IMAGE), Side(made[1], IMAGE)


def draw(rng: np.random.Generator, pictures: int, first: np.ndarray, second: np.ndarray) -> tuple[Task, list[Rows]]:
    """Pictures with two captions each, which two models see with their own noise for each picture."""
    seen = drawn.CENTRES[rng.choice(drawn.KINDS, pictures, p=drawn.SHARES)] + 0.9 * rng.standard_normal((pictures, 16))
    said = np.repeat(seen, 2, axis=0) + 0.8 * rng.standard_normal((2 * pictures, 16))
    runs = []
    for noise in (first, second):
        both = (
            noise[:, None] * rng.standard_normal(seen.shape),
            np.repeat(noise, 2)[:, None] * rng.standard_normal(said.shape),
        )
        runs.append(rank(said + both[1], seen + both[0], drawn.DEPTH))
    return caption_to_image(pictures, 2), runs


def halves(pictures: int) -> list[Slice]:
    night = np.repeat(np.arange(pictures) % 2 == 0, 2)
    thirds = [np.repeat(np.arange(pictures) % 3 == n, 2) for n in range(3)]
    return [Slice(CATEGORY, "night", night), *(Slice(CATEGORY, f"third {n}", own) for n, own in enumerate(thirds))]


def test_queries_are_cut_by_what_their_pictures_show_and_by_their_length() -> None:
    queries = [("q0", "p0"), ("q1", "p0"), ("q2", "p1"), ("q3", "p2")]
    labels = {"p0": ["boat", "dog"], "p1": ["dog"], "p2": ["cat"]}
    texts = {"q0": "a boat", "q1": "a dog and a boat", "q2": "a dog", "q3": "a cat on a mat there"}
    found = cut_slices(queries, labels, texts)
    assert [(one.kind, one.name, one.queries.nonzero()[0].tolist()) for one in found] == [
        (CATEGORY, "dog", [0, 1, 2]),
        (CATEGORY, "boat", [0, 1]),
        (CATEGORY, "cat", [3]),
        (LENGTH, "2 words", [0, 2]),
        (LENGTH, "3 to 5 words", [1]),
        (LENGTH, "6 words", [3]),
    ]
    assert [one.kind for one in cut_slices(queries, labels, {})] == [CATEGORY] * 3  # pictures that ask have no words
    assert cut_slices(queries, {}, dict.fromkeys(texts, "two words")) == []  # all alike: nothing to cut


def test_a_slice_is_estimated_as_a_task_of_its_queries_alone_would_be() -> None:
    rng = np.random.default_rng(0)
    one = np.ones(60)
    task, runs = draw(rng, 60, one, 1.4 * one)
    pair = sides(task, runs)
    (part,) = [Slice(CATEGORY, "some", np.repeat(np.arange(60) < 25, 2))]
    (found,) = bound_contrasts(pair, TASK, MEASURE, compare_slices([pair], TASK, MEASURE, [part])[0])
    assert isinstance(task.qrels, Groups)
    less = replace(
        task,
        query_ids=task.query_ids[:50],
        query_images=task.query_images[:50],
        qrels=Groups(task.qrels.query_groups[:50], task.qrels.item_groups),
    )
    alone = sides(less, [rows[:50] for rows in runs])
    wanted = estimate_difference(alone[0].candidate, alone[1].candidate, TASK, (IMAGE, IMAGE), [MEASURE])
    assert found.effect == pytest.approx(wanted.mean[0])
    assert found.interval is not None
    assert found.interval.low == pytest.approx(wanted.mean[0] - wanted.half_width[0])
    assert (found.queries, found.clusters) == (50, 25)


def test_a_swap_is_marked_and_its_two_sides_are_told() -> None:
    rng = np.random.default_rng(1)
    night = np.arange(160) % 2 == 0
    task, runs = draw(rng, 160, np.where(night, 0.2, 1.5), np.where(night, 1.5, 0.2))
    ((found, *thirds),) = compare_slices([sides(task, runs)], TASK, MEASURE, halves(160))
    assert found.swaps
    assert found.effect < 0 < found.elsewhere
    assert found.second - found.first == pytest.approx(found.effect)
    assert not any(one.swaps for one in thirds)
    few = Slice(CATEGORY, "few", np.repeat(np.arange(160) < 9, 2))
    ((left,),) = compare_slices([sides(task, runs)], TASK, MEASURE, [few])
    assert (left.tested, left.p, left.clusters) == (False, 1.0, 9)


def count_swaps(draws: int, better: float) -> int:
    """Pools of two models without a swap on which one is marked all the same."""
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(draws):
        task, runs = draw(rng, 60, np.ones(60), np.full(60, better))
        found: list[Contrast] = compare_slices([sides(task, runs)], TASK, MEASURE, halves(60))[0]
        wrong += any(one.swaps for one in found)
    return wrong


@pytest.mark.parametrize("better", [1.0, 0.8])
def test_noise_is_no_swap(better: float) -> None:
    assert count_swaps(40, better) <= 2
