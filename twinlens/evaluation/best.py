"""The candidates that cannot be told from the best: Hsu's multiple comparisons with the best, by simulation.

A candidate leaves the group if the data show that another one is better. For candidate i that is a test of "no j is
better than i": the largest t of the differences j minus i is held against the distribution that it would have were all
equal. The means of all candidates are known together (`influences.py`), so that distribution is drawn, with their
covariance: no share of the 5 % is lost to candidates that fail on the same queries (Hsu 1984; Hsu 1996, chapter 4).
The truly best is therefore kept in 95 % of cases or more, whichever it is and however many there are.

Differences have degrees of freedom of their own. Each t is turned into its one-sided p-value, and the least p-value of
a candidate is held against the distribution of the least of as many p-values with a normal dependence.

Holm's procedure against the observed best and Hansen's confidence set of models were tried beside it
(`benchmarks/best_group.py`): both keep the best as well, and keep more of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from twinlens.evaluation.influences import Differences, Influences

ALPHA = 0.05
LEAST_CLUSTERS = 10  # below them no candidate is called worse than another
DRAWS, SEED = 20_000, 0
AT_ONCE = 2_000  # draws in memory: of 40 candidates 640 kB

Means = Float64[np.ndarray, " candidates"]
Square = Float64[np.ndarray, "candidates candidates"]


@dataclass(frozen=True)
class BestGroup:
    """Which candidates cannot be told from the best."""

    p: Means  # that so much would be seen were no other better: below `ALPHA`, another is
    members: tuple[int, ...]  # rising
    claimed: bool  # false: there are too few clusters to leave anyone out

    @property
    def best(self) -> int:
        """The member with the highest p-value: that with the highest mean."""
        return int(np.argmax(self.p))


def find_best_group(influences: Influences, *, differences: Differences | None = None) -> BestGroup:
    """Find the candidates that cannot be told from the best.

    Args:
        influences: of two candidates or more.
        differences: those of `influences`, if they are at hand.
    """
    found = influences.compare_all() if differences is None else differences
    count = len(influences.mean)
    if influences.clusters < LEAST_CLUSTERS:
        return BestGroup(np.ones(count), tuple(range(count)), claimed=False)
    p = compute_p_values(influences, found)
    return BestGroup(p, tuple(int(i) for i in np.flatnonzero(p >= ALPHA)), claimed=True)


def compute_p_values(influences: Influences, differences: Differences) -> Means:
    """Compute for each candidate the p-value of "no other is better", corrected for the number of others."""
    count = len(influences.mean)
    least = compute_one_sided(differences, influences.clusters).min(axis=1, where=~np.eye(count, dtype=bool), initial=1)
    seen = stats.norm.isf(least)
    covariance = influences.covariance
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0.0))).T
    diagonal = np.diag(covariance)
    spread = np.sqrt((diagonal[:, None] + diagonal - 2.0 * covariance).clip(min=0.0))
    # Two that never differ add nothing to a maximum: their difference is drawn as 0.
    scale = np.where(spread > 1e-9 * np.sqrt(diagonal.max(initial=0.0)), spread, np.inf)
    rng = np.random.default_rng(SEED)
    reached = np.zeros(count)
    for start in range(0, DRAWS, AT_ONCE):
        drawn = rng.standard_normal((min(AT_ONCE, DRAWS - start), count)) @ root
        for i in range(count):
            largest = np.delete((drawn - drawn[:, [i]]) / scale[i], i, axis=1).max(axis=1, initial=-np.inf)
            reached[i] += int((largest >= seen[i]).sum())
    found = reached / DRAWS
    # What is ahead of all others can be the best, whatever was drawn.
    return np.where(influences.mean >= influences.mean.max(), 1.0, found)


def compute_one_sided(differences: Differences, clusters: int) -> Square:
    """Compute p-values of "column j is no better than row i", one by one."""
    moved = differences.variance > 1e-18
    t = differences.effect / np.sqrt(np.where(moved, differences.variance, 1.0))
    p = np.asarray(stats.t.sf(t, differences.df))
    # Nothing spreads: all that is known is that every cluster agrees.
    agreed = np.where(differences.effect > 1e-12, 0.5**clusters, np.where(differences.effect < -1e-12, 1.0, 0.5))
    return np.where(moved, p, agreed)
