"""From runs to numbers: every measure of every query, their means, and the curves to plot.

Nothing here knows a model or a vector; what is measured is what the runs say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from twinlens import tables
from twinlens.errors import DataError
from twinlens.measures import Relevance, Values, chance_hit_at, macro_mean, measure_all, median_rank
from twinlens.params import EvaluateParams
from twinlens.progress import Progress
from twinlens.published import object_set_measures
from twinlens.referee import check_sample
from twinlens.reporting import curve_rows
from twinlens.runs import read_run

DIGITS = 6
MACRO = ("mrr", "ndcg", "hit")  # over groups, for the task whose groups differ in size
CURVES = ("hit", "ndcg")
FULL_RANKING = "average_precision"
AS_PUBLISHED = "_as_published"  # ends the name of a task that repeats a source's own protocol


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

    @property
    def retrievers(self) -> list[str]:
        """Those that have a run here."""
        return sorted(path.stem for path in (self.folder / "runs").glob("*.parquet"))

    @property
    def full_ranking(self) -> bool:
        """Whether the `rank` stage measured average precision over the whole pool here."""
        return (self.folder / FULL_RANKING).is_dir()

    def describe(self, dataset: str, split: str, k: int) -> dict[str, Any]:
        """What every number of this task is about."""
        candidates = len(self.items) - self.excludes_self
        chance = chance_hit_at(candidates, self.queries["relevant"].to_numpy(), k)
        about = self.folder / "about.json"
        return {
            "dataset": dataset,
            "split": split,
            "queries": len(self.queries),
            "items": len(self.items),
            f"chance_hit_at_{k}": round(chance, DIGITS),
        } | (json.loads(about.read_text()) if about.exists() else {})


@dataclass
class Results:
    """What the `evaluate` stage found, by task and retriever."""

    retrieval: dict[str, Any] = field(default_factory=dict)
    as_published: dict[str, Any] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    queries: int = 0
    compared: int = 0  # values that torchmetrics confirmed


def measure_all_runs(ranked: Path, dataset: str, params: EvaluateParams, out: Path) -> Results:
    """Measure every run of every task; write the values of every query below `out`.

    Args:
        ranked: folder of the `rank` stage.
        dataset: its name, to be stored beside the numbers.
        params: the cuts, and how much is measured twice.
        out: a folder; `<task>/<retriever>.parquet` are written there.

    Raises:
        DataError: a run does not fit its pool, or torchmetrics disagrees.
    """
    split = json.loads((ranked / "pool.json").read_text())["split"]
    pools = [Pool.read(folder) for folder in sorted(path for path in ranked.iterdir() if path.is_dir())]
    results = Results()
    with Progress("evaluate", total=sum(len(pool.retrievers) for pool in pools), unit="run") as bar:
        for pool in pools:
            described = pool.describe(dataset, split, params.ks[-1])
            if pool.name.endswith(AS_PUBLISHED):
                results.as_published[pool.name.removesuffix(AS_PUBLISHED)] = {"pool": described} | {
                    retriever: {"map": measure_run(pool, retriever, params).means[FULL_RANKING]}
                    for retriever in pool.retrievers
                }
                bar.add(len(pool.retrievers))
                continue
            results.retrieval[pool.name] = {"pool": described}
            if not pool.full_ranking:
                results.as_published[pool.name] = {"pool": described}
            for retriever in pool.retrievers:
                measured = measure_run(pool, retriever, params)
                results.retrieval[pool.name][retriever] = measured.means
                if not pool.full_ranking:
                    results.as_published[pool.name][retriever] = measured.as_published
                results.curves += curve_rows(pool.name, retriever, measured.curves)
                results.queries += len(measured.per_query)
                results.compared += measured.compared
                (out / pool.name).mkdir(parents=True, exist_ok=True)
                measured.per_query.write_parquet(out / pool.name / f"{retriever}.parquet")
                bar.add(1)
    return results


@dataclass(frozen=True)
class Measured:
    """One retriever on one task."""

    means: dict[str, float]
    as_published: dict[str, float]
    curves: dict[str, list[float]]  # by measure, from k = 1 on
    per_query: pl.DataFrame
    compared: int  # values that torchmetrics confirmed


def measure_run(pool: Pool, retriever: str, params: EvaluateParams) -> Measured:
    """Measure one run.

    Raises:
        DataError: the run does not fit its pool, or torchmetrics disagrees.
    """
    relevance, scores = _read_relevance(pool, retriever)
    relevant = pool.queries["relevant"].to_numpy()
    first_hits = _read_first_hits(pool, retriever)
    values = measure_all(relevance, relevant, params.ks)
    full = {FULL_RANKING: _read_average_precision(pool, retriever)} if pool.full_ranking else {}
    compared = check_sample(values, relevance, relevant, params.ks, params.referee_queries, params.seed)
    means = {name: round(float(value.mean()), DIGITS) for name, value in (values | full).items()}
    means["median_rank"] = median_rank(first_hits)
    if pool.excludes_self:
        _, groups = np.unique(pool.query_groups, return_inverse=True)
        for name in MACRO:
            key = f"{name}_at_{params.ks[-1]}"
            means[f"macro_{key}"] = round(macro_mean(values[key], groups), DIGITS)
    published = {name: round(float(v.mean()), DIGITS) for name, v in object_set_measures(relevance).items()}
    per_query = pool.queries.with_columns(
        first_hit=pl.Series(first_hits), tied=pl.Series(tied_at(scores, params.ks[-1]))
    ).with_columns(pl.Series(name, value) for name, value in (values | full).items())
    return Measured(means, published, _curves(relevance, relevant), per_query, compared)


def tied_at(scores: Float32[np.ndarray, "queries depth"], k: int) -> np.ndarray:
    """Whether equal scores stand on both sides of the cut at k, so that only the order of the pool decides."""
    if scores.shape[1] <= k:
        return np.zeros(len(scores), dtype=bool)
    return scores[:, k - 1] == scores[:, k]


def _read_relevance(pool: Pool, retriever: str) -> tuple[Relevance, Float32[np.ndarray, "queries depth"]]:
    relevance, scores = [], []
    path = pool.folder / "runs" / f"{retriever}.parquet"
    query_ids, item_ids = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    for first, rows, of_rows in read_run(path, query_ids, item_ids):
        wanted = pool.query_groups[first : first + len(rows)]
        relevance.append(pool.item_groups[rows] == wanted[:, None])
        scores.append(of_rows)
    return np.concatenate(relevance), np.concatenate(scores)


def _read_first_hits(pool: Pool, retriever: str) -> Int[np.ndarray, " queries"]:
    path = pool.folder / "first_hits" / f"{retriever}.parquet"
    table = tables.read_table(path, tables.FIRST_HITS)
    if table["query_id"].to_list() != pool.queries["query_id"].to_list():
        raise DataError(f"{path} is not about the queries of its task: `dvc repro -f rank`")
    return table["rank"].to_numpy()


def _read_average_precision(pool: Pool, retriever: str) -> Values:
    path = pool.folder / FULL_RANKING / f"{retriever}.parquet"
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
