"""Slices: kinds of queries on which two candidates swap places, and how sure that is.

A slice is the queries whose picture shows an object, or whose words are of some length. Two candidates swap places
there if one is better in the slice and the other one on all other queries: a qualitative interaction (Gail and Simon
1985). Both have to be shown, so that the p-value is the larger of the two one-sided ones (an intersection-union test,
Berger 1982), corrected by Holm for all slices and pairs of candidates that are looked at. The variance of a difference
in a slice is that of `jackknife.py`, with pictures on both sides; queries outside weigh 0, and their pictures are items
still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.compare import holm
from twinlens.evaluation.intervals import Interval, bound_estimate, encode_clusters, find_alike
from twinlens.evaluation.jackknife import Estimate, Measured, Sampling, estimate, estimate_queries
from twinlens.evaluation.measures import parsed

ALPHA = 0.05
LEAST_CLUSTERS = 10  # below them, in a slice or outside it, no swap is looked for
MOST_CATEGORIES = 40  # the most frequent ones
LENGTHS = 3  # as many queries each, as far as equal lengths stay together
CATEGORY, LENGTH = "category", "length"

Mask = Bool[np.ndarray, " queries"]


@dataclass(frozen=True)
class Slice:
    """Some of the queries, and what they have in common."""

    kind: str  # CATEGORY or LENGTH
    name: str
    queries: Mask


@dataclass(frozen=True)
class Contrast:
    """Two candidates on one slice; `effect` is the second's mean minus the first's."""

    of: Slice
    queries: int
    clusters: int
    first: float
    second: float
    effect: float
    elsewhere: float  # the same on all other queries
    tested: bool  # false: there are too few clusters in the slice, or outside it
    p: float = 1.0  # of "they do not swap places"
    p_holm: float = 1.0
    interval: Interval | None = None  # of the effect; None: it was not asked for

    @property
    def swaps(self) -> bool:
        """Whether it is shown that one is better here, and the other one elsewhere."""
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class Side:
    """A row of a candidate."""

    candidate: Candidate
    row: str


def cut_slices(
    queries: Sequence[tuple[str, str]], labels: Mapping[str, Sequence[str]], texts: Mapping[str, str]
) -> list[Slice]:
    """Cut the queries of a task by what their pictures show, the most frequent first, and by how long their words are.

    Args:
        queries: each one's id, and the picture that it is, describes or begins with.
        labels: of pictures.
        texts: what queries say, by id; empty where they say nothing.
    """
    members: dict[str, list[int]] = {}
    for place, (_, image_id) in enumerate(queries):
        for label in set(labels.get(image_id, ())):
            members.setdefault(label, []).append(place)
    frequent = sorted(members.items(), key=lambda one: (-len(one[1]), one[0]))
    found = [Slice(CATEGORY, label, _mark(own, len(queries))) for label, own in frequent if len(own) < len(queries)]
    lengths = np.array([len(texts.get(query_id, "").split()) for query_id, _ in queries])
    if not len(lengths) or not lengths.min():
        return found[:MOST_CATEGORIES]
    ends = np.unique(np.quantile(lengths, np.arange(1, LENGTHS + 1) / LENGTHS, method="inverted_cdf"))
    parts, low = [], int(lengths.min())
    for high in ends.astype(int).tolist():
        own = (lengths >= low) & (lengths <= high)
        parts.append(Slice(LENGTH, f"{low} to {high} words" if low < high else f"{low} words", own))
        low = high + 1
    return [*found[:MOST_CATEGORIES], *(parts if len(parts) > 1 else [])]


def _mark(places: Sequence[int], count: int) -> Mask:
    marked = np.zeros(count, dtype=bool)
    marked[list(places)] = True
    return marked


def compare_slices(
    pairs: Sequence[tuple[Side, Side]], task: str, measure: str, slices: Sequence[Slice]
) -> list[list[Contrast]]:
    """Compare pairs of candidates on every slice; all p-values are corrected together.

    Args:
        pairs: over the same queries and items.
        task: its name.
        measure: a column of their tables.
        slices: of the task's queries.

    Returns:
        A list a pair, in the order of the slices; intervals are left out (`bound_contrasts`).
    """
    found = []
    for of in (_Pair(pair, task, measure) for pair in pairs):
        found.append([_contrast(of, one) for one in slices])
    tested = [one for each in found for one in each if one.tested]
    corrected = dict(zip(map(id, tested), holm([one.p for one in tested]), strict=True))
    return [[replace(one, p_holm=corrected.get(id(one), 1.0)) for one in each] for each in found]


def bound_contrasts(pair: tuple[Side, Side], task: str, measure: str, contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Add the 95 % interval of each contrast's effect; it is corrected for nothing."""
    of = _Pair(pair, task, measure)
    bounded = []
    for one in contrasts:
        inside = one.of.queries
        alike = find_alike(of.difference[inside, None], encode_clusters(of.clusters[inside].tolist()))
        (interval,) = bound_estimate(of.estimate(inside), alike, (-1.0, 1.0))
        bounded.append(replace(one, interval=interval))
    return bounded


class _Pair:
    """Two candidates with what their estimates are made of, which is measured when it is first asked for."""

    def __init__(self, pair: tuple[Side, Side], task: str, measure: str) -> None:
        self.pair, self.task, self.measure = pair, task, measure
        tables = [side.candidate.read(task, side.row) for side in pair]
        self.values = [table[measure].to_numpy() for table in tables]
        self.difference: Float64[np.ndarray, " queries"] = self.values[1] - self.values[0]
        self.clusters = encode_clusters(tables[0]["cluster"].to_list())
        self._runs: list[Measured] | None = None

    def estimate(self, queries: Mask) -> Estimate:
        """Estimate the difference on some queries, with the variance of seeds."""
        found = self.estimate_alone(queries)
        if (at := parsed(self.measure)) is not None:
            if self._runs is None:
                self._runs = [
                    run
                    for side, share in zip(self.pair, (-1.0, 1.0), strict=True)
                    for run in side.candidate.measure(self.task, side.row, [at[1]], [at[0].name], share)
                ]
            first = self._runs[0].deletions
            joint = first.task.about.cluster_by == "image_id"
            clusters = first.units.of_queries if joint else self.clusters
            found = estimate(self._runs, Sampling(clusters, queries.astype(np.float64), joint=joint))
        for side in self.pair:
            if len(side.candidate.experiments) > 1:
                tables = [one.read(self.task, side.row) for one in side.candidate.experiments]
                means = np.array([table[self.measure].to_numpy()[queries].mean() for table in tables])
                found = found.add_variance(np.array([means.var(ddof=1) / len(means)]), len(means) - 1.0)
        return found

    def estimate_alone(self, queries: Mask) -> Estimate:
        """The same as if the items stayed: its variance is never more."""
        sampling = Sampling(self.clusters, queries.astype(np.float64), joint=False)
        return estimate_queries(self.difference[:, None], sampling)


def _contrast(pair: _Pair, of: Slice) -> Contrast:
    inside, outside = of.queries, ~of.queries
    counts = [len(np.unique(pair.clusters[part])) for part in (inside, outside)]
    first, second = (float(values[inside].mean()) for values in pair.values)
    here, there = float(pair.difference[inside].mean()), float(pair.difference[outside].mean())
    tested = min(counts) >= LEAST_CLUSTERS
    p = 1.0
    if tested and here * there < 0:
        alone = [pair.estimate_alone(part) for part in (inside, outside)]
        # No t-test with a variance that is no less can be below it.
        p = max(float(stats.norm.sf(abs(one.mean[0]) / _spread(one))) for one in alone)
        if p < ALPHA:
            p = max(_test_one_sided(pair.estimate(part)) for part in (inside, outside))
    return Contrast(of, int(inside.sum()), counts[0], first, second, here, there, tested, p)


def _spread(found: Estimate) -> float:
    return float(np.sqrt(max(found.variance[0], 1e-18)))


def _test_one_sided(found: Estimate) -> float:
    """The p-value of "the difference is 0, or on the other side"."""
    if found.variance[0] <= 1e-18:  # nothing spreads: all that is known is that every cluster agrees
        return float(0.5**found.clusters)
    return float(stats.t.sf(abs(found.mean[0]) / _spread(found), found.df[0]))
