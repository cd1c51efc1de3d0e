"""Exact scans of one space: inner products with every row, those of concurrent queries in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Condition

import numpy as np
from jaxtyping import Float32

AT_ONCE = 8  # queries of one pass: eight take 1.5 times as long as one, and from there on it is even
# Multiplications of one product. OpenBLAS does ones this small at once and where they are called: a larger one is first
# packed, and spread over threads that go on spinning for 20 ms afterwards, on processors that other queries need.
SMALL = 2**19
CHUNK = 8_192  # rows that a thread takes at a time
NARROW = 256  # of float16 and int8, that are widened at a time, so that they stay in its cache
MOST_THREADS = 8  # reading from memory, which is what a pass does, is not faster for more


@dataclass(eq=False)
class _Request:
    vector: Float32[np.ndarray, " dim"]
    products: Float32[np.ndarray, " pictures"] | None = None


class Scans:
    """Exact scanner of one space, in which concurrent queries share a pass.

    Reading 100,000 vectors from memory takes longer than multiplying by them, so whoever waits shares a pass.
    One pass runs at a time, on all processors; queries that arrive meanwhile are answered together by the next,
    which one of them runs. A query that is alone waits for nobody, and one that another's pass has answered leaves
    at once.
    """

    def __init__(self, rows: np.ndarray, steps: Float32[np.ndarray, " dim"] | None = None) -> None:
        """Take over rows.

        Args:
            rows: (pictures, dim) of float32, float16 or int8.
            steps: what each dimension of int8 is times; goes over to the queries.
        """
        self.rows, self.steps = rows, steps
        self._waiting: list[_Request] = []
        self._running = False
        self._changed = Condition()  # notified when a pass ends: it has answered some, and made room for another

    def products(self, vector: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " pictures"]:
        """Inner products of the vector with all rows; a new array. Their last digits depend on who shared the pass."""
        mine = _Request(vector if self.steps is None else vector * self.steps)
        shared: list[_Request] = []
        try:
            with self._changed:
                self._waiting.append(mine)
                self._changed.wait_for(
                    lambda: mine.products is not None or (not self._running and mine in self._waiting)
                )
                if mine.products is not None:
                    return mine.products
                others = [request for request in self._waiting if request is not mine]
                shared, self._waiting = [mine, *others[: AT_ONCE - 1]], others[AT_ONCE - 1 :]
                self._running = True
            self._scan(shared)
        finally:
            if shared:  # the pass is this query's, and ends with it, also where Ctrl-C comes before the scan
                with self._changed:
                    self._running = False
                    # a pass that failed is this query's own failure: the others try again
                    self._waiting[:0] = [request for request in shared[1:] if request.products is None]
                    self._changed.notify_all()
        assert mine.products is not None
        return mine.products

    def _scan(self, shared: list[_Request]) -> None:
        vectors = np.stack([request.vector for request in shared], axis=1)
        together = np.empty((len(shared), len(self.rows)), dtype=np.float32)
        starts = iter(range(0, len(self.rows), CHUNK))  # shared: whichever thread is free takes the next
        helped = [_helpers().submit(self._multiply, vectors, together, starts) for _ in range(_threads() - 1)]
        self._multiply(vectors, together, starts)
        for helper in helped:
            if not helper.cancel():  # one that has not begun would find nothing left
                helper.result()
        for request, products in zip(shared, together, strict=True):
            request.products = products

    def _multiply(
        self,
        vectors: Float32[np.ndarray, "dim queries"],
        together: Float32[np.ndarray, "queries pictures"],
        starts: Iterator[int],
    ) -> None:
        dim, queries = vectors.shape
        step = max(1, SMALL // (dim * max(2, queries)))
        width = CHUNK if self.rows.dtype == np.float32 else NARROW
        for start in starts:
            stop = min(start + CHUNK, len(self.rows))
            for first in range(start, stop, width):
                some = self.rows[first : min(first + width, stop)].astype(np.float32, copy=False)
                whole = len(some) // step * step
                # one call for many products: between two a thread waits for Python's lock, longer than it multiplies
                products = np.matmul(some[:whole].reshape(-1, step, dim), vectors).reshape(whole, queries)
                together[:, first : first + whole] = products.T
                together[:, first + whole : first + len(some)] = (some[whole:] @ vectors).T


def _threads() -> int:
    return min(os.cpu_count() or 1, MOST_THREADS)


@lru_cache(maxsize=1)
def _helpers() -> ThreadPoolExecutor:
    """Threads for all spaces of all indexes."""
    return ThreadPoolExecutor(_threads(), "scan")
