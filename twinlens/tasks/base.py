"""The task: queries, items, and which item is relevant to which query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int

from twinlens.core.vectors import Pair


class Scorer(Protocol):
    """Scores that are no inner products of vectors: by words, or fused."""

    def __len__(self) -> int:
        """How many queries there are."""
        ...

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "queries items"]:
        """Scores of the queries from `start` to before `stop` with all items."""
        ...


@dataclass(frozen=True)
class Task:
    """Who searches what; `retrievers` make their vectors or scores only when called."""

    name: str
    query_ids: list[str]
    query_images: list[str]  # the picture that each query is, describes or begins with
    query_groups: Int[np.ndarray, " queries"]
    item_ids: list[str]
    item_groups: Int[np.ndarray, " items"]
    group_names: list[str]
    own_rows: Int[np.ndarray, " queries"] | None  # the item that is the query itself
    retrievers: dict[str, Callable[[], Pair | Scorer]] = field(default_factory=dict)
    partners: Int[np.ndarray, " queries"] | None = None  # the item that each query is ranked with in a small batch
    full_ranking: bool = False  # whether average precision over the whole pool is asked for
    about: dict[str, int] = field(default_factory=dict)  # more to tell of the pool than its size

    def pair(self, retriever: str) -> Pair:
        """The vectors of a retriever that makes vectors."""
        made = self.retrievers[retriever]()
        assert isinstance(made, tuple), f"{retriever} makes scores"
        return made

    def relevant_counts(self) -> Int[np.ndarray, " queries"]:
        """R of every query: items of its group, itself left out."""
        counts = np.bincount(self.item_groups, minlength=len(self.group_names))[self.query_groups]
        return counts if self.own_rows is None else counts - (self.own_rows >= 0)


def judged_items(
    query_groups: Int[np.ndarray, " queries"], item_groups: Int[np.ndarray, " items"]
) -> Bool[np.ndarray, " items"]:
    """Which items some query is about; the others are distractors."""
    return np.isin(item_groups, query_groups)
