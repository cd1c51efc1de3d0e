"""Influences of many candidates at once: each difference as `compare` has it, each mean as its own jackknife."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation import drawn
from tests.evaluation.test_deletions import draw_graded
from tests.experiments import alone, experiment, object_sets, rank
from twinlens.core.errors import DataError
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.compare import estimate_difference
from twinlens.evaluation.influences import bound_means, find_influences
from twinlens.evaluation.jackknife import Measured, Sampling, estimate
from twinlens.tasks.base import Task

MEASURE, IMAGE = "ndcg_at_10", "image"


def draw_classes(rng: np.random.Generator, pictures: int, models: int) -> tuple[Task, list[np.ndarray]]:
    """Object sets whose queries are drawn by class."""
    kinds = np.repeat(np.arange(pictures // 4), 4)
    seen = drawn.CENTRES[kinds % drawn.KINDS] + rng.standard_normal((len(kinds), drawn.DIM))
    task = object_sets(kinds)
    task = replace(task, about=replace(task.about, cluster_by="group"))
    noisy = [seen + rng.standard_normal(seen.shape) for _ in range(models)]
    return task, [rank(one, one, drawn.DEPTH, np.arange(len(kinds))) for one in noisy]


def make(draw: Callable, pictures: int = 50, models: int = 4) -> list[Candidate]:
    task, runs = draw(np.random.default_rng(3), pictures, models)
    return alone(*(experiment(f"m{n}", task, {IMAGE: rows}) for n, rows in enumerate(runs)))


@pytest.mark.parametrize("draw", [drawn.draw_captions, drawn.draw_object_sets, draw_classes])
def test_every_difference_has_the_variance_and_freedom_that_compare_gives_it(draw: Callable) -> None:
    made = make(draw)
    made.append(Candidate("m1+m2", (made[1].first, made[2].first)))
    task = made[0].first.runs[0][0]
    found = find_influences(made, task, [IMAGE] * len(made), MEASURE).compare_all()
    for i, first in enumerate(made):
        for j, second in enumerate(made):
            if i == j:
                continue
            one = estimate_difference(first, second, task, (IMAGE, IMAGE), [MEASURE])
            np.testing.assert_allclose(found.effect[i, j], one.mean[0], atol=1e-12)
            np.testing.assert_allclose(found.variance[i, j], one.variance[0], rtol=1e-7)
            np.testing.assert_allclose(found.df[i, j], one.df[0], rtol=1e-6)


@pytest.mark.parametrize("draw", [drawn.draw_captions, drawn.draw_object_sets, draw_classes])
def test_every_mean_has_the_variance_of_its_own_jackknife(draw: Callable) -> None:
    made = make(draw)
    task = made[0].first.runs[0][0]
    found = find_influences(made, task, [IMAGE] * len(made), MEASURE)
    bounds = bound_means(found, made, task, [IMAGE] * len(made), MEASURE)
    for place, candidate in enumerate(made):
        (deletions,) = candidate.first.delete(task, IMAGE, 10)
        run = Measured(deletions, deletions.measure([10], ["ndcg"]))
        clusters = np.unique(candidate.read(task, IMAGE)["cluster"].to_numpy(), return_inverse=True)[1]
        plain = deletions.task.about.cluster_by == "image_id"
        own = estimate([run], Sampling.by_picture(deletions) if plain else Sampling.by_cluster(clusters))
        np.testing.assert_allclose(found.estimate(place).variance, own.variance, rtol=1e-7)
        assert bounds[place].low == pytest.approx(max(0.0, float(own.mean[0] - own.half_width[0])))
        assert bounds[place].high == pytest.approx(min(1.0, float(own.mean[0] + own.half_width[0])))


def test_graded_judgements_have_their_pairs_too() -> None:
    task, rows = draw_graded(np.random.default_rng(5))
    made = alone(*(experiment(name, task, {IMAGE: own}, k=3) for name, own in (("a", rows), ("b", rows[:, ::-1]))))
    found = find_influences(made, task.name, [IMAGE] * 2, "ndcg_at_1").compare_all()
    one = estimate_difference(made[0], made[1], task.name, (IMAGE, IMAGE), ["ndcg_at_1"])
    np.testing.assert_allclose(found.variance[0, 1], one.variance[0], rtol=1e-9)


def test_values_that_their_lists_do_not_give_are_refused() -> None:
    made = make(drawn.draw_captions)
    name = "caption_to_image/image.parquet"
    table = made[1].first.read("caption_to_image", IMAGE)
    made[1].first.tables[name] = table.with_columns(table[MEASURE] * 0.9)
    with pytest.raises(DataError, match=r"m1, caption_to_image, image: its lists give .* by another version"):
        find_influences(made, "caption_to_image", [IMAGE] * 4, MEASURE)


def test_another_pool_is_refused_but_only_where_the_task_that_is_asked_for_differs() -> None:
    made = make(drawn.draw_captions)
    task = "caption_to_image"
    other = replace(made[1].first, pools={task: made[1].first.pools[task] | {"items_digest": "x"}})
    with pytest.raises(DataError, match="as many items, but not the same ones"):
        find_influences([made[0], Candidate("m1", (other,))], task, [IMAGE] * 2, MEASURE)
    beside = {"other": made[0].first.pools[task]}
    pair = [replace(c.first, pools=c.first.pools | beside) for c in made[:2]]
    pair[1].pools["other"] = pair[1].pools["other"] | {"items": 7}
    find_influences(alone(*pair), task, [IMAGE] * 2, MEASURE)
