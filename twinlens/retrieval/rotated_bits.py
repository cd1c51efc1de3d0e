"""Rotated bits: items as the signs of a rotated vector, searched by queries that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from twinlens.core.row_sources import RowBlocks, iter_blocks
from twinlens.retrieval.codes import ALL, PACKED, Arrays, Codes, Products, Rows, Some, Vector, to_signs
from twinlens.retrieval.scores import multiply_exactly

SEED = 0  # of the rotation, which is the same for all pools of one dimension
BYTE_SIGNS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) > 0, 1.0, -1.0).astype(np.float32)


@dataclass(frozen=True)
class RotatedBits(Codes):
    """Items as the signs of a rotated vector and two numbers; queries stay floating-point numbers.

    With c the mean of the items, R a random rotation and s the signs of R (x - c), an item is

        x' = c + f R^T s,    f = |x - c|^2 / (s . R (x - c)),

    which has the right product with x - c itself (RaBitQ: Gao and Long, SIGMOD 2024). The mean query m is told too: the
    product of m with x - x' is kept for each item, so that only a query's distance from m meets the rounding. Captions
    lie far from pictures in a joint space, all on one side: without this most of the error is common to all queries.

    Queries are rotated, so that items need not be rotated back: q x' = R q . f s + q c.
    """

    bits: UInt8[np.ndarray, "items bytes"]  # eight signs a byte
    factors: Products
    offsets: Products  # m . (x - x')
    centre: Vector
    rotation: Float32[np.ndarray, "dim dim"]
    mean_query: Vector  # not necessarily a unit vector; zeros: not known
    widest: float = field(init=False)  # of the written-out items
    ENCODED: ClassVar = ("bits", "factors", "offsets")
    SHARED: ClassVar = ("centre", "rotation", "mean_query")

    def __post_init__(self) -> None:
        far = float(np.abs(self.factors).max(initial=0.0)) * np.sqrt(len(self.centre))
        object.__setattr__(self, "widest", float(np.hypot(far, np.abs(self.offsets).max(initial=0.0))))

    @classmethod
    def fit(cls, items: RowBlocks, mean_query: Vector | None) -> Arrays:
        """See `Codes`."""
        dim = items.shape[1]
        mean = np.zeros(dim) if mean_query is None else mean_query
        centre = fit_mean(items)
        return {"centre": centre, "rotation": draw_rotation(dim), "mean_query": mean.astype(np.float32)}

    @classmethod
    def encode(cls, rows: Rows, shared: Arrays) -> Arrays:
        """See `Codes`."""
        centre, rotation, mean = (shared[name][None] for name in ("centre", "rotation", "mean_query"))
        rotation = rotation[0]
        turned = multiply_exactly(rows - centre, rotation)  # (rows, dim)
        positive, wide = turned > 0, turned.astype(np.float64)
        along = np.abs(wide).sum(axis=1)
        factors = ((wide**2).sum(axis=1) / np.where(along > 0, along, 1.0)).astype(np.float32)
        signed = multiply_exactly(to_signs(positive), multiply_exactly(mean, rotation))[:, 0]
        exact, middle = multiply_exactly(rows, mean)[:, 0], multiply_exactly(centre, mean)[0, 0]
        offsets = exact - factors.astype(np.float64) * signed - middle
        return {
            "bits": np.packbits(positive, axis=1),
            "factors": factors,
            "offsets": offsets.astype(np.float32),
        }

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return self.bits.shape[1] + 8.0

    @property
    def longest(self) -> float:
        """See `Codes`."""
        return float(np.hypot(self.widest, 1.0))

    def products(self, query: Vector) -> Products:
        """See `Codes`. For each byte there is a table of what its 256 values come to, which stays in the cache."""
        asked = self.prepare(query[None])[0]
        turned = np.zeros(8 * self.bits.shape[1], dtype=np.float32)
        turned[: len(self.centre)] = asked[:-2]
        tables = turned.reshape(-1, 8) @ BYTE_SIGNS.T  # (bytes, 256)
        total, part = np.zeros(len(self.bits), np.float32), np.empty(PACKED, np.float32)
        for start in range(0, len(self.bits), PACKED):
            some = total[start : start + PACKED]
            for table, column in zip(tables, np.ascontiguousarray(self.bits[start : start + PACKED].T), strict=True):
                some += np.take(table, column, out=part[: len(some)], mode="clip")
        return np.asarray(total * self.factors + (self.offsets + asked[-1]), dtype=np.float32)

    def prepare(self, queries: Rows) -> Rows:
        """See `Codes`."""
        ones = np.ones((len(queries), 1), np.float32)
        return np.hstack([multiply_exactly(queries, self.rotation), ones, multiply_exactly(queries, self.centre[None])])

    def decode(self, some: Some = ALL) -> Rows:
        """See `Codes`. Two more dimensions hold the offset, and what the query's product with the mean is taken by."""
        offsets = self.offsets[some][:, None]
        return np.hstack([self._signs(some) * self.factors[some][:, None], offsets, np.ones_like(offsets)])

    def restore(self, some: Some = ALL) -> Rows:
        """See `Codes`: x', at unit length."""
        rows = (self._signs(some) * self.factors[some][:, None]) @ self.rotation + self.centre
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)

    def _signs(self, some: Some) -> Rows:
        return to_signs(np.unpackbits(self.bits[some], axis=1, count=len(self.centre)) > 0)


def fit_mean(items: RowBlocks) -> Vector:
    """Fit the mean of all items, a block at a time."""
    total = sum(rows.sum(axis=0, dtype=np.float64) for rows in iter_blocks(items))
    return np.asarray(total / max(1, len(items)), dtype=np.float32)


def draw_rotation(dim: int) -> Float32[np.ndarray, "dim dim"]:
    """Draw a rotation (or reflection) evenly from all there are: Q of the QR of normal numbers, signs of R taken out.

    Mezzadri, Notices of the AMS 2007.
    """
    q, r = np.linalg.qr(np.random.default_rng(SEED).standard_normal((dim, dim)))
    return np.asarray(q * np.sign(np.diagonal(r)), dtype=np.float32)
