"""A second opinion inside the pipeline: a sample of queries measured again, as each measure's registration says.

Where torchmetrics has the measure, that is by torchmetrics. It is not the inner loop (it visits queries one by
one: a minute where ours takes a hundredth of a second), and it has traps of its own, so it is fed with care:

* ranks turned into positive scores, because it counts relevant items with a score <= 0 as missed;
* the relevant items that were not retrieved too, at the end, because its recall and nDCG know only
  what they are given;
* its average precision divides by the relevant items *found*, ours by all, so it is taken times the share
  that was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.measures import MEASURES, Judged, Measure, Torchmetrics, Values, parsed

TOLERANCE = 1e-6


def check_sample(values: Mapping[str, Values], judged: Judged, queries: int, seed: int) -> int:
    """Compare our values of some queries with those of each measure's second opinion.

    Args:
        values: of `measures.measure_all`; all are looked at.
        judged: what they were computed from.
        queries: how many are drawn.
        seed: of the draw.

    Returns:
        The number of values compared.

    Raises:
        DataError: a value differs by more than `TOLERANCE`.
    """
    compared = 0
    for query in np.random.default_rng(seed).permutation(len(judged.counts))[:queries]:
        one = judged.query(int(query))
        for key, ours_of_all in values.items():
            measure, k = _of(key)
            ours, theirs = float(ours_of_all[query]), get_second_opinion(measure, one, k)
            compared += 1
            if not abs(ours - theirs) <= TOLERANCE:
                raise DataError(
                    f"{key} of query {query} is {ours:.8f} here and {theirs:.8f} by {name_referee(measure)}"
                )
    return compared


def get_second_opinion(measure: Measure, one: Judged, k: int) -> float:
    """Compute the value of one query by the measure's referee.

    Raises:
        DataError: torchmetrics has no metric of the registered name.
    """
    referee = measure.referee
    if not isinstance(referee, Torchmetrics):
        return float(referee(one, k))
    import torch
    from torchmetrics.functional import retrieval

    if not hasattr(retrieval, referee.metric):
        raise DataError(
            f"measure {measure.name!r} names {referee.metric!r} as its second opinion, which torchmetrics lacks "
            f"({suggest_nearest(referee.metric, retrieval.__all__)})"
        )
    relevance, relevant = one.relevance[0], int(one.counts[0])
    if measure.graded and one.ideal is not None:
        target = complete_gains(one.gains[0], one.ideal[0])
    else:
        target = complete(relevance, relevant)
    scores = torch.arange(len(target), 0, -1, dtype=torch.float64)
    value = float(getattr(retrieval, referee.metric)(scores, torch.from_numpy(target), top_k=k))
    return value * int(target[:k].astype(bool).sum()) / relevant if referee.over_found else value


def name_referee(measure: Measure) -> str:
    """Name a measure's second opinion."""
    referee = measure.referee
    return "torchmetrics" if isinstance(referee, Torchmetrics) else getattr(referee, "__name__", "its referee")


def complete(found: np.ndarray, relevant: int) -> np.ndarray:
    """Append the relevant items that a list's relevance lacks to its end."""
    return np.concatenate([found, np.ones(relevant - int(found.sum()), dtype=bool)])


def complete_gains(found: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """Append the gains of the ideal list that a list's gains lack to their end."""
    wanted = ideal.astype(np.float32)  # as those of the list are
    lacking = Counter(wanted[wanted > 0].tolist()) - Counter(found[found > 0].tolist())
    return np.concatenate([found, np.array(sorted(lacking.elements(), reverse=True), dtype=np.float32)])


def _of(key: str) -> tuple[Measure, int]:
    found = parsed(key)
    if found is None:
        raise DataError(f"{key!r} is no measure at a cut, such as hit_at_10 ({suggest_nearest(key, MEASURES)})")
    return found
