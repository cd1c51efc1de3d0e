"""Measures as source projects computed them, to compare with the tables they published.

Under the names of the usual measures these compute something else; `twinlens.measures` has the
usual definitions. Never mix the two.

`object_set_*`: VectorHub's "vision research" article (November 2023) on COCO object sets looks
only at the ten items retrieved, so its recall is a hit rate, its nDCG compares with the best order
of those same ten, and its average precision divides by the relevant items found.
"""

from __future__ import annotations

import numpy as np

from twinlens.measures import Relevance, Values

CUT = 10  # the article retrieves ten


def object_set_measures(relevance: Relevance) -> dict[str, Values]:
    """The article's five measures, as `mrr`, `ndcg`, `map`, `precision` and `recall`."""
    top = relevance[:, :CUT]
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
