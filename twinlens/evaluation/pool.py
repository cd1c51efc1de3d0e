"""The pool of a task: its queries, its items, and the meaning of its runs, as the `rank` stage wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int

from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.id_rows import IdRows
from twinlens.core.scratch import digest
from twinlens.evaluation.measures import chance_hit_at
from twinlens.retrieval.runs import read_run
from twinlens.tasks.base import Task, task_folders

DIGITS = 6


@dataclass(frozen=True)
class Lists:
    """The ranked lists of a run, best first."""

    rows: Int[np.ndarray, "queries depth"]  # of the items
    gains: Float32[np.ndarray, "queries depth"]  # 0: not relevant, or not found at all
    scores: Float32[np.ndarray, "queries depth"]


@dataclass(frozen=True)
class Pool:
    """The queries and items of a task, and the runs that searched them."""

    folder: Path
    task: Task

    @classmethod
    def read(cls, folder: Path) -> Pool:
        """Read a task's folder."""
        return cls(folder, Task.read(folder))

    @classmethod
    def read_all(cls, ranked: Path) -> list[Pool]:
        """Read every task in the folder of the `rank` stage, in the order in which they are told."""
        pools = [cls.read(folder) for folder in task_folders(ranked)]
        return sorted(pools, key=lambda pool: (pool.task.about.place, pool.name))

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @cached_property
    def queries(self) -> pl.DataFrame:
        """Table QUERIES."""
        return tables.read_table(self.folder / "queries.parquet", tables.QUERIES)

    @cached_property
    def items(self) -> pl.DataFrame:
        """Table ITEMS."""
        return tables.read_table(self.folder / "items.parquet", tables.ITEMS)

    @property
    def as_published(self) -> bool:
        """Whether this repeats a source's own protocol: its numbers stand beside the published ones only."""
        return self.task.about.published_of is not None

    @property
    def retrievers(self) -> list[str]:
        """Names of the retrievers that have a run here."""
        return sorted(path.stem for path in (self.folder / "runs").glob("*.parquet"))

    def told(self, retriever: str) -> dict[str, Any]:
        """Description of a run; see `twinlens.retrieval.base.Retriever.told`.

        Raises:
            DataError: it is not there.
        """
        path = self.folder / "runs" / f"{retriever}.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(f"{path} is not here, which says what the run means: `dvc repro -f rank`") from None

    def found(self, retriever: str, scores: Float32[np.ndarray, "queries depth"]) -> Bool[np.ndarray, "queries depth"]:
        """Whether ranked items were found at all: by words, one that shares none with the query only fills the list."""
        return scores > 0 if self.told(retriever)["zero_is_miss"] else np.ones(scores.shape, dtype=bool)

    def read_lists(self, retriever: str) -> Lists:
        """Read the lists of a run.

        Raises:
            DataError: the run does not fit the pool.
        """
        rows, gains, scores = [], [], []
        path = self.folder / "runs" / f"{retriever}.parquet"
        for first, of_rows, of_scores in read_run(path, self.task.query_ids, self._item_rows):
            rows.append(of_rows)
            gains.append(self.task.qrels.gains(first, of_rows) * self.found(retriever, of_scores))
            scores.append(of_scores)
        return Lists(np.concatenate(rows), np.concatenate(gains), np.concatenate(scores))

    @cached_property
    def _item_rows(self) -> IdRows:
        return IdRows.of([self.task.item_ids])

    @property
    def clusters(self) -> pl.Series:
        """Cluster of each query, for queries that are not independent: of one picture, or of one group."""
        return self.queries[self.task.about.cluster_by]

    def describe(self, dataset: str, split: str, k: int) -> dict[str, Any]:
        """Facts about the pool that every number of this task is about."""
        return {
            "dataset": dataset,
            "split": split,
            "queries": len(self.queries),
            "items": len(self.items),
            f"chance_hit_at_{k}": round(self.chance(k), DIGITS),
        } | self.task.about.counts

    def chance(self, k: int) -> float:
        """Mean `hit_at_k` of a ranking at random."""
        relevant, exclude = self.queries["relevant"].to_numpy(), self.task.exclude
        without = np.zeros(len(relevant), dtype=bool) if exclude is None else exclude >= 0
        sizes = [(len(self.items) - left_out, relevant[without == left_out]) for left_out in (False, True)]
        return sum((chance_hit_at(size, of, k) * (len(of) / len(relevant)) for size, of in sizes if len(of)), start=0.0)

    def identity(self) -> dict[str, Any]:
        """Identity of the pool and of its retrievers, by which two pools are told apart."""
        queries, items = self.queries.select("query_id", "group"), self.items.select("item_id", "group")
        found = {"queries_digest": digest(_flat(queries)), "items_digest": digest(_flat(items))}
        if self.task.group_names is None:
            pairs = tables.read_table(self.folder / "qrels.parquet", tables.QRELS)
            found["qrels_digest"] = digest(_flat(pairs.with_columns(pl.col("gain").cast(pl.String))))
        if self.task.about.texts_digest is not None:
            found["texts_digest"] = self.task.about.texts_digest
        return found | {"retrievers": self.retrievers}


def _flat(table: pl.DataFrame) -> Iterator[str]:
    return (value or "" for row in table.iter_rows() for value in row)
