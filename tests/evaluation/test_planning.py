"""Planning: the predicted power is the achieved one, and what cannot be seen is said to be so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.evaluation.test_best import given
from twinlens.core.errors import DataError
from twinlens.evaluation.choose import observe
from twinlens.evaluation.planning import Observed, compute_power, plan

SEEN = Observed(variance=0.01**2, df=199.0, clusters=200, per_cluster=5.0)


def find_p(differences: np.ndarray) -> float:
    t = differences.mean() / (differences.std(ddof=1) / len(differences) ** 0.5)
    return float(2 * stats.t.sf(abs(t), len(differences) - 1))


def test_the_power_is_that_of_the_t_test_by_its_textbook() -> None:
    """30 pairs, an effect of half a standard deviation: .754 (Cohen 1988; R's power.t.test)."""
    seen = Observed(variance=1.0 / 30, df=29.0, clusters=30, per_cluster=1.0)
    assert compute_power(seen, 0.5, 30, 1) == pytest.approx(0.7539, abs=5e-4)
    assert plan(seen, 0.5, 0.8).clusters == 34  # R: n = 33.37
    assert plan(seen, 0.5, 0.8).more == 4


def test_four_times_the_pictures_show_half_the_effect() -> None:
    found = plan(SEEN, 0.02)
    half = plan(SEEN, 0.01)
    assert found.clusters is not None
    assert half.clusters is not None
    assert half.clusters / found.clusters == pytest.approx(4, rel=0.02)
    assert half.queries == 5 * half.clusters
    assert plan(SEEN, -0.02) == plan(SEEN, -0.02)
    assert plan(SEEN, -0.02).clusters == found.clusters


@pytest.mark.parametrize("effect", [0.06, 0.1])
def test_the_achieved_power_is_within_5_points_of_the_predicted(effect: float) -> None:
    """Values of 0 and 1 by picture, from which a pilot of 150 knows only the variance."""
    rng, achieved, predicted = np.random.default_rng(0), [], []

    def draw(pictures: int) -> np.ndarray:
        hard = rng.random((pictures, 1))
        return (rng.random((pictures, 2)) < 0.2 + 0.5 * hard + [0.0, effect]).astype(float)

    for _ in range(25):
        observed, _ = observe(given(draw(150)), 0, 1)
        found = plan(observed, effect)
        assert found.clusters is not None
        predicted.append(found.power)
        for _ in range(25):
            values = draw(found.clusters)
            achieved.append(stats.ttest_rel(values[:, 1], values[:, 0]).pvalue < 0.05)
    assert np.mean(achieved) == pytest.approx(np.mean(predicted), abs=0.05)


def test_where_the_seeds_differ_too_much_no_number_of_pictures_is_enough_but_seeds_are() -> None:
    seen = Observed(0.005**2, 500.0, 500, 5.0, training=0.02**2, seeds=3, training_df=4.0)
    found = plan(seen, 0.03)
    assert found.clusters is None
    assert found.queries is None
    assert found.seeds is not None
    assert compute_power(seen, 0.03, 500, found.seeds) >= 0.8 > compute_power(seen, 0.03, 500, found.seeds - 1)


def test_seeds_do_not_help_where_there_is_one_and_pictures_do() -> None:
    found = plan(SEEN, 0.001)
    assert found.seeds is None
    assert found.clusters is not None
    assert found.clusters > 10_000
    assert plan(SEEN, 1e-6).clusters is None


def test_an_effect_of_nothing_and_an_impossible_power_are_refused() -> None:
    for effect in (0.0, math.nan):
        with pytest.raises(DataError, match="give the least that would matter"):
            plan(SEEN, effect)
    with pytest.raises(DataError, match=r"a power of 1: wanted more than 0\.05 and less than 1"):
        plan(SEEN, 0.1, 1.0)


def test_what_does_not_vary_is_always_seen() -> None:
    assert compute_power(Observed(0.0, 9.0, 10, 1.0), 0.1, 10, 1) == 1.0
