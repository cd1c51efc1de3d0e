"""Significance tests between experiments, or rows of their tables: paired, corrected for multiple comparisons.

Two candidates over the same queries are compared query by query, and with pictures on both sides: one picture's vector
moves every query that ranks it, so that queries are no independent trials even if their pictures are. The test is that
of the paired difference: its effect over the square root of its variance, which is the jackknife's over pictures
(`jackknife.py`) with each deletion made in the lists of both; t with its degrees of freedom. The effect's interval
is of the same variance. Several experiments that differ in their seeds are one candidate: its values are their means,
and the variance of a mean of so many seeds comes on top.

P-values of everything that one call compares are corrected together by Holm's (1979) step-down procedure, so that the
chance of calling any null difference real is at most 5 %. With fewer than six clusters nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.candidates import Candidate, check_same_pools
from twinlens.evaluation.intervals import (
    LEAST_CLUSTERS,
    Interval,
    bound_estimate,
    encode_clusters,
    find_alike,
)
from twinlens.evaluation.jackknife import Estimate, Sampling, estimate, estimate_queries
from twinlens.evaluation.measures import parsed

ALPHA = 0.05
NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Difference:
    """One measure of one row in two candidates; `effect` is second minus first."""

    task: str
    retriever: str
    retriever_second: str
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
    tested: bool = True  # false: no query has another value, or there are too few clusters
    p_holm: float = 1.0

    @property
    def row(self) -> str:
        """What is compared, in words: the retriever, or both where they are two."""
        if self.retriever == self.retriever_second:
            return self.retriever
        return f"{self.retriever} and {self.retriever_second}"

    @property
    def shown(self) -> bool:
        """Whether a difference was shown."""
        return self.p_holm < ALPHA

    @property
    def verdict(self) -> str:
        """The verdict in words: who is better, or that no difference was shown."""
        return f"{self.second if self.effect > 0 else self.first} is better" if self.shown else NOT_SHOWN

    def as_json(self) -> dict[str, Any]:
        """Plain values; an interval that is not defined says why."""
        return asdict(self) | {"interval": self.interval.as_json(), "verdict": self.verdict}


def compare(
    candidates: Sequence[Candidate], measures: Sequence[str], *, retrievers: Sequence[str] = ()
) -> list[Difference]:
    """Compare all pairs of candidates, over every task and row that both have.

    Args:
        candidates: two or more, over the same queries and items.
        measures: columns of their tables, `ndcg_at_10` for instance.
        retrievers: only these; all if empty.

    Raises:
        DataError: the candidates are about different pools, share no row, or lack a measure.
    """
    found: list[Difference] = []
    for first, second in combinations(candidates, 2):
        for one in (*first.experiments[1:], *second.experiments):
            check_same_pools(first.first, one)
        shared = list(find_shared_rows(first, second, retrievers))
        if not shared:
            raise DataError(
                f"{first.name} and {second.name} share no retriever{' among those asked for' if retrievers else ''}: "
                f"{_list_rows(first)} against {_list_rows(second)}"
            )
        for task, rows in shared:
            found += _compare_rows(first, second, task, rows, measures)
    # What cannot be tested cannot come out, so there is nothing to correct for (Tarone 1990).
    tested = [difference for difference in found if difference.tested]
    corrected = dict(zip(map(id, tested), holm([difference.p for difference in tested]), strict=True))
    return [replace(difference, p_holm=corrected.get(id(difference), 1.0)) for difference in found]


def find_shared_rows(
    first: Candidate, second: Candidate, retrievers: Sequence[str] = ()
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Find the tasks and rows to compare: the same retriever of both, but where a candidate names its own.

    Args:
        first: a candidate.
        second: another.
        retrievers: only these; all if empty.
    """
    for task, retriever in first.first.runs:
        rows = (retriever, second.row or retriever)
        if first.row is None and second.row is not None:
            rows = (second.row, second.row)  # the other's row, of both
        if first.row not in (None, rows[0]) or (retriever != rows[0]) or (retrievers and rows[0] not in retrievers):
            continue
        if first.has(task, rows[0]) and second.has(task, rows[1]):
            yield task, rows


def _list_rows(candidate: Candidate) -> str:
    return ", ".join(sorted({retriever for _, retriever in candidate.first.runs}))


def _compare_rows(
    first: Candidate, second: Candidate, task: str, rows: tuple[str, str], measures: Sequence[str]
) -> Iterator[Difference]:
    tables = [candidate.read(task, row) for candidate, row in zip((first, second), rows, strict=True)]
    for candidate, table in zip((first, second), tables, strict=True):
        for measure in measures:
            if measure not in table.columns:
                known = [name for name in table.columns if "_at_" in name]
                raise DataError(f"{candidate.name} has no {measure} ({suggest_nearest(measure, known)})")
    values = [table.select(measures).to_numpy() for table in tables]
    differences = values[1] - values[0]
    clusters = encode_clusters(tables[0]["cluster"].to_list())
    alike = find_alike(differences, clusters)
    found = estimate_difference(first, second, task, rows, measures)
    intervals = bound_estimate(found, alike, (-1.0, 1.0))
    for column, measure in enumerate(measures):
        same = not bool(differences[:, column].any())
        few = found.clusters < LEAST_CLUSTERS
        p = 1.0 if same or few else float(found.p[column])
        if alike[column] and not same and not few:
            p = 2.0 ** (1 - found.clusters)  # nothing spreads, so all that is known is that every cluster agrees
        yield Difference(
            task=task,
            retriever=rows[0],
            retriever_second=rows[1],
            measure=measure,
            first=first.name,
            second=second.name,
            mean_first=float(values[0][:, column].mean()),
            mean_second=float(values[1][:, column].mean()),
            effect=float(differences[:, column].mean()),
            interval=Interval(None, None, "every query has the same value") if same else intervals[column],
            queries=len(differences),
            clusters=found.clusters,
            p=p,
            tested=not (same or few),
        )


def estimate_difference(
    first: Candidate, second: Candidate, task: str, rows: tuple[str, str], measures: Sequence[str]
) -> Estimate:
    """Estimate the second candidate's means minus the first's, of some columns of their tables.

    A measure that is not of the first k of a list, such as average precision, has only the part of the queries: its
    difference may be another on other items.
    """
    cut = {measure: at for measure in measures if (at := parsed(measure)) is not None}
    sampling, parts = None, dict[str, tuple[float, float, float]]()
    clusters = encode_clusters(first.read(task, rows[0])["cluster"].to_list())
    values = [c.read(task, row).select(measures).to_numpy() for c, row in zip((first, second), rows, strict=True)]
    found = estimate_queries(values[1] - values[0], Sampling.by_cluster(clusters))
    if cut:
        ks, names = (
            sorted({k for _, k in cut.values()}),
            list(dict.fromkeys(measure.name for measure, _ in cut.values())),
        )
        runs = [*first.measure(task, rows[0], ks, names, -1.0), *second.measure(task, rows[1], ks, names, 1.0)]
        one = runs[0].deletions
        by_picture = one.task.about.cluster_by == "image_id"
        sampling = Sampling.by_picture(one) if by_picture else Sampling.by_cluster(clusters)
        both = estimate(runs, sampling)
        for column, name in enumerate(runs[0].values.names):
            parts[name] = (float(both.mean[column]), float(both.variance[column]), float(both.df[column]))
    for column, measure in enumerate(measures):
        if measure in parts:
            mean, variance, df = parts[measure]
            if abs(mean - found.mean[column]) > 1e-6:
                raise DataError(
                    f"{task}, {rows[0]}: the runs give {measure} a difference of {mean:.6f}, the measured values "
                    f"{found.mean[column]:.6f}: they are not of one run of the pipeline; `dvc repro evaluate`"
                )
            found.variance[column], found.df[column] = variance, df
    for candidate, row in zip((first, second), rows, strict=True):
        if len(candidate.experiments) > 1:
            means = np.array(
                [e.read(task, row).select(measures).to_numpy().mean(axis=0) for e in candidate.experiments]
            )
            found = found.add_variance(means.var(axis=0, ddof=1) / len(means), len(means) - 1.0)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's step-down procedure (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.maximum.accumulate(np.array(p_values)[order] * factors).clip(max=1.0)
    back = np.empty(len(order))
    back[order] = corrected
    return [float(p) for p in back]


def find_most_changed(
    first: Candidate, second: Candidate, task: str, rows: tuple[str, str], measure: str, count: int
) -> pl.DataFrame:
    """Find the queries whose value changed most; among equals, those whose first hit moved furthest.

    Returns:
        `query_id`, `group`, the measure and the rank of the first hit in both, the largest change first.
    """
    columns = ["query_id", "group", measure, "first_hit"]
    ours, theirs = (c.read(task, row).select(columns) for c, row in zip((first, second), rows, strict=True))
    joined = ours.join(theirs.drop("group"), on="query_id", suffix="_second", maintain_order="left")
    moved = (pl.col("first_hit_second").clip(1).log() - pl.col("first_hit").clip(1).log()).abs()
    change = pl.col(f"{measure}_second") - pl.col(measure)
    ranked = joined.with_columns(change=change, moved=moved).filter((pl.col("change") != 0) | (pl.col("moved") != 0))
    ranked = ranked.sort(pl.col("change").abs(), "moved", "query_id", descending=[True, True, False])
    return ranked.head(count).drop("moved")


@dataclass(frozen=True)
class Changes:
    """The queries that changed most between two candidates."""

    task: str
    row: str
    measure: str
    first: str
    second: str
    queries: pl.DataFrame


def find_changes(
    candidates: Sequence[Candidate], differences: Sequence[Difference], measure: str, count: int
) -> list[Changes]:
    """Find the `count` most changed queries of each comparison of `measure`."""
    named = {candidate.name: candidate for candidate in candidates}
    return [
        Changes(
            d.task,
            d.row,
            measure,
            d.first,
            d.second,
            find_most_changed(
                named[d.first], named[d.second], d.task, (d.retriever, d.retriever_second), measure, count
            ),
        )
        for d in differences
        if d.measure == measure and count
    ]
