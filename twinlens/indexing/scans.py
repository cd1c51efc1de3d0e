"""Exact scans of one space: inner products with every row, those of concurrent queries in one pass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from threading import Lock, Semaphore

import numpy as np
from jaxtyping import Float32

AT_ONCE = 8  # queries of one pass: four take 1.2 times as long as one, eight 2.2 times, and from there on it is even
BLOCK = 256  # rows of a product, half a MB: OpenBLAS then packs nothing, which takes longer than three scans


@dataclass(eq=False)
class _Request:
    vector: Float32[np.ndarray, " dim"]
    products: Float32[np.ndarray, " pictures"] | None = None


class Scans:
    """Reading 100,000 vectors from memory takes longer than multiplying by them, so whoever waits shares a pass.

    As many passes as there are processors run at once; queries that arrive meanwhile are answered together by
    the first of them that gets its turn. A query that is alone waits for nobody.
    """

    def __init__(self, rows: Float32[np.ndarray, "pictures dim"], passes: int | None = None) -> None:
        self.rows = rows
        self._waiting: list[_Request] = []
        self._lock, self._turn = Lock(), Semaphore(passes or os.cpu_count() or 1)

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
        vectors = np.stack([request.vector for request in shared], axis=1)
        together = np.empty((len(shared), len(self.rows)), dtype=np.float32)
        for start in range(0, len(self.rows), BLOCK):
            together[:, start : start + BLOCK] = (self.rows[start : start + BLOCK] @ vectors).T
        for request, products in zip(shared, together, strict=True):
            request.products = products
