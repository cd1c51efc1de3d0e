"""Exact scans of one space: inner products with every row, those of concurrent queries in one pass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from threading import Condition

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
    the first of them that gets its turn. A query that is alone waits for nobody, and one that another's pass
    has answered leaves at once.
    """

    def __init__(self, rows: Float32[np.ndarray, "pictures dim"], passes: int | None = None) -> None:
        self.rows = rows
        self._waiting: list[_Request] = []
        self._free = passes or os.cpu_count() or 1
        self._changed = Condition()  # notified when a pass ends: it has answered some, and made room for another

    def products(self, vector: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " pictures"]:
        """Inner products of the vector with all rows; a new array. Their last digits depend on who shared the pass."""
        mine = _Request(vector)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.products is not None or (self._free > 0 and mine in self._waiting))
            if mine.products is not None:
                return mine.products
            others = [request for request in self._waiting if request is not mine]
            shared, self._waiting = [mine, *others[: AT_ONCE - 1]], others[AT_ONCE - 1 :]
            self._free -= 1
        try:
            self._scan(shared)
        finally:
            with self._changed:
                self._free += 1
                # a pass that failed is this query's own failure: the others try again
                self._waiting[:0] = [request for request in shared[1:] if request.products is None]
                self._changed.notify_all()
        assert mine.products is not None
        return mine.products

    def _scan(self, shared: list[_Request]) -> None:
        if len(shared) == 1:
            shared[0].products = self.rows @ shared[0].vector
            return
        vectors = np.stack([request.vector for request in shared], axis=1)
        together = np.empty((len(shared), len(self.rows)), dtype=np.float32)
        for start in range(0, len(self.rows), BLOCK):
            together[:, start : start + BLOCK] = (self.rows[start : start + BLOCK] @ vectors).T
        for request, products in zip(shared, together, strict=True):
            request.products = products
