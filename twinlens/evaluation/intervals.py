"""Cluster-bootstrap confidence intervals (95 %) of mean measures.

Queries that share a picture (five captions of one photo) or a class rise and fall together, so what
is drawn anew is the cluster, never the query (Davison and Hinkley 1997, section 3.8). The pool stays
as it is: an interval says how the mean would move with other queries, not with other items. A
resample's mean over queries is

    sum over clusters of weight * sum of values / sum over clusters of weight * queries,

so all resamples of all measures are one product of the matrix of weights with the matrix of cluster
sums; nothing loops over queries.

The quantiles are set a little further out than 2.5 and 97.5 %, because a bootstrap of `n` clusters
is narrow by sqrt((n - 1) / n) and blind to the t distribution's tails (Hesterberg 2015, "What
teachers should know about the bootstrap", section 5.3, the expanded percentile interval).

Where every cluster has the same value, no resample differs and a bootstrap would claim certainty.
There the bound is that of Clopper and Pearson (1934) for an exception never seen in `n` draws: at
most `p = 1 - (alpha / 2) ** (1 / n)` of the clusters are other than these, by anything up to the
measure's range. One cluster says nothing of how clusters differ: the interval is not defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from scipy import sparse, stats

LEVEL = 0.95
BLOCK = 4_000_000  # weights in memory at once: 32 MB as float64

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


ONE_CLUSTER = "one cluster: how clusters differ cannot be seen"


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
    if count < 2:
        return [Interval(None, None, ONE_CLUSTER)] * values.shape[1]
    sums = np.stack([np.bincount(clusters, weights=column, minlength=count) for column in values.T], axis=1)
    if macro:
        sums, sizes = sums / sizes[:, None], np.ones(count)
    together: Values = np.concatenate([sums, sizes[:, None]], axis=1)  # (clusters, measures + 1)
    drawn = np.concatenate([weights @ together for weights in resample_clusters(count, resamples, seed)])
    means = drawn[:, :-1] / drawn[:, -1:]  # (resamples, measures)
    tail = compute_tail(count)
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    alike = np.ptp(sums / sizes[:, None], axis=0) < 1e-12
    seen = sums.sum(axis=0) / sizes.sum()
    bounds = zip(low, high, alike, seen, strict=True)
    return [_unseen(mean, count, span) if same else Interval(float(a), float(b)) for a, b, same, mean in bounds]


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


def _unseen(mean: float, clusters: int, span: tuple[float, float]) -> Interval:
    share, (least, greatest) = bound_exception_share(clusters), span
    return Interval(float(mean - share * (mean - least)), float(mean + share * (greatest - mean)))
