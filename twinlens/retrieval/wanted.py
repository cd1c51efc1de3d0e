"""What lists of a task are made of, and the lists of a block of queries whose scores with all items are there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int64

from twinlens.retrieval import scores
from twinlens.retrieval.exact import Neighbours
from twinlens.tasks.base import Task
from twinlens.tasks.qrels import Qrels


@dataclass(frozen=True)
class Wanted:
    """What lists of a task are made of: the items to rank, who is left out of whose, and what is right."""

    qrels: Qrels
    exclude: Int[np.ndarray, " queries"] | None
    rows: Int[np.ndarray, " chosen"] | None
    count: int  # of the items
    left_out: Int[np.ndarray, " queries"]
    depth: int

    @classmethod
    def of(cls, task: Task, depth: int, queries: int, rows: Int[np.ndarray, " chosen"] | None) -> Wanted:
        """The lists of all items, or of some; `rows` and `depth` are those of `rank_blocks`."""
        items = len(task.item_ids)
        qrels = task.qrels if rows is None else task.qrels.among(rows)
        exclude = task.exclude if rows is None or task.exclude is None else _places(task.exclude, rows, items)
        count = items if rows is None else len(rows)
        left_out = np.zeros(queries, dtype=np.int64) if exclude is None else (exclude >= 0).astype(np.int64)
        depth = min(depth, max(1, count - int(left_out.max(initial=0))))  # as long for all, nothing left out in any
        return cls(qrels, exclude, rows, count, left_out, depth)

    def rank(self, block: scores.Block, start: int, zero_is_miss: bool) -> Neighbours:
        """Rank by the scores of a block of queries with all items of the task, which are not written to."""
        if self.rows is not None:
            block = block[:, self.rows]
        stop = start + len(block)
        if self.exclude is not None:
            block = block.copy() if self.rows is None else block
            mine = np.flatnonzero(self.exclude[start:stop] >= 0)
            block[mine, self.exclude[start:stop][mine]] = -np.inf
        best = scores.select_best(block, self.depth)
        found = np.take_along_axis(block, best, axis=1) + np.float32(0)  # turns -0 into 0, as keys do
        first, score = _find_first_hits(block, start, best, found, self.qrels)
        return Neighbours(start, best, found, self.place_missed(start, first, score) if zero_is_miss else first)

    def place_missed(
        self, start: int, first: Int64[np.ndarray, " queries"], score: Float32[np.ndarray, " queries"]
    ) -> Int64[np.ndarray, " queries"]:
        """Place first hits with score 0 last, of the queries from `start` on: not found is as good as last."""
        return np.where((score <= 0) & (first > 0), self.count - self.left_out[start : start + len(first)], first)


def _find_first_hits(
    block: scores.Block, start: int, rows: Int[np.ndarray, "queries k"], found: scores.Block, qrels: Qrels
) -> tuple[Int64[np.ndarray, " queries"], Float32[np.ndarray, " queries"]]:
    """Find the rank and the score of each query's first relevant item: in its list, else in the whole pool."""
    inside = qrels.gains(start, rows) > 0
    place = inside.argmax(axis=1)
    first, score = place + 1, np.take_along_axis(found, place[:, None], axis=1)[:, 0]
    missed = np.flatnonzero(~inside.any(axis=1))
    first[missed], score[missed] = scores.rank_best(block[missed], *qrels.list_relevant(start + missed))
    return first, score


def _places(
    exclude: Int[np.ndarray, " queries"], rows: Int[np.ndarray, " chosen"], items: int
) -> Int[np.ndarray, " queries"]:
    place = np.full(items, -1)
    place[rows] = np.arange(len(rows))
    return np.where(exclude >= 0, place[exclude], -1)
