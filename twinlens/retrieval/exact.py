"""Exact nearest neighbours by inner product: the only place where the big matrix product is made.

The order is defined so that every machine and every device gets the same one (`scores`): inner products without error,
rounded to float64 and that to float32; best first, and equal scores by item row. A product in float32 blocks at the
speed of the hardware finds the items that could be among the best of a query whatever its error did; those few are
scored exactly, on the same device, and only what is best of them comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64

from twinlens.core.row_sources import Rows
from twinlens.retrieval.item_blocks import needs_blocks, rank_in_blocks
from twinlens.retrieval.on_device import Vectors, bring_to_device, measure_longest
from twinlens.retrieval.scores import bound_float64_error, read_sort_keys
from twinlens.retrieval.selection import (
    BLOCK_BYTES,
    NARROW,
    WIDE_ITEMS,
    Products,
    Selector,
    round_pairs,
)
from twinlens.tasks.qrels import Qrels

LISTS = 1024  # of queries that are given at once, where a pool was read in blocks


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
    item_rows: int | None = None,
) -> Iterator[Neighbours]:
    """Find the `k` best items of every query, a block of queries at a time; the full matrix never exists.

    Args:
        queries: float32, one row a query; arrays, row sources, or tensors, which may be on the device already.
        items: float32, one row an item; of the same kinds. Those that are more than `item_blocks.POOL_BYTES` are read
            a block at a time, and never in memory as a whole.
        k: neighbours wanted; all items where there are fewer.
        own_rows: the row of the item that is the query itself, which is left out; -1 where there is none.
        qrels: asks for the rank of the first relevant item in the whole pool, by the same order.
        device: where the product is made, and where items are scored and ordered.
        block_bytes: of one block of the product; empty: what suits the device.
        item_rows: items of one block, where they are to be read in such; empty: what suits the device.

    Raises:
        DataError: a vector holds NaN or infinity.
    """
    left_out = 0 if own_rows is None else 1
    k = min(k, len(items) - left_out) if own_rows is None or (own_rows >= 0).all() else min(k, len(items))
    if k < 1:
        raise ValueError(f"a pool of {len(items)} items leaves nothing to rank")
    place = torch.device("cpu" if device.partition(":")[0] in NARROW else device)
    if needs_blocks(items, place, item_rows):
        ranked = rank_in_blocks(
            queries,
            items,
            k,
            place,
            own_rows=own_rows,
            qrels=qrels,
            block_bytes=block_bytes,
            item_rows=item_rows,
        )
        for first, keys, hits in ranked:
            for start in range(0, len(keys), LISTS):
                some = slice(start, start + LISTS)
                found = read_sort_keys(keys[some])
                yield Neighbours(first + start, *found, None if hits is None else hits[some])
        return
    selector = Selector.over(items, k, place)
    size = block_bytes or BLOCK_BYTES.get(selector.items.device.type, BLOCK_BYTES["cpu"])
    step = max(1, size // (4 * selector.width * selector.groups))
    starts = range(0, len(queries), step)
    ahead = selector.items.device.type != "cpu"  # the next product is made while this block's lists are looked at
    buffers = [selector.allocate(min(step, len(queries))) for _ in range(2 if ahead and len(starts) > 1 else 1)]

    def multiply(number: int) -> Products:
        rows = slice(starts[number], starts[number] + step)
        own = None if own_rows is None else own_rows[rows]
        return selector.multiply(queries[rows], own, buffers[number % len(buffers)])

    following: Products | None = None
    for number, start in enumerate(starts):
        block = multiply(number) if following is None else following
        rows, scores = read_sort_keys(selector.select(block))
        following = multiply(number + 1) if ahead and number + 1 < len(starts) else None
        first_hit = None if qrels is None else _find_first_hits(selector, block, start, rows, qrels)
        yield Neighbours(start, rows, scores, first_hit)


@dataclass(frozen=True)
class OnDevice:
    """Scores of a pair of vectors with all items: as `base.Dense` has them, from products made on a GPU."""

    queries: Rows
    items: Float32[torch.Tensor, "items dim"]

    @classmethod
    def of(cls, queries: Rows, items: Vectors, device: str) -> OnDevice:
        """Bring the items to the device."""
        return cls(queries, bring_to_device(items, torch.device(device)))

    @staticmethod
    def pays(device: str) -> bool:
        """Whether a device is no CPU, and has float64."""
        return device.partition(":")[0] not in ("cpu", *NARROW)

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "queries items"]:
        """See `base.Scorer.block`."""
        asked = bring_to_device(self.queries[start:stop], self.items.device)
        wide, found = asked.double(), torch.empty(len(asked), len(self.items), device=asked.device)
        block = Products(asked, found, bound_float64_error(asked.shape[1], self._longest * measure_longest(asked)))
        for first in range(0, len(self.items), WIDE_ITEMS):  # the items in float64 would take twice their memory more
            sums = wide @ self.items[first : first + WIDE_ITEMS].double().T
            found[:, first : first + WIDE_ITEMS] = sums.float()
            queries, rows = torch.nonzero((sums - block.error).float() != (sums + block.error).float(), as_tuple=True)
            settled = round_pairs(sums[queries, rows], block, self.items, queries, rows + first)
            found[queries, rows + first] = settled
        return found.cpu().numpy()

    @cached_property
    def _longest(self) -> float:
        return measure_longest(self.items)


def _find_first_hits(
    selector: Selector, block: Products, start: int, rows: Int[np.ndarray, "queries k"], qrels: Qrels
) -> Int64[np.ndarray, " queries"]:
    """Find the rank of each query's first relevant item, 0 where it has none: in its list, else in the whole pool."""
    inside = qrels.gains(start, rows) > 0
    found = np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, 0)
    missed = np.flatnonzero(~inside.any(axis=1))
    places, relevant = qrels.list_relevant(start + missed)
    asked, places = np.unique(places, return_inverse=True)  # those that have a relevant item at all
    missed = missed[asked]
    step = max(1, selector.cells // block.product.shape[1])
    for first in range(0, len(missed), step):
        mine = (places >= first) & (places < first + step)
        some = torch.from_numpy(missed[first : first + step]).to(block.product.device)
        part = Products(block.queries[some], block.product[some], block.error)
        of_query, of_items = (
            torch.from_numpy(one).to(some.device) for one in (places[mine] - first, relevant[mine].astype(np.int64))
        )
        found[missed[first : first + step]] = selector.rank_best(part, of_query, of_items).cpu().numpy()
    return found
