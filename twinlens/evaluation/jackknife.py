"""The delete-one jackknife of a mean over queries, with pictures drawn anew on both sides.

What would a mean be on as many other pictures of the same kind? A picture is at once a query (itself, or its captions)
and an item that other queries find. To delete it takes its queries out of the mean and its items out of every other
list, and the spread of the means that are left, times n - 1, is the variance of the mean (Efron and Stein 1981):

    V_joint = (n - 1) / n * sum over pictures of (mean without it - the average of these)^2

That is too much where the value of a query hangs on the item that it meets: what a pair of a query's picture and an
item's picture does together moves the mean when the one is deleted and when the other is, so that its share of the
variance is counted twice. It is taken out once (for such interactions and the jackknife, Efron and Stein 1981; for
resampling both sides of a table, Owen 2007; for pictures that are both sides, Snijders and Borgatti 1999):

    V = V_joint - sum over pairs of pictures of (what deleting b from the lists of a's queries does to the mean)^2

but never less than the jackknife of the queries alone, as if the items stayed: where pictures look alike, what the
captions of one lose those of another win, and the sum over pairs would take out what was never in. What the two
directions of a pair share, as pictures that find each other do, stays in; to take that out too would be too bold
(docs/uncertainty.md has both, measured). Where queries are drawn by class, the class is a cluster of queries and the
pictures are the items: V_joint is then the sum of both jackknives, as the sides are drawn apart.

The interval is the mean and t times the square root of V. The degrees of freedom are those that a chi-square of
the spread of the squares would have, at most the clusters less one: where few pictures make up most of V, it is
known no better than from so few (Satterthwaite; Lipsitz, Ibrahim and Parzen 1999, for the jackknife).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import stats

from twinlens.evaluation.deletions import Deletions, Values

Means = Float64[np.ndarray, " measures"]
Rows = Float64[np.ndarray, "rows measures"]


@dataclass(frozen=True)
class Sampling:
    """What the queries of a task are weighed by in a mean, and which of them are drawn together."""

    clusters: Int[np.ndarray, " queries"]
    weights: Float64[np.ndarray, " queries"]
    joint: bool  # clusters are the pictures by number: to draw one draws its queries and its items
    groups: Int[np.ndarray, " queries"] | None = None  # of a mean over groups: the clusters

    @classmethod
    def by_picture(cls, deletions: Deletions) -> Sampling:
        """A mean over queries, drawn with the pictures that they are, describe or begin with."""
        clusters = deletions.units.of_queries
        return cls(clusters, np.ones(len(clusters)), joint=True)

    @classmethod
    def by_cluster(cls, clusters: Int[np.ndarray, " queries"], *, macro: bool = False) -> Sampling:
        """A mean over queries, or (macro) over clusters of each cluster's mean; clusters and items are drawn apart.

        Args:
            clusters: numbers from 0 without gaps.
            macro: whether clusters count alike, however many queries they have.
        """
        weights = 1.0 / np.bincount(clusters)[clusters] if macro else np.ones(len(clusters))
        return cls(clusters, weights, joint=False, groups=clusters if macro else None)


@dataclass(frozen=True)
class Measured:
    """A run, measured as it is and without each picture, and its share in what is estimated."""

    deletions: Deletions
    values: Values
    share: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """A mean of several measures, or a difference of means, and how far it would move on other pictures."""

    mean: Means
    variance: Means
    df: Means  # degrees of freedom of the variance
    clusters: int
    joint: Means | None = None  # V_joint; None: of queries alone
    pairs: Means | None = None  # what is taken out of it, if that leaves enough

    @property
    def half_width(self) -> Means:
        """Half the width of the 95 % interval."""
        return np.asarray(stats.t.ppf(0.975, self.df) * np.sqrt(self.variance))

    @property
    def p(self) -> Means:
        """Two-sided p-values of a mean of 0; 1 where nothing moves."""
        moved = self.variance > 0
        t = np.abs(self.mean) / np.sqrt(np.where(moved, self.variance, 1.0))
        return np.where(moved, 2.0 * stats.t.sf(t, self.df), 1.0)

    def add_variance(self, variance: Means, df: float) -> Estimate:
        """Add a variance that has another source; degrees of freedom by Welch and Satterthwaite."""
        return replace(
            self, variance=self.variance + variance, df=combine_freedom([self.variance, variance], [self.df, df])
        )


def estimate(runs: Sequence[Measured], sampling: Sampling) -> Estimate:
    """Estimate the sum of the runs' means, each times its share: 1 of a run alone, -1 and 1 of a difference.

    Args:
        runs: of one task, so that all have the same queries and pictures.
        sampling: how their queries are drawn.
    """
    total = np.sum([run.share * run.values.now for run in runs], axis=0)
    by_queries, of_clusters, gone = delete_clusters(total, sampling, runs[0].deletions.units.count)
    pairs = Pairs.of(runs, sampling)
    items, lost = pairs.sum_items()
    weight = sampling.weights.sum()
    if sampling.joint:
        moved = divide(gone + items, weight - of_clusters - lost, weight)
        together = sum_squares(moved)
        df = count_freedom(moved, by_queries.clusters)
    else:
        moved = divide(items, weight - lost, weight)
        parts = [by_queries.variance, sum_squares(moved)]
        together = np.sum(parts, axis=0)
        df = combine_freedom(parts, [by_queries.df, count_freedom(moved, len(moved))])
    once = pairs.sum_squares() / weight**2
    variance = np.maximum(together - once, by_queries.variance)
    return replace(by_queries, variance=variance, df=df, joint=together, pairs=once)


def estimate_queries(values: Rows, sampling: Sampling) -> Estimate:
    """Estimate means of values, and how far they would move with other clusters of queries on the same pool."""
    return delete_clusters(values, sampling, 0)[0]


def delete_clusters(
    values: Rows, sampling: Sampling, units: int
) -> tuple[Estimate, Float64[np.ndarray, " clusters"], Rows]:
    """The estimate from queries alone; of each cluster its weight, and what the sum about the mean gains without it.

    Args:
        values: a row a query, a column a mean.
        sampling: how queries are drawn.
        units: pictures of the task, to have a row each where pictures are the clusters.
    """
    weights, clusters = sampling.weights, sampling.clusters
    count = max(units if sampling.joint else 0, int(clusters.max()) + 1)
    mean = weights @ values / weights.sum()
    gone = -_sum_by_number(clusters, weights[:, None] * (values - mean), count)
    of_clusters = np.bincount(clusters, weights=weights, minlength=count)
    present = of_clusters > 0
    moved = divide(gone[present], weights.sum() - of_clusters[present], weights.sum())
    there = int(present.sum())
    return Estimate(mean, sum_squares(moved), count_freedom(moved, there), there), of_clusters, gone


def sum_squares(moved: Rows) -> Means:
    """The jackknife's variance, of what a mean moves by with each deletion."""
    return np.asarray((len(moved) - 1) / len(moved) * ((moved - moved.mean(axis=0)) ** 2).sum(axis=0))


def divide(sums: Rows, left: Float64[np.ndarray, " rows"], weight: float) -> Rows:
    """Sums over the weight that is left; where none is, to first order: over the weight of all."""
    return np.asarray(sums / np.where(left > 0, left, weight)[:, None])


def count_freedom(moved: Rows, most: int) -> Means:
    """Degrees of freedom of the sum of squares: 2 (sum of squares)^2 / (its variance), at most `most` - 1."""
    squares = (moved - moved.mean(axis=0)) ** 2
    total = squares.sum(axis=0)
    spread = (squares**2).sum(axis=0) - total**2 / len(moved)
    found = 2.0 * total**2 / np.where(spread > 0, spread, 1.0)
    return np.where((spread > 0) & (total > 0), np.clip(found, 1.0, most - 1), most - 1.0)


def combine_freedom(variances: Sequence[Means], freedom: Sequence[Means | float]) -> Means:
    """Degrees of freedom of a sum of variances, each with its own (Welch 1947, Satterthwaite 1946)."""
    total = np.sum(variances, axis=0)
    each = np.sum([variance**2 / df for variance, df in zip(variances, freedom, strict=True)], axis=0)
    least = np.min(np.broadcast_arrays(*freedom), axis=0) if len(freedom) > 1 else np.asarray(freedom[0])
    return np.where(each > 0, total**2 / np.where(each > 0, each, 1.0), np.broadcast_to(least, total.shape))


@dataclass(frozen=True)
class Pairs:
    """The pair effects: what the mean's sum gains where a unit is deleted from the lists of a cluster's queries.

    That of cluster c and unit u is `in_blocks` of c and the block of u, where there is one, plus `single` of c and u.
    The last column is the weight of the queries that are lost; it is no measure.
    """

    units: int
    of_units: Int[np.ndarray, " units"]  # the block of each
    sizes: Int[np.ndarray, " blocks"]
    single_keys: Int[np.ndarray, " singles"]  # cluster * units + unit, rising
    single: Rows
    block_keys: Int[np.ndarray, " pairs"]  # cluster * blocks + block, rising
    in_blocks: Rows

    @classmethod
    def of(cls, runs: Sequence[Measured], sampling: Sampling) -> Pairs:
        """Pair effects of the sum of some runs, each times its share."""
        first = runs[0].deletions
        units, blocks = first.units.count, max(1, len(first.blocks.sizes))
        keys, single, block_keys, in_blocks = [], [], [], []
        for number, run in enumerate(runs):
            deletions, clusters = run.deletions, sampling.clusters
            told = number == 0 and sampling.groups is None  # which queries are lost is the same for all runs
            one, block = _weigh(run, sampling, told=told)
            of = deletions.blocks
            place = of.find(deletions.query, of.of_units[deletions.unit])
            listed = np.flatnonzero(place >= 0)
            one[listed] -= block[place[listed]]
            own = of.find(np.arange(len(clusters)), of.of_units[deletions.units.of_queries])
            mine = np.flatnonzero(own >= 0)  # the query's own picture is not deleted for it
            keys += [
                clusters[deletions.query] * units + deletions.unit,
                clusters[mine] * units + deletions.units.of_queries[mine],
            ]
            single += [one, -block[own[mine]]]
            block_keys.append(clusters[of.query] * blocks + of.block)
            in_blocks.append(block)
        return cls(
            units,
            first.blocks.of_units,
            first.blocks.sizes,
            *_sum_by_key(np.concatenate(keys), np.concatenate(single)),
            *_sum_by_key(np.concatenate(block_keys), np.concatenate(in_blocks)),
        )

    def sum_items(self) -> tuple[Rows, Float64[np.ndarray, " units"]]:
        """What the mean's sum gains where each unit is deleted from all lists, and the weight that is lost with it."""
        found = _sum_by_number(self.single_keys % self.units, self.single, self.units)
        if len(self.sizes):
            of_blocks = _sum_by_number(self.block_keys % len(self.sizes), self.in_blocks, len(self.sizes))
            found += np.where(self.of_units[:, None] >= 0, of_blocks[self.of_units], 0.0)
        return found[:, :-1], found[:, -1]

    def sum_squares(self) -> Means:
        """Sum of squares over pairs of a cluster and a unit."""
        cluster, unit = self.single_keys // self.units, self.single_keys % self.units
        block, blocks = self.of_units[unit], max(1, len(self.sizes))
        shared = _take(self.block_keys, self.in_blocks, np.where(block >= 0, cluster * blocks + block, -1))
        found = (self.single**2).sum(axis=0) + 2.0 * (self.single * shared).sum(axis=0)
        if len(self.sizes):
            found += (self.sizes[self.block_keys % blocks, None] * self.in_blocks**2).sum(axis=0)
        return np.asarray(found[:-1])


def _weigh(run: Measured, sampling: Sampling, *, told: bool) -> tuple[Rows, Rows]:
    """What the mean's sum gains with each single deletion, and with each pair of a query and a block.

    A query that is lost takes its distance from the mean with it: from its group's, in a mean over groups.
    """
    deletions, values, weights = run.deletions, run.values, sampling.weights
    now = values.now
    about = np.broadcast_to(weights @ now / weights.sum(), now.shape)
    if sampling.groups is not None:
        count = np.bincount(sampling.groups).astype(np.float64)
        about = (_sum_by_number(sampling.groups, now, len(count)) / count[:, None])[sampling.groups]

    def weigh(query: Int[np.ndarray, " rows"], then: Rows, lost: Bool[np.ndarray, " rows"]) -> Rows:
        gained = np.where(lost[:, None], about[query], then) - now[query]
        return np.asarray(weights[query, None] * np.column_stack([run.share * gained, told * lost]))

    return (
        weigh(deletions.query, values.single, deletions.lost),
        weigh(deletions.blocks.query, values.block, deletions.lost_in_blocks),
    )


def _sum_by_number(numbers: Int[np.ndarray, " rows"], values: Rows, count: int) -> Rows:
    columns = [np.bincount(numbers, weights=column, minlength=count) for column in values.T]
    return np.stack(columns, axis=1)


def _sum_by_key(keys: Int[np.ndarray, " rows"], values: Rows) -> tuple[Int[np.ndarray, " keys"], Rows]:
    """Each key once, rising, with the sum of its rows."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(values[order], starts, axis=0)


def _take(keys: Int[np.ndarray, " keys"], values: Rows, asked: Int[np.ndarray, " asked"]) -> Rows:
    """The rows of some keys among rising keys; 0 where a key is not there."""
    if not len(keys):
        return np.zeros((len(asked), values.shape[1]))
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where((keys[place] == asked)[:, None], values[place], 0.0)
