"""Relevance judgements (qrels): which items are relevant to which query, and how much.

Two forms with the same methods. `Groups` is the compact one: a query and an item each have a group, an item is relevant
where its group is the query's, and its gain is 1; a pool of 120,000 pictures needs two columns where explicit pairs
would be millions of rows. `Pairs` lists the relevant pairs, each with its gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int

from twinlens.core.errors import DataError


class Qrels(Protocol):
    """Judgements of all queries of a task over all of its items; queries and items are rows, in the task's order."""

    def gains(self, first: int, rows: Int[np.ndarray, "queries depth"]) -> Float32[np.ndarray, "queries depth"]:
        """Gains of listed items, 0 where they are not relevant; `first` is the first list's query."""
        ...

    def relevant(self, start: int, stop: int) -> Bool[np.ndarray, "queries items"]:
        """Mask of the items relevant to the queries from `start` to before `stop`."""
        ...

    def relevant_rows(self, query: int) -> Int[np.ndarray, " relevant"]:
        """The items that are relevant to one query, rising."""
        ...

    def list_relevant(
        self, queries: Int[np.ndarray, " asked"]
    ) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """List the relevant items of some queries: places in `queries`, rising, and rows of items."""
        ...

    def counts(self) -> Int[np.ndarray, " queries"]:
        """R: how many items are relevant to each query."""
        ...

    def judged(self) -> Bool[np.ndarray, " items"]:
        """Which items are relevant to some query; the others are distractors."""
        ...

    def among(self, rows: Int[np.ndarray, " chosen"]) -> Self:
        """Restrict the judgements to some of the items, in the order given."""
        ...

    def between(self, start: int, stop: int) -> Self:
        """Restrict the judgements to the queries from `start` to before `stop`."""
        ...

    def ideal(self, depth: int) -> Float64[np.ndarray, "queries depth"] | None:
        """The largest gains of each query's relevant items, falling, filled up by zeros; None: all gains are 1."""
        ...

    def pairs(self, start: int, stop: int) -> pl.DataFrame:
        """The relevant pairs of some queries as rows: `query`, `item`, `gain`."""
        ...


@dataclass(frozen=True)
class Groups:
    """An item is relevant, with a gain of 1, where its group is the query's.

    `own` is an item that is never right for a query, as it is the query itself for instance: -1 where there is none.
    """

    query_groups: Int[np.ndarray, " queries"]
    item_groups: Int[np.ndarray, " items"]
    own: Int[np.ndarray, " queries"] | None = None

    def gains(self, first: int, rows: Int[np.ndarray, "queries depth"]) -> Float32[np.ndarray, "queries depth"]:
        """See `Qrels.gains`."""
        wanted = self.query_groups[first : first + len(rows), None]
        found = self.item_groups[rows] == wanted
        if self.own is not None:
            found &= rows != self.own[first : first + len(rows), None]
        return found.astype(np.float32)

    def relevant(self, start: int, stop: int) -> Bool[np.ndarray, "queries items"]:
        """See `Qrels.relevant`."""
        found = self.item_groups == self.query_groups[start:stop, None]
        if self.own is not None:
            mine = np.flatnonzero(self.own[start:stop] >= 0)
            found[mine, self.own[start:stop][mine]] = False
        return np.asarray(found)

    def relevant_rows(self, query: int) -> Int[np.ndarray, " relevant"]:
        """See `Qrels.relevant_rows`."""
        order, starts = self._members
        group = self.query_groups[query]
        if group >= len(starts) - 1:
            return order[:0]
        rows = order[starts[group] : starts[group + 1]]
        return rows if self.own is None else rows[rows != self.own[query]]

    def list_relevant(
        self, queries: Int[np.ndarray, " asked"]
    ) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """See `Qrels.list_relevant`."""
        order, starts = self._members
        known = np.minimum(self.query_groups[queries], len(starts) - 2)  # a group beyond has no item
        counts = np.where(self.query_groups[queries] < len(starts) - 1, starts[known + 1] - starts[known], 0)
        places = np.repeat(np.arange(len(queries)), counts)
        rows = order[np.repeat(starts[known], counts) + count_within(counts)]
        if self.own is None:
            return places, rows
        other = rows != self.own[queries][places]
        return places[other], rows[other]

    def counts(self) -> Int[np.ndarray, " queries"]:
        """See `Qrels.counts`."""
        groups = 1 + int(max(self.query_groups.max(initial=-1), self.item_groups.max(initial=-1)))
        found = np.bincount(self.item_groups, minlength=groups)[self.query_groups]
        if self.own is None:
            return found
        mine = np.flatnonzero(self.own >= 0)
        found[mine] -= self.item_groups[self.own[mine]] == self.query_groups[mine]
        return found

    def judged(self) -> Bool[np.ndarray, " items"]:
        """See `Qrels.judged`."""
        groups = 1 + int(max(self.query_groups.max(initial=-1), self.item_groups.max(initial=-1)))
        asking = np.bincount(self.query_groups, minlength=groups)[self.item_groups]
        if self.own is not None:  # an item that only the query asks for which must not find it
            mine = np.flatnonzero(self.own >= 0)
            mine = mine[self.item_groups[self.own[mine]] == self.query_groups[mine]]
            asking = asking - np.bincount(self.own[mine], minlength=len(self.item_groups))
        return np.asarray(asking > 0)

    def among(self, rows: Int[np.ndarray, " chosen"]) -> Groups:
        """See `Qrels.among`."""
        own = self.own
        if own is not None:
            place = np.full(len(self.item_groups), -1)
            place[rows] = np.arange(len(rows))
            own = np.where(own >= 0, place[own], -1)
        return Groups(self.query_groups, self.item_groups[rows], own)

    def between(self, start: int, stop: int) -> Groups:
        """See `Qrels.between`."""
        own = None if self.own is None else self.own[start:stop]
        return Groups(self.query_groups[start:stop], self.item_groups, own)

    def ideal(self, depth: int) -> None:
        """All gains are 1."""

    def pairs(self, start: int, stop: int) -> pl.DataFrame:
        """See `Qrels.pairs`."""
        rows = [self.relevant_rows(query) for query in range(start, stop)]
        return _pairs(start, rows, [np.ones(len(own), dtype=np.float32) for own in rows])

    @cached_property
    def _members(self) -> tuple[Int[np.ndarray, " items"], Int[np.ndarray, " groups"]]:
        """Item rows by group, and where each group begins."""
        counts = np.bincount(self.item_groups) if len(self.item_groups) else np.zeros(0, dtype=np.int64)
        return np.argsort(self.item_groups, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


@dataclass(frozen=True)
class Pairs:
    """The relevant pairs, listed: of query `q` the items `rows[starts[q]:starts[q + 1]]`, rising, with their gains."""

    starts: Int[np.ndarray, " queries_and_one"]
    rows: Int[np.ndarray, " pairs"]
    weights: Float32[np.ndarray, " pairs"]
    items: int

    @classmethod
    def of(cls, table: pl.DataFrame, query_ids: Sequence[str], item_ids: Sequence[str]) -> Pairs:
        """Read the pairs of a table of `query_id`, `item_id` and `gain`.

        Raises:
            DataError: an id is not the task's, a pair stands twice, or a gain is not above 0.
        """
        queries, items = ({name: row for row, name in enumerate(ids)} for ids in (query_ids, item_ids))
        for column, known in (("query_id", queries), ("item_id", items)):
            if strange := sorted(set(table[column]) - known.keys()):
                raise DataError(f"qrels: {column} '{strange[0]}' is not one of the task's {len(known):,}")
        gains = table["gain"].to_numpy().astype(np.float32)
        if (useless := gains[~(np.isfinite(gains) & (gains > 0))]).size:  # polars takes NaN to be above 0
            raise DataError(f"qrels: a gain is {useless[0]:g}; only relevant pairs are listed, by gains above 0")
        query = np.array([queries[name] for name in table["query_id"]], dtype=np.int64)
        item = np.array([items[name] for name in table["item_id"]], dtype=np.int64)
        order = np.lexsort((item, query))
        query, item = query[order], item[order]
        if (twice := np.flatnonzero((np.diff(query) == 0) & (np.diff(item) == 0))).size:
            pair = query_ids[int(query[twice[0]])], item_ids[int(item[twice[0]])]
            raise DataError(f"qrels: the pair {pair} is listed twice")
        starts = np.searchsorted(query, np.arange(len(query_ids) + 1))
        return cls(starts, item, gains[order], len(item_ids))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def gains(self, first: int, rows: Int[np.ndarray, "queries depth"]) -> Float32[np.ndarray, "queries depth"]:
        """See `Qrels.gains`."""
        if not len(self.rows):
            return np.zeros(rows.shape, dtype=np.float32)
        known = self._pairs  # rising, as pairs are in the order of queries and then of items
        wanted = np.arange(first, first + len(rows))[:, None] * self.items + rows
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, self.weights[place], np.float32(0))

    @cached_property
    def _pairs(self) -> Int[np.ndarray, " pairs"]:
        """One number a pair."""
        return np.repeat(np.arange(len(self)), self.counts()) * self.items + self.rows

    def relevant(self, start: int, stop: int) -> Bool[np.ndarray, "queries items"]:
        """See `Qrels.relevant`."""
        found = np.zeros((stop - start, self.items), dtype=bool)
        found[self.list_relevant(np.arange(start, stop))] = True
        return found

    def relevant_rows(self, query: int) -> Int[np.ndarray, " relevant"]:
        """See `Qrels.relevant_rows`."""
        return self.rows[self.starts[query] : self.starts[query + 1]]

    def list_relevant(
        self, queries: Int[np.ndarray, " asked"]
    ) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """See `Qrels.list_relevant`."""
        counts = self.counts()[queries]
        rows = self.rows[np.repeat(self.starts[queries], counts) + count_within(counts)]
        return np.repeat(np.arange(len(queries)), counts), rows

    def counts(self) -> Int[np.ndarray, " queries"]:
        """See `Qrels.counts`."""
        return np.diff(self.starts)

    def judged(self) -> Bool[np.ndarray, " items"]:
        """See `Qrels.judged`."""
        found = np.zeros(self.items, dtype=bool)
        found[self.rows] = True
        return found

    def among(self, rows: Int[np.ndarray, " chosen"]) -> Pairs:
        """See `Qrels.among`; the pairs of items that are left out are left out."""
        place = np.full(self.items, -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.rows] >= 0
        query = np.repeat(np.arange(len(self)), self.counts())[kept]
        item, weights = place[self.rows][kept], self.weights[kept]
        order = np.lexsort((item, query))
        starts = np.searchsorted(query, np.arange(len(self) + 1))
        return Pairs(starts, item[order], weights[order], len(rows))

    def between(self, start: int, stop: int) -> Pairs:
        """See `Qrels.between`."""
        first, last = self.starts[start], self.starts[stop]
        return Pairs(self.starts[start : stop + 1] - first, self.rows[first:last], self.weights[first:last], self.items)

    def ideal(self, depth: int) -> Float64[np.ndarray, "queries depth"]:
        """See `Qrels.ideal`."""
        best = np.zeros((len(self), depth))
        for query in range(len(self)):
            mine = -np.sort(-self.weights[self.starts[query] : self.starts[query + 1]])[:depth]
            best[query, : len(mine)] = mine
        return best

    def pairs(self, start: int, stop: int) -> pl.DataFrame:
        """See `Qrels.pairs`."""
        own = [slice(self.starts[query], self.starts[query + 1]) for query in range(start, stop)]
        return _pairs(start, [self.rows[mine] for mine in own], [self.weights[mine] for mine in own])


def count_within(counts: Int[np.ndarray, " lists"]) -> Int[np.ndarray, " entries"]:
    """Number the entries of lists that stand one after the other, in each from 0."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _pairs(start: int, rows: Sequence[np.ndarray], gains: Sequence[np.ndarray]) -> pl.DataFrame:
    queries = np.repeat(np.arange(start, start + len(rows)), [len(own) for own in rows])
    return pl.DataFrame(
        {
            "query": queries,
            "item": np.concatenate([np.zeros(0, dtype=np.int64), *rows]),
            "gain": np.concatenate([np.zeros(0, dtype=np.float32), *gains]),
        }
    )
