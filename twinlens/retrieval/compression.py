"""Vectors in fewer bytes: fewer dimensions, fewer bits of each, and a better look at the best.

Every form here keeps one promise: what it ranks by is an inner product of the query with vectors that it can write out
(`decode`), so that its order is found by the same exact search as that of the full vectors, and what is lost is the
form's own loss, with no approximate index in it.

| form | bytes of a vector | an item's score |
|---|---|---|
| `float32` | 4 d | q x |
| `float16` | 2 d | q x, with x rounded to 11 bits |
| `int8` | d | q x, with each dimension of x in 255 even steps up to its largest value in the pool |
| `binary` | d / 8, in whole words of 8 | the signs of q and x that agree |
| `rotated_bits` | d / 8 + 8 | q x', see `RotatedBits`; q stays as it is |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from jaxtyping import Float32, Int8, UInt8

Rows = Float32[np.ndarray, "rows dim"]
Vector = Float32[np.ndarray, " dim"]
Products = Float32[np.ndarray, " items"]

CHUNK = 256  # items that are widened to float32 at a time, so that they stay in the cache: 0.5 MB of 512 dimensions
# Of LanceDB's IVF_RQ, which has RaBitQ's codes by partition. One bit of a dimension takes ten times as many candidates
# to be scored again for the same recall; dimensions have to be a multiple, as the bits of so many are packed together.
RABITQ_BITS, RABITQ_MULTIPLE = 2, 8
SEED = 0  # of the rotation, which is the same for all pools of one dimension


class Codes(Protocol):
    """Items in one form."""

    @property
    def item_bytes(self) -> float:
        """Bytes of one item; what all items share is not counted."""
        ...

    def products(self, query: Vector) -> Products:
        """Score all items for one query, as a search does: its order is that of `decode`, but for float32's error."""
        ...

    def prepare(self, queries: Rows) -> Rows:
        """Bring queries to what is multiplied with `decode`."""
        ...

    def decode(self) -> Rows:
        """Write the items out: a score is the inner product of one of these rows with a prepared query."""
        ...


@dataclass(frozen=True)
class Floats:
    """Items as floating-point numbers of 4 bytes, or of 2."""

    rows: np.ndarray

    @property
    def item_bytes(self) -> float:
        """See `Codes`, as the others."""
        return float(self.rows.itemsize * self.rows.shape[1])

    def products(self, query: Vector) -> Products:
        """See `Codes`."""
        return multiply_in_chunks(self.rows, query)

    def prepare(self, queries: Rows) -> Rows:
        """See `Codes`."""
        return queries

    def decode(self) -> Rows:
        """See `Codes`."""
        return self.rows.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Int8Steps:
    """Items as whole numbers from -127 to 127, times one step for each dimension.

    The step is the dimension's largest value in the pool over 127, so that nothing is cut off, and goes over to the
    query: a product is one of the query times the steps with the whole numbers.
    """

    numbers: Int8[np.ndarray, "items dim"]
    steps: Vector

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Encode."""
        steps = fit_int8_steps([rows])
        return cls(round_to_steps(rows, steps), steps)

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return float(self.numbers.shape[1])

    def products(self, query: Vector) -> Products:
        """See `Codes`."""
        return multiply_in_chunks(self.numbers, query * self.steps)

    def products_of(self, some: np.ndarray, query: Vector) -> Products:
        """Score some items for one query."""
        return np.asarray(self.numbers[some].astype(np.float32) @ (query * self.steps))

    def prepare(self, queries: Rows) -> Rows:
        """See `Codes`."""
        return queries

    def decode(self) -> Rows:
        """See `Codes`."""
        return self.numbers * self.steps


@dataclass(frozen=True)
class Binary:
    """Items as the signs of their numbers; so are queries, and a score is the share of signs that agree, from -1 to 1.

    Signs lie in words of 64 bits; the last word is filled up with signs that always agree.
    """

    words: np.ndarray  # uint64 (items, words)
    dim: int

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Encode."""
        return cls(_pack_words(rows > 0), rows.shape[1])

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return 8.0 * self.words.shape[1]

    def products(self, query: Vector) -> Products:
        """See `Codes`."""
        other = np.bitwise_count(self.words ^ _pack_words(query[None] > 0)).sum(axis=1, dtype=np.int32)
        return (1.0 - np.float32(2.0 / self.dim) * other).astype(np.float32)

    def prepare(self, queries: Rows) -> Rows:
        """See `Codes`."""
        return _signs(queries > 0) / np.float32(np.sqrt(self.dim))

    def decode(self) -> Rows:
        """See `Codes`."""
        bits = np.unpackbits(self.words.view(np.uint8), axis=1, count=self.dim)
        return _signs(bits > 0) / np.float32(np.sqrt(self.dim))


@dataclass(frozen=True)
class RotatedBits:
    """Items as the signs of a rotated vector and two numbers; queries stay floating-point numbers.

    With c the mean of the items, R a random rotation and s the signs of R (x - c), an item is written out as

        x' = c + f R^T s,    f = |x - c|^2 / (s . R (x - c)),

    which has the right product with x - c itself (RaBitQ: Gao and Long, SIGMOD 2024). The mean query m is told too: the
    product of m with x - x' is kept for each item, so that only a query's distance from m meets the rounding. Captions
    lie far from pictures in a joint space, all on one side: without this most of the error is common to all queries.
    """

    columns: UInt8[np.ndarray, "bytes items"]  # eight signs a byte; a column of bytes stands together
    factors: Products
    offsets: Products  # m . (x - x')
    centre: Vector
    rotation: Float32[np.ndarray, "dim dim"]

    @classmethod
    def of(cls, rows: Rows, mean_query: Vector | None = None) -> Self:
        """Encode.

        Args:
            rows: the items.
            mean_query: of queries like those that will be asked, not necessarily a unit vector; None: not known.
        """
        dim = rows.shape[1]
        centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        rotation = draw_rotation(dim)
        turned = (rows - centre) @ rotation.T  # (items, dim)
        along = np.abs(turned).sum(axis=1)
        factors = (turned**2).sum(axis=1) / np.where(along > 0, along, 1.0)
        packed = np.packbits(turned > 0, axis=1)
        found = cls(
            np.ascontiguousarray(packed.T),
            factors.astype(np.float32),
            np.zeros(len(rows), np.float32),
            centre,
            rotation,
        )
        if mean_query is None:
            return found
        exact = rows.astype(np.float64) @ mean_query
        return cls(
            found.columns, found.factors, (exact - found.products(mean_query)).astype(np.float32), centre, rotation
        )

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return len(self.columns) + 8.0

    def products(self, query: Vector) -> Products:
        """See `Codes`. For each byte there is a table of what its 256 values come to, which stays in the cache."""
        turned = np.zeros(8 * len(self.columns), dtype=np.float32)
        turned[: len(query)] = self.rotation @ query
        tables = turned.reshape(-1, 8) @ BYTE_SIGNS.T  # (bytes, 256)
        total, part = np.zeros(self.columns.shape[1], np.float32), np.empty(self.columns.shape[1], np.float32)
        for table, column in zip(tables, self.columns, strict=True):
            total += np.take(table, column, out=part, mode="clip")
        return np.asarray(total * self.factors + (self.offsets + query @ self.centre), dtype=np.float32)

    def prepare(self, queries: Rows) -> Rows:
        """See `Codes`."""
        return np.hstack([queries, np.ones((len(queries), 1), np.float32)])

    def decode(self) -> Rows:
        """See `Codes`. One more dimension holds the offsets."""
        bits = np.unpackbits(self.columns.T, axis=1, count=len(self.centre))
        rows = (_signs(bits > 0) * self.factors[:, None]) @ self.rotation + self.centre
        return np.hstack([rows, self.offsets[:, None]]).astype(np.float32)


BYTE_SIGNS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) > 0, 1.0, -1.0).astype(np.float32)

ENCODERS: dict[str, Callable[[Rows, Vector | None], Codes]] = {
    "float32": lambda rows, _: Floats(np.ascontiguousarray(rows, dtype=np.float32)),
    "float16": lambda rows, _: Floats(rows.astype(np.float16)),
    "int8": lambda rows, _: Int8Steps.of(rows),
    "binary": lambda rows, _: Binary.of(rows),
    "rotated_bits": RotatedBits.of,
}


def encode(rows: Rows, precision: str, mean_query: Vector | None = None) -> Codes:
    """Bring items to a form.

    Args:
        rows: unit vectors.
        precision: a key of `ENCODERS`.
        mean_query: see `RotatedBits.of`; of no use to the others.
    """
    return ENCODERS[precision](rows, mean_query)


def fit_int8_steps(blocks: Iterable[Rows]) -> Vector:
    """Fit the step of each dimension to all rows, given some at a time: the largest value over 127, or 1 over 127."""
    largest = np.float32(0.0)
    for rows in blocks:
        largest = np.maximum(largest, np.abs(rows).max(axis=0, initial=0.0))
    return np.asarray(np.where(largest > 0, largest, 1.0) / 127.0, dtype=np.float32)


def round_to_steps(rows: Rows, steps: Vector) -> Int8[np.ndarray, "rows dim"]:
    """Round rows to whole numbers of steps."""
    return np.rint(rows / steps).clip(-127, 127).astype(np.int8)


def multiply_in_chunks(rows: np.ndarray, query: Vector) -> Products:
    """Multiply numbers of any width with a query, widened to float32 a few rows at a time."""
    if rows.dtype == np.float32:
        return np.asarray(rows @ query)
    products = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK].astype(np.float32)
        np.dot(some, query, out=products[start : start + CHUNK])
    return products


def draw_rotation(dim: int) -> Float32[np.ndarray, "dim dim"]:
    """Draw a rotation (or reflection) evenly from all there are: Q of the QR of normal numbers, signs of R taken out.

    Mezzadri, Notices of the AMS 2007.
    """
    q, r = np.linalg.qr(np.random.default_rng(SEED).standard_normal((dim, dim)))
    return np.asarray(q * np.sign(np.diagonal(r)), dtype=np.float32)


@dataclass(frozen=True)
class Axes:
    """The dimensions that are kept, as orthonormal axes; what is left of a vector is brought to unit length again."""

    axes: Float32[np.ndarray, "dim kept"] | None  # None: the first ones
    kept: int

    @classmethod
    def first(cls, kept: int) -> Self:
        """Keep the first dimensions, for models that were trained so (Kusupati and others 2022, matryoshka)."""
        return cls(None, kept)

    @classmethod
    def principal(cls, rows: Rows, kept: int) -> Self:
        """Keep the axes along which the squares of rows are largest, about zero, as cosines are taken about it.

        Args:
            rows: vectors of pictures, best of others than those that are searched.
            kept: as many axes, at most as many as dimensions.
        """
        wide = np.asarray(rows, dtype=np.float64)
        _, vectors = np.linalg.eigh(wide.T @ wide)  # eigenvalues rise
        return cls(np.ascontiguousarray(vectors[:, ::-1][:, :kept], dtype=np.float32), kept)

    def keep(self, rows: Rows) -> Rows:
        """Keep these axes of vectors. A vector that has nothing along them stays zero."""
        part = rows[:, : self.kept] if self.axes is None else rows @ self.axes
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        return np.asarray(part / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def _signs(positive: np.ndarray) -> np.ndarray:
    return np.where(positive, np.float32(1.0), np.float32(-1.0))


def _pack_words(positive: np.ndarray) -> np.ndarray:
    packed = np.packbits(positive, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)
