"""Exact nearest neighbours by inner product: the only place where the big matrix product is made.

The order is defined so that every machine and every device gets the same one (`scores`): inner products without error,
rounded to float64 and that to float32; best first, and equal scores by item row. A product in float32 blocks at the
speed of the hardware finds the items that could be among the best of a query whatever its error did; those few are
scored exactly, on the same device, and only what is best of them comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64

from twinlens.core.errors import DataError
from twinlens.retrieval.scores import (
    LOWEST,
    ROWS,
    bound_float32_error,
    bound_float64_error,
    read_sort_keys,
    round_sums,
)
from twinlens.tasks.qrels import Qrels

BLOCK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}  # of one block of the product; a GPU holds two of them
NARROW = ("mps",)  # devices without float64: the CPU beside them searches
GROUP = 32  # items, at most, whose best score stands for all of them in the first round of the selection
GROUPS_PER_RESULT = 4  # at least; of fewer, too many would be looked at
CELLS = 2**22  # scores looked at in the second round at once
WIDE_CELLS = 2**24  # numbers of gathered vectors in float64 at once, on a GPU
DENSE = 16  # of so many pairs one to be scored exactly: then a product of all of them is faster than gathered vectors
FEW_NUMBERS = 2**23  # of all items, which are then held in float64 too: 64 MB
WIDE_ITEMS = 2**13  # in float64 at once

Vectors = Float32[np.ndarray, "rows dim"] | Float32[torch.Tensor, "rows dim"]


@dataclass(frozen=True)
class Neighbours:
    """The best items of some queries, best first."""

    first_query: int
    rows: Int[np.ndarray, "queries k"]  # rows of the items
    scores: Float32[np.ndarray, "queries k"]
    first_hit: Int[np.ndarray, " queries"] | None  # rank of the first relevant item in the whole pool; 0: none


def find_nearest(
    queries: Vectors,
    items: Vectors,
    k: int,
    *,
    own_rows: Int[np.ndarray, " queries"] | None = None,
    qrels: Qrels | None = None,
    device: str = "cpu",
    block_bytes: int | None = None,
) -> Iterator[Neighbours]:
    """Find the `k` best items of every query, a block of queries at a time; the full matrix never exists.

    Args:
        queries: float32, one row a query; arrays, maps of files, or tensors, which may be on the device already.
        items: float32, one row an item; of the same kinds.
        k: neighbours wanted; all items where there are fewer.
        own_rows: the row of the item that is the query itself, which is left out; -1 where there is none.
        qrels: asks for the rank of the first relevant item in the whole pool, by the same order.
        device: where the product is made, and where items are scored and ordered.
        block_bytes: of one block of the product; empty: what suits the device.

    Raises:
        DataError: a vector holds NaN or infinity.
    """
    left_out = 0 if own_rows is None else 1
    k = min(k, len(items) - left_out) if own_rows is None or (own_rows >= 0).all() else min(k, len(items))
    if k < 1:
        raise ValueError(f"a pool of {len(items)} items leaves nothing to rank")
    place = torch.device("cpu" if device.partition(":")[0] in NARROW else device)
    search = _Search.over(items, k, place)
    size = block_bytes or BLOCK_BYTES.get(search.items.device.type, BLOCK_BYTES["cpu"])
    step = max(1, size // (4 * search.width * search.groups))
    starts = range(0, len(queries), step)
    ahead = search.items.device.type != "cpu"  # the next product is made while this block's lists are looked at
    buffers = [search.allocate(min(step, len(queries))) for _ in range(2 if ahead and len(starts) > 1 else 1)]

    def multiply(number: int) -> _Block:
        rows = slice(starts[number], starts[number] + step)
        own = None if own_rows is None else own_rows[rows]
        return search.multiply(queries[rows], own, buffers[number % len(buffers)])

    following: _Block | None = None
    for number, start in enumerate(starts):
        block = multiply(number) if following is None else following
        rows, scores = read_sort_keys(search.select(block))
        following = multiply(number + 1) if ahead and number + 1 < len(starts) else None
        first_hit = None if qrels is None else _find_first_hits(search, block, start, rows, qrels)
        yield Neighbours(start, rows, scores, first_hit)


@dataclass(frozen=True)
class _Block:
    """Some queries, and their products with all items; minus infinity where an item is left out, or where is none."""

    queries: Float32[torch.Tensor, "queries dim"]
    product: Float32[torch.Tensor, "queries columns"]  # items, and columns beyond them up to whole groups
    error: float  # of the float64 sums, see `bound_float64_error`


@dataclass(frozen=True)
class _Search:
    """The items on the device, and how they are looked through."""

    items: Float32[torch.Tensor, "items dim"]
    k: int
    groups: int  # item `i` is of the group `i % groups`: neighbours, which are often alike, are of different ones
    width: int  # items of a group
    longest: float

    @classmethod
    def over(cls, items: Vectors, k: int, device: torch.device) -> _Search:
        on_device = _move(items, device)
        width = min(GROUP, max(1, len(items) // (GROUPS_PER_RESULT * k)))
        return cls(on_device, k, -(-len(items) // width), width, _measure_longest(on_device, "items"))

    def allocate(self, queries: int) -> torch.Tensor:
        """Memory of the product of a block of queries; what is beyond the items is never written to again."""
        found = torch.empty(queries, self.groups * self.width, device=self.items.device)
        found[:, len(self.items) :] = -torch.inf
        return found

    def multiply(self, queries: Vectors, own_rows: Int[np.ndarray, " queries"] | None, buffer: torch.Tensor) -> _Block:
        """Make the product of a block of queries, into `buffer`."""
        block = _move(queries, self.items.device)  # all copies come first: each waits for what the device was given
        error = bound_float64_error(block.shape[1], self.longest * _measure_longest(block, "queries"))
        asking = np.zeros(0, dtype=np.int64) if own_rows is None else np.flatnonzero(own_rows >= 0)
        own = asking if own_rows is None else own_rows[asking].astype(np.int64)
        places = torch.from_numpy(np.stack([asking, own])).to(block.device)
        product = buffer[: len(block)]
        with full_float32():
            torch.mm(block, self.items.T, out=product[:, : len(self.items)])
        product[places[0], places[1]] = -torch.inf
        return _Block(block, product, error)

    @property
    def tolerance(self) -> float:
        """How far the product may be from the exact scores."""
        return bound_float32_error(self.items.shape[1])

    def select(self, block: _Block) -> Int64[np.ndarray, "queries k"]:
        """Select the best items of each query as keys of the one order, best first.

        The `k`-th best of the groups' best is reached by `k` items at least, so that by exact scores the `k`-th best
        item is at most the product's error below it, and looks at most twice that error worse than it is.
        """
        grouped = block.product.unflatten(1, (self.width, self.groups))
        best = grouped.amax(dim=1) if self.width > 1 else block.product  # (queries, groups)
        floor = _kth_largest(best, self.k) - 2 * self.tolerance  # (queries, 1)
        near = best >= floor
        counts = near.sum(dim=1).cpu().numpy()
        found = [
            self._select_near(block, floor, near, start, stop) for start, stop in _split(counts * self.width, CELLS)
        ]
        return np.concatenate(found)

    def _select_near(
        self, block: _Block, floor: torch.Tensor, near: torch.Tensor, start: int, stop: int
    ) -> Int64[np.ndarray, "queries k"]:
        """Those of the queries from `start` to before `stop`, of the groups that are near enough."""
        product = block.product[start:stop]
        queries, groups = torch.nonzero(near[start:stop], as_tuple=True)
        inside = groups[:, None] + self.groups * torch.arange(self.width, device=groups.device)  # (near groups, width)
        values = product.take(inside + (product.shape[1] * queries)[:, None])
        hit = (values >= floor[start:stop][queries]) & (inside < len(self.items))
        places, columns = torch.nonzero(hit, as_tuple=True)
        queries, rows = queries[places], inside[places, columns]
        found = self.make_keys(_Block(block.queries[start:stop], product, block.error), queries, rows)
        return _sort_by_query(queries, found, stop - start)[:, : self.k]

    def make_keys(
        self, block: _Block, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Int64[torch.Tensor, " pairs"]:
        """Make the keys of pairs by their exact scores: as `scores.make_sort_keys`, of these rows."""
        scores = _round(self._score_pairs(block, queries, rows), block, self.items, queries, rows)
        scores[block.product[queries, rows] == -torch.inf] = -torch.inf  # left out
        bits = (scores + 0.0).view(torch.int32)
        rising = bits ^ ((bits >> 31) & (2**31 - 1))
        return rising.long() * ROWS + (ROWS - 1 - rows)

    def _score_pairs(
        self, block: _Block, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float64[torch.Tensor, " pairs"]:
        dense = len(rows) * DENSE > len(block.queries) * len(self.items)
        return self._multiply_all(block, queries, rows) if dense else self._add_gathered(block, queries, rows)

    def _add_gathered(
        self, block: _Block, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float64[torch.Tensor, " pairs"]:
        wide, sums = block.queries.double(), torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        if rows.device.type == "cpu":  # a query at a time, whose few items stay in the cache
            near, ends = rows.numpy(), torch.bincount(queries, minlength=len(wide)).cumsum(0).tolist()
            items, found = self._host_items, sums.numpy()
            for query, first, last in zip(wide.numpy(), [0, *ends], ends, strict=False):
                for start in range(first, last, WIDE_ITEMS):
                    some = slice(start, min(last, start + WIDE_ITEMS))
                    np.matmul(items[near[some]].astype(np.float64, copy=False), query, out=found[some])
            return sums
        step = max(1, WIDE_CELLS // self.items.shape[1])
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            sums[some] = (self.items[rows[some]].double() * wide[queries[some]]).sum(dim=1)
        return sums

    @cached_property
    def _host_items(self) -> Float[np.ndarray, "items dim"]:
        """The items where they are scored one by one: in float64 already, where that is little."""
        items = self.items.numpy()
        return items.astype(np.float64) if items.size <= FEW_NUMBERS else items

    def _multiply_all(
        self, block: _Block, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float64[torch.Tensor, " pairs"]:
        """Where a model has put all in one place, most items are near the best."""
        sums = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        wide = block.queries.double()
        for start in range(0, len(self.items), WIDE_ITEMS):
            some = torch.nonzero((rows >= start) & (rows < start + WIDE_ITEMS))[:, 0]
            product = wide @ self.items[start : start + WIDE_ITEMS].double().T
            sums[some] = product[queries[some], rows[some] - start]
        return sums


def _round(
    sums: Float64[torch.Tensor, " pairs"],
    block: _Block,
    items: Float32[torch.Tensor, "items dim"],
    queries: Int64[torch.Tensor, " pairs"],
    rows: Int64[torch.Tensor, " pairs"],
) -> Float32[torch.Tensor, " pairs"]:
    """Round sums as `scores.round_sums` does; the few that are open are looked at on the host."""
    rounded = sums.float()
    unsure = torch.nonzero((sums - block.error).float() != (sums + block.error).float())[:, 0]
    if len(unsure):

        def vectors(some: Int[np.ndarray, " some"]) -> tuple[np.ndarray, np.ndarray]:
            pairs = unsure[torch.from_numpy(some).to(unsure.device)]
            return block.queries[queries[pairs]].cpu().numpy(), items[rows[pairs]].cpu().numpy()

        settled = round_sums(sums[unsure].cpu().numpy(), block.error, vectors)
        rounded[unsure] = torch.from_numpy(settled).to(rounded.device)
    return rounded


def _kth_largest(values: Float32[torch.Tensor, "queries n"], k: int) -> Float32[torch.Tensor, "queries 1"]:
    if values.device.type == "cpu":  # numpy's selection is vectorised
        return torch.from_numpy(-np.partition(-values.numpy(), k - 1, axis=1)[:, k - 1 : k])
    return torch.topk(values, k, dim=1).values[:, -1:]


def _sort_by_query(
    queries: Int64[torch.Tensor, " pairs"], found: Int64[torch.Tensor, " pairs"], count: int
) -> Int64[np.ndarray, "queries n"]:
    """Sort the keys of each of `count` queries, largest first; shorter lists are filled up.

    Args:
        queries: of each key, rising.
        found: the keys.
        count: of queries.
    """
    of_query = torch.bincount(queries, minlength=count)
    first = torch.cumsum(of_query, 0) - of_query
    table = torch.full((count, int(of_query.max())), LOWEST, dtype=torch.int64, device=found.device)
    table[queries, torch.arange(len(queries), device=queries.device) - first[queries]] = found
    if table.device.type == "cpu":
        ordered: np.ndarray = np.sort(table.numpy(), axis=1)[:, ::-1]
        return ordered
    return torch.sort(table, dim=1, descending=True).values.cpu().numpy()


def _find_first_hits(
    search: _Search, block: _Block, start: int, rows: Int[np.ndarray, "queries k"], qrels: Qrels
) -> Int64[np.ndarray, " queries"]:
    """Find the rank of each query's first relevant item, 0 where it has none: in its list, else in the whole pool."""
    inside = qrels.gains(start, rows) > 0
    found = np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, 0)
    missed = np.flatnonzero(~inside.any(axis=1))
    places, relevant = qrels.list_relevant(start + missed)
    asked, places = np.unique(places, return_inverse=True)  # those that have a relevant item at all
    missed = missed[asked]
    step = max(1, CELLS // block.product.shape[1])
    for first in range(0, len(missed), step):
        mine = (places >= first) & (places < first + step)
        some = torch.from_numpy(missed[first : first + step]).to(block.product.device)
        part = _Block(block.queries[some], block.product[some], block.error)
        of_query, of_items = (
            torch.from_numpy(one).to(some.device) for one in (places[mine] - first, relevant[mine].astype(np.int64))
        )
        found[missed[first : first + step]] = _rank_best(search, part, of_query, of_items).cpu().numpy()
    return found


def _rank_best(
    search: _Search, block: _Block, queries: Int64[torch.Tensor, " pairs"], relevant: Int64[torch.Tensor, " pairs"]
) -> Int64[torch.Tensor, " queries"]:
    """Rank the best relevant item of each query in the whole pool; 0 where all of them are left out.

    What the product puts above it by more than its error is above it; what is nearer is scored exactly.
    """
    count, lowest = len(block.queries), torch.tensor(LOWEST, device=relevant.device)
    found = search.make_keys(block, queries, relevant)
    best = lowest.repeat(count).scatter_reduce(0, queries, found, "amax")
    rising = (best >> 32).int()
    scores = (rising ^ ((rising >> 31) & (2**31 - 1))).view(torch.float32)[:, None]
    apart = block.product - scores
    above = (apart > search.tolerance).sum(dim=1)
    asked, rows = torch.nonzero(apart.abs() <= search.tolerance, as_tuple=True)
    better = search.make_keys(block, asked, rows) > best[asked]
    above += torch.bincount(asked[better], minlength=count)
    return torch.where(torch.isfinite(scores[:, 0]), above + 1, 0)


def _split(sizes: Int[np.ndarray, " queries"], most: int) -> Iterator[tuple[int, int]]:
    """Split queries into runs whose sizes together are at most `most`, or that are one query."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield start, stop
        start = stop


def _move(rows: Vectors, device: torch.device) -> Float32[torch.Tensor, "rows dim"]:
    """Bring vectors to the device, as float32; a map of a file is read."""
    if not isinstance(rows, torch.Tensor):
        copied = isinstance(rows, np.memmap) or not rows.flags.writeable
        rows = torch.from_numpy(np.array(rows, dtype=np.float32, order="C", copy=True if copied else None))
    return rows.to(device, torch.float32).contiguous()


def _measure_longest(rows: Float32[torch.Tensor, "rows dim"], what: str) -> float:
    longest = float(torch.linalg.vector_norm(rows, dim=1).max()) * 1.001
    if not np.isfinite(longest):
        raise DataError(f"some {what} hold NaN or infinity, which has no place in an order: `dvc repro -f embed`")
    return longest


@contextmanager
def full_float32() -> Iterator[None]:
    """Have products of float32 made in float32, also where they would rather be rounded to TF32 or bfloat16."""
    on_cpu = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set when torch is imported
    backends = torch.backends.cuda.matmul, on_cpu
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
