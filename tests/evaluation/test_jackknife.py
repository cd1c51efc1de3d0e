"""The jackknife: as to delete by brute force; its intervals hold the truth, and its tests seldom reject a null."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tests import experiments
from tests.evaluation import drawn
from tests.evaluation.test_deletions import DRAWS, delete_one_by_one, draw_graded, draw_object_sets
from tests.experiments import Rows, judge, rank
from tests.ranked import listed
from twinlens.evaluation.intervals import encode_clusters, jackknife_means
from twinlens.evaluation.jackknife import Estimate, Measured, Sampling, estimate, estimate_queries
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Groups

KS = (1, 3, 5)
Draw = Callable[[np.random.Generator], tuple[Task, Rows]]


def measured(task: Task, rows: Rows, share: float = 1.0) -> Measured:
    deletions = judge(task, rows, max(KS))
    return Measured(deletions, deletions.measure(KS), share)


def taken_out(found: Estimate) -> np.ndarray:
    """The variance before it is kept above that of the queries alone."""
    assert found.joint is not None
    assert found.pairs is not None
    return found.joint - found.pairs


def delete_pictures(task: Task, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean, the means without each picture, and (pictures, pictures, measures) its part in another's queries."""
    now, without, own = delete_one_by_one(task, rows, KS)
    mean, pictures = now.mean(axis=0), without.shape[1]
    kept = without.copy()
    means = np.array([np.nanmean(kept[:, picture], axis=0) for picture in range(pictures)])
    moved = np.zeros((pictures, pictures, now.shape[1]))
    for query, picture in enumerate(own):
        change = np.where(np.isnan(without[query]), mean, without[query]) - now[query]
        change[picture] = 0
        moved[picture] += change / len(now)
    return mean, means, moved


@pytest.mark.parametrize("draw", DRAWS)
def test_the_variance_is_that_of_brute_force(draw: Draw) -> None:
    task, rows = draw(np.random.default_rng(1))
    mean, means, moved = delete_pictures(task, rows)
    found = estimate([run := measured(task, rows)], Sampling.by_picture(run.deletions))
    count = len(means)
    joint = (count - 1) / count * ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(taken_out(found), joint - (moved**2).sum(axis=(0, 1)), atol=1e-12)


@pytest.mark.parametrize("draw", DRAWS)
def test_that_of_a_difference_is_that_of_brute_force_on_both_lists(draw: Draw) -> None:
    (task, rows), rng = draw(np.random.default_rng(2)), np.random.default_rng(3)
    other = np.stack([rng.permutation(own) for own in rows])
    (ours, our_means, our_moved), (theirs, their_means, their_moved) = (delete_pictures(task, r) for r in (rows, other))
    runs = [measured(task, rows, -1.0), measured(task, other, 1.0)]
    found = estimate(runs, Sampling.by_picture(runs[0].deletions))
    means, moved, count = their_means - our_means, their_moved - our_moved, len(our_means)
    joint = (count - 1) / count * ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(found.mean, theirs - ours, atol=1e-12)
    np.testing.assert_allclose(taken_out(found), joint - (moved**2).sum(axis=(0, 1)), atol=1e-12)


@pytest.mark.parametrize("macro", [False, True])
def test_where_classes_are_drawn_they_and_the_items_are_deleted_apart_as_by_brute_force(macro: bool) -> None:
    task, rows = draw_object_sets(np.random.default_rng(4))
    assert isinstance(task.qrels, Groups)
    classes = task.qrels.query_groups
    now, without, own = delete_one_by_one(task, rows, KS)
    count, sizes = classes.max() + 1, np.bincount(classes)
    weights = 1 / sizes[classes] if macro else np.ones(len(classes))
    mean = weights @ now / weights.sum()
    of_class = np.stack([now[classes == c].mean(axis=0) for c in range(count)])
    about = of_class[classes] if macro else np.broadcast_to(mean, now.shape)
    lost = np.isnan(without[:, :, 0])
    lost[np.arange(len(own)), own] = False
    by_class = [weights[classes != c] @ now[classes != c] / weights[classes != c].sum() - mean for c in range(count)]
    change = np.where(lost[:, :, None], about[:, None], without) - now[:, None]
    change[np.arange(len(own)), own] = 0
    change *= weights[:, None, None]
    left = weights.sum() - (0 if macro else (weights[:, None] * lost).sum(axis=0))
    by_item = change.sum(axis=0) / np.broadcast_to(left, lost.shape[1])[:, None]
    pairs = np.stack([change[classes == c].sum(axis=0) for c in range(count)]) / weights.sum()
    parts = [(len(m) - 1) / len(m) * ((m - np.mean(m, axis=0)) ** 2).sum(axis=0) for m in (by_class, by_item)]
    run = measured(task, rows)
    found = estimate([run], Sampling.by_cluster(classes, macro=macro))
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(taken_out(found), sum(parts) - (pairs**2).sum(axis=(0, 1)), atol=1e-12)


def test_a_mean_over_seeds_weighs_each_by_its_share_as_by_brute_force() -> None:
    task, rows = draw_graded(np.random.default_rng(5))
    other = rows[:, ::-1]
    runs = [measured(task, rows, 0.5), measured(task, other, 0.5)]
    found = estimate(runs, Sampling.by_picture(runs[0].deletions))
    parts = [delete_pictures(task, own) for own in (rows, other)]
    means, moved = (np.mean([part[n] for part in parts], axis=0) for n in (1, 2))
    count = len(means)
    joint = (count - 1) / count * ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(taken_out(found), joint - (moved**2).sum(axis=(0, 1)), atol=1e-12)


def test_queries_alone_have_the_variance_of_a_mean() -> None:
    values = np.random.default_rng(6).random((40, 2))
    found = estimate_queries(values, Sampling.by_cluster(np.arange(40)))
    np.testing.assert_allclose(found.variance, values.var(axis=0, ddof=1) / 40)
    assert found.clusters == 40


def test_degrees_of_freedom_are_those_of_the_pictures_that_matter() -> None:
    rng, clusters = np.random.default_rng(7), np.arange(200)
    plain = rng.standard_normal(200)
    few = np.where(clusters < 3, 40.0 * np.array([1, -1, 1])[clusters % 3], plain)
    found = estimate_queries(np.stack([plain, few], axis=1), Sampling.by_cluster(clusters))
    assert found.df[0] > 150
    assert found.df[1] < 8  # three squares that are alike have six
    assert found.half_width[0] == pytest.approx(stats.t.ppf(0.975, found.df[0]) * plain.std(ddof=1) / np.sqrt(200))


def test_between_seeds_comes_on_top_with_the_degrees_of_freedom_of_the_seeds() -> None:
    one = Estimate(np.array([0.1]), np.array([1e-6]), np.array([100.0]), 101)
    both = one.add_variance(np.array([1e-2]), 2.0)
    assert both.variance[0] == pytest.approx(0.010001)
    assert both.df[0] == pytest.approx(2, abs=0.01)
    assert one.add_variance(np.array([0.0]), 2.0).df[0] == pytest.approx(100)
    assert both.p[0] > one.p[0]


def test_one_picture_that_all_queries_ask_for_leaves_a_number() -> None:
    names = [f"p{n}" for n in range(8)]
    gains = {f"q{n}": {"p7": 1.0} for n in range(7)}
    task = listed("composed", TaskMetadata("Composed", "it2i", 4), gains, names, query_images=names[:7])
    rows = np.array([np.roll(np.arange(8), -n) for n in range(7)])
    found = estimate([run := measured(task, rows)], Sampling.by_picture(run.deletions))
    assert np.isfinite(found.variance).all()
    assert np.isfinite(found.df).all()


def test_another_pool_is_never_surer_than_the_same_one() -> None:
    """Where every query gets the same list, as many hit whoever is asked: pairs would take out more than there is."""
    task = experiments.caption_to_image(40, 1)
    rows = np.tile(np.arange(40), (40, 1))
    one = judge(task, rows, 10)
    run = Measured(one, one.measure([10], ["hit"]))
    found = estimate([run], Sampling.by_picture(one))
    assert taken_out(found)[0] < 0
    assert found.variance[0] == pytest.approx(0.25 * 0.75 / 39)
    for draw in DRAWS:
        task, rows = draw(np.random.default_rng(8))
        run = measured(task, rows)
        sampling = Sampling.by_picture(run.deletions)
        found, alone = estimate([run], sampling), estimate_queries(run.values.now, sampling)
        assert (found.variance >= alone.variance - 1e-15).all()
        assert (found.variance >= taken_out(found)).all()


# --------------------------------------------------------------- on drawn pools


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "pictures", "narrow"), [(drawn.draw_object_sets, 150, 0.90), (drawn.draw_captions, 80, 1.0)]
)
def test_on_pools_drawn_anew_intervals_hold_the_truth_and_null_differences_are_not_called_real(
    draw: Callable[[np.random.Generator, int], tuple[Task, list[Rows]]], pictures: int, narrow: float
) -> None:
    """150 pools: 95 % of intervals hold the mean over pools, 5 % of tests reject, give or take what chance allows."""
    rng, names = np.random.default_rng(0), ["hit", "mrr", "ndcg"]
    means, halves, fixed, p_values = [], [], [], []
    for _ in range(150):
        task, runs = draw(rng, pictures)
        one, other = (judge(task, rows, 10) for rows in runs)
        values = [each.measure([10], names) for each in (one, other)]
        sampling = Sampling.by_picture(one)
        found = estimate([Measured(one, values[0])], sampling)
        clusters = encode_clusters([str(unit) for unit in one.units.of_queries])
        by_queries = estimate_queries(values[0].now, Sampling.by_cluster(clusters))
        means.append(found.mean)
        halves.append(found.half_width)
        fixed.append(by_queries.half_width)
        p_values.append(estimate([Measured(one, values[0], -1.0), Measured(other, values[1])], sampling).p)
    off = np.abs(np.array(means) - np.mean(means, axis=0))
    held, rejected = (off <= halves).mean(axis=0), (np.array(p_values) < 0.05).mean(axis=0)
    assert (held >= 0.90).all(), held
    assert (held <= 0.99).all(), held
    assert (rejected <= 0.10).all(), rejected
    assert (off <= fixed).mean() <= narrow  # of the fixed pool: in object sets far too narrow


@pytest.mark.slow
@pytest.mark.parametrize("draw", [drawn.draw_object_sets, drawn.draw_captions])
def test_a_model_that_sees_less_is_found_out(
    draw: Callable[..., tuple[Task, list[Rows]]],
) -> None:
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        task, runs = draw(rng, 120, better=2.2)
        one, other = (judge(task, rows, 10) for rows in runs)
        parts = [Measured(each, each.measure([10], ["ndcg"]), s) for each, s in ((one, -1.0), (other, 1.0))]
        result = estimate(parts, Sampling.by_picture(one))
        found += int(result.p[0] < 0.05 and result.mean[0] > 0)
    assert found >= 15


def test_a_perfect_run_has_the_exact_bound() -> None:
    task = experiments.caption_to_image(40, 1)
    seen = np.random.default_rng(2).standard_normal((40, 8))
    one = judge(task, rank(seen, seen, 20), 10)
    (found,) = jackknife_means([Measured(one, one.measure([1], ["hit"]))], Sampling.by_picture(one))
    assert found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 40))
