"""Confidence intervals (95 %) of mean measures, of two questions.

*Another pool like this one*: what would the mean be on as many other pictures of the same kind, which are queries and
items alike? That is the delete-one jackknife over pictures (`jackknife.py`).

*These very items, other queries* (the fixed pool): a bootstrap of clusters. Queries that share a picture (five captions
of one photo) or a class rise and fall together, so what is drawn anew is the cluster, never the query (Davison and
Hinkley 1997, section 3.8). A resample's mean over queries is

    sum over clusters of weight * sum of values / sum over clusters of weight * queries,

so all resamples of all measures are one product of the matrix of weights with the matrix of cluster
sums; nothing loops over queries. The quantiles are set a little further out than 2.5 and 97.5 %, because a bootstrap of
`n` clusters is narrow by sqrt((n - 1) / n) and blind to the t distribution's tails (Hesterberg 2015, "What teachers
should know about the bootstrap", section 5.3, the expanded percentile interval).

Where every cluster has the same value, nothing spreads and either would claim certainty. There the bound is that of
Clopper and Pearson (1934) for an exception never seen in `n` draws: at most `p = 1 - (alpha / 2) ** (1 / n)` of the
clusters are other than these, by anything up to the measure's range. One cluster says nothing of how clusters differ,
and fewer than six too little: intervals of either kind then hold the truth much less often than they say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import sparse, stats

from twinlens.evaluation.jackknife import Estimate, Measured, Sampling, estimate

LEVEL = 0.95
LEAST_CLUSTERS = 6
BLOCK = 4_000_000  # weights in memory at once: 32 MB as float64
ALIKE = 1e-12

Values = Float64[np.ndarray, "queries measures"]
Weights = Float64[np.ndarray, "resamples clusters"]


@dataclass(frozen=True)
class Interval:
    """Bounds of a mean; `None` where no interval is defined, and `why`."""

    low: float | None
    high: float | None
    why: str = ""

    def as_json(self, digits: int = 6) -> dict[str, float | str]:
        """`low` and `high`, or `not_defined` with the reason: never NaN, never null."""
        if self.low is None or self.high is None:
            return {"not_defined": self.why}
        return {"low": round(self.low, digits), "high": round(self.high, digits)}


@dataclass(frozen=True)
class Intervals:
    """Intervals of one mean: on another pool like this one, and on these very items with other queries."""

    other_pool: Interval | None  # None: not asked, as it takes more of the lists than runs keep
    fixed_pool: Interval

    @property
    def main(self) -> Interval:
        """The one that is told where there is room for one."""
        return self.fixed_pool if self.other_pool is None else self.other_pool

    def as_json(self, digits: int = 6) -> dict[str, Any]:
        """The main interval, and that of the fixed pool beside it; `pool: fixed` where that is the main one."""
        if self.other_pool is None:
            return self.fixed_pool.as_json(digits) | {"pool": "fixed"}
        return self.other_pool.as_json(digits) | {"fixed_pool": self.fixed_pool.as_json(digits)}


ONE_CLUSTER = "one cluster: how clusters differ cannot be seen"


def say_too_few(clusters: int) -> str:
    """Say why so few clusters have no interval."""
    if clusters < 2:
        return ONE_CLUSTER
    return (
        f"{clusters} clusters, of {LEAST_CLUSTERS} that are needed: with 2, 3, 4, 5 clusters such intervals hold the "
        "truth .48, .77, .87, .90 of the time"
    )


def encode_clusters(names: list[str]) -> Int[np.ndarray, " queries"]:
    """Number the clusters from 0, in the order of their names."""
    return np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1]


def resample_clusters(clusters: int, resamples: int, seed: int) -> Iterator[Weights]:
    """Draw clusters with replacement: the count of each cluster in each resample, a block of resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // clusters)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(0, clusters, (count, clusters))
        drawn += np.arange(count)[:, None] * clusters
        times = np.bincount(drawn.ravel(), minlength=count * clusters)
        yield times.reshape(count, clusters).astype(np.float64)


def bootstrap_means(
    values: Values,
    clusters: Int[np.ndarray, " queries"],
    *,
    resamples: int,
    seed: int,
    span: tuple[float, float] = (0.0, 1.0),
    macro: bool = False,
) -> list[Interval]:
    """Compute the interval of each column's mean.

    Args:
        values: one column a measure.
        clusters: of each query, numbers from 0 without gaps.
        resamples: how many.
        seed: of the draws.
        span: the least and the greatest value that a query can have.
        macro: of the mean over clusters of each cluster's mean, rather than of the mean over queries.
    """
    sizes: Float64[np.ndarray, " clusters"] = np.bincount(clusters).astype(np.float64)
    count = len(sizes)
    sums = np.stack([np.bincount(clusters, weights=column, minlength=count) for column in values.T], axis=1)
    if macro:
        sums, sizes = sums / sizes[:, None], np.ones(count)
    alike = np.ptp(sums / sizes[:, None], axis=0) < ALIKE
    seen = sums.sum(axis=0) / sizes.sum()
    if count < LEAST_CLUSTERS:
        return [_bound_few(mean, count, same, span) for mean, same in zip(seen, alike, strict=True)]
    together: Values = np.concatenate([sums, sizes[:, None]], axis=1)  # (clusters, measures + 1)
    drawn = np.concatenate([weights @ together for weights in resample_clusters(count, resamples, seed)])
    means = drawn[:, :-1] / drawn[:, -1:]  # (resamples, measures)
    tail = compute_tail(count)
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    bounds = zip(low, high, alike, seen, strict=True)
    return [_unseen(mean, count, span) if same else Interval(float(a), float(b)) for a, b, same, mean in bounds]


def jackknife_means(
    runs: Sequence[Measured], sampling: Sampling, *, span: tuple[float, float] = (0.0, 1.0)
) -> list[Interval]:
    """Compute the interval of each measure's mean on another pool like this one.

    Args:
        runs: one of share 1, or several whose shares give a mean over runs or a difference.
        sampling: how queries are drawn.
        span: the least and the greatest value that a query can have.
    """
    found = estimate(runs, sampling)
    values = np.sum([run.share * run.values.now for run in runs], axis=0)
    return bound_estimate(found, find_alike(values, sampling.clusters), span)


def bound_estimate(found: Estimate, alike: Bool[np.ndarray, " measures"], span: tuple[float, float]) -> list[Interval]:
    """Compute the intervals of an estimate, cut to what a mean can be.

    Args:
        found: of each measure.
        alike: whether all clusters have the same value.
        span: the least and the greatest value that a query can have.
    """
    bounds = []
    for mean, half, same in zip(found.mean, found.half_width, alike, strict=True):
        if same or found.clusters < LEAST_CLUSTERS:
            bounds.append(_bound_few(float(mean), found.clusters, bool(same), span))
        else:
            bounds.append(Interval(float(max(span[0], mean - half)), float(min(span[1], mean + half))))
    return bounds


def find_alike(values: Values, clusters: Int[np.ndarray, " queries"]) -> Bool[np.ndarray, " measures"]:
    """Find the measures of which all clusters have the same mean."""
    sizes = np.bincount(clusters)
    sums = np.stack([np.bincount(clusters, weights=column) for column in values.T], axis=1)
    there = sizes > 0
    return np.asarray(np.ptp(sums[there] / sizes[there, None], axis=0) < ALIKE)


def bootstrap_median(
    ranks: Int[np.ndarray, " queries"], clusters: Int[np.ndarray, " queries"], *, resamples: int, seed: int
) -> Interval:
    """Compute the interval of the median over queries.

    Args:
        ranks: whole numbers.
        clusters: of each query, numbers from 0 without gaps.
        resamples: how many.
        seed: of the draws.
    """
    count = int(clusters.max()) + 1
    if count < 2:
        return Interval(None, None, ONE_CLUSTER)
    distinct, codes = np.unique(ranks, return_inverse=True)
    ones = np.ones(len(ranks))
    table = sparse.csr_array((ones, (clusters, codes)), shape=(count, len(distinct)))  # queries by cluster and rank
    if len(distinct) == 1:
        if bound_exception_share(count) < 0.5:
            return Interval(float(distinct[0]), float(distinct[0]))  # half of the clusters cannot be other than these
        return Interval(None, None, f"all ranks are the same, in only {count} clusters")
    if count < LEAST_CLUSTERS:
        return Interval(None, None, say_too_few(count))
    medians = []
    for weights in resample_clusters(count, resamples, seed):
        below = np.cumsum(table.T @ weights.T, axis=0).T  # (resamples, distinct ranks)
        half = below[:, -1:] / 2.0
        lower = distinct[(below >= half).argmax(axis=1)]
        upper = distinct[(below > half).argmax(axis=1)]
        medians.append((lower + upper) / 2.0)
    tail = compute_tail(count)
    low, high = np.quantile(np.concatenate(medians), [tail, 1.0 - tail], method="nearest")
    return Interval(float(low), float(high))


def compute_tail(clusters: int) -> float:
    """Compute the share to cut off at each end: 2.5 % for many clusters, less for few (Hesterberg 2015)."""
    t = stats.t.ppf((1.0 - LEVEL) / 2.0, clusters - 1)
    return float(stats.norm.cdf(np.sqrt(clusters / (clusters - 1.0)) * t))


def bound_exception_share(clusters: int) -> float:
    """Bound the share of exceptions that `clusters` draws may all have missed (Clopper and Pearson 1934)."""
    return 1.0 - float(((1.0 - LEVEL) / 2.0) ** (1.0 / clusters))


def _bound_few(mean: float, clusters: int, alike: bool, span: tuple[float, float]) -> Interval:
    """Where all clusters are alike the exact bound holds, however few they are; else there is none."""
    if alike and clusters > 1:
        return _unseen(mean, clusters, span)
    return Interval(None, None, say_too_few(clusters))


def _unseen(mean: float, clusters: int, span: tuple[float, float]) -> Interval:
    share, (least, greatest) = bound_exception_share(clusters), span
    return Interval(float(mean - share * (mean - least)), float(mean + share * (greatest - mean)))
