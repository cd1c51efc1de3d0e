"""Queries that are fitted, a block at a time and only those that are asked for, with the same bytes wherever that is.

The last digits of a fit depend on how many threads a product of matrices has, and on which queries are beside it. So
blocks are always the same queries, and each is fitted by one thread; several are fitted at the same time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8
from threadpoolctl import threadpool_limits

from twinlens.core.ahead import map_in_order
from twinlens.core.cores import count_cores
from twinlens.core.errors import DataError
from twinlens.core.row_sources import Matrix, RowSource

BLOCK = 512  # queries
LATE, OVERRULED = 1, 2  # did not come within the tolerance; the text overrules the exemplars


@dataclass(frozen=True)
class Fit:
    """Weights of some queries, and what is to be told of each."""

    weights: Float[np.ndarray, "queries dim"]
    flags: UInt8[np.ndarray, " queries"]


@dataclass(frozen=True, eq=False)
class FittedRows(RowSource):
    """Vectors of queries, fitted when they are read, and kept.

    Args:
        fit: fits the queries of a slice.
        shape: of all.
        block: queries that are fitted together.
    """

    fit: Callable[[slice], Fit]
    shape: tuple[int, int]
    block: int = BLOCK
    _made: dict[int, Fit] = field(default_factory=dict)
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int, stop: int) -> Matrix:
        """See `RowSource.read`.

        Raises:
            DataError: a query cannot be fitted.
        """
        return self._join(start, stop, lambda one: one.weights)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Matrix:
        """See `RowSource.take`."""
        if not len(rows):
            return np.empty((0, self.shape[1]), dtype=np.float32)
        first = int(rows.min())
        return self.read(first, int(rows.max()) + 1)[rows - first]

    def read_flags(self, start: int, stop: int) -> UInt8[np.ndarray, " queries"]:
        """Read what is to be told of queries: sums of `LATE` and `OVERRULED`."""
        return self._join(start, stop, lambda one: one.flags)

    def _join(self, start: int, stop: int, part: Callable[[Fit], np.ndarray]) -> np.ndarray:
        numbers = range(start // self.block, -(-max(stop, start + 1) // self.block))
        with self._alone, threadpool_limits(1, "blas"):
            missing = [number for number in numbers if number not in self._made]
            for number, made in zip(missing, map_in_order(self._fit, missing, _count_threads()), strict=True):
                self._made[number] = made
        joined = np.concatenate([part(self._made[number]) for number in numbers])
        first = numbers.start * self.block
        return joined[start - first : max(start, stop) - first]

    def _fit(self, number: int) -> Fit:
        start = number * self.block
        stop = min(start + self.block, self.shape[0])
        try:
            made = self.fit(slice(start, stop))
        except DataError as error:
            raise DataError(f"{error} (of queries {start} to {stop - 1}, counted from {start})") from None
        return Fit(made.weights.astype(np.float32), made.flags)


def _count_threads() -> int:
    """Count the cores of this process; a worker of a cluster has those that it was given."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(count_cores(), int(given)) if given.isdigit() and int(given) else count_cores()
