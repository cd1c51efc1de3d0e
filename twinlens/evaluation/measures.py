"""The ranking measures, one definition each.

All of them read the same two things: whether the item at each rank is relevant, and how many
relevant items the pool holds. A measure that needs `R` uses the whole pool's, not what was
retrieved, so a run cut at rank 50 gives the same value as a full ranking.

| measure | value of one query | other names |
|---|---|---|
| `hit_at_k` | 1 if any of the first k is relevant | success@k; the CLIP papers' "R@k" |
| `recall_at_k` | relevant in the first k / R | trec_eval `recall_k` |
| `precision_at_k` | relevant in the first k / k | trec_eval `P_k` |
| `mrr_at_k` | 1 / rank of the first relevant item, 0 if beyond k | trec_eval `recip_rank`, cut |
| `ndcg_at_k` | DCG / DCG of min(R, k) relevant items first; gain 1, discount log2(rank + 1) | `ndcg_cut_k` |
| `map_at_k` | sum of precision@i over the relevant ranks i <= k, / R | trec_eval `map_cut_k` |

Where the pool has fewer than k items, the missing ranks count as not relevant (as in trec_eval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int

from twinlens.core.errors import DataError

Relevance = Bool[np.ndarray, "queries depth"]  # relevance of the ranked items, best first
Relevant = Int[np.ndarray, " queries"]  # R: relevant items in the pool
Values = Float64[np.ndarray, " queries"]


def hit_at(relevance: Relevance, relevant: Relevant, k: int) -> Values:
    """1 where any of the first k items is relevant."""
    return np.asarray(relevance[:, :k].any(axis=1), dtype=np.float64)


def recall_at(relevance: Relevance, relevant: Relevant, k: int) -> Values:
    """Share of the pool's relevant items that stand among the first k."""
    return np.asarray(relevance[:, :k].sum(axis=1) / relevant)


def precision_at(relevance: Relevance, relevant: Relevant, k: int) -> Values:
    """Share of the first k ranks that hold a relevant item."""
    return relevance[:, :k].sum(axis=1) / k


def mrr_at(relevance: Relevance, relevant: Relevant, k: int) -> Values:
    """1 over the rank of the first relevant item, 0 where it is not among the first k."""
    top = relevance[:, :k]
    return np.where(top.any(axis=1), 1.0 / (top.argmax(axis=1) + 1.0), 0.0)


def ndcg_at(relevance: Relevance, relevant: Relevant, k: int) -> Values:
    """Discounted gain over that of the ideal list, which begins with min(R, k) relevant items."""
    top = relevance[:, :k]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])  # by number of relevant items, 0 to k
    return top @ discount[: top.shape[1]] / ideal[np.minimum(relevant, k)]


def map_at(relevance: Relevance, relevant: Relevant, k: int) -> Values:
    """Sum of the precision at each relevant rank up to k, over R."""
    top = relevance[:, :k]
    ranks = np.arange(1, top.shape[1] + 1)
    precision = np.cumsum(top, axis=1, dtype=np.int32) / ranks
    return np.einsum("qk,qk->q", precision, top) / relevant


MEASURES: dict[str, Callable[[Relevance, Relevant, int], Values]] = {
    "mrr": mrr_at,
    "ndcg": ndcg_at,
    "map": map_at,
    "precision": precision_at,
    "recall": recall_at,
    "hit": hit_at,
}


def measure_all(
    relevance: Relevance, relevant: Relevant, ks: Sequence[int], names: Sequence[str] = tuple(MEASURES)
) -> dict[str, Values]:
    """The named measures at every k, as `<measure>_at_<k>`.

    Raises:
        DataError: a query has no relevant item in the pool: no measure is defined for it.
    """
    if len(relevant) and (empty := np.flatnonzero(relevant < 1)).size:
        raise DataError(
            f"{empty.size} queries have no relevant item in the pool, the first at row {empty[0]}: "
            "leave them out of the task"
        )
    return {f"{name}_at_{k}": MEASURES[name](relevance, relevant, k) for name in names for k in ks}


def median_rank(first_hits: Int[np.ndarray, " queries"]) -> float:
    """Median over queries of the first relevant item's rank in the whole pool (MedR)."""
    return float(np.median(first_hits))


def macro_mean(values: Values, groups: Int[np.ndarray, " queries"]) -> float:
    """Mean over groups of the mean within each group: large groups count no more than small ones."""
    totals, counts = np.bincount(groups, weights=values), np.bincount(groups)
    return float((totals[counts > 0] / counts[counts > 0]).mean())


def chance_hit_at(pool: int, relevant: Relevant, k: int) -> float:
    """Mean `hit_at_k` of a ranking at random: 1 - C(N-R, k) / C(N, k)."""
    counts, queries = np.unique(relevant, return_counts=True)
    k = min(k, pool)
    steps = np.arange(k)
    misses = [np.prod(np.clip((pool - r - steps) / (pool - steps), 0.0, None)) for r in counts]
    return float(np.average(1.0 - np.array(misses), weights=queries))
