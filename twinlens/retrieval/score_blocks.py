"""Exact ranking by scores of words, and of words and pixels together, of pools that are read in blocks of items.

The lists are those that scores with all items give, to the byte: a scorer that is `base.Divisible` gives a pair the
same score whatever other items there are. What a fusion needs of the whole pool (the lowest and the highest score of a
query, and its best items by each side) takes a pass of its own, and so do the ranks of those first relevant items that
stand in no list: an item's score has to be known before those above it can be counted.

In memory are a block of items, a few blocks of scores, and the lists of the queries at hand: `STATE_BYTES` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from twinlens.core.ahead import map_in_order
from twinlens.core.progress import Progress
from twinlens.retrieval.base import Dense, Divisible, Scorer
from twinlens.retrieval.exact import Neighbours, OnDevice
from twinlens.retrieval.hybrid import Hybrid, ScoredBlock, Whole, choose_block_size, list_sides
from twinlens.retrieval.scores import LOWEST, Block, make_sort_keys, merge_best, read_sort_keys
from twinlens.retrieval.wanted import Wanted
from twinlens.tasks.qrels import Qrels

ITEM_ROWS = 2**14  # of a block of items
STATE_BYTES = 2**29  # of the queries at hand
LISTS = 1024  # of queries that are given at once

Span = tuple[int, int]


@dataclass(frozen=True)
class Request:
    """Lists that are wanted by a scorer, or ranks of first hits alone."""

    scorer: Scorer
    zero_is_miss: bool
    wanted: Wanted
    lists: bool = True


def rank_in_blocks(
    requests: Sequence[Request], items: int, span: Span, device: str, threads: int, item_rows: int | None = None
) -> Iterator[list[Neighbours]]:
    """Rank by scorers that are divisible, or hybrids of such.

    Args:
        requests: by scorers of the same queries and items.
        items: how many there are.
        span: the queries to rank, from the first to before the last.
        device: where products of vectors are made, if that pays.
        threads: that score.
        item_rows: items of a block; empty: what suits.

    Yields:
        Of the next queries what each request wants; its lists are empty where it wants none.
    """
    sides = list_sides(one.scorer for one in requests)
    each = sum(8 * max(1, one.wanted.depth) for one in requests) + len(sides) * (8 * _find_depth(requests) + 8)
    at_once = max(1, STATE_BYTES // each)
    for start in range(*span, at_once):
        some = _Queries(requests, items, (start, min(start + at_once, span[1])), device, threads, item_rows)
        found = some.rank()
        for first in range(0, some.count, LISTS):
            mine = slice(first, first + LISTS)
            yield [Neighbours(start + first, one.rows[mine], one.scores[mine], one.hits[mine]) for one in found]


def _find_depth(requests: Sequence[Request]) -> int:
    return max((one.scorer.depth for one in requests if isinstance(one.scorer, Hybrid)), default=0)


@dataclass
class _Found:
    """What is known so far of a request, of the queries at hand."""

    keys: Int64[np.ndarray, "queries k"]  # of the best items, best first
    best: Int64[np.ndarray, " queries"]  # key of the best relevant item
    above: Int64[np.ndarray, " queries"]  # items whose key is larger than that


@dataclass(frozen=True)
class _Answer:
    rows: Int64[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]
    hits: Int64[np.ndarray, " queries"]


@dataclass(frozen=True)
class _Items:
    """The items of a block that a request ranks."""

    columns: slice | Int[np.ndarray, " chosen"]  # of the block's scores
    first: int  # row of the first among all that are ranked
    count: int
    qrels: Qrels  # of these items, and of all queries

    @classmethod
    def of(cls, wanted: Wanted, first: int, last: int) -> _Items:
        """Those from `first` to before `last` of the pool."""
        if wanted.rows is None:
            return cls(slice(None), first, last - first, wanted.qrels.among(np.arange(first, last)))
        start, stop = np.searchsorted(wanted.rows, [first, last]).tolist()
        mine = wanted.qrels.among(np.arange(start, stop))
        return cls(wanted.rows[start:stop] - first, start, stop - start, mine)

    def choose(self, block: Block, wanted: Wanted, start: int, stop: int) -> Block:
        """Their scores, minus infinity where an item is left out, of the queries from `start` to before `stop`."""
        chosen = block[:, self.columns]
        if wanted.exclude is None:
            return chosen
        own = wanted.exclude[start:stop] - self.first
        asking = np.flatnonzero((wanted.exclude[start:stop] >= 0) & (own >= 0) & (own < self.count))
        if len(asking):
            chosen = chosen.copy()
            chosen[asking, own[asking]] = -np.inf
        return chosen


Work = Callable[[int, int, Mapping[int, Scorer], list[_Items]], Callable[[Span], None]]


@dataclass(frozen=True)
class _Queries:
    """Queries that are ranked in the same passes through the items."""

    requests: Sequence[Request]
    items: int
    span: Span
    device: str
    threads: int
    item_rows: int | None
    _wholes: dict[int, Whole] = field(default_factory=dict)  # by `id` of a side

    @property
    def count(self) -> int:
        return self.span[1] - self.span[0]

    def rank(self) -> list[_Answer]:
        """What each request wants."""
        if depth := _find_depth(self.requests):
            self._look_over(depth)
        elif any(isinstance(one.scorer, Hybrid) for one in self.requests):
            self._look_over(0)
        found = [
            _Found(
                np.full((self.count, one.wanted.depth if one.lists else 0), LOWEST, dtype=np.int64),
                np.full(self.count, LOWEST, dtype=np.int64),
                np.zeros(self.count, dtype=np.int64),
            )
            for one in self.requests
        ]
        self._go_through("rank", self._list_best(found))
        pairs = zip(self.requests, found, strict=True)
        listed = [_find_in_lists(one.keys, self.span[0], asked.wanted) for asked, one in pairs]
        late = [(one.best > LOWEST) & (hits == 0) for one, hits in zip(found, listed, strict=True)]
        if any(one.any() for one in late):
            self._go_through("rank first hits", self._count_above(found, late))
        return [self._answer(*one) for one in zip(self.requests, found, listed, late, strict=True)]

    def _answer(
        self, asked: Request, found: _Found, listed: Int64[np.ndarray, " queries"], late: Bool[np.ndarray, " queries"]
    ) -> _Answer:
        first, score = np.where(late, found.above + 1, listed), read_sort_keys(found.best)[1]
        if asked.zero_is_miss:
            first = asked.wanted.place_missed(self.span[0], first, np.where(found.best > LOWEST, score, np.inf))
        return _Answer(*read_sort_keys(found.keys), first)

    def _go_through(self, what: str, work: Work) -> None:
        """Work on each block of queries with each block of items."""
        rows = self.item_rows or ITEM_ROWS
        sides = list_sides(one.scorer for one in self.requests)
        step = choose_block_size(rows)
        spans = [(start, min(start + step, self.span[1])) for start in range(*self.span, step)]
        with Progress(what, total=self.items, unit="item") as bar:
            for first in range(0, self.items, rows):
                last = min(first + rows, self.items)
                parts = {id(side): self._restrict(side, first, last) for side in sides}
                for part in parts.values():
                    part.block(0, 0)  # makes what is kept for all queries, which each thread would make else
                chosen: dict[int, _Items] = {}
                for one in self.requests:
                    if id(one.wanted) not in chosen:
                        chosen[id(one.wanted)] = _Items.of(one.wanted, first, last)
                mine = work(first, last, parts, [chosen[id(one.wanted)] for one in self.requests])
                for _ in map_in_order(mine, spans, self.threads):
                    pass
                bar.add(last - first)

    def _restrict(self, side: Scorer, first: int, last: int) -> Scorer:
        assert isinstance(side, Divisible)
        if isinstance(side, Dense) and OnDevice.pays(self.device):
            return OnDevice.of(side.queries, side.items[first:last], self.device)
        return side.restrict(first, last)

    def _look_over(self, depth: int) -> None:
        """Find what fusions ask of the whole pool, of each side."""
        hybrids = [one.scorer for one in self.requests if isinstance(one.scorer, Hybrid)]
        for side in list_sides(hybrids):
            low, high = (np.full((self.count, 1), value, dtype=np.float32) for value in (np.inf, -np.inf))
            keys = np.full((self.count, min(depth, self.items)), LOWEST, dtype=np.int64)
            self._wholes[id(side)] = Whole(low, high, keys, 0)

        def work(first: int, _: int, parts: Mapping[int, Scorer], __: object) -> Callable[[Span], None]:
            def look(bounds: Span) -> None:
                some = slice(bounds[0] - self.span[0], bounds[1] - self.span[0])
                for own, whole in self._wholes.items():
                    block = parts[own].block(*bounds)
                    whole.low[some] = np.minimum(whole.low[some], block.min(axis=1, keepdims=True))
                    whole.high[some] = np.maximum(whole.high[some], block.max(axis=1, keepdims=True))
                    if depth:
                        whole.keys[some] = merge_best(whole.keys[some], block, first)

            return look

        self._go_through("look over", work)

    def _score(self, bounds: Span, first: int, parts: Mapping[int, Scorer]) -> Callable[[Scorer], Block]:
        """Scores of a block of queries with a block of items, by whatever scorer is asked for them, each once."""
        some = slice(bounds[0] - self.span[0], bounds[1] - self.span[0])
        wholes = {own: Whole(one.low[some], one.high[some], one.keys[some], first) for own, one in self._wholes.items()}
        scored, made = ScoredBlock(*bounds, parts, wholes), dict[int, Block]()

        def ask(scorer: Scorer) -> Block:
            if id(scorer) not in made:
                made[id(scorer)] = scored.ask(scorer)
            return made[id(scorer)]

        return ask

    def _list_best(self, found: list[_Found]) -> Work:
        """Find the best items of each list, and the best relevant one."""

        def work(first: int, _: int, parts: Mapping[int, Scorer], chosen: list[_Items]) -> Callable[[Span], None]:
            def rank(bounds: Span) -> None:
                ask, queries = self._score(bounds, first, parts), np.arange(*bounds)
                some = slice(bounds[0] - self.span[0], bounds[1] - self.span[0])
                for asked, one, items in zip(self.requests, found, chosen, strict=True):
                    block = items.choose(ask(asked.scorer), asked.wanted, *bounds)
                    if asked.lists:
                        one.keys[some] = merge_best(one.keys[some], block, items.first)
                    places, rows = items.qrels.list_relevant(queries)
                    np.maximum.at(one.best[some], places, make_sort_keys(block[places, rows], items.first + rows))

            return rank

        return work

    def _count_above(self, found: list[_Found], late: list[Bool[np.ndarray, " queries"]]) -> Work:
        """Count what stands above the best relevant item of those queries that are late."""

        def work(first: int, _: int, parts: Mapping[int, Scorer], chosen: list[_Items]) -> Callable[[Span], None]:
            def count(bounds: Span) -> None:
                ask = self._score(bounds, first, parts)
                some = slice(bounds[0] - self.span[0], bounds[1] - self.span[0])
                for asked, one, items, mine in zip(self.requests, found, chosen, late, strict=True):
                    if len(rows := np.flatnonzero(mine[some])):
                        block = items.choose(ask(asked.scorer), asked.wanted, *bounds)[rows]
                        one.above[some][rows] += _count_better(block, one.best[some][rows], items.first)

            return count

        return work


def _find_in_lists(keys: Int64[np.ndarray, "queries k"], start: int, wanted: Wanted) -> Int64[np.ndarray, " queries"]:
    """Find the rank of the first relevant item of each list, whose query is number `start` and on; 0: none."""
    if not keys.shape[1]:
        return np.zeros(len(keys), dtype=np.int64)
    inside = wanted.qrels.gains(start, read_sort_keys(keys)[0]) > 0
    return np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, 0)


def _count_better(block: Block, keys: Int64[np.ndarray, " queries"], first: int) -> Int64[np.ndarray, " queries"]:
    """Count the items, from row `first` on, whose key is larger than one of each query."""
    rows, limits = read_sort_keys(keys)
    above = np.count_nonzero(block > limits[:, None], axis=1)
    earlier = np.clip(rows - first, 0, block.shape[1])  # items of the block in rows before
    for query in np.flatnonzero(earlier):
        above[query] += np.count_nonzero(block[query, : earlier[query]] == limits[query])
    return above
