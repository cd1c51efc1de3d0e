"""Deletions: the value that a query would have in a pool without one of its pictures.

A picture is a *unit*: all items that it is or that belong to it (the captions of a picture) go together. Deleting a
unit changes a query in two ways. If it has an item among the first K of the list, the items below move up. And
if it holds relevant items, the query has as many fewer to find, wherever they stand; with none left it is
no query any more. So of all the pictures of a pool only those in the first K places, and the relevant ones, change
anything. The list itself is otherwise kept in its order: what its scores would be with one picture fewer to learn
from (the inverse document frequencies of BM25, the ranks that are fused) is not asked.

A query's own picture is never deleted for that query: with it goes the query.

Relevant units below the first K all do the same to a query of `Groups` if they hold as many items. They are
told once for a query and a *block*, the units of a group that hold the same number of items, rather than one by one,
as sets of thousands of pictures would be millions of pairs. What differs from that, the *single* deletions, is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from twinlens.core.errors import DataError
from twinlens.evaluation.measures import MEASURES, Judged, measure_all
from twinlens.tasks.base import Task
from twinlens.tasks.qrels import Groups

BLOCK = 100_000  # deletions at once: the lists of 10 places of so many are 8 MB

Rows = Int[np.ndarray, "queries depth"]
Gains = Float32[np.ndarray, "queries depth"]


@dataclass(frozen=True)
class Units:
    """The pictures of a task by number: that of each item, and that which each query is, describes or begins with."""

    count: int
    of_items: Int[np.ndarray, " items"]
    of_queries: Int[np.ndarray, " queries"]

    @classmethod
    def of(cls, task: Task) -> Units:
        """Number the pictures of a task in the order of their ids."""
        items, queries = task.item_images or task.item_ids, task.query_images
        names, codes = np.unique(np.array([*items, *queries], dtype=object).astype(str), return_inverse=True)
        return cls(len(names), codes[: len(items)], codes[len(items) :])


@dataclass(frozen=True)
class Blocks:
    """Units that are relevant to the same queries and hold as many items: those of one group."""

    of_units: Int[np.ndarray, " units"]  # -1: in no block
    sizes: Int[np.ndarray, " blocks"]  # units in each
    query: Int[np.ndarray, " pairs"]  # each query with each block that is relevant to it, by query, then by block
    block: Int[np.ndarray, " pairs"]
    removed: Int[np.ndarray, " pairs"]  # relevant items that go with one of its units

    def find(self, query: Int[np.ndarray, " asked"], block: Int[np.ndarray, " asked"]) -> Int[np.ndarray, " asked"]:
        """Find the pair of a query and a block; -1 where that block is not relevant to that query."""
        return _find(self.query, self.block, query, block, len(self.sizes))


@dataclass(frozen=True)
class Values:
    """Values of some measures: of every query as it is, and after each deletion; NaN where it is no query any more."""

    names: list[str]
    now: Float64[np.ndarray, "queries measures"]
    single: Float64[np.ndarray, "deletions measures"]
    block: Float64[np.ndarray, "pairs measures"]


@dataclass(frozen=True)
class Deletions:
    """What there is to delete from the lists of a run.

    `single` deletions are pairs of a query and a unit, `blocks` those of a query and a relevant unit that is in none
    of the first K places. A unit that is listed singly is in its block as well, and counts as listed.
    """

    task: Task
    units: Units
    k: int
    listed: Int[np.ndarray, "queries width"]  # the unit at each place of the list, best first
    gains: Float32[np.ndarray, "queries width"]
    counts: Int[np.ndarray, " queries"]
    ideal: Float64[np.ndarray, "queries K"] | None
    query: Int[np.ndarray, " deletions"]
    unit: Int[np.ndarray, " deletions"]
    removed: Int[np.ndarray, " deletions"]  # relevant items that go with the unit
    removed_gains: Float64[np.ndarray, "deletions most"] | None  # theirs, where judgements are graded; then zeros
    blocks: Blocks

    @classmethod
    def of(cls, task: Task, rows: Rows, gains: Gains, k: int) -> Deletions:
        """Find the deletions that change a query at a cut of k or less.

        Args:
            task: who searches what.
            rows: of the items of each list, best first.
            gains: theirs, 0 where an item is not relevant or was not found.
            k: the deepest cut.

        Raises:
            DataError: the lists end so early that what moves up to place k is not known.
        """
        units = Units.of(task)
        most = int(np.bincount(units.of_items, minlength=1).max(initial=1))  # items of one picture
        left_out = 0 if task.exclude is None else int((task.exclude >= 0).any())
        wanted = min(k + most, len(task.item_ids) - left_out)
        if rows.shape[1] < wanted:
            raise DataError(
                f"lists of {task.name} end at rank {rows.shape[1]}; what stands at rank {k} once a picture is deleted "
                f"needs {wanted}: raise rank.depth"
            )
        listed, gains = units.of_items[rows[:, : k + most]], gains[:, : k + most]
        query, unit = _find_first_places(listed[:, :k], units.of_queries)
        counts = task.qrels.counts()
        plain = task.qrels if isinstance(task.qrels, Groups) else None
        if plain is not None and (blocks := _find_blocks(plain, units)) is not None:
            where = blocks.find(query, blocks.of_units[unit])
            removed = np.where(where >= 0, blocks.removed[where] if len(blocks.removed) else 0, 0)
            return cls(task, units, k, listed, gains, counts, None, query, unit, removed, None, blocks)
        pairs = task.qrels.pairs(0, len(task.query_ids))
        of_query, of_unit = pairs["query"].to_numpy(), units.of_items[pairs["item"].to_numpy()]
        below = (of_unit != units.of_queries[of_query]) & ~(listed[of_query, :k] == of_unit[:, None]).any(axis=1)
        keys = np.unique(of_query[below] * units.count + of_unit[below])  # a unit may hold several
        query, unit = (np.concatenate(both) for both in ((query, keys // units.count), (unit, keys % units.count)))
        removed, removed_gains = _count_removed(of_query, of_unit, pairs["gain"].to_numpy(), query, unit, units.count)
        ideal = task.qrels.ideal(k + removed_gains.shape[1])
        return cls(task, units, k, listed, gains, counts, ideal, query, unit, removed, removed_gains, _no_blocks(units))

    @property
    def lost(self) -> Bool[np.ndarray, " deletions"]:
        """Single deletions after which a query has nothing left to find."""
        return np.asarray(self.removed >= self.counts[self.query])

    @property
    def lost_in_blocks(self) -> Bool[np.ndarray, " pairs"]:
        """The same of pairs of a query and a block."""
        return np.asarray(self.blocks.removed >= self.counts[self.blocks.query])

    def measure(self, ks: Sequence[int], names: Sequence[str] | None = None) -> Values:
        """Measure every query as it is, and after each deletion.

        Args:
            ks: the cuts.
            names: of the measures; all if absent.
        """
        chosen = list(MEASURES) if names is None else names
        now = measure_all(Judged(self.gains, self.counts, self._ideal()), ks, chosen)
        single: dict[str, list[np.ndarray]] = {name: [] for name in now}
        for judged in self._judge_singly():
            for name, values in measure_all(judged, ks, chosen).items():
                single[name].append(values)
        of, left = self.blocks.query, self.counts[self.blocks.query] - self.blocks.removed
        # The first k alone: what is deleted stands further down, and would still be counted there. Where all that is
        # relevant stands among the first k, nothing of the block is asked for, and any value will do.
        gains = self.gains[of, : self.k]
        left = np.maximum(left, np.maximum((gains > 0).sum(axis=1), 1))
        block = measure_all(Judged(gains, left), ks, chosen) if len(of) else {}
        empty = np.zeros(0)
        found = Values(
            list(now),
            np.stack(list(now.values()), axis=1),
            np.stack([np.concatenate([empty, *parts]) for parts in single.values()], axis=1),
            np.stack([block.get(name, empty) for name in now], axis=1),
        )
        found.single[self.lost] = np.nan
        found.block[self.lost_in_blocks] = np.nan
        return found

    def _ideal(self) -> Float64[np.ndarray, "queries K"] | None:
        return None if self.ideal is None else self.ideal[:, : self.k]

    def _judge_singly(self) -> Iterator[Judged]:
        """Judge the lists after each single deletion, in order; of a query without a relevant item anything at all."""
        for start in range(0, len(self.query), BLOCK):
            some = slice(start, start + BLOCK)
            query, unit = self.query[some], self.unit[some]
            keep, gains = self.listed[query] != unit[:, None], self.gains[query]
            if short := self.k - int(keep.sum(axis=1).min(initial=self.k)):  # a list may end before place k
                keep = np.pad(keep, ((0, 0), (0, short)), constant_values=True)
                gains = np.pad(gains, ((0, 0), (0, short)))
            keep &= np.cumsum(keep, axis=1, dtype=np.int32) <= self.k  # the first k that stay
            gains = gains[keep].reshape(-1, self.k)
            left = np.maximum(self.counts[query] - self.removed[some], 1)
            if self.ideal is None or self.removed_gains is None:
                yield Judged(gains, left)
                continue
            ideal = _remove_gains(self.ideal[query], self.removed_gains[some])[:, : self.k]
            ideal[:, 0] = np.where(ideal[:, 0] > 0, ideal[:, 0], 1.0)  # of a query that has nothing left to find
            yield Judged(gains, left, ideal)


def _find_first_places(
    listed: Int[np.ndarray, "queries K"], own: Int[np.ndarray, " queries"]
) -> tuple[Int[np.ndarray, " deletions"], Int[np.ndarray, " deletions"]]:
    """The pairs of a query and a unit, other than its own, that has an item in the first places; each once."""
    first = listed != own[:, None]
    for place in range(1, listed.shape[1]):
        first[:, place] &= (listed[:, :place] != listed[:, place, None]).all(axis=1)
    return np.nonzero(first)[0], listed[first]


def _find_blocks(qrels: Groups, units: Units) -> Blocks | None:
    """Blocks of units; None where a unit has items of several groups, or a query's own item is another's picture."""
    if qrels.own is not None:
        mine = np.flatnonzero(qrels.own >= 0)
        if (units.of_items[qrels.own[mine]] != units.of_queries[mine]).any():
            return None
    group = np.full(units.count, -1)
    group[units.of_items] = qrels.item_groups
    if (group[units.of_items] != qrels.item_groups).any():
        return None
    held = np.bincount(units.of_items, minlength=units.count)
    filled = np.flatnonzero(held)
    most = int(held.max(initial=0)) + 1
    keys, codes, sizes = np.unique(group[filled] * most + held[filled], return_inverse=True, return_counts=True)
    of_units = np.full(units.count, -1)
    of_units[filled] = codes
    of_group, of_block = keys // most, keys % most
    start, stop = (np.searchsorted(of_group, qrels.query_groups, side) for side in ("left", "right"))
    times = stop - start
    query = np.repeat(np.arange(len(times)), times)
    block = np.arange(len(query)) - np.repeat(np.cumsum(times) - times, times) + np.repeat(start, times)
    return Blocks(of_units, sizes, query, block, of_block[block])


def _no_blocks(units: Units) -> Blocks:
    none = np.zeros(0, dtype=np.int64)
    return Blocks(np.full(units.count, -1), none, none, none, none)


def _count_removed(
    of_query: Int[np.ndarray, " pairs"],
    of_unit: Int[np.ndarray, " pairs"],
    gains: Float32[np.ndarray, " pairs"],
    query: Int[np.ndarray, " deletions"],
    unit: Int[np.ndarray, " deletions"],
    units: int,
) -> tuple[Int[np.ndarray, " deletions"], Float64[np.ndarray, "deletions most"]]:
    """How many relevant items go with each unit, and their gains, then zeros."""
    keys = of_query * units + of_unit
    order = np.argsort(keys, kind="stable")
    keys, gains = keys[order], gains[order]
    asked = query * units + unit
    start, stop = (np.searchsorted(keys, asked, side) for side in ("left", "right"))
    most = int((stop - start).max(initial=0))
    place = start[:, None] + np.arange(most)
    there = place < stop[:, None]
    found = np.where(there, gains[np.minimum(place, max(len(gains) - 1, 0))] if len(gains) else 0.0, 0.0)
    return stop - start, found.astype(np.float64)


def _remove_gains(
    ideal: Float64[np.ndarray, "deletions K"], removed: Float64[np.ndarray, "deletions most"]
) -> Float64[np.ndarray, "deletions K"]:
    """The ideal lists without some gains; one that stands further down than they are known changes nothing."""
    for gain in removed.T:
        keep = ideal != gain[:, None]
        gone = (gain > 0) & ~keep.all(axis=1)
        place = keep.argmin(axis=1)
        shifted = np.concatenate([ideal[:, 1:], np.zeros((len(ideal), 1))], axis=1)
        after = (np.arange(ideal.shape[1]) >= place[:, None]) & gone[:, None]
        ideal = np.where(after, shifted, ideal)
    return ideal


def _find(
    first: Int[np.ndarray, " pairs"],
    second: Int[np.ndarray, " pairs"],
    asked_first: Int[np.ndarray, " asked"],
    asked_second: Int[np.ndarray, " asked"],
    most: int,
) -> Int[np.ndarray, " asked"]:
    """The place of pairs in a sorted list of pairs; -1 where it does not have one, or its second part is negative."""
    keys, asked = first * most + second, asked_first * most + asked_second
    if not len(keys):
        return np.full(len(asked), -1)
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where((keys[place] == asked) & (asked_second >= 0), place, -1)
