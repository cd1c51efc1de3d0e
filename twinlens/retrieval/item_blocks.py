"""Exact nearest neighbours of pools that are not held in memory: blocks of items, read one after the other.

The order is that of `exact`, to the byte: a block's best items are scored exactly and merged by their keys, which say
the score and the row in the pool. The rank of a query's first relevant item is one more than the items above it, which
are counted block by block; so its key has to be known first. Where a query has few relevant items, those are scored
before everything else; where it has many, its list nearly always holds one, and the few queries whose list does not are
counted in another pass.

In memory are a block of items, a block of the product with what is looked at again in it, and for each of the queries
at hand its vector and its list: `STATE_BYTES` at most, so that a pool of any size takes the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int64

from twinlens.core.progress import Progress
from twinlens.retrieval.key_lists import read_scores, split, write_keys
from twinlens.retrieval.on_device import Vectors, bring_to_device
from twinlens.retrieval.scores import LOWEST, read_sort_keys
from twinlens.retrieval.selection import (
    BLOCK_BYTES,
    Products,
    Selector,
)
from twinlens.tasks.qrels import Qrels

POOL_BYTES = {"cpu": 2**29, "cuda": 2**33}  # of items that are brought to the device as a whole
ITEM_ROWS = {"cpu": 2**16, "cuda": 2**18}  # of a block of items: at 512 dimensions 128 MB, and 512 MB
STATE_BYTES = 2**28  # of the queries at hand
FEW_RELEVANT = 64  # items of a query, which are scored before everything else
PAIRS = 2**20  # of queries and relevant items at once

Keys = Int64[np.ndarray, "queries k"]


def needs_blocks(items: Vectors, device: torch.device, item_rows: int | None = None) -> bool:
    """Whether items are too many to be brought to a device as a whole; `item_rows` are those of a block of them."""
    if isinstance(items, torch.Tensor) and items.device == device:
        return False
    most = POOL_BYTES.get(device.type, POOL_BYTES["cpu"])
    return len(items) > item_rows if item_rows is not None else 4 * items.shape[0] * items.shape[1] > most


def rank_in_blocks(
    queries: Vectors,
    items: Vectors,
    k: int,
    device: torch.device,
    *,
    own_rows: Int[np.ndarray, " queries"] | None = None,
    qrels: Qrels | None = None,
    block_bytes: int | None = None,
    item_rows: int | None = None,
) -> Iterator[tuple[int, Keys, Int64[np.ndarray, " queries"] | None]]:
    """Rank the items for as many queries at a time as memory holds; see `exact.find_nearest`.

    Args:
        queries: see there, as the others.
        items: see there.
        k: neighbours, of which there are enough items.
        device: where products are made.
        own_rows: see there.
        qrels: see there.
        block_bytes: of one block of the product.
        item_rows: of one block of items.

    Yields:
        Of some queries the number of the first, the keys of their best items, best first, and the ranks of their first
        relevant items; 0 where a query has none.
    """
    dim = items.shape[1]
    at_once = max(1, STATE_BYTES // (16 * dim + 32 * k))  # vectors in float32, and wider now and then; keys and copies
    for start in range(0, len(queries), at_once):
        rows = slice(start, min(start + at_once, len(queries)))
        own = None if own_rows is None else np.asarray(own_rows[rows], dtype=np.int64)
        pool = _Pool(items, k, device, block_bytes, item_rows)
        asked = bring_to_device(queries[rows], device)
        if qrels is None:
            yield start, pool.rank(asked, own, None)[0], None
            continue
        numbers = np.arange(rows.start, rows.stop)
        few = qrels.counts()[numbers] <= FEW_RELEVANT
        best = pool.find_best_relevant(asked, own, numbers, few, qrels)
        keys, above = pool.rank(asked, own, best)
        listed = pool.find_in_lists(keys, int(numbers[0]), qrels)
        if (late := np.flatnonzero(~few & (listed == 0))).size:
            some, mine = asked[torch.from_numpy(late).to(device)], None if own is None else own[late]
            best[late] = pool.find_best_relevant(some, mine, numbers[late], np.ones(len(late), dtype=bool), qrels)
            above[late] = pool.rank(some, mine, best[late], lists=False)[1]
        yield start, keys, np.where(listed > 0, listed, np.where(best > LOWEST, above + 1, 0))


class _Pool:
    """The items, a block at a time."""

    def __init__(
        self, items: Vectors, k: int, device: torch.device, block_bytes: int | None, item_rows: int | None
    ) -> None:
        self.items, self.k, self.device = items, k, device
        self.block_bytes = block_bytes or BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"])
        self.rows_at_once = item_rows or ITEM_ROWS.get(device.type, ITEM_ROWS["cpu"])

    def rank(
        self,
        queries: Float32[torch.Tensor, "queries dim"],
        own: Int64[np.ndarray, " queries"] | None,
        best: Int64[np.ndarray, " queries"] | None,
        lists: bool = True,
    ) -> tuple[Keys, Int64[np.ndarray, " queries"]]:
        """Go through all blocks once: the best items of each query, and how many are above a key of each.

        Args:
            queries: on the device.
            own: rows that are left out; -1: none.
            best: keys; the lowest, and None: nothing is counted.
            lists: whether the best items are wanted.
        """
        keys = np.full((len(queries), self.k if lists else 0), LOWEST, dtype=np.int64)
        above = np.zeros(len(queries), dtype=np.int64)
        with Progress("rank", total=len(self.items), unit="item") as bar:
            for first in range(0, len(self.items), self.rows_at_once):
                block = self.items[first : first + self.rows_at_once]
                k = min(self.k, len(block))
                selector = Selector.over(block, k, self.device, first)
                step = max(1, self.block_bytes // (4 * selector.width * selector.groups))
                buffer = selector.allocate(min(step, len(queries)))
                for start in range(0, len(queries), step):
                    some = slice(start, start + step)
                    mine = None if own is None else _place_in_block(own[some], first, len(block))
                    products = selector.multiply(queries[some], mine, buffer)
                    maxima = selector.find_maxima(products)
                    if lists:
                        keys[some] = self._merge(selector, products, maxima, keys[some])
                    if best is not None:
                        above[some] += _count(selector, products, maxima, best[some])
                bar.add(len(block))
        return keys, above

    def _merge(self, selector: Selector, products: Products, maxima: torch.Tensor, kept: Keys) -> Keys:
        """The best of the lists so far, and of a block of items."""
        last = torch.from_numpy(kept[:, -1:].copy()).to(self.device)
        least = torch.where(last > LOWEST, read_scores(last), -torch.inf)
        found = selector.select(products, maxima, least)
        if not (found > kept[:, -1:]).any():
            return kept
        both = np.concatenate([kept, found], axis=1)
        both.sort(axis=1)
        return both[:, : -self.k - 1 : -1]

    def find_best_relevant(
        self,
        queries: Float32[torch.Tensor, "queries dim"],
        own: Int64[np.ndarray, " queries"] | None,
        numbers: Int64[np.ndarray, " queries"],
        asked: Bool[np.ndarray, " queries"],
        qrels: Qrels,
    ) -> Int64[np.ndarray, " queries"]:
        """Find the key of the best relevant item of those queries that are asked; the lowest where there is none."""
        best = np.full(len(queries), LOWEST, dtype=np.int64)
        chosen = np.flatnonzero(asked)
        counts = qrels.counts()[numbers[chosen]]
        for start, stop in split(counts, PAIRS):
            some = chosen[start:stop]
            places, rows = qrels.list_relevant(numbers[some])
            places = some[places]
            if own is not None:
                other = rows != own[places]
                places, rows = places[other], rows[other]
            by_row = np.argsort(rows, kind="stable")
            for pairs in np.array_split(by_row, -(-len(by_row) // self.rows_at_once) or 1):
                if len(pairs):
                    np.maximum.at(best, places[pairs], self._score(queries, places[pairs], rows[pairs]))
        return best

    def _score(
        self, queries: torch.Tensor, places: Int[np.ndarray, " pairs"], rows: Int[np.ndarray, " pairs"]
    ) -> Int64[np.ndarray, " pairs"]:
        """The keys of pairs, whose items are few enough to be read at once."""
        asked, query = np.unique(places, return_inverse=True)
        there, item = np.unique(rows, return_inverse=True)
        order = np.argsort(query, kind="stable")
        selector = Selector.over(self.items[there], 1, self.device)
        some = queries[torch.from_numpy(asked).to(self.device)]
        block = Products(some, some[:, :0], selector.bound_error(some))
        pairs = (torch.from_numpy(one[order]).to(self.device) for one in (query, item))
        scores = selector.score_pairs(block, *pairs)
        keys = np.empty(len(rows), dtype=np.int64)
        keys[order] = write_keys(scores, torch.from_numpy(rows[order].astype(np.int64)).to(self.device)).cpu().numpy()
        return keys

    def find_in_lists(self, keys: Keys, first: int, qrels: Qrels) -> Int64[np.ndarray, " queries"]:
        """Find the rank of the first relevant item of each list, whose query is number `first` and on; 0: none."""
        inside = qrels.gains(first, read_sort_keys(keys)[0]) > 0
        return np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, 0)


def _count(
    selector: Selector, products: Products, maxima: torch.Tensor, best: Int64[np.ndarray, " queries"]
) -> Int64[np.ndarray, " queries"]:
    """Count the items of a block that are above a key of each query; none where that is the lowest."""
    found = np.zeros(len(best), dtype=np.int64)
    if (best > LOWEST).all():
        some, chosen, mine = products, maxima, best
    else:
        asked = np.flatnonzero(best > LOWEST)
        rows = torch.from_numpy(asked).to(maxima.device)
        some = Products(products.queries[rows], products.product[rows], products.error)
        chosen, mine = maxima[rows], best[asked]
    if len(mine):
        counts = selector.count_better(some, chosen, torch.from_numpy(mine).to(maxima.device))
        found[best > LOWEST] = counts.cpu().numpy()
    return found


def _place_in_block(own: Int64[np.ndarray, " queries"], first: int, count: int) -> Int64[np.ndarray, " queries"]:
    """Rows within a block of items; -1 where they lie in another."""
    return np.where((own >= first) & (own < first + count), own - first, -1)
