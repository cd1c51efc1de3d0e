"""Batches: what keeps their size from moving a vector, and whether it changes what is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32, Int64

from twinlens.core.device import Placement

NEAREST = 10


@contextmanager
def hold_threads(placement: Placement, few: bool) -> Iterator[None]:
    """Compute with one thread meanwhile, on a CPU and where a batch has few rows: the last one of a source, or a probe.

    Products of few rows are split among threads in other ways, which moves last digits: of a picture alone from two
    threads on, of 16 from eight on. So a process that has all cores and a worker that has one make the same bytes.
    """
    before = torch.get_num_threads()
    if not few or placement.device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
