"""Influences: what the means of several candidates move by with each deletion, so that they are known together.

The jackknife of one difference (`jackknife.py`) is linear in the runs but for its bound: what a difference of two means
moves by with a deletion is the difference of what the means move by. So the moves of each candidate on the same
pictures, kept side by side, give the variance of every difference without measuring any pair anew, and the covariance
of all means, which is what a statement about many candidates at once needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy import sparse

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.candidates import Candidate, check_same_pools
from twinlens.evaluation.intervals import Interval, bound_estimate, encode_clusters, find_alike
from twinlens.evaluation.jackknife import (
    Estimate,
    Pairs,
    Sampling,
    combine_freedom,
    count_freedom,
    delete_clusters,
    divide,
    sum_squares,
)
from twinlens.evaluation.measures import parsed

TOLERANCE = 1e-6  # between a mean of the stored values and that of the lists, measured anew

Columns = Float64[np.ndarray, "rows candidates"]
Square = Float64[np.ndarray, "candidates candidates"]
Means = Float64[np.ndarray, " candidates"]


@dataclass(frozen=True)
class Differences:
    """All differences of means: that of row i and column j is j's mean minus i's."""

    effect: Square
    variance: Square
    df: Square


@dataclass(frozen=True)
class Influences:
    """Means of one measure, one a candidate, and what each moves by with each deletion."""

    mean: Means
    parts: tuple[Columns, ...]  # a row a picture; or classes and items, where those are drawn apart
    queries: Columns  # with each cluster of queries, as if the items stayed
    pairs: Square  # products of pair effects, which the parts count twice
    training: Means  # variance of the mean over seeds; 0 of one seed
    seeds: Float64[np.ndarray, " candidates"]
    clusters: int
    per_cluster: float  # queries

    @property
    def covariance(self) -> Square:
        """The covariance of the means; nothing in it is below zero (negative eigenvalues are set to zero)."""
        values, vectors = np.linalg.eigh(self._joint() - self.pairs + np.diag(self.training))
        return np.asarray((vectors * values.clip(min=0.0)) @ vectors.T)

    def select(self, places: Sequence[int]) -> Influences:
        """Those of some candidates, in the order given."""
        kept = list(places)
        return replace(
            self,
            mean=self.mean[kept],
            parts=tuple(part[:, kept] for part in self.parts),
            queries=self.queries[:, kept],
            pairs=self.pairs[np.ix_(kept, kept)],
            training=self.training[kept],
            seeds=self.seeds[kept],
        )

    def estimate(self, place: int) -> Estimate:
        """Estimate one candidate's mean, with the variance of its seeds."""
        weights = np.zeros((len(self.mean), 1))
        weights[place] = 1.0
        return self._contrast(self.mean[[place]], weights)

    def compare_all(self) -> Differences:
        """Compare every candidate with every other."""
        count = len(self.mean)
        found = [self._contrast(self.mean - self.mean[i], np.eye(count) - np.eye(count)[[i]].T) for i in range(count)]
        return Differences(*(np.stack([getattr(one, key) for one in found]) for key in ("mean", "variance", "df")))

    def _joint(self) -> Square:
        return np.sum([_multiply(part) for part in self.parts], axis=0)

    def _contrast(self, means: Means, weights: Float64[np.ndarray, "candidates contrasts"]) -> Estimate:
        """Estimate sums of means, each times its weight; the variance as `jackknife.estimate` has it."""
        moved = [part @ weights for part in self.parts]
        by_queries = self.queries @ weights
        fixed = sum_squares(by_queries)
        variances = [sum_squares(part) for part in moved]
        once = np.einsum("ij,ik,kj->j", weights, self.pairs, weights)
        if len(moved) == 1:
            df = count_freedom(moved[0], self.clusters)
        else:
            df = combine_freedom(variances, [count_freedom(part, len(part)) for part in moved])
        found = Estimate(means, np.maximum(np.sum(variances, axis=0) - once, fixed), df, self.clusters)
        for place in np.flatnonzero(self.training):
            added = weights[place] ** 2 * self.training[place]
            changed = found.add_variance(added, self.seeds[place] - 1.0)
            df = np.where(added > 0, changed.df, found.df)
            found = Estimate(means, changed.variance, df, self.clusters)
        return found


def find_influences(candidates: Sequence[Candidate], task: str, rows: Sequence[str], measure: str) -> Influences:
    """Find the influences of some candidates on one task.

    A measure that is not of the first k of a list, such as average precision, has the part of the queries alone.

    Args:
        candidates: over the same queries and items.
        task: its name.
        rows: of each candidate, the retriever that is meant.
        measure: a column of their tables.

    Raises:
        DataError: the candidates are about different pools, lack the measure, or hold values that their lists do not
            give, as values of another version of a measure would be.
    """
    for candidate in candidates:
        for one in candidate.experiments:
            check_same_pools(candidates[0].first, one, only=task)
    values = np.stack(
        [_read_values(candidate, task, row, measure) for candidate, row in zip(candidates, rows, strict=True)], axis=1
    )
    clusters = encode_clusters(candidates[0].read(task, rows[0])["cluster"].to_list())
    sampling = Sampling.by_cluster(clusters)
    by_queries, _, _ = found = delete_clusters(values, sampling, 0)
    alone = _move_queries(found, sampling)
    mean, pairs = by_queries.mean, np.zeros((len(candidates), len(candidates)))
    parts: tuple[Columns, ...] = (alone,)
    at = parsed(measure)
    if at is not None:
        moves: list[tuple[np.ndarray, ...]] = []
        effects: list[Pairs] = []
        for place, (candidate, row) in enumerate(zip(candidates, rows, strict=True)):
            runs = candidate.measure(task, row, [at[1]], [at[0].name], 1.0)
            first = runs[0].deletions
            joint = first.task.about.cluster_by == "image_id"
            sampling = Sampling.by_picture(first) if joint else sampling
            total = np.sum([run.share * run.values.now for run in runs], axis=0)
            found = delete_clusters(total, sampling, first.units.count)
            if abs(found[0].mean[0] - mean[place]) > TOLERANCE:
                raise DataError(
                    f"{candidate.name}, {task}, {row}: its lists give {measure} {found[0].mean[0]:.6f}, its stored "
                    f"values {mean[place]:.6f}: they were measured by another version, or are not of one run; `dvc "
                    "repro evaluate` there"
                )
            effects.append(Pairs.of(runs, sampling))
            items, lost = effects[-1].sum_items()
            weight = sampling.weights.sum()
            if joint:
                moves.append((divide(found[2] + items, weight - found[1] - lost, weight),))
            else:
                moves.append((_move_queries(found, sampling), divide(items, weight - lost, weight)))
        parts = tuple(np.concatenate(part, axis=1) for part in zip(*moves, strict=True))
        pairs = multiply_pairs(effects) / sampling.weights.sum() ** 2
    training, seeds = _measure_seeds(candidates, task, rows, measure)
    per_cluster = len(values) / by_queries.clusters
    return Influences(mean, parts, alone, pairs, training, seeds, by_queries.clusters, per_cluster)


def bound_means(
    influences: Influences, candidates: Sequence[Candidate], task: str, rows: Sequence[str], measure: str
) -> list[Interval]:
    """Compute the 95 % interval of each candidate's mean on another pool like this one."""
    clusters = encode_clusters(candidates[0].read(task, rows[0])["cluster"].to_list())
    bounds = []
    for place, (candidate, row) in enumerate(zip(candidates, rows, strict=True)):
        alike = find_alike(candidate.read(task, row).select(measure).to_numpy(), clusters)
        bounds += bound_estimate(influences.estimate(place), alike, (0.0, 1.0))
    return bounds


def multiply_pairs(effects: Sequence[Pairs]) -> Square:
    """Multiply the pair effects of candidates: sums over pairs of a cluster and a unit, one a pair of candidates."""
    first = effects[0]
    blocks = max(1, len(first.sizes))
    at, single = _align([one.single_keys for one in effects], [one.single[:, 0] for one in effects])
    block_at, block = _align([one.block_keys for one in effects], [one.in_blocks[:, 0] for one in effects])
    found = (single.T @ single).toarray()
    if len(block_at) and len(first.sizes):
        sizes = sparse.diags_array(first.sizes[block_at % blocks].astype(np.float64))
        found += (block.T @ (sizes @ block)).toarray()
        cluster, unit = at // first.units, at % first.units
        asked = np.where(first.of_units[unit] >= 0, cluster * blocks + first.of_units[unit], -1)
        place = np.minimum(np.searchsorted(block_at, asked), len(block_at) - 1)
        there = np.flatnonzero(block_at[place] == asked)
        shared = (single[there].T @ block[place[there]]).toarray()
        found += shared + shared.T
    return np.asarray(found)


def _align(keys: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> tuple[np.ndarray, sparse.csr_array]:
    """All keys once, rising, and a table of a row a key and a column a candidate."""
    moved = [np.flatnonzero(own) for own in values]  # most deletions move nothing
    every, codes = np.unique(np.concatenate([k[m] for k, m in zip(keys, moved, strict=True)]), return_inverse=True)
    columns = np.repeat(np.arange(len(keys)), [len(m) for m in moved])
    own = np.concatenate([v[m] for v, m in zip(values, moved, strict=True)])
    return every, sparse.csr_array((own, (codes, columns)), shape=(len(every), len(keys)))


def _move_queries(found: tuple[Estimate, np.ndarray, np.ndarray], sampling: Sampling) -> Columns:
    _, of_clusters, gone = found
    present, weight = of_clusters > 0, sampling.weights.sum()
    return np.asarray(divide(gone[present], weight - of_clusters[present], weight))


def _multiply(moved: Columns) -> Square:
    """The jackknife's covariance, of what means move by with each deletion."""
    centred = moved - moved.mean(axis=0)
    return np.asarray((len(moved) - 1) / len(moved) * centred.T @ centred)


def _read_values(candidate: Candidate, task: str, row: str, measure: str) -> Means:
    table = candidate.read(task, row)
    if measure not in table.columns:
        known = [name for name in table.columns if parsed(name)]
        raise DataError(f"{candidate.name} has no {measure} ({suggest_nearest(measure, known)})")
    return table[measure].to_numpy()


def _measure_seeds(
    candidates: Sequence[Candidate], task: str, rows: Sequence[str], measure: str
) -> tuple[Means, Float64[np.ndarray, " candidates"]]:
    """The variance of each mean over seeds, and of how many seeds it is."""
    variances = []
    for candidate, row in zip(candidates, rows, strict=True):
        means = np.array([one.read(task, row)[measure].to_numpy().mean() for one in candidate.experiments])
        variances.append(means.var(ddof=1) / len(means) if len(means) > 1 else 0.0)
    return np.array(variances), np.array([float(len(candidate.experiments)) for candidate in candidates])
