"""Measures as source projects computed them, to compare with the tables they published.

Under the names of the usual measures these compute something else; `twinlens.evaluation.measures` has the
usual definitions. Never mix the two.

`object_set_*`: VectorHub's "vision research" article (November 2023) on COCO object sets looks
only at the ten items retrieved, so its recall is a hit rate, its nDCG compares with the best order
of those same ten, and its average precision divides by the relevant items found.

`in_batch_*`: elsevierlabs-os/clip-image-search (April 2022) ranks each picture's caption among the 64
of its batch; the same cuts over the whole pool stand beside it.

`label_*`: cross-modal-retrieval-with-triplet-network (July 2022) calls "mAP at k" what is the
reciprocal rank of the first right label, as every query has one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from twinlens.evaluation.measures import Judged, Values
from twinlens.retrieval.in_batch import CUTS, mrr_at

CUT = 10  # the article retrieves ten


def measure_object_sets(judged: Judged) -> dict[str, Values]:
    """Compute the article's five measures, as `mrr`, `ndcg`, `map`, `precision` and `recall`."""
    top = judged.relevance[:, :CUT]
    found = top.sum(axis=1)
    ranks = np.arange(1, top.shape[1] + 1)
    discount = 1.0 / np.log2(ranks + 1.0)
    best = np.concatenate([[1.0], np.cumsum(discount)])  # DCG when all that were found stand first
    precision = np.cumsum(top, axis=1) / ranks
    any_found = found > 0
    return {
        "mrr": np.where(any_found, 1.0 / (top.argmax(axis=1) + 1.0), 0.0),
        "ndcg": (top @ discount) / best[found],
        "map": (precision * top).sum(axis=1) / np.maximum(found, 1),
        "precision": found / CUT,
        "recall": any_found.astype(np.float64),
    }


def measure_labels(judged: Judged) -> dict[str, Values]:
    """Compute the source's `map_at_1` and `map_at_5`: reciprocal ranks of the first relevant item."""
    ranks = _first_ranks(judged)
    return {f"map_at_{k}": mrr_at(ranks, k) for k in (1, 5)}


def measure_in_batch(ranks: Int[np.ndarray, " queries"], judged: Judged) -> dict[str, Values]:
    """Compute the source's MRR in batches, `in_batch_mrr_at_k`, and over the whole pool, `corpus_mrr_at_k`.

    Args:
        ranks: of each query's own item within its batch, from 1.
        judged: the run over the whole pool.
    """
    whole = _first_ranks(judged)
    deep = [k for k in CUTS if k <= judged.relevance.shape[1]]
    return {f"in_batch_mrr_at_{k}": mrr_at(ranks, k) for k in CUTS} | {
        f"corpus_mrr_at_{k}": mrr_at(whole, k) for k in deep
    }


def _first_ranks(judged: Judged) -> Int[np.ndarray, " queries"]:
    """The rank of the first relevant item; beyond any cut where there is none."""
    relevance = judged.relevance
    return np.where(relevance.any(axis=1), relevance.argmax(axis=1) + 1, np.iinfo(np.int32).max)
