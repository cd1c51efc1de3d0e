"""A second opinion inside the pipeline: a sample of queries measured again by torchmetrics.

torchmetrics is not the inner loop (it visits queries one by one: a minute where ours takes a
hundredth of a second), and it has traps of its own, so it is fed with care:

* ranks turned into positive scores, because it counts relevant items with a score <= 0 as missed;
* the relevant items that were not retrieved too, at the end, because its recall and nDCG know only
  what they are given;
* its average precision divides by the relevant items *found*, ours by all: they coincide where all
  were found, and only there are they compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinlens.core.errors import DataError
from twinlens.evaluation.measures import Relevance, Relevant, Values

TOLERANCE = 1e-6


def check_sample(
    values: dict[str, Values], relevance: Relevance, relevant: Relevant, ks: Sequence[int], queries: int, seed: int
) -> int:
    """Compare our values of some queries with torchmetrics'.

    Args:
        values: of `measures.measure_all`.
        relevance: of the ranked items, best first.
        relevant: R of each query.
        ks: the cuts.
        queries: how many are drawn.
        seed: of the draw.

    Returns:
        The number of values compared.

    Raises:
        DataError: a value differs by more than `TOLERANCE`.
    """
    import torch
    from torchmetrics.functional.retrieval import (
        retrieval_average_precision,
        retrieval_hit_rate,
        retrieval_normalized_dcg,
        retrieval_precision,
        retrieval_recall,
        retrieval_reciprocal_rank,
    )

    referees = {
        "mrr": retrieval_reciprocal_rank,
        "ndcg": retrieval_normalized_dcg,
        "map": retrieval_average_precision,
        "precision": retrieval_precision,
        "recall": retrieval_recall,
        "hit": retrieval_hit_rate,
    }
    drawn = np.random.default_rng(seed).permutation(len(relevance))[:queries]
    compared = 0
    for query in drawn:
        target = complete(relevance[query], int(relevant[query]))
        scores = torch.arange(len(target), 0, -1, dtype=torch.float64)
        truth = torch.from_numpy(target)
        for name, referee in referees.items():
            for k in ks:
                if name == "map" and target[:k].sum() != relevant[query]:
                    continue
                theirs = float(referee(scores, truth, top_k=k))
                ours = float(values[f"{name}_at_{k}"][query])
                compared += 1
                if not abs(ours - theirs) <= TOLERANCE:
                    raise DataError(
                        f"{name}_at_{k} of query {query} is {ours:.8f} here and {theirs:.8f} in torchmetrics"
                    )
    return compared


def complete(found: np.ndarray, relevant: int) -> np.ndarray:
    """A list's relevance with the relevant items that it lacks put at its end."""
    return np.concatenate([found, np.ones(relevant - int(found.sum()), dtype=bool)])
