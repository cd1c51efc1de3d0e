"""The pool of a task: who searched what, read beside its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.core import tables
from twinlens.core.scratch import digest
from twinlens.evaluation.measures import chance_hit_at

DIGITS = 6


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
