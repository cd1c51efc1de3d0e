"""Significance tests between experiments: paired, by cluster, corrected for multiple comparisons.

Two experiments over the same queries are compared query by query. The test flips the sign of a whole
cluster's differences (the queries of one picture) at random: were the experiments
alike, either sign would have been as likely (Fisher's randomisation test; for retrieval, Smucker,
Allan and Carterette 2007). With `n` clusters there are 2^n flips; where they are few, all are made.
P-values of everything that one call compares are corrected together by Holm's (1979) step-down
procedure, so that the chance of calling any null difference real is at most 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.experiments import Experiment
from twinlens.evaluation.intervals import Interval, bootstrap_means, encode_clusters

ALPHA = 0.05
FLIPS = 10_000
RESAMPLES = 2_000
ALL_FLIPS = 13  # up to so many clusters, every combination of signs is tried
BLOCK = 4_000_000  # signs in memory at once

Differences = Float64[np.ndarray, "queries measures"]


@dataclass(frozen=True)
class Difference:
    """One measure of one retriever in two experiments; `effect` is second minus first."""

    task: str
    retriever: str
    measure: str
    first: str
    second: str
    mean_first: float
    mean_second: float
    effect: float
    interval: Interval
    queries: int
    clusters: int
    p: float
    same: bool = False  # no query has another value
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        """The verdict in words: who is better, or that no difference was shown."""
        if self.p_holm >= ALPHA:
            return "no difference"
        return f"{self.second if self.effect > 0 else self.first} is better"

    def as_json(self) -> dict[str, Any]:
        """Plain values; an interval that is not defined says why."""
        return asdict(self) | {"interval": self.interval.as_json(), "verdict": self.verdict}


def compare(
    experiments: Sequence[Experiment], measures: Sequence[str], *, retrievers: Sequence[str] = (), seed: int = 0
) -> list[Difference]:
    """Compare all pairs of experiments, over every task and retriever that both have.

    Args:
        experiments: two or more, over the same queries and items.
        measures: columns of their tables, `ndcg_at_10` for instance.
        retrievers: only these; all if empty.
        seed: of the flips and of the intervals.

    Raises:
        DataError: the experiments are about different pools, share no retriever, or lack a measure.
    """
    found: list[Difference] = []
    for first, second in combinations(experiments, 2):
        check_same_pools(first, second)
        shared = [run for run in first.runs if run in second.runs and (not retrievers or run[1] in retrievers)]
        if not shared:
            raise DataError(
                f"{first.name} and {second.name} share no retriever{' among those asked for' if retrievers else ''}: "
                f"{_named(first)} against {_named(second)}"
            )
        for task, retriever in shared:
            found += _compare_run(first, second, task, retriever, measures, seed)
    # Where no query differs no flip can, so there is nothing to correct for (Tarone 1990).
    tested = [difference for difference in found if not difference.same]
    corrected = dict(zip(map(id, tested), holm([difference.p for difference in tested]), strict=True))
    return [replace(difference, p_holm=corrected.get(id(difference), 1.0)) for difference in found]


def _named(experiment: Experiment) -> str:
    return ", ".join(sorted({retriever for _, retriever in experiment.runs}))


def check_same_pools(first: Experiment, second: Experiment) -> None:
    """Refuse experiments whose numbers are about different things.

    Raises:
        DataError: names the first thing that differs.
    """
    for task in (task for task in first.pools if task in second.pools):
        ours, theirs = first.pools[task], second.pools[task]
        for key, what in (
            ("dataset", "dataset"),
            ("split", "split"),
            ("queries", "number of queries"),
            ("items", "number of items"),
        ):
            if ours[key] != theirs[key]:
                raise DataError(
                    f"{task}: the {what} is {ours[key]} in {first.name} and {theirs[key]} in {second.name}; "
                    "only experiments over one pool can be compared: run one of them again with the other's "
                    "`dataset`, `filter`, `resize` and `group`"
                )
        for key, what in (("queries_digest", "queries"), ("items_digest", "items")):
            if ours[key] != theirs[key]:
                where = describe_first_difference(first, second, task) if what == "queries" else ""
                raise DataError(
                    f"{task}: {first.name} and {second.name} have as many {what}, but not the same ones{where}; "
                    "only experiments over one pool can be compared"
                )


def describe_first_difference(first: Experiment, second: Experiment, task: str) -> str:
    """Describe the first query that is not the same."""
    tables = []
    for experiment in (first, second):
        retriever = next(name for of_task, name in experiment.runs if of_task == task)
        tables.append(experiment.read(task, retriever).select("query_id", "group").rows())
    for row, (ours, theirs) in enumerate(zip(*tables, strict=False)):
        if ours != theirs:
            return f" (row {row}: {ours[0]} of {ours[1]!r} against {theirs[0]} of {theirs[1]!r})"
    return ""


def _compare_run(
    first: Experiment, second: Experiment, task: str, retriever: str, measures: Sequence[str], seed: int
) -> Iterator[Difference]:
    tables = [experiment.read(task, retriever) for experiment in (first, second)]
    for experiment, table in zip((first, second), tables, strict=True):
        for measure in measures:
            if measure not in table.columns:
                known = [name for name in table.columns if "_at_" in name]
                raise DataError(f"{experiment.name} has no {measure} ({suggest_nearest(measure, known)})")
    values = [table.select(measures).to_numpy() for table in tables]
    differences = values[1] - values[0]
    clusters = encode_clusters(tables[0]["cluster"].to_list())
    p_values = sign_flip_p(differences, clusters, seed=seed)
    effects = bootstrap_means(differences, clusters, resamples=RESAMPLES, seed=seed, span=(-1.0, 1.0))
    for column, measure in enumerate(measures):
        same = not bool(differences[:, column].any())
        yield Difference(
            task=task,
            retriever=retriever,
            measure=measure,
            first=first.name,
            second=second.name,
            mean_first=float(values[0][:, column].mean()),
            mean_second=float(values[1][:, column].mean()),
            effect=float(differences[:, column].mean()),
            interval=Interval(None, None, "every query has the same value") if same else effects[column],
            queries=len(differences),
            clusters=int(clusters.max()) + 1,
            p=float(p_values[column]),
            same=same,
        )


def sign_flip_p(
    differences: Differences, clusters: Int[np.ndarray, " queries"], *, flips: int = FLIPS, seed: int = 0
) -> Float64[np.ndarray, " measures"]:
    """Compute two-sided p-values of paired differences under flips of whole clusters' signs.

    Args:
        differences: of each query, a column a measure.
        clusters: of each query, numbers from 0 without gaps.
        flips: drawn at random, where trying all would take more.
        seed: of the draws.
    """
    count = int(clusters.max()) + 1
    sums = np.stack([np.bincount(clusters, weights=column, minlength=count) for column in differences.T], axis=1)
    total = sums.sum(axis=0)
    reached, tried = np.zeros(differences.shape[1]), 0
    margin = 1e-9 * np.abs(sums).sum(axis=0)  # sums of the same numbers in another order are as large
    for positive in _sign_bits(count, flips, seed):
        flipped = 2.0 * (positive @ sums) - total
        reached += (np.abs(flipped) >= np.abs(total) - margin).sum(axis=0)
        tried += len(positive)
    if count <= ALL_FLIPS:
        return np.asarray(reached / tried)
    return np.asarray((reached + 1.0) / (tried + 1.0))  # what was seen is one of the flips


def _sign_bits(clusters: int, flips: int, seed: int) -> Iterator[Float64[np.ndarray, "flips clusters"]]:
    """1 where a cluster keeps its sign, else 0: every combination, or `flips` of them drawn."""
    if clusters <= ALL_FLIPS:
        yield ((np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1).astype(np.float64)
        return
    rng, step = np.random.default_rng(seed), max(1, BLOCK // clusters)
    for start in range(0, flips, step):
        count = min(step, flips - start)
        drawn = np.frombuffer(rng.bytes(count * ((clusters + 7) // 8)), np.uint8).reshape(count, -1)
        yield np.unpackbits(drawn, axis=1, count=clusters).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's step-down procedure (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.maximum.accumulate(np.array(p_values)[order] * factors).clip(max=1.0)
    back = np.empty(len(order))
    back[order] = corrected
    return [float(p) for p in back]


def find_most_changed(
    first: Experiment, second: Experiment, task: str, retriever: str, measure: str, count: int
) -> pl.DataFrame:
    """Find the queries whose value changed most; among equals, those whose first hit moved furthest.

    Returns:
        `query_id`, `group`, the measure and the rank of the first hit in both, the largest change first.
    """
    columns = ["query_id", "group", measure, "first_hit"]
    ours, theirs = (e.read(task, retriever).select(columns) for e in (first, second))
    joined = ours.join(theirs.drop("group"), on="query_id", suffix="_second", maintain_order="left")
    moved = (pl.col("first_hit_second").clip(1).log() - pl.col("first_hit").clip(1).log()).abs()
    change = pl.col(f"{measure}_second") - pl.col(measure)
    ranked = joined.with_columns(change=change, moved=moved).filter((pl.col("change") != 0) | (pl.col("moved") != 0))
    ranked = ranked.sort(pl.col("change").abs(), "moved", "query_id", descending=[True, True, False])
    return ranked.head(count).drop("moved")


@dataclass(frozen=True)
class Changes:
    """The queries that changed most between two experiments, by one retriever."""

    task: str
    retriever: str
    measure: str
    first: str
    second: str
    queries: pl.DataFrame


def find_changes(
    experiments: Sequence[Experiment], differences: Sequence[Difference], measure: str, count: int
) -> list[Changes]:
    """Find the `count` most changed queries of each comparison of `measure`."""
    named = {experiment.name: experiment for experiment in experiments}
    return [
        Changes(
            d.task,
            d.retriever,
            measure,
            d.first,
            d.second,
            find_most_changed(named[d.first], named[d.second], d.task, d.retriever, measure, count),
        )
        for d in differences
        if d.measure == measure and count
    ]
