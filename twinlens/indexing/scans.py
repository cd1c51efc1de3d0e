"""Exact scans of one space: inner products with every row, those of concurrent queries in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import Float32

AT_ONCE = 16  # queries of one pass: from here on it takes as long a query as alone


@dataclass(eq=False)
class _Request:
    vector: Float32[np.ndarray, " dim"]
    products: Float32[np.ndarray, " pictures"] | None = None


class Scans:
    """Reading 100,000 vectors from memory takes longer than multiplying by them, so whoever waits shares a pass.

    One query scans at a time; those that arrive meanwhile are answered together by the first of them that
    gets its turn. A query that is alone waits for nobody.
    """

    def __init__(self, rows: Float32[np.ndarray, "pictures dim"]) -> None:
        self.rows = rows
        self._waiting: list[_Request] = []
        self._lock, self._turn = Lock(), Lock()

    def products(self, vector: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " pictures"]:
        """Inner products of the vector with all rows; a new array. Their last digits depend on who shared the pass."""
        mine = _Request(vector)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if mine.products is None:
                self._scan(mine)
        assert mine.products is not None
        return mine.products

    def _scan(self, mine: _Request) -> None:
        with self._lock:
            others = [request for request in self._waiting if request is not mine]
            shared, self._waiting = [mine, *others[: AT_ONCE - 1]], others[AT_ONCE - 1 :]
        if len(shared) == 1:
            mine.products = self.rows @ mine.vector
            return
        together = np.stack([request.vector for request in shared]) @ self.rows.T
        for request, products in zip(shared, together, strict=True):
            request.products = products
