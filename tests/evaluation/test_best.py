"""The group that cannot be told from the best: it holds the best, it leaves out what is worse, and it repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.best_group import draw_leaderboard
from twinlens.evaluation.best import ALPHA, compute_one_sided, find_best_group
from twinlens.evaluation.influences import Influences


def given(values: np.ndarray) -> Influences:
    """Influences of means of values, a row a picture and a column a candidate."""
    count, candidates = values.shape
    moved = (values.mean(axis=0) - values) / (count - 1)
    none = np.zeros(candidates)
    square = np.zeros((candidates, candidates))
    return Influences(values.mean(axis=0), (moved,), moved, square, none, np.ones(candidates), count, 1.0)


def test_of_two_the_p_value_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((40, 1)) + 0.3 * rng.standard_normal((40, 2)) + [0.0, 0.12]
    found = find_best_group(given(values))
    wanted = stats.ttest_rel(values[:, 1], values[:, 0], alternative="greater").pvalue
    assert found.p[1] == 1.0
    assert found.p[0] == pytest.approx(wanted, abs=0.005)


def test_of_many_that_are_alone_it_is_the_largest_t_corrected_for_as_many_as_there_are() -> None:
    """Against one common control with equal spread: Dunnett's distribution, which scipy has."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((400, 5))
    values[:, 0] -= 0.12
    found = find_best_group(given(values))
    dunnett = stats.dunnett(*values[:, 1:].T, control=values[:, 0], alternative="greater", rng=np.random.default_rng(2))
    assert found.p[0] == pytest.approx(dunnett.pvalue.min(), abs=0.03)  # that takes no pairs: the same when alone


def test_the_clearly_worse_are_left_out_and_the_tied_are_kept() -> None:
    rng = np.random.default_rng(3)
    shared = rng.standard_normal((200, 1))
    values = shared + 0.2 * rng.standard_normal((200, 4)) + [0.5, 0.5, 0.1, -1.0]
    found = find_best_group(given(values))
    assert found.members == (0, 1)
    assert found.claimed
    assert found.best in (0, 1)
    assert (found.p == find_best_group(given(values)).p).all()


def test_the_order_of_the_candidates_does_not_change_the_group() -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((60, 6)) + np.linspace(0, 0.6, 6)
    turned = find_best_group(given(values[:, ::-1]))
    assert {5 - i for i in turned.members} == set(find_best_group(given(values)).members)


def test_with_fewer_than_ten_clusters_nobody_is_left_out() -> None:
    values = np.random.default_rng(5).random((9, 3)) + np.array([0, 5, 9])
    found = find_best_group(given(values))
    assert found.members == (0, 1, 2)
    assert not found.claimed
    assert find_best_group(given(np.vstack([values, values[:1]]))).members == (2,)


def test_identical_candidates_are_both_best_and_a_constant_gap_is_judged_by_its_signs() -> None:
    one = np.random.default_rng(6).random((12, 1))
    found = find_best_group(given(np.hstack([one, one, one - 0.25])))
    assert found.members == (0, 1)
    p = compute_one_sided(given(np.hstack([one, one - 0.25])).compare_all(), 12)
    assert p[1, 0] == 0.5**12
    assert p[0, 1] == 1.0


def test_the_spread_of_seeds_widens_the_group() -> None:
    rng = np.random.default_rng(7)
    values = rng.standard_normal((100, 1)) + 0.2 * rng.standard_normal((100, 2)) + [0.0, 0.2]
    found = given(values)
    assert find_best_group(found).members == (1,)
    seeded = replace(found, training=np.array([0.02, 0.02]), seeds=np.array([3.0, 3.0]))
    assert find_best_group(seeded).members == (0, 1)


@pytest.mark.slow
def test_the_truly_best_is_in_the_group_in_95_percent_of_leaderboards_with_ties() -> None:
    rng, kept, size = np.random.default_rng(8), [], []
    for number in range(40):
        models = 3 + (number % 4) ** 3
        board = draw_leaderboard(rng, models, best=models, step=0.0, pictures=30)
        kept.append(len(find_best_group(board.influences).members) / models)  # the share of cases in which each is in
    assert np.mean(kept) >= 1.0 - ALPHA - 0.03
    for _ in range(8):
        found = find_best_group(draw_leaderboard(rng, 12, best=2, step=0.08, pictures=60).influences)
        kept.append(float(np.isin([0, 1], found.members).mean()))
        size.append(len(found.members))
    assert np.mean(kept) >= 0.92
    assert np.mean(size) < 9
