"""Selection of the best items by a product in float32 and exact scores, on whatever device the items are.

`exact` has what it is for. A score is the inner product without error, rounded to float64 and that to float32
(`scores`), so that what a device adds in which order decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64

from twinlens.retrieval.key_lists import (
    find_kth_largest,
    read_scores,
    sort_by_query,
    split,
    stack_keys,
    write_keys,
)
from twinlens.retrieval.on_device import Vectors, bring_to_device, measure_longest
from twinlens.retrieval.scores import (
    LOWEST,
    add_gathered,
    bound_float32_error,
    bound_float64_error,
    round_sums,
)

BLOCK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}  # of one block of the product; a GPU holds two of them
NARROW = ("mps",)  # devices without float64: the CPU beside them searches
GROUP = 32  # items, at most, whose best score stands for all of them in the first round of the selection
GROUPS_PER_RESULT = 4  # at least; of fewer, too many would be looked at
CELLS = {"cpu": 2**22, "cuda": 2**25}  # scores looked at in the second round at once
WIDE_CELLS = 2**24  # numbers of gathered vectors in float64 at once, on a GPU
DENSE = 16  # of so many pairs one to be scored exactly: then a product of all of them is faster than gathered vectors
FEW_NEAR = 32  # of so many groups one near a score: then all are compared, rather than gathered
FEW_NUMBERS = 2**23  # of all items, which are then held in float64 too: 64 MB
WIDE_ITEMS = 2**13  # in float64 at once


@dataclass(frozen=True)
class Products:
    """Some queries, and their products with all items; minus infinity where an item is left out, or where is none."""

    queries: Float32[torch.Tensor, "queries dim"]
    product: Float32[torch.Tensor, "queries columns"]  # items, and columns beyond them up to whole groups
    error: float  # of the float64 sums, see `bound_float64_error`


@dataclass(frozen=True)
class Selector:
    """The items on the device, and how they are looked through."""

    items: Float32[torch.Tensor, "items dim"]
    k: int
    groups: int  # item `i` is of the group `i % groups`: neighbours, which are often alike, are of different ones
    width: int  # items of a group
    longest: float
    first_row: int = 0  # of these items in the pool, where they are a block of it

    @classmethod
    def over(cls, items: Vectors, k: int, device: torch.device, first_row: int = 0) -> Selector:
        """Bring the items to the device, and group them."""
        on_device = bring_to_device(items, device)
        width = min(GROUP, max(1, len(items) // (GROUPS_PER_RESULT * k)))
        longest = measure_longest(on_device, "items")
        return cls(on_device, k, -(-len(items) // width), width, longest, first_row)

    def allocate(self, queries: int) -> torch.Tensor:
        """Memory of the product of a block of queries; what is beyond the items is never written to again."""
        found = torch.empty(queries, self.groups * self.width, device=self.items.device)
        found[:, len(self.items) :] = -torch.inf
        return found

    def multiply(
        self, queries: Vectors, own_rows: Int[np.ndarray, " queries"] | None, buffer: torch.Tensor
    ) -> Products:
        """Make the product of a block of queries, into `buffer`."""
        # all copies come first: each waits for what the device was given
        block = bring_to_device(queries, self.items.device)
        error = self.bound_error(block)
        asking = np.zeros(0, dtype=np.int64) if own_rows is None else np.flatnonzero(own_rows >= 0)
        own = asking if own_rows is None else own_rows[asking].astype(np.int64)
        places = torch.from_numpy(np.stack([asking, own])).to(block.device)
        product = buffer[: len(block)]
        with full_float32():
            torch.mm(block, self.items.T, out=product[:, : len(self.items)])
        product[places[0], places[1]] = -torch.inf
        return Products(block, product, error)

    def bound_error(self, queries: Float32[torch.Tensor, "queries dim"]) -> float:
        """Bound the error of float64 sums with some queries; those that hold NaN or infinity are refused."""
        return bound_float64_error(queries.shape[1], self.longest * measure_longest(queries, "queries"))

    @property
    def cells(self) -> int:
        """Scores looked at at once, beyond the product itself."""
        return CELLS.get(self.items.device.type, CELLS["cpu"])

    @property
    def tolerance(self) -> float:
        """How far the product may be from the exact scores."""
        return bound_float32_error(self.items.shape[1])

    def find_maxima(self, block: Products) -> Float32[torch.Tensor, "queries groups"]:
        """Find the best product of each group of items."""
        return block.product.unflatten(1, (self.width, self.groups)).amax(dim=1) if self.width > 1 else block.product

    def select(
        self,
        block: Products,
        best: Float32[torch.Tensor, "queries groups"] | None = None,
        least: Float32[torch.Tensor, "queries 1"] | None = None,
    ) -> Int64[np.ndarray, "queries found"]:
        """Select the best items of each query as keys of the one order, best first.

        The `k`-th best of the groups' best is reached by `k` items at least, so that by exact scores the `k`-th best
        item is at most the product's error below it, and looks at most twice that error worse than it is.

        Args:
            block: the products.
            best: of the groups (`find_maxima`), where they are known.
            least: what an item must score to be wanted at all, as the items of other blocks are better; fewer than `k`
                are found then, and lists are filled up with the lowest key.
        """
        best = self.find_maxima(block) if best is None else best
        floor = None if least is None else least - self.tolerance  # (queries, 1)
        if floor is None or int((best >= floor).sum(dim=1).max()) > self.k:
            by_groups = find_kth_largest(best, self.k) - 2 * self.tolerance
            floor = by_groups if floor is None else torch.maximum(floor, by_groups)
        near = best >= floor
        counts = near.sum(dim=1).cpu().numpy()
        found = [
            self._select_near(block, floor, near, start, stop) for start, stop in split(counts * self.width, self.cells)
        ]
        return np.concatenate(found) if least is None else stack_keys(found)

    def _select_near(
        self, block: Products, floor: torch.Tensor, near: torch.Tensor, start: int, stop: int
    ) -> Int64[np.ndarray, "queries k"]:
        """Those of the queries from `start` to before `stop`, of the groups that are near enough."""
        product = block.product[start:stop]
        queries, groups = torch.nonzero(near[start:stop], as_tuple=True)
        inside = groups[:, None] + self.groups * torch.arange(self.width, device=groups.device)  # (near groups, width)
        values = product.take(inside + (product.shape[1] * queries)[:, None])
        hit = (values >= floor[start:stop][queries]) & (inside < len(self.items))
        places, columns = torch.nonzero(hit, as_tuple=True)
        queries, rows = queries[places], inside[places, columns]
        found = self.make_keys(Products(block.queries[start:stop], product, block.error), queries, rows)
        return sort_by_query(queries, found, stop - start)[:, : self.k]

    def make_keys(
        self, block: Products, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Int64[torch.Tensor, " pairs"]:
        """Make the keys of pairs by their exact scores: as `scores.make_sort_keys`, of these rows."""
        scores = self.score_pairs(block, queries, rows)
        scores[block.product[queries, rows] == -torch.inf] = -torch.inf  # left out
        return write_keys(scores, rows + self.first_row)

    def score_pairs(
        self, block: Products, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float32[torch.Tensor, " pairs"]:
        """Compute the exact scores of pairs of a query, rising, and an item, whose products are not looked at."""
        return round_pairs(self._sum_pairs(block, queries, rows), block, self.items, queries, rows)

    def _sum_pairs(
        self, block: Products, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float64[torch.Tensor, " pairs"]:
        dense = len(rows) * DENSE > len(block.queries) * len(self.items)
        return self._multiply_all(block, queries, rows) if dense else self._add_gathered(block, queries, rows)

    def _add_gathered(
        self, block: Products, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float64[torch.Tensor, " pairs"]:
        wide, sums = block.queries.double(), torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        if rows.device.type == "cpu":
            ends = torch.bincount(queries, minlength=len(wide)).cumsum(0)
            add_gathered(wide.numpy(), self._host_items, rows.numpy(), ends.numpy(), sums.numpy())
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
        self, block: Products, queries: Int64[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
    ) -> Float64[torch.Tensor, " pairs"]:
        """Where a model has put all in one place, most items are near the best."""
        sums = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        wide = block.queries.double()
        for start in range(0, len(self.items), WIDE_ITEMS):
            some = torch.nonzero((rows >= start) & (rows < start + WIDE_ITEMS))[:, 0]
            product = wide @ self.items[start : start + WIDE_ITEMS].double().T
            sums[some] = product[queries[some], rows[some] - start]
        return sums

    def rank_best(
        self, block: Products, queries: Int64[torch.Tensor, " pairs"], relevant: Int64[torch.Tensor, " pairs"]
    ) -> Int64[torch.Tensor, " queries"]:
        """Rank the best relevant item of each query in the whole pool; 0 where all of them are left out.

        What the product puts above it by more than its error is above it; what is nearer is scored exactly.
        """
        count, lowest = len(block.queries), torch.tensor(LOWEST, device=relevant.device)
        found = self.make_keys(block, queries, relevant)
        best = lowest.repeat(count).scatter_reduce(0, queries, found, "amax")
        return torch.where(
            torch.isfinite(read_scores(best)),
            self._count_in_all(block, best, torch.arange(count, device=best.device)) + 1,
            0,
        )

    def count_better(
        self, block: Products, maxima: Float32[torch.Tensor, "queries groups"], keys: Int64[torch.Tensor, " queries"]
    ) -> Int64[torch.Tensor, " queries"]:
        """Count the items whose key is larger than one of each query, which may be of an item that is not among these.

        Args:
            block: the products.
            maxima: of the groups (`find_maxima`): of most, none is near.
            keys: with a finite score.
        """
        scores = read_scores(keys)[:, None]
        near = maxima >= scores - self.tolerance
        many = near.sum(dim=1) * FEW_NEAR > self.groups
        above = torch.zeros(len(keys), dtype=torch.int64, device=keys.device)
        step = max(1, self.cells // block.product.shape[1])
        for some in torch.split(torch.nonzero(many)[:, 0], step):
            above[some] = self._count_in_all(block, keys[some], some)
        queries, groups = torch.nonzero(near & ~many[:, None], as_tuple=True)
        inside = groups[:, None] + self.groups * torch.arange(self.width, device=groups.device)  # (near groups, width)
        apart = block.product.take(inside + (block.product.shape[1] * queries)[:, None]) - scores[queries]
        above.index_add_(0, queries, (apart > self.tolerance).sum(dim=1))
        places, columns = torch.nonzero(apart.abs() <= self.tolerance, as_tuple=True)
        return above + self._count_near(block, keys, queries[places], inside[places, columns])

    def _count_in_all(
        self, block: Products, keys: Int64[torch.Tensor, " asked"], asked: Int64[torch.Tensor, " asked"]
    ) -> Int64[torch.Tensor, " asked"]:
        """Count the items above a key of each of some queries, rising, by looking at all products."""
        if keys.device.type == "cpu":
            return self._count_in_rows(block, keys, asked)
        some = Products(block.queries[asked], block.product[asked], block.error)
        apart = some.product - read_scores(keys)[:, None]
        above = (apart > self.tolerance).sum(dim=1)
        return above + self._count_near(some, keys, *torch.nonzero(apart.abs() <= self.tolerance, as_tuple=True))

    def _count_in_rows(
        self, block: Products, keys: Int64[torch.Tensor, " asked"], asked: Int64[torch.Tensor, " asked"]
    ) -> Int64[torch.Tensor, " asked"]:
        """The same, a query at a time, whose products stay in the cache: torch's sums of truths are slow on a CPU."""
        product, above, near = block.product.numpy(), np.zeros(len(keys), dtype=np.int64), []
        wide = 1.01 * self.tolerance  # so that the limits may be rounded
        for place, (query, score) in enumerate(zip(asked.tolist(), read_scores(keys).tolist(), strict=True)):
            if not np.isfinite(score):  # of a left out item, or of none
                continue
            row, least, most = product[query], np.float32(score - wide), np.float32(score + wide)
            above[place] = np.count_nonzero(row > most)
            if np.count_nonzero(row >= least) > above[place]:
                columns = np.flatnonzero((row >= least) & (row <= most))
                near.append((np.full(len(columns), place), columns))
        found = torch.from_numpy(above)
        if near:
            places, rows = (torch.from_numpy(np.concatenate(one)) for one in zip(*near, strict=True))
            some = Products(block.queries[asked], block.product[asked[:0]], block.error)
            found += self._count_near(some, keys, places, rows)
        return found

    def _count_near(
        self,
        block: Products,
        keys: Int64[torch.Tensor, " queries"],
        asked: Int64[torch.Tensor, " pairs"],
        rows: Int64[torch.Tensor, " pairs"],
    ) -> Int64[torch.Tensor, " queries"]:
        """Of pairs that the product cannot tell apart, by query, rising: those whose exact key is larger.

        None of them is left out: its product is minus infinity, which is not near a score.
        """
        better = write_keys(self.score_pairs(block, asked, rows), rows + self.first_row) > keys[asked]
        return torch.bincount(asked[better], minlength=len(keys))


def round_pairs(
    sums: Float64[torch.Tensor, " pairs"],
    block: Products,
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
