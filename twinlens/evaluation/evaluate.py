"""Measurement of runs: every measure of every query, their means, and the curves to plot.

Nothing here knows a model or a vector; what is measured is what the runs say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from twinlens.config.gates import Gates
from twinlens.config.params import EvaluateParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.id_rows import count_ids
from twinlens.core.progress import Progress
from twinlens.evaluation.cost import build_curve_rows
from twinlens.evaluation.deletions import Deletions
from twinlens.evaluation.draws import average_curves, average_queries, average_values, combine_intervals, read_draws
from twinlens.evaluation.gates import detect_chance_level, detect_own_found
from twinlens.evaluation.intervals import (
    LEVEL,
    Interval,
    Intervals,
    bootstrap_means,
    bootstrap_median,
    encode_clusters,
    jackknife_means,
)
from twinlens.evaluation.jackknife import Measured, Sampling
from twinlens.evaluation.measures import (
    MEASURES,
    Judged,
    Values,
    drawn,
    macro_mean,
    measure_all,
    median_rank,
    parsed,
    with_macro,
)
from twinlens.evaluation.pool import DIGITS, Lists, Pool
from twinlens.evaluation.published import measure_in_batch, measure_labels, measure_object_sets
from twinlens.evaluation.referee import check_sample
from twinlens.tasks.base import Task

AT_ONCE = 10_000_000  # values of deletions in memory: 80 MB and some copies


@dataclass
class Measurements:
    """Measurements of the `evaluate` stage, by task and retriever."""

    retrieval: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    as_published: dict[str, Any] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # parts of the records that a picture takes
    untrained: dict[tuple[str, str], str] = field(default_factory=dict)  # what a row is by the model before training
    queries: int = 0
    compared: int = 0  # values that a second opinion confirmed


def measure_all_runs(ranked: Path, dataset: str, params: EvaluateParams, gates: Gates, out: Path) -> Measurements:
    """Measure every run of every task; write the values of every query below `out`.

    Args:
        ranked: folder of the `rank` stage.
        dataset: its name, to be stored beside the numbers.
        params: the cuts, and how much is measured twice.
        gates: what to do about a run at chance level, or one in which queries find themselves.
        out: a folder; `<task>/<retriever>.parquet` and `pools.json` are written there.

    Raises:
        DataError: a run does not fit its pool, or a second opinion disagrees.
    """
    whole = json.loads((ranked / "pool.json").read_text())
    pools = Pool.read_all(ranked)
    results, identities = Measurements(), {}
    with Progress("evaluate", total=sum(len(pool.retrievers) for pool in pools), unit="run") as bar:
        for pool in pools:
            described = pool.describe(dataset, whole["split"], params.ks[-1]) | {"duplicates": whole["duplicates"]}
            about = pool.task.about
            if about.published_of is not None:
                beside = results.as_published.setdefault(about.published_of, {})
                beside["pool"] = described
                for retriever in pool.retrievers:
                    own = measure_run(pool, retriever, params)
                    beside[retriever] = beside.get(retriever, {}) | own.as_published
                    bar.add(1)
                continue
            results.retrieval[pool.name] = {"pool": described}
            identities[pool.name] = described | pool.identity() | {"k": params.ks[-1], "title": about.title}
            if about.published is not None:
                results.as_published[pool.name] = {"pool": described}
            results.intervals[pool.name] = {
                "pool": {
                    "clustered_by": about.cluster_by,
                    "clusters": pool.clusters.n_unique(),
                    "pictures": count_ids(pool.task.item_images or pool.task.item_ids, pool.task.query_images),
                    "resamples": params.resamples,
                    "level": LEVEL,
                }
            }
            for retriever in pool.retrievers:
                draws = [measure_run(draw, retriever, params) for draw in read_draws(pool, retriever)]
                measured = average_draws(draws)
                gates.check("own_pool", measured.own_found)
                told = pool.told(retriever)
                results.retrieval[pool.name][retriever] = measured.means | told["chosen"]
                results.costs[pool.name, retriever] = told["costs"]
                if (of := told.get("untrained_of")) is not None:
                    results.untrained[pool.name, retriever] = of
                if about.published is not None:
                    results.as_published[pool.name][retriever] = measured.as_published
                found = combine_draws(
                    [compute_intervals(d.per_query, d.lists, pool.task, params) for d in draws], draws
                )
                hits = {k: (found[f"hit_at_{k}"].main, pool.chance(k)) for k in params.ks}
                if not told["before_training"]:  # which may well know nothing
                    gates.check("chance_level", detect_chance_level(hits, f"{pool.name}, {retriever}"))
                results.intervals[pool.name][retriever] = {name: i.as_json(DIGITS) for name, i in found.items()}
                results.curves += build_curve_rows(pool.name, retriever, measured.curves)
                results.queries += len(measured.per_query)
                results.compared += measured.compared
                (out / pool.name).mkdir(parents=True, exist_ok=True)
                measured.per_query.write_parquet(out / pool.name / f"{retriever}.parquet")
                bar.add(1)
    (out / "pools.json").write_text(json.dumps(identities, indent=2, allow_nan=False) + "\n")
    return results


@dataclass(frozen=True)
class RunMeasurement:
    """Measurements of one retriever on one task."""

    means: dict[str, float]
    as_published: dict[str, float]
    curves: dict[str, list[float]]  # by measure, from k = 1 on
    per_query: pl.DataFrame
    lists: Lists
    compared: int  # values that a second opinion confirmed
    own_found: str | None = None  # queries that found themselves, in words


def average_draws(draws: Sequence[RunMeasurement]) -> RunMeasurement:
    """Average the measurements of the draws of a retriever; most have but one."""
    return RunMeasurement(
        average_values([one.means for one in draws], DIGITS),
        average_values([one.as_published for one in draws], DIGITS),
        average_curves([one.curves for one in draws], DIGITS),
        average_queries([one.per_query for one in draws], list_measure_columns(draws[0].per_query)),
        draws[0].lists,
        sum(one.compared for one in draws),
        draws[0].own_found,
    )


def combine_draws(intervals: Sequence[dict[str, Intervals]], draws: Sequence[RunMeasurement]) -> dict[str, Intervals]:
    """Combine the intervals of the draws of a retriever, each kind by itself; most have but one draw."""

    def combine(name: str) -> Intervals:
        means, own = [draw.means[name] for draw in draws], [one[name] for one in intervals]
        span = (1.0, float("inf")) if name == "median_rank" else (0.0, 1.0)
        other = [one.other_pool for one in own if one.other_pool is not None]
        fixed = combine_intervals([one.fixed_pool for one in own], means, span)
        return Intervals(combine_intervals(other, means, span) if other else None, fixed)

    return {name: combine(name) for name in intervals[0]}


def measure_run(pool: Pool, retriever: str, params: EvaluateParams) -> RunMeasurement:
    """Measure one run.

    Raises:
        DataError: the run does not fit its pool, or a second opinion disagrees.
    """
    lists = pool.read_lists(retriever)
    judged = Judged(lists.gains, pool.task.qrels.counts(), pool.task.qrels.ideal(lists.gains.shape[1]))
    own = None
    if pool.task.exclude is not None:
        own = detect_own_found(pool.task.exclude, lists.rows, f"{pool.name}, {retriever}")
    first_hits = _read_first_hits(pool, retriever)
    values = measure_all(judged, params.ks)
    full = {tables.FULL_RANKING: _read_average_precision(pool, retriever)} if pool.task.about.full_ranking else {}
    compared = check_sample(values, judged, params.referee_queries, params.seed)
    means = {name: round(float(value.mean()), DIGITS) for name, value in (values | full).items()}
    means["median_rank"] = median_rank(first_hits)
    if pool.task.about.macro:
        groups = encode_clusters(pool.queries["group"].to_list())
        for key in (measure.at(params.ks[-1]) for measure in with_macro()):
            means[f"macro_{key}"] = round(macro_mean(values[key], groups), DIGITS)
    published = {n: round(float(v.mean()), DIGITS) for n, v in _as_published(pool, retriever, judged, full).items()}
    per_query = pool.queries.with_columns(
        cluster=pool.clusters,
        first_hit=pl.Series(first_hits),
        tied=pl.Series(tied_at(lists.scores, params.ks[-1])),
    ).with_columns(pl.Series(name, value) for name, value in (values | full).items())
    return RunMeasurement(means, published, _curves(judged), per_query, lists, compared, own)


def _as_published(pool: Pool, retriever: str, judged: Judged, full: dict[str, Values]) -> dict[str, Values]:
    """The measures of the source projects that have this task, each by its own definition."""
    kind = pool.task.about.published
    if kind is None:
        return {}
    if kind == "classes":
        return {"map": full[tables.FULL_RANKING]}
    if kind == "object_sets":
        return measure_object_sets(judged)
    found = measure_labels(judged)
    path = pool.folder / tables.IN_BATCHES / f"{retriever}.parquet"
    if path.exists():
        ranks = tables.read_table(path, tables.BATCH_RANKS)["rank"].to_numpy()
        found |= measure_in_batch(ranks, judged)
    return found


def list_measure_columns(per_query: pl.DataFrame) -> list[str]:
    """List the measures among the columns of a table of queries."""
    return [name for name in per_query.columns if parsed(name) or name == tables.FULL_RANKING]


def compute_intervals(
    per_query: pl.DataFrame, lists: Lists, task: Task, params: EvaluateParams
) -> dict[str, Intervals]:
    """Compute the 95 % intervals of every mean that `measure_run` gives.

    Those of the median rank and of average precision are of the fixed pool only: they ask for the whole ranking, and
    runs keep its beginning.

    Args:
        per_query: of `measure_run`.
        lists: the run.
        task: whose run.
        params: the cuts, and the draws of the bootstrap.
    """
    drawn: dict[str, Any] = {"resamples": params.resamples, "seed": params.seed}
    clusters = encode_clusters(per_query["cluster"].to_list())
    names = list_measure_columns(per_query)
    fixed = dict(zip(names, bootstrap_means(per_query.select(names).to_numpy(), clusters, **drawn), strict=True))
    fixed["median_rank"] = bootstrap_median(per_query["first_hit"].to_numpy(), clusters, **drawn)
    macro = [measure.at(params.ks[-1]) for measure in with_macro()] if task.about.macro else []
    groups = encode_clusters(per_query["group"].to_list()) if macro else None
    if groups is not None:
        of_groups = bootstrap_means(per_query.select(macro).to_numpy(), groups, macro=True, **drawn)
        fixed |= {f"macro_{name}": interval for name, interval in zip(macro, of_groups, strict=True)}
    other = _compute_on_other_pools(clusters, groups, lists, task, params)
    return {name: Intervals(other.get(name), interval) for name, interval in fixed.items()}


def _compute_on_other_pools(
    clusters: Int[np.ndarray, " queries"],
    groups: Int[np.ndarray, " queries"] | None,
    lists: Lists,
    task: Task,
    params: EvaluateParams,
) -> dict[str, Interval]:
    """Intervals of every measure at every cut, and of the means over groups if there are any."""
    macro = [measure.at(params.ks[-1]) for measure in with_macro()] if groups is not None else []
    found: dict[str, Interval] = {}
    ks, deletions = list(params.ks), None
    while ks and deletions is None:
        try:
            deletions = Deletions.of(task, lists.rows, lists.gains, ks[-1])
        except DataError as error:  # the lists are no deeper than this cut
            names = [measure.at(ks[-1]) for measure in MEASURES.values()]
            names += [f"macro_{name}" for name in macro if ks == params.ks]
            found |= dict.fromkeys(names, Interval(None, None, str(error)))
            ks.pop()
    if deletions is None:
        return found
    by_picture = task.about.cluster_by == "image_id"
    sampling = Sampling.by_picture(deletions) if by_picture else Sampling.by_cluster(clusters)
    at_once = max(1, AT_ONCE // max(1, len(deletions.query) * len(ks)))
    for start in range(0, len(MEASURES), at_once):
        run = Measured(deletions, deletions.measure(ks, list(MEASURES)[start : start + at_once]))
        found |= dict(zip(run.values.names, jackknife_means([run], sampling), strict=True))
    if groups is not None and ks == params.ks:
        run = Measured(deletions, deletions.measure(ks[-1:], [measure.name for measure in with_macro()]))
        of_groups = jackknife_means([run], Sampling.by_cluster(groups, macro=True))
        found |= {f"macro_{name}": interval for name, interval in zip(run.values.names, of_groups, strict=True)}
    return found


def tied_at(scores: Float32[np.ndarray, "queries depth"], k: int) -> np.ndarray:
    """Whether equal scores stand on both sides of the cut at k, so that only the order of the pool decides."""
    if scores.shape[1] <= k:
        return np.zeros(len(scores), dtype=bool)
    return scores[:, k - 1] == scores[:, k]


def _read_first_hits(pool: Pool, retriever: str) -> Int[np.ndarray, " queries"]:
    path = pool.folder / "first_hits" / f"{retriever}.parquet"
    table = tables.read_table(path, tables.FIRST_HITS)
    if table["query_id"].to_list() != pool.queries["query_id"].to_list():
        raise DataError(f"{path} is not about the queries of its task: `dvc repro -f rank`")
    return table["rank"].to_numpy()


def _read_average_precision(pool: Pool, retriever: str) -> Values:
    path = pool.folder / tables.FULL_RANKING / f"{retriever}.parquet"
    table = tables.read_table(path, tables.AVERAGE_PRECISION)
    if table["query_id"].to_list() != pool.queries["query_id"].to_list():
        raise DataError(f"{path} is not about the queries of its task: `dvc repro -f rank`")
    return table["value"].to_numpy()


def _curves(judged: Judged) -> dict[str, list[float]]:
    cuts = range(1, judged.gains.shape[1] + 1)
    every = measure_all(judged, cuts, [measure.name for measure in drawn()])
    return {measure.name: [round(float(every[measure.at(k)].mean()), DIGITS) for k in cuts] for measure in drawn()}
