"""From runs to numbers: every measure of every query, their means, and the curves to plot.

Nothing here knows a model or a vector; what is measured is what the runs say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from twinlens import tables
from twinlens.config.params import EvaluateParams
from twinlens.errors import DataError
from twinlens.gates import Gates, at_chance, own_found
from twinlens.intervals import LEVEL, Interval, cluster_codes, of_means, of_median
from twinlens.measures import Relevance, Values, chance_hit_at, macro_mean, measure_all, median_rank
from twinlens.progress import Progress
from twinlens.published import in_batch_measures, label_measures, object_set_measures
from twinlens.referee import check_sample
from twinlens.reporting import curve_rows
from twinlens.runs import read_run
from twinlens.scratch import digest
from twinlens.sources import UNTRAINED

DIGITS = 6
MACRO = ("mrr", "ndcg", "hit")  # over groups, for the task whose groups differ in size
CURVES = ("hit", "ndcg")


@dataclass(frozen=True)
class Pool:
    """The queries and items of a task, as the `rank` stage wrote them."""

    name: str
    folder: Path
    queries: pl.DataFrame
    items: pl.DataFrame
    query_groups: Int[np.ndarray, " queries"]
    item_groups: Int[np.ndarray, " items"]
    excludes_self: bool

    @classmethod
    def read(cls, folder: Path) -> Pool:
        """Read a task's folder."""
        queries = tables.read_table(folder / "queries.parquet", tables.QUERIES)
        items = tables.read_table(folder / "items.parquet", tables.ITEMS)
        names = pl.concat([queries["group"], items["group"]]).unique(maintain_order=True)
        codes = pl.DataFrame({"group": names, "code": np.arange(len(names))})
        return cls(
            folder.name,
            folder,
            queries,
            items,
            queries.join(codes, on="group", how="left", maintain_order="left")["code"].to_numpy(),
            items.join(codes, on="group", how="left", maintain_order="left")["code"].to_numpy(),
            excludes_self=folder.name == "object_sets",
        )

    @classmethod
    def read_all(cls, ranked: Path) -> list[Pool]:
        """Every task in the folder of the `rank` stage, by name."""
        return [cls.read(folder) for folder in sorted(path for path in ranked.iterdir() if path.is_dir())]

    @property
    def as_published(self) -> bool:
        """Whether this repeats a source's own protocol: its numbers stand beside the published ones only."""
        return self.name.endswith(tables.AS_PUBLISHED)

    @property
    def retrievers(self) -> list[str]:
        """Those that have a run here."""
        return sorted(path.stem for path in (self.folder / "runs").glob("*.parquet"))

    def chosen(self, retriever: str) -> dict[str, float]:
        """What was chosen for a run on validation data, and on how much of them."""
        path = self.folder / tables.CHOSEN / f"{retriever}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def full_ranking(self) -> bool:
        """Whether the `rank` stage measured average precision over the whole pool here."""
        return (self.folder / tables.FULL_RANKING).is_dir()

    @property
    def clustered_by(self) -> str:
        """Which column of `queries` tells those that are not independent: of one picture, or of one class.

        Queries for a class share their words and what they should find.
        """
        return "group" if self.full_ranking else "image_id"

    def describe(self, dataset: str, split: str, k: int) -> dict[str, Any]:
        """What every number of this task is about."""
        about = self.folder / "about.json"
        return {
            "dataset": dataset,
            "split": split,
            "queries": len(self.queries),
            "items": len(self.items),
            f"chance_hit_at_{k}": round(self.chance(k), DIGITS),
        } | (json.loads(about.read_text()) if about.exists() else {})

    def chance(self, k: int) -> float:
        """Mean `hit_at_k` of a ranking at random."""
        return chance_hit_at(len(self.items) - self.excludes_self, self.queries["relevant"].to_numpy(), k)

    def identity(self) -> dict[str, Any]:
        """What tells two pools apart, and the retrievers that searched this one."""
        return {
            "queries_digest": digest(_flat(self.queries.select("query_id", "group"))),
            "items_digest": digest(_flat(self.items.select("item_id", "group"))),
            "retrievers": self.retrievers,
        }


def _flat(table: pl.DataFrame) -> Iterator[str]:
    return (value for row in table.iter_rows() for value in row)


@dataclass
class Results:
    """What the `evaluate` stage found, by task and retriever."""

    retrieval: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    as_published: dict[str, Any] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    queries: int = 0
    compared: int = 0  # values that torchmetrics confirmed


def measure_all_runs(ranked: Path, dataset: str, params: EvaluateParams, gates: Gates, out: Path) -> Results:
    """Measure every run of every task; write the values of every query below `out`.

    Args:
        ranked: folder of the `rank` stage.
        dataset: its name, to be stored beside the numbers.
        params: the cuts, and how much is measured twice.
        gates: what to do about a run at chance level, or one in which queries find themselves.
        out: a folder; `<task>/<retriever>.parquet` and `pools.json` are written there.

    Raises:
        DataError: a run does not fit its pool, or torchmetrics disagrees.
    """
    whole = json.loads((ranked / "pool.json").read_text())
    pools = Pool.read_all(ranked)
    results, identities = Results(), {}
    with Progress("evaluate", total=sum(len(pool.retrievers) for pool in pools), unit="run") as bar:
        for pool in pools:
            described = pool.describe(dataset, whole["split"], params.ks[-1]) | {"duplicates": whole["duplicates"]}
            if pool.as_published:
                beside = results.as_published.setdefault(pool.name.removesuffix(tables.AS_PUBLISHED), {})
                beside["pool"] = described
                for retriever in pool.retrievers:
                    own = measure_run(pool, retriever, params)
                    beside[retriever] = beside.get(retriever, {}) | own.as_published
                    bar.add(1)
                continue
            results.retrieval[pool.name] = {"pool": described}
            identities[pool.name] = described | pool.identity() | {"k": params.ks[-1]}
            if not pool.full_ranking:
                results.as_published[pool.name] = {"pool": described}
            results.intervals[pool.name] = {
                "pool": {
                    "clustered_by": pool.clustered_by,
                    "clusters": pool.queries[pool.clustered_by].n_unique(),
                    "resamples": params.resamples,
                    "level": LEVEL,
                }
            }
            for retriever in pool.retrievers:
                measured = measure_run(pool, retriever, params)
                gates.check("own_pool", measured.own_found)
                results.retrieval[pool.name][retriever] = measured.means | pool.chosen(retriever)
                if not pool.full_ranking:
                    results.as_published[pool.name][retriever] = measured.as_published
                found = intervals_of(measured.per_query, params, macro=pool.excludes_self)
                hits = {k: (found[f"hit_at_{k}"], pool.chance(k)) for k in params.ks}
                if not retriever.endswith(UNTRAINED):  # which may well know nothing
                    gates.check("chance_level", at_chance(hits, f"{pool.name}, {retriever}"))
                results.intervals[pool.name][retriever] = {name: i.as_json(DIGITS) for name, i in found.items()}
                results.curves += curve_rows(pool.name, retriever, measured.curves)
                results.queries += len(measured.per_query)
                results.compared += measured.compared
                (out / pool.name).mkdir(parents=True, exist_ok=True)
                measured.per_query.write_parquet(out / pool.name / f"{retriever}.parquet")
                bar.add(1)
    (out / "pools.json").write_text(json.dumps(identities, indent=2, allow_nan=False) + "\n")
    return results


@dataclass(frozen=True)
class Measured:
    """One retriever on one task."""

    means: dict[str, float]
    as_published: dict[str, float]
    curves: dict[str, list[float]]  # by measure, from k = 1 on
    per_query: pl.DataFrame
    compared: int  # values that torchmetrics confirmed
    own_found: str | None = None  # queries that found themselves, in words


def measure_run(pool: Pool, retriever: str, params: EvaluateParams) -> Measured:
    """Measure one run.

    Raises:
        DataError: the run does not fit its pool, or torchmetrics disagrees.
    """
    relevance, scores, own = _read_relevance(pool, retriever)
    relevant = pool.queries["relevant"].to_numpy()
    first_hits = _read_first_hits(pool, retriever)
    values = measure_all(relevance, relevant, params.ks)
    full = {tables.FULL_RANKING: _read_average_precision(pool, retriever)} if pool.full_ranking else {}
    compared = check_sample(values, relevance, relevant, params.ks, params.referee_queries, params.seed)
    means = {name: round(float(value.mean()), DIGITS) for name, value in (values | full).items()}
    means["median_rank"] = median_rank(first_hits)
    if pool.excludes_self:
        _, groups = np.unique(pool.query_groups, return_inverse=True)
        for name in MACRO:
            key = f"{name}_at_{params.ks[-1]}"
            means[f"macro_{key}"] = round(macro_mean(values[key], groups), DIGITS)
    published = {n: round(float(v.mean()), DIGITS) for n, v in _as_published(pool, retriever, relevance, full).items()}
    per_query = pool.queries.with_columns(
        cluster=pool.queries[pool.clustered_by],
        first_hit=pl.Series(first_hits),
        tied=pl.Series(tied_at(scores, params.ks[-1])),
    ).with_columns(pl.Series(name, value) for name, value in (values | full).items())
    return Measured(means, published, _curves(relevance, relevant), per_query, compared, own)


def _as_published(pool: Pool, retriever: str, relevance: Relevance, full: dict[str, Values]) -> dict[str, Values]:
    """The measures of the source projects that have this task, each by its own definition."""
    if pool.full_ranking:
        return {"map": full[tables.FULL_RANKING]}
    if pool.excludes_self:
        return object_set_measures(relevance)
    found = label_measures(relevance)
    path = pool.folder / tables.IN_BATCHES / f"{retriever}.parquet"
    if path.exists():
        ranks = tables.read_table(path, tables.BATCH_RANKS)["rank"].to_numpy()
        found |= in_batch_measures(ranks, relevance)
    return found


def measure_columns(per_query: pl.DataFrame) -> list[str]:
    """The measures among the columns of a table of queries."""
    return [name for name in per_query.columns if "_at_" in name or name == tables.FULL_RANKING]


def intervals_of(per_query: pl.DataFrame, params: EvaluateParams, macro: bool) -> dict[str, Interval]:
    """The 95 % interval of every mean that `measure_run` gives, those over groups too where `macro`."""
    clusters = cluster_codes(per_query["cluster"].to_list())
    names = measure_columns(per_query)
    values = per_query.select(names).to_numpy()
    drawn: dict[str, Any] = {"resamples": params.resamples, "seed": params.seed}
    found = dict(zip(names, of_means(values, clusters, **drawn), strict=True))
    found["median_rank"] = of_median(per_query["first_hit"].to_numpy(), clusters, **drawn)
    if macro:
        names = [f"{name}_at_{params.ks[-1]}" for name in MACRO]
        groups = cluster_codes(per_query["group"].to_list())
        of_groups = of_means(per_query.select(names).to_numpy(), groups, macro=True, **drawn)
        found |= {f"macro_{name}": interval for name, interval in zip(names, of_groups, strict=True)}
    return found


def tied_at(scores: Float32[np.ndarray, "queries depth"], k: int) -> np.ndarray:
    """Whether equal scores stand on both sides of the cut at k, so that only the order of the pool decides."""
    if scores.shape[1] <= k:
        return np.zeros(len(scores), dtype=bool)
    return scores[:, k - 1] == scores[:, k]


def found_by_words(retriever: str, scores: Float32[np.ndarray, "queries depth"]) -> np.ndarray:
    """Whether ranked items were found at all: one that shares no word with the query only fills the list."""
    return scores > 0 if retriever.startswith(tables.BM25) else np.ones(scores.shape, dtype=bool)


def _read_relevance(pool: Pool, retriever: str) -> tuple[Relevance, Float32[np.ndarray, "queries depth"], str | None]:
    relevance, scores, ranked = [], [], []
    path = pool.folder / "runs" / f"{retriever}.parquet"
    query_ids, item_ids = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    for first, rows, of_rows in read_run(path, query_ids, item_ids):
        wanted = pool.query_groups[first : first + len(rows)]
        hits = pool.item_groups[rows] == wanted[:, None]
        relevance.append(hits & found_by_words(retriever, of_rows))
        scores.append(of_rows)
        ranked.append(rows)
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    own = np.array([row_of.get(query_id, -1) for query_id in query_ids])
    found = own_found(own, np.concatenate(ranked), f"{pool.name}, {retriever}")
    return np.concatenate(relevance), np.concatenate(scores), found


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


def _curves(relevance: Relevance, relevant: Values) -> dict[str, list[float]]:
    every = measure_all(relevance, relevant, range(1, relevance.shape[1] + 1), CURVES)
    return {
        name: [round(float(every[f"{name}_at_{k}"].mean()), DIGITS) for k in range(1, relevance.shape[1] + 1)]
        for name in CURVES
    }
