"""Exact nearest neighbours by inner product: the only place where the big matrix product is made.

The order is defined so that every machine gets the same one. The score of a pair is its inner
product in float64, rounded to float32; items are ordered by score, best first, and equal scores by
item row. The product that finds the candidates runs in float32 blocks at the speed of the hardware;
then the few candidates of each query are scored anew in float64. A query whose candidates might
miss an item by the float32 error is searched again with that error allowed for, so the result is
exact, ties at the cut included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int

from twinlens.retrieval.scores import bound_float32_error, compute_exact_scores, order_by_score
from twinlens.tasks.qrels import Qrels

BLOCK_BYTES = 128 * 2**20  # of one block of the product
GROUP = 32  # items whose best score stands for all of them in the first round of the selection
SPARE = 14  # candidates beyond k, so that the second search is rarely needed


@dataclass(frozen=True)
class Neighbours:
    """The best items of some queries, best first."""

    first_query: int
    rows: Int[np.ndarray, "queries k"]  # rows of the items
    scores: Float32[np.ndarray, "queries k"]
    first_hit: Int[np.ndarray, " queries"] | None  # rank of the first relevant item in the whole pool; 0: none


def find_nearest(
    queries: Float32[np.ndarray, "queries dim"],
    items: Float32[np.ndarray, "items dim"],
    k: int,
    *,
    own_rows: Int[np.ndarray, " queries"] | None = None,
    qrels: Qrels | None = None,
    device: str = "cpu",
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Neighbours]:
    """Find the `k` best items of every query, a block of queries at a time; the full matrix never exists.

    Args:
        queries: float32, one row a query.
        items: float32, one row an item.
        k: neighbours wanted; all items where there are fewer.
        own_rows: the row of the item that is the query itself, which is left out; -1 where there is none.
        qrels: asks for the rank of the first relevant item. Within the top `k` it follows the order above; beyond,
            it is more than `k` and counted on the float32 product, where scores closer than its error may stand in
            either order.
        device: where the product is made.
        block_bytes: of one block of the product.
    """
    left_out = 0 if own_rows is None else 1
    k = min(k, len(items) - left_out) if own_rows is None or (own_rows >= 0).all() else min(k, len(items))
    if k < 1:
        raise ValueError(f"a pool of {len(items)} items leaves nothing to rank")
    step = max(1, block_bytes // (4 * max(1, len(items))))
    items = np.array(items, dtype=np.float32, order="C")  # in memory, where it may have been a memory map
    on_device = torch.from_numpy(items).to(device)
    tolerance = bound_float32_error(queries.shape[1])
    with _FullFloat32():
        for start in range(0, len(queries), step):
            block = np.array(queries[start : start + step], dtype=np.float32, order="C")
            product = torch.from_numpy(block).to(device) @ on_device.T  # (queries of the block, items)
            if own_rows is not None:
                _leave_out(product, own_rows[start : start + step])
            rows, scores = _best(product, block, items, k, tolerance)
            first_hit = None
            if qrels is not None:
                inside = qrels.gains(start, rows) > 0
                first_hit = inside.argmax(axis=1) + 1
                missed = np.flatnonzero(~inside.any(axis=1))
                if len(missed):
                    beyond = _first_hit(product, missed, [qrels.relevant_rows(start + int(query)) for query in missed])
                    first_hit[missed] = np.where(beyond > 0, np.maximum(beyond, rows.shape[1] + 1), 0)
            yield Neighbours(start, rows, scores, first_hit)


def _leave_out(product: torch.Tensor, own_rows: Int[np.ndarray, " queries"]) -> None:
    queries = np.flatnonzero(own_rows >= 0)
    product[torch.from_numpy(queries), torch.from_numpy(own_rows[queries]).long()] = -torch.inf


def _best(
    product: Float32[torch.Tensor, "queries items"],
    queries: Float32[np.ndarray, "queries dim"],
    items: Float32[np.ndarray, "items dim"],
    k: int,
    tolerance: float,
) -> tuple[Int[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    values, candidates = _candidates(product, min(k + SPARE, product.shape[1]))
    rows = candidates.cpu().numpy()
    scores = compute_exact_scores(queries, items, rows)
    scores[~np.isfinite(values.cpu().numpy())] = -np.inf  # the query itself
    rows, scores = order_by_score(rows, scores)
    worst_candidate = values[:, -1].cpu().numpy()
    rows, scores = rows[:, :k], scores[:, :k]
    if candidates.shape[1] < product.shape[1]:
        # An item that is no candidate scores at most this; where that reaches the k-th, look again.
        for query in np.flatnonzero(worst_candidate + tolerance >= scores[:, -1]):
            reach = float(scores[query, -1]) - tolerance
            near = torch.nonzero(product[query] >= reach)[:, 0].cpu().numpy()[None]  # (1, near)
            again = compute_exact_scores(queries[query : query + 1], items, near)
            near, again = order_by_score(near, again)
            rows[query], scores[query] = near[0, :k], again[0, :k]
    return rows, scores


def _candidates(product: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and rows of the `count` largest of each row, in two rounds: groups first, then their members.

    The `count` best items lie in the `count` groups with the best maxima, and taking maxima runs at
    the speed of memory where a selection over all items does not.
    """
    queries, items = product.shape
    whole = items - items % GROUP
    if whole // GROUP <= 2 * count:
        return torch.topk(product, count, dim=1)
    grouped = product[:, :whole].unflatten(1, (-1, GROUP))
    groups = torch.topk(grouped.amax(dim=2), count, dim=1, sorted=False).indices  # (queries, count)
    inside = torch.gather(grouped, 1, groups[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    rows = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=product.device)).flatten(1)
    if whole < items:
        rest = torch.arange(whole, items, device=product.device).expand(queries, -1)
        inside, rows = torch.cat([inside, product[:, whole:]], 1), torch.cat([rows, rest], 1)
    values, places = torch.topk(inside, count, dim=1)
    return values, torch.gather(rows, 1, places)


def _first_hit(
    product: torch.Tensor, queries: Int[np.ndarray, " missed"], relevant: Sequence[Int[np.ndarray, " relevant"]]
) -> Int[np.ndarray, " missed"]:
    """Rank of the first of each query's relevant items: one more than the items that score above all of them."""
    ranks = np.zeros(len(queries), dtype=np.int64)
    for i, (query, rows) in enumerate(zip(queries, relevant, strict=True)):
        if len(rows):
            scores = product[int(query)]
            best = scores[torch.from_numpy(rows).to(scores.device)].max()
            if torch.isfinite(best):  # minus infinity: it is left out
                ranks[i] = int(torch.count_nonzero(scores > best)) + 1
    return ranks


class _FullFloat32:
    """Float32 products in float32, also where a GPU would rather round them to TF32."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before
