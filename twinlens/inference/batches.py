"""Whether the batch that a vector was computed in changes what is found."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

NEAREST = 10


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
