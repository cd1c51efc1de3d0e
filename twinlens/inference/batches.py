"""Whether the batch that a vector was computed in changes what is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from twinlens.core.vectors import Rows

NEAREST = 10
SEARCHED = 100_000  # of the stored vectors, the first: what a note needs
TOLD = 0.01  # share of changed lists from which it is told


def count_changed_tops(
    one: Float32[np.ndarray, "rows dim"], other: Float32[np.ndarray, "rows dim"], nearest: int = NEAREST
) -> int:
    """Count the rows whose nearest others are not the same in two versions of the same unit vectors.

    Args:
        one: all rows as computed in batches of some size.
        other: the same rows in batches of another.
        nearest: rows that each finds, itself left out; their order among each other counts.
    """
    return int((_find_nearest(one, nearest) != _find_nearest(other, nearest)).any(axis=1).sum())


def _find_nearest(rows: Float32[np.ndarray, "rows dim"], nearest: int) -> Int64[np.ndarray, "rows nearest"]:
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :nearest]


def measure_changed_tops(
    alone: Float32[np.ndarray, "probes dim"],
    places: Sequence[int],
    rows: Rows,
    nearest: int = NEAREST,
) -> float:
    """Measure the share of probes whose nearest others are not the same by the vector that was computed alone.

    Args:
        alone: unit vectors of the probes, each computed by itself.
        places: their rows.
        rows: the unit vectors of the source, as they were computed in batches.
        nearest: rows that each finds, itself left out; their order among each other counts.
    """
    some = np.asarray(rows[:SEARCHED])
    stored = np.asarray(rows[np.asarray(places)])
    lists = []
    for queries in (alone, stored):
        scores = queries @ some.T
        for place, own in enumerate(places):
            if own < len(some):
                scores[place, own] = -np.inf
        lists.append(np.argsort(-scores, axis=1, kind="stable")[:, :nearest])
    return float((lists[0] != lists[1]).any(axis=1).mean())


def tell_changed_tops(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Tell of which sources the batch changes what is found, where that is more than a few lists.

    Args:
        parts: of a cost record, by source, some with `changed_tops`.
    """
    for name, figures in parts.items():
        if (share := figures.get("changed_tops", 0.0)) > TOLD:
            yield (
                f"{name}: of the inputs that were embedded once more by themselves, {share:.0%} find other nearest "
                f"{NEAREST} than by the vector of their batch: numbers of bfloat16 depend on the batch. Differences of "
                "two runs as small as that say nothing; `compute.device=cpu` computes in float32"
            )
